//! Runs that train an adapter.

use jacobi_datasets::{NoiseContext, StateShares, StateSource, States};
use jacobi_model::{StoredAdapter, Target};
use tch::Tensor;

use super::*;
use crate::{AdapterRows, AdapterSettings};

fn adapter_config(rows: AdapterRows) -> TrainConfig {
    let states = StateShares { random: 1.0, on_policy: 2.0, ..StateShares::default() };
    let adapter = AdapterSettings {
        rank: 2,
        rows,
        targets: vec![Target::OProj, Target::QProj, Target::UpProj],
        states: States::Mixture(states),
        block_size: Some(4),
        ..AdapterSettings::default()
    };
    TrainConfig {
        adapter: Some(adapter),
        ar_weight: if rows == AdapterRows::Draft { 0.0 } else { 1.0 }.into(),
        noise_context: NoiseContext::Clean,
        eval_steps: None,
        ..config()
    }
}

#[test]
fn a_stopped_run_of_an_adapter_ends_as_if_undisturbed() {
    for rows in [AdapterRows::Draft, AdapterRows::All] {
        let bench = Bench::new(adapter_config(rows));
        bench.finish("whole");
        for last in 1..6 {
            let (name, stop) = (format!("stopped after {last}"), AtomicBool::new(false));
            let mut stop_at = |now: &TrainProgress| stop.store(now.step == last, Ordering::Relaxed);
            assert!(!bench.train(&name, &RealDisk, &stop, &mut stop_at).unwrap().finished);
            bench.finish(&name);
            assert_eq!(bench.results(&name), bench.results("whole"), "{rows:?}, {name}");
        }
    }
}

#[test]
fn a_checkpoint_holds_the_adapter_alone_or_the_merged_model() {
    let bench = Bench::new(adapter_config(AdapterRows::Draft));
    let base = load(&bench.model(), Dtype::Float32).unwrap();
    let dir = bench.finish("draft").checkpoint;
    assert!(StoredAdapter::is_at(&dir) && !dir.join("model.safetensors").exists());
    let stored = StoredAdapter::read(&dir).unwrap();
    assert_eq!(Path::new(stored.base().unwrap()), fs_err::canonicalize(bench.model()).unwrap());
    let shape = base.transformer.architecture();
    let adapter = stored.attach(shape, &base.weight_hash().unwrap(), jacobi_model::Device::Cpu).unwrap();
    assert_eq!((adapter.config().rank, adapter.config().alpha), (2, 4.0));
    assert_eq!(adapter.config().targets, [Target::QProj, Target::OProj, Target::UpProj]);
    assert!(adapter.parameters().iter().all(|(_, matrix)| matrix.abs().max().double_value(&[]) > 0.0));

    let bench = Bench::new(adapter_config(AdapterRows::All));
    let dir = bench.finish("all").checkpoint;
    assert!(!StoredAdapter::is_at(&dir));
    let merged = load(&dir, Dtype::Float32).unwrap().transformer;
    let changed = |((name, weight), (_, base)): (&(String, Tensor), &(String, Tensor))| {
        (!weight.equal(base)).then(|| name.clone())
    };
    let pairs = merged.parameters().iter().zip(base.transformer.parameters());
    let changed: Vec<String> = pairs.filter_map(changed).collect();
    let expected = ["self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj"];
    assert_eq!(changed, expected.map(|module| format!("model.layers.0.{module}.weight")));
}

#[test]
fn rows_that_lack_what_an_adapter_learns_from_are_refused() {
    let refused = |adapter: AdapterSettings| {
        let config = TrainConfig { adapter: Some(adapter), ..adapter_config(AdapterRows::Draft) };
        let bench = Bench::new(config);
        let error = bench.train("run", &RealDisk, &AtomicBool::new(false), &mut |_| {}).unwrap_err();
        assert!(error.is_usage());
        error.to_string()
    };
    let too_wide = refused(AdapterSettings { rank: 1 << 40, ..AdapterSettings::default() });
    assert!(too_wide.contains("train.adapter.rank = 1099511627776: must be at most the width"), "{too_wide}");
    let small = AdapterSettings { rank: 2, ..AdapterSettings::default() };
    let recorded = refused(small.clone());
    assert!(recorded.contains("row-0 in rows has no recorded states"), "{recorded}");
    let random = AdapterSettings { states: States::One(StateSource::Random), ..small };
    let unknown = refused(random);
    assert!(unknown.contains("train.adapter.block_size = none: must be set"), "{unknown}");
}

