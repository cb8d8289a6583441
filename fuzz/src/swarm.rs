//! swarmctl: the lease record as it is stored in a Swarm object's labels, which any manager can edit, and the mount
//! engine under lists of operations.

use std::collections::{BTreeMap, BTreeSet};

use swarmctl::lease::{self, LeaseState, Release, Tenure, UNRELEASED_MAX};
use swarmctl::lease_labels::LABEL_PREFIX;
use swarmctl::name::NodeName;
use swarmctl::plugin::{OPTION_BYTES_MAX, OPTIONS_MAX, REQUEST_BYTES_MAX, Reply, Request};

use crate::Seed;

pub use crate::mount_world::{mount, mount_seeds};

/// Labels, one `KEY=VALUE` a line: what decodes is encoded as exactly those labels again, and no operation on the record grants an
/// epoch twice or lets a stale holder release.
pub fn lease(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let labels: BTreeMap<String, String> = text
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    let Ok(state) = LeaseState::from_labels(&labels) else { return };
    let ours: BTreeMap<String, String> =
        labels.into_iter().filter(|(key, _)| key.starts_with(LABEL_PREFIX)).collect();
    assert_eq!(state.to_labels(), ours);
    check_transitions(&state);
}

fn check_transitions(state: &LeaseState) {
    let stranger = node("a-stranger");
    match lease::acquire(state, &stranger, 0) {
        Err(_) => assert!(state.holder.is_some() || state.epoch == u64::MAX),
        Ok((held, grant)) => {
            assert!(state.holder.as_ref().is_none_or(|holder| *holder == stranger));
            assert!(grant.epoch > state.epoch && held.epoch == grant.epoch);
        }
    }
    let Ok((taken, grant)) = lease::takeover(state, &stranger, state.epoch, 0) else {
        assert_eq!(state.epoch, u64::MAX);
        return;
    };
    assert!(taken.epoch > state.epoch && taken.barrier == state.barrier && taken.holder == Some(stranger));
    if let Some(holder) = &state.holder {
        let ended = Tenure { holder: holder.clone(), epoch: state.epoch };
        assert_eq!(grant.unreleased.last(), Some(&ended), "the holder that was passed over is not named");
    }
    assert!(grant.unreleased.len() <= UNRELEASED_MAX);
    let release =
        Release::Flushed { barrier: "b".parse().expect("a letter is a barrier"), replicas: BTreeSet::new() };
    let free = lease::release(&taken, &grant, &release).expect("the holder of the current epoch may release");
    assert!(free.holder.is_none() && free.unreleased.is_empty() && free.epoch == taken.epoch);
    if let Ok((next, _)) = lease::acquire(&free, &node("another"), 0) {
        assert!(lease::release(&next, &grant, &release).is_err(), "a stale grant released {next:?}");
    }
}

fn node(name: &str) -> NodeName {
    name.parse().expect("the name is valid")
}

/// Seeds of [`lease()`].
pub fn lease_seeds() -> Vec<Seed> {
    let record = |lines: &[&str]| -> Vec<u8> {
        lines.iter().map(|line| format!("{LABEL_PREFIX}{line}\n")).collect::<String>().into_bytes()
    };
    vec![
        ("vacant", record(&["version=1", "volume=git_data", "epoch=0"])),
        (
            "held",
            record(&[
                "version=1",
                "volume=v",
                "epoch=7",
                "holder=home-1",
                "barrier=st1abc",
                "replicas=home-1,home-2",
            ]),
        ),
        ("crashed_twice", record(&["version=1", "volume=v", "epoch=9", "holder=a", "unreleased=b:7,c:8"])),
        (
            "free",
            [record(&["version=1", "volume=v", "epoch=8", "barrier=b"]), b"com.docker.x=y\n".to_vec()]
                .concat(),
        ),
        ("hostile_last_epoch", record(&["version=1", "volume=v", "epoch=18446744073709551615"])),
        ("hostile_version", record(&["version=2", "volume=v", "epoch=1"])),
        ("hostile_names", record(&["version=1", "volume=../etc", "epoch=1", "holder=a,b", "replicas=b,a"])),
        ("hostile_surplus", record(&["version=1", "volume=v", "epoch=01", "surplus=1"])),
    ]
}

/// A request of a container engine, its path on the first line: what is understood is within the limits, and what is said about
/// the rest can be sent.
pub fn plugin(data: &[u8]) {
    let line = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (path, body) = data.split_at(line);
    let path = String::from_utf8_lossy(path);
    match Request::parse(&path, body) {
        Ok(Request::Create { options, .. }) => {
            assert!(body.len() <= REQUEST_BYTES_MAX && options.len() <= OPTIONS_MAX);
            let texts = options.iter().flat_map(|(key, value)| [key, value]);
            assert!(texts.into_iter().all(|text| text.len() <= OPTION_BYTES_MAX));
        }
        Ok(_) => {}
        Err(error) => {
            let answer = Reply::Failed(error.to_string()).to_json();
            let said = answer["Err"].as_str().expect("an error is a text");
            assert!(!said.is_empty() && said.len() < 1024, "{said}");
        }
    }
}

/// Seeds of [`plugin()`].
pub fn plugin_seeds() -> Vec<Seed> {
    let request = |method: &str, body: &str| format!("/{method}\n{body}").into_bytes();
    vec![
        ("activate", request("Plugin.Activate", "")),
        ("list", request("VolumeDriver.List", "{}")),
        (
            "create",
            request("VolumeDriver.Create", r#"{"Name":"data","Opts":{"replicas":"2","takeover":"wait"}}"#),
        ),
        ("create_plain", request("VolumeDriver.Create", r#"{"Name":"data","Opts":null}"#)),
        ("mount", request("VolumeDriver.Mount", r#"{"Name":"data","ID":"b87d7442095999a9"}"#)),
        ("unmount", request("VolumeDriver.Unmount", r#"{"Name":"data","ID":"b87d7442095999a9"}"#)),
        ("lag", request("VolumeDriver.Lag", r#"{"Name":"data","From":["home-1"],"To":["home-2","vm"]}"#)),
        ("hostile_name", request("VolumeDriver.Remove", r#"{"Name":"../../etc"}"#)),
        ("hostile_options", request("VolumeDriver.Create", r#"{"Name":"data","Opts":{"a":{"b":[]}}}"#)),
        ("hostile_depth", request("VolumeDriver.Get", &"[".repeat(400))),
        ("hostile_number", request("VolumeDriver.Mount", r#"{"Name":"data","ID":1e999}"#)),
    ]
}
