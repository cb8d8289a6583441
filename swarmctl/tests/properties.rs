//! Properties of whatever comes in: labels that others wrote, and inputs in any order.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use swarmctl::engine::{BackendAnswer, BackendCall, Engine, Input, LeaseAnswer, LeaseCall, OpId, Output};
use swarmctl::lease::{self, Tenure};
use swarmctl::lease_labels::LABEL_PREFIX;
use swarmctl::{
    BackendError, Barrier, LeaseError, LeaseState, NodeName, Takeover, VolumeName, VolumeOptions,
};

fn node() -> impl Strategy<Value = NodeName> {
    "[A-Za-z0-9][A-Za-z0-9_.-]{0,20}".prop_map(|text| text.parse().unwrap())
}

fn record() -> impl Strategy<Value = LeaseState> {
    let tenure = (node(), any::<u64>()).prop_map(|(holder, epoch)| Tenure { holder, epoch });
    (
        "[a-z0-9][a-z0-9_.-]{0,30}",
        any::<u64>(),
        proptest::option::of(node()),
        proptest::option::of("[^\\p{C}]{1,200}"),
        proptest::collection::btree_set(node(), 0..10),
        proptest::collection::vec(tenure, 0..10),
    )
        .prop_map(|(volume, epoch, holder, barrier, replicas, unreleased)| LeaseState {
            volume: volume.parse().unwrap(),
            epoch,
            holder,
            barrier: barrier.map(|text| Barrier::new(text).unwrap()),
            replicas,
            unreleased,
        })
}

proptest! {
    #[test]
    fn every_record_survives_the_store(record in record()) {
        prop_assert_eq!(LeaseState::from_labels(&record.to_labels()), Ok(record));
    }

    #[test]
    fn labels_that_are_understood_are_those_that_would_be_written(
        values in proptest::collection::btree_map(
            "version|volume|epoch|holder|barrier|replicas|unreleased|[a-z]{0,8}",
            "1|0|[0-9]{1,21}|[a-z]{0,5}|[a-z]{1,3}(,[a-z]{1,3}){0,3}|[a-z]:[0-9]{1,3}|.{0,12}",
            0..8,
        ),
    ) {
        let labels: BTreeMap<String, String> =
            values.into_iter().map(|(key, value)| (format!("{LABEL_PREFIX}{key}"), value)).collect();
        if let Ok(record) = LeaseState::from_labels(&labels) {
            prop_assert_eq!(record.to_labels(), labels);
        }
    }

    #[test]
    fn no_order_of_inputs_breaks_the_engine(operations in proptest::collection::vec(any::<[u8; 3]>(), 0..200)) {
        drive(&operations);
    }
}