#[test]
fn a_forecast_counts_the_adapter_apart_from_its_frozen_base() {
    let bench = Bench::new(adapter_config(AdapterRows::Draft));
    let shape = jacobi_model::Architecture::from_dir(&bench.model()).unwrap();
    let of = |config: &TrainConfig| {
        let data = TrainData::Samples { rows: rows(8), origin: "rows".into() };
        crate::forecast(&shape, Dtype::Float32, data, config, 3).unwrap()
    };
    let full = of(&TrainConfig { eval_steps: None, ..config() });
    let drafts = of(&bench.config);
    assert_eq!((full.adapter, full.parameters), (None, drafts.parameters));
    let text = drafts.to_string();
    assert!(text.contains("an adapter of 0.0 million parameters for a frozen model of"), "{text}");
    let adapter = drafts.adapter.unwrap() as f64;
    assert_eq!(drafts.footprint.gradients, 4.0 * adapter);
    assert_eq!(drafts.footprint.parameters, 4.0 * (drafts.parameters as f64 + adapter));
}

#[test]
fn an_evaluation_decodes_with_the_drafter_or_with_what_a_checkpoint_holds() {
    for rows in [AdapterRows::Draft, AdapterRows::All] {
        let evaluated = TrainConfig { eval_steps: Some(2), ..adapter_config(rows) };
        let bench = Bench::new(evaluated.clone());
        let mut seen: Vec<Evaluation> = Vec::new();
        let mut note = |now: &TrainProgress| seen.extend(now.evaluation);
        bench.train("run", &RealDisk, &AtomicBool::new(false), &mut note).unwrap();
        assert!(seen.iter().all(|e| e.exact_match_ar == 1.0 && e.tpf >= 1.0), "{seen:?}");
        let moved = seen[0].loss_ar != seen[seen.len() - 1].loss_ar;
        assert_eq!(moved, rows == AdapterRows::All, "a drafter leaves the model alone: {seen:?}");

        let base = load(&bench.model(), Dtype::Float32).unwrap();
        let shape = base.transformer.architecture();
        let data = TrainData::Samples { rows: super::rows(8), origin: String::new() };
        let mut dataset = Dataset::open(data, &bench.config, 3, shape).unwrap();
        let held_out = held_out(&mut dataset, &bench.model(), &bench.config, 3).unwrap().unwrap();
        let dir = bench.output("run/checkpoints/latest");
        let expected = seen.last().copied();
        let evaluate = |model: &dyn jacobi_model::LanguageModel| {
            let step = expected.unwrap().step;
            held_out.evaluate(model, &Ranks::alone(), step, &AtomicBool::new(false)).unwrap()
        };
        let found = match rows {
            AdapterRows::All => evaluate(&load(&dir, Dtype::Float32).unwrap().transformer),
            AdapterRows::Draft => {
                let stored = StoredAdapter::read(&dir).unwrap();
                let adapter =
                    stored.attach(shape, &base.weight_hash().unwrap(), jacobi_model::Device::Cpu).unwrap();
                evaluate(&DecodingModel::new(&base.transformer).with_adapter(&adapter))
            }
        };
        assert_eq!(found, expected, "{rows:?}");

        let held_out = held_out.rows;
        let trained_on: Vec<_> = super::rows(8).into_iter().filter(|row| !held_out.contains(row)).collect();
        let without = bench.weights("without", trained_on, &adapter_config(rows));
        assert_eq!(bench.results("run").0, without, "{rows:?}: evaluations change no weight");
    }
}
