//! Laws of trajectories, on a scripted model: blocks refined side by side have the states that sequential Jacobi
//! decoding shows.

use jacobi_datasets::{NoiseScheduleConfig, ScheduleKind, State, choose_state, jacobi_passes};
use jacobi_model::LanguageModel;

use super::{adapters::logits_of, *};
use crate::{Disagreement, Recorder, Response, States, Trajectories, scripted::Adapted};

/// The response and its states by sequential Jacobi decoding, with every pass recorded.
fn sequential(
    model: &dyn LanguageModel,
    prompt: &[u32],
    settings: &Settings,
    config: &Trajectories,
) -> (Generation, Vec<State>) {
    let jacobi = JacobiConfig { block_size: config.block_size, seed: config.seed };
    let settings = Settings { strategy: Strategy::Jacobi(jacobi), ..settings.clone() };
    let mut recorder = Recorder::default();
    let generation = generate(model, prompt, &settings, &mut |pass| recorder.record(pass));
    let states = recorder.states(&generation.tokens, config.block_size);
    (generation, states)
}

/// Those of all `states` that a schedule asks for.
fn asked_for(states: &[State], response: usize, config: &Trajectories) -> Vec<State> {
    let States::Scheduled { noise, window } = config.states else { return states.to_vec() };
    let mut asked = Vec::new();
    for states in states.chunk_by(|a, b| a.block == b.block) {
        let block = states[0].block as usize;
        let len = config.block_size.min(response - block * config.block_size);
        let target = noise.target(block, window, 0);
        // Only the fixed point is recorded if it is nearer to the target than any state before it can be.
        let off = |right: usize| ((len - right) as f64 / len as f64 - target).abs();
        if off(len) < off(len - 1) {
            asked.push(State { block: block as u32, iteration: 0, converged: len as u32, tail: vec![] });
            continue;
        }
        let settled = |state: &State| {
            (state.converged as usize..=len).all(|later| off(later) >= off(state.converged as usize))
        };
        let end = states.iter().position(settled).unwrap();
        asked.extend_from_slice(&states[..=end]);
        let chosen = |states: &[State]| choose_state(states.iter(), len, target).cloned();
        assert_eq!(chosen(&states[..=end]), chosen(states));
    }
    asked
}

fn answers(model: &dyn LanguageModel, requests: Vec<Request>, room: Room) -> Vec<Answer> {
    let mut answers: Vec<Option<Answer>> = requests.iter().map(|_| None).collect();
    generate_batch(model, &mut requests.into_iter().enumerate(), room, &mut |event| {
        match event {
            BatchEvent::Done(at, answer) => assert!(answers[at].replace(answer).is_none()),
            BatchEvent::Forward(rows) => assert!(rows > 0),
            BatchEvent::Prefill(..) | BatchEvent::Pass(..) => {}
        }
        ControlFlow::Continue(())
    });
    answers.into_iter().map(Option::unwrap).collect()
}

fn response(answer: &Answer) -> &Response {
    match answer {
        Answer::Response(response) => response,
        Answer::Refused { .. } => panic!("refused"),
    }
}

fn which_states() -> impl Arbitrary<Value = States> {
    let kind =
        prop_oneof![Just(ScheduleKind::Linear), Just(ScheduleKind::Reverse), Just(ScheduleKind::Constant)];
    let scheduled =
        (kind, 0.0..0.6f64, 0.0..0.4f64, 1usize..9).prop_map(|(schedule, t_min, range, window)| {
            let noise = NoiseScheduleConfig { schedule, t_min, t_max: t_min + range };
            States::Scheduled { noise, window }
        });
    prop_oneof![Just(States::All), scheduled]
}