/// Feeds the engine what three bytes each say, and answers its calls in any way at all.
fn drive(operations: &[[u8; 3]]) {
    let volume: VolumeName = "data".parse().unwrap();
    let me: NodeName = "home-1".parse().unwrap();
    let mut engine = Engine::new(me.clone(), VolumeOptions::default());
    engine.add(volume.clone(), Takeover::NewestReplica { after: Duration::from_secs(1) }).unwrap();
    let mut record = LeaseState::vacant(volume.clone());
    let mut now = Instant::now();
    let mut call: Option<Output> = None;
    let mut open = BTreeSet::new();

    for (request, [kind, choice, pause]) in operations.iter().enumerate() {
        now += Duration::from_millis(u64::from(*pause) * 20);
        let request = request as u64;
        let id = format!("c{}", choice % 3).parse().unwrap();
        let volume = volume.clone();
        let input = match kind % 10 {
            0 => Input::Mount { request, volume, id },
            1 => Input::Unmount { request, volume, id },
            2 if *choice < 64 => Input::Settle { request, volume },
            2 if *choice < 128 => Input::EngineRestarted,
            2 => Input::Cancel { request: u64::from(*choice) },
            3 if *choice < 128 => Input::NodeDown { node: "home-2".parse().unwrap(), silent: Duration::ZERO },
            3 => Input::NodeUp("home-2".parse().unwrap()),
            4 => Input::Tick,
            _ => match call.take() {
                Some(Output::Lease { op, call, .. }) => {
                    lease_answer(&mut record, &me, volume, op, call, *choice)
                }
                Some(Output::Backend { op, call, .. }) => {
                    Input::BackendAnswer { volume, op, answer: backend_answer(&call, *choice) }
                }
                _ => Input::Tick,
            },
        };
        if matches!(input, Input::Mount { .. } | Input::Unmount { .. } | Input::Settle { .. }) {
            open.insert(request);
        }
        engine.handle(now, input);
        while let Some(output) = engine.poll() {
            match output {
                Output::Mounted { request, .. } | Output::Unmounted { request, .. } => {
                    assert!(open.remove(&request), "request {request} was answered twice");
                }
                Output::Lease { .. } | Output::Backend { .. } => {
                    assert!(call.replace(output).is_none(), "two calls at a time");
                }
                Output::Event(_) => {}
            }
        }
        assert!(engine.deadline().is_none_or(|at| at > now), "the deadline has passed");
    }
    engine.handle(now + Duration::from_secs(200), Input::Tick);
    while let Some(output) = engine.poll() {
        if let Output::Mounted { request, .. } | Output::Unmounted { request, .. } = output {
            assert!(open.remove(&request), "request {request} was answered twice");
        }
    }
    assert_eq!(open, BTreeSet::new(), "every request is answered by its deadline");
}

fn lease_answer(
    record: &mut LeaseState,
    me: &NodeName,
    volume: VolumeName,
    op: OpId,
    call: LeaseCall,
    choice: u8,
) -> Input {
    if choice >= 224 {
        // Another node comes first.
        if let Ok((after, _)) = lease::acquire(record, &"home-2".parse().unwrap(), 0) {
            *record = after;
        }
    }
    let lost = LeaseError::Unavailable { reason: "no answer".to_owned() };
    let answer = match call {
        _ if choice < 32 && matches!(call, LeaseCall::Release { .. }) => LeaseAnswer::Released(Err(lost)),
        _ if choice < 32 => LeaseAnswer::Granted(Err(lost)),
        LeaseCall::Acquire { at_least_epoch } => {
            let result = lease::acquire(record, me, at_least_epoch);
            LeaseAnswer::Granted(
                result
                    .map(|(after, grant)| {
                        *record = after;
                        grant
                    })
                    .map_err(Into::into),
            )
        }
        LeaseCall::Takeover { seen_epoch, at_least_epoch } => {
            let result = lease::takeover(record, me, seen_epoch, at_least_epoch);
            LeaseAnswer::Granted(
                result
                    .map(|(after, grant)| {
                        *record = after;
                        grant
                    })
                    .map_err(Into::into),
            )
        }
        LeaseCall::Release { grant, release } => {
            let result = lease::release(record, &grant, &release);
            LeaseAnswer::Released(result.map(|after| *record = after).map_err(Into::into))
        }
    };
    Input::LeaseAnswer { volume, op, answer }
}

fn backend_answer(call: &BackendCall, choice: u8) -> BackendAnswer {
    fn or<T>(choice: u8, value: T) -> Result<T, BackendError> {
        match choice {
            0..32 => Err(BackendError::failed("injected")),
            32..64 => Err(BackendError::behind("changes")),
            64..80 => Err(BackendError::Fenced { seen: u64::from(choice) }),
            _ => Ok(value),
        }
    }
    match call {
        BackendCall::SeenEpoch => BackendAnswer::SeenEpoch(or(choice, u64::from(choice))),
        BackendCall::CatchUp { .. } => BackendAnswer::CaughtUp(or(choice, ())),
        BackendCall::Open { .. } => BackendAnswer::Opened(or(choice, "/volumes/data".into())),
        BackendCall::Flush => BackendAnswer::Flushed(or(choice, Barrier::new("b").unwrap())),
        BackendCall::Replicated { .. } => BackendAnswer::Replicated(or(choice, BTreeSet::new())),
        BackendCall::Close => BackendAnswer::Closed(or(choice, ())),
    }
}
