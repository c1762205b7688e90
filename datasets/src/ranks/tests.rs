//! Environments of torchrun and Slurm, whole and partial.

use super::*;

#[test]
fn the_local_rank_is_that_of_torchrun_or_slurm() {
    type Case = (&'static [(&'static str, &'static str)], Result<usize, RankError>);
    let rows: [Case; 4] = [
        (&[], Ok(0)),
        (&[("LOCAL_RANK", "3"), ("SLURM_LOCALID", "1")], Ok(3)),
        (&[("SLURM_LOCALID", "1")], Ok(1)),
        (&[("LOCAL_RANK", "x")], Err(RankError::NoNumber { name: "LOCAL_RANK", value: "x".into() })),
    ];
    for (variables, expected) in rows {
        let lookup =
            |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        assert_eq!(local_rank(lookup), expected, "{variables:?}");
    }
}

#[test]
fn ranks_of_torchrun_and_slurm_are_read_and_partial_ones_refused() {
    let rank = |rank, world_size| Ok(Some(Rank { rank, world_size }));
    type Expected = Result<Option<Rank>, RankError>;
    let rows: [(&[(&str, &str)], Expected); 14] = [
        (&[], Ok(None)),
        (&[("RANK", "0"), ("WORLD_SIZE", "1")], Ok(None)),
        (&[("SLURM_ARRAY_TASK_ID", "0"), ("SLURM_ARRAY_TASK_COUNT", "1")], Ok(None)),
        (
            &[("SLURM_ARRAY_TASK_ID", "5"), ("SLURM_ARRAY_TASK_COUNT", "1"), ("SLURM_ARRAY_TASK_MIN", "5")],
            Err(RankError::LoneTask { id: 5 }),
        ),
        (&[("RANK", "1"), ("WORLD_SIZE", "4")], rank(1, 4)),
        (&[("SLURM_ARRAY_TASK_ID", "2"), ("SLURM_ARRAY_TASK_COUNT", "3")], rank(2, 3)),
        (
            &[
                ("SLURM_ARRAY_TASK_ID", "14"),
                ("SLURM_ARRAY_TASK_COUNT", "3"),
                ("SLURM_ARRAY_TASK_MIN", "10"),
                ("SLURM_ARRAY_TASK_STEP", "2"),
            ],
            rank(2, 3),
        ),
        (
            &[
                ("SLURM_ARRAY_TASK_ID", "1"),
                ("SLURM_ARRAY_TASK_COUNT", "2"),
                ("RANK", "0"),
                ("WORLD_SIZE", "4"),
            ],
            rank(4, 8),
        ),
        (&[("SLURM_PROCID", "3"), ("SLURM_STEP_NUM_TASKS", "4")], rank(3, 4)),
        (&[("SLURM_PROCID", "0"), ("SLURM_STEP_NUM_TASKS", "1")], Ok(None)),
        (&[("RANK", "1")], Err(RankError::Partial { set: "RANK", missing: "WORLD_SIZE" })),
        (
            &[("SLURM_ARRAY_TASK_COUNT", "3")],
            Err(RankError::Partial { set: "SLURM_ARRAY_TASK_COUNT", missing: "SLURM_ARRAY_TASK_ID" }),
        ),
        (&[("RANK", "4"), ("WORLD_SIZE", "4")], Err(RankError::OutOfRange { rank: 4, world_size: 4 })),
        (
            &[("RANK", "x"), ("WORLD_SIZE", "4")],
            Err(RankError::NoNumber { name: "RANK", value: "x".to_owned() }),
        ),
    ];
    for (variables, expected) in rows {
        assert_eq!(Rank::from_environment(lookup(variables)), expected, "{variables:?}");
    }
}

fn lookup(variables: &[(&str, &str)]) -> impl Fn(&str) -> Option<String> {
    let owned: Vec<(String, String)> =
        variables.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    move |name| owned.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone())
}

#[test]
fn a_membership_needs_all_of_its_variables() {
    let torchrun = [
        ("RANK", "3"),
        ("WORLD_SIZE", "4"),
        ("LOCAL_RANK", "1"),
        ("MASTER_ADDR", "node-0"),
        ("MASTER_PORT", "29500"),
    ];
    let member = Membership {
        rank: Rank { rank: 3, world_size: 4 },
        local_rank: 1,
        host: "node-0".into(),
        port: 29500,
        keeper: Keeper::FirstRank,
        attempt: 0,
    };
    let read = |variables: &[(&str, &str)]| Membership::from_environment(lookup(variables));
    assert_eq!(read(&torchrun), Ok(Some(member.clone())));
    let agent = [("TORCHELASTIC_USE_AGENT_STORE", "True"), ("TORCHELASTIC_RESTART_COUNT", "2")];
    let restarted = Membership { keeper: Keeper::Launcher, attempt: 2, ..member.clone() };
    assert_eq!(read(&[&torchrun[..], &agent].concat()), Ok(Some(restarted)));
    let slurm = [("SLURM_PROCID", "3"), ("SLURM_STEP_NUM_TASKS", "4"), ("SLURM_LOCALID", "1")];
    assert_eq!(read(&[&slurm, &torchrun[3..]].concat()), Ok(Some(member)));
    assert_eq!(read(&slurm), Err(RankError::NoRendezvous { missing: "MASTER_ADDR", tasks: 4 }));
    assert_eq!(read(&[]), Ok(None));
    let alone = [("RANK", "0"), ("WORLD_SIZE", "1")];
    assert_eq!(read(&[&alone, &torchrun[2..]].concat()), Ok(None));
    // Every part of the variables is refused, with both lists.
    for chosen in 1..(1 << torchrun.len()) - 1 {
        let chosen = |at: &usize| chosen >> at & 1 == 1;
        let part: Vec<_> = (0..torchrun.len()).filter(chosen).map(|at| torchrun[at]).collect();
        let error = read(&part).unwrap_err();
        let RankError::Incomplete { set, missing } = &error else { panic!("{part:?}: {error}") };
        assert_eq!((set.len(), missing.len()), (part.len(), torchrun.len() - part.len()));
        assert!(error.to_string().contains(missing[0]), "{error}");
    }
}

#[test]
fn every_prompt_has_one_owner() {
    for hash in [0, 1, 6, 7, u128::MAX] {
        let owners = (0..3).filter(|&rank| Rank { rank, world_size: 3 }.owns(hash)).count();
        assert_eq!(owners, 1, "{hash}");
    }
}