fn trajectories() -> impl Arbitrary<Value = Trajectories> {
    let block_size = prop_oneof![1usize..20, Just(64)];
    (block_size, any::<u64>(), which_states()).prop_map(|(block_size, seed, states)| Trajectories {
        block_size,
        seed,
        states,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn blocks_side_by_side_have_the_states_of_sequential_decoding(
        base in models(),
        adapter in prop::option::of(any::<u64>()),
        drafted in prop::option::of(1usize..20),
        config in trajectories(),
        sampling in samplings(),
        prompts in prop::collection::vec(prop::collection::vec(0u32..2, 1..7), 1..6),
        (slots, rows) in (1usize..4, 1usize..60),
        max_new_tokens in 1usize..50,
        eos_token_ids in prop::collection::vec(0u32..12, 0..2),
    ) {
        let stop = StopRules { max_new_tokens, eos_token_ids };
        let jacobi = |block_size| Strategy::Jacobi(JacobiConfig { block_size, seed: 1 });
        let strategy = drafted.map_or(Strategy::Autoregressive, jacobi);
        let settings = Settings { sampling, ..Settings::greedy(strategy, stop) };
        // With an adapter the states are those of its drafts, and the text is still the base's.
        let logits = logits_of(base, adapter.unwrap_or(0));
        let drafting = Adapted { base, adapter: &logits };
        let model: &dyn LanguageModel = if adapter.is_some() { &drafting } else { &base };
        let room = Room { slots, rows, capacity: settings.capacity(model, 6) };
        let request = |prompt: &Vec<u32>| Request {
            trajectories: Some(config.clone()),
            ..Request::new(prompt.clone(), settings.clone())
        };
        let found = answers(model, prompts.iter().map(request).collect(), room);
        for (prompt, found) in prompts.iter().zip(&found) {
            let (generation, states) = sequential(model, prompt, &settings, &config);
            let found = response(found);
            prop_assert_eq!(&found.generation.tokens, &sequential(&base, prompt, &settings, &config).0.tokens);
            prop_assert_eq!(&found.generation.tokens, &generation.tokens);
            prop_assert_eq!(found.generation.finish_reason, generation.finish_reason);
            let response = generation.tokens.len();
            prop_assert_eq!(&found.states, &asked_for(&states, response, &config));
            let blocks = states.chunk_by(|a, b| a.block == b.block).zip(generation.tokens.chunks(config.block_size));
            let passes = blocks.map(|(states, clean)| {
                let ends = (states[0].block as usize + 1) * config.block_size >= response;
                jacobi_passes(states, clean.len(), ends).unwrap()
            });
            prop_assert_eq!(passes.sum::<usize>(), generation.stats.forwards);
        }
    }

    /// A given response costs no pass over its end where the model agrees, whatever it was made by; where the
    /// model does not, its own comes out, or nothing does.
    #[test]
    fn a_given_response_is_verified(
        model in models(),
        config in trajectories(),
        sampling in samplings(),
        max_new_tokens in 1usize..40,
        eos_token_ids in prop::collection::vec(0u32..12, 0..2),
        wrong in prop::option::of(0usize..40),
        rows in 1usize..60,
    ) {
        let prompt = [0, 1, 1];
        let stop = StopRules { max_new_tokens, eos_token_ids };
        let settings = Settings { sampling, ..Settings::greedy(Strategy::Autoregressive, stop) };
        let (own, states) = sequential(&model, &prompt, &settings, &config);
        let mut given = own.tokens.clone();
        let wrong = wrong.filter(|&at| at < given.len());
        if let Some(at) = wrong {
            given[at] = (given[at] + 1) % model.vocabulary as u32;
        }
        let request = |on_disagreement| Request {
            given: Some(given.clone()),
            on_disagreement,
            trajectories: Some(config.clone()),
            ..Request::new(prompt.to_vec(), settings.clone())
        };
        let room = Room { slots: 2, capacity: 80, rows };
        let found = answers(&model, vec![request(Disagreement::Replace), request(Disagreement::Refuse)], room);
        let kept = response(&found[0]);
        prop_assert_eq!(&kept.generation.tokens, &own.tokens);
        prop_assert_eq!(kept.generation.finish_reason, own.finish_reason);
        prop_assert_eq!(&kept.states, &asked_for(&states, own.tokens.len(), &config));
        match (wrong, &found[1]) {
            (None, Answer::Response(found)) => {
                prop_assert_eq!(&found.states, &kept.states);
                prop_assert_eq!((found.disagreeing_blocks, found.generation.stats.forwards), (0, 0));
            }
            (Some(_), Answer::Refused { disagreeing_blocks }) => prop_assert!(*disagreeing_blocks > 0),
            (wrong, found) => prop_assert!(false, "{wrong:?} gives {found:?}"),
        }
    }
}

/// A response that another model cut off is taken as long as it is.
#[test]
fn a_given_response_ends_where_it_ends() {
    let model = Scripted { vocabulary: 9, context: 64, seed: 3, memory: 1, forced: 0 };
    let stop = StopRules { max_new_tokens: 20, eos_token_ids: vec![] };
    let settings = Settings::greedy(Strategy::Autoregressive, stop);
    let own = run(&model, &[1], &settings).tokens;
    let request = Request { given: Some(own[..7].to_vec()), ..Request::new(vec![1], settings) };
    let found = answers(&model, vec![request], Room { slots: 1, capacity: 40, rows: 8 });
    let found = response(&found[0]);
    assert_eq!(found.generation.tokens, own[..7]);
    assert_eq!(found.generation.finish_reason, FinishReason::Length);
}

/// A block is refined as soon as it is complete, in the passes in which the response grows.
#[test]
fn blocks_iterate_while_their_response_grows() {
    let model = Scripted { vocabulary: 9, context: 200, seed: 3, memory: 4, forced: 0 };
    let (block_size, tokens) = (8, 80);
    let stop = StopRules { max_new_tokens: tokens, eos_token_ids: vec![] };
    let settings = Settings::greedy(Strategy::Autoregressive, stop);
    let config = Trajectories { block_size, seed: 1, states: States::All };
    let request = Request { trajectories: Some(config), ..Request::new(vec![1], settings) };
    for rows in [1, 8, 1000] {
        let (mut passes, mut widest) = (0, 0);
        let room = Room { slots: 1, capacity: 90, rows };
        generate_batch(&model, &mut [(0, request.clone())].into_iter(), room, &mut |event| {
            if let BatchEvent::Forward(rows) = event {
                passes += 1;
                widest = rows.max(widest);
            }
            ControlFlow::Continue(())
        });
        // The response's own rows come first, whatever there is room for; the last block iterates behind its end.
        assert!(rows == 1 || passes <= tokens + block_size, "{passes} passes with {rows} rows");
        assert!(widest <= rows.max(block_size), "{widest} of {rows} rows");
    }
}
