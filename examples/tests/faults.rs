//! Two `syncd` through what goes wrong below a folder: its directory is away for a while, its disk is nearly full.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, clippy::unwrap_used)]

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use support::device::{Device, scrape};
use support::{can_run, expect_failure, expect_status, run, until};

/// Two devices that share the folder `f`, configured with further keys of it at the second one.
fn pair(keys: &str) -> [Device; 2] {
    let [a, b] = ["a", "b"].map(|name| Device::new(name, &["f"]));
    a.configure(&[&b], &[("f", "")]);
    b.configure(&[&a], &[("f", keys)]);
    [a, b]
}

#[track_caller]
fn equal_digests(a: &Device, b: &Device) {
    until("equal digests", || (a.ask("digest", "f", &[]) == b.ask("digest", "f", &[])).then_some(()));
}

#[test]
fn a_directory_that_is_away_while_it_syncs_pauses_its_folder_and_deletes_nothing() {
    let [a, b] = pair("");
    for number in 0..300 {
        a.write(&format!("f/{number}"), format!("file {number} ").repeat(2000));
    }
    let (da, _db) = (a.serve(), b.serve());
    until("some of the files", || b.read("f/0").or(b.read("f/1")));
    a.write("f/big", "large ".repeat(2_000_000));
    fs::rename(a.path("f"), a.path("away")).unwrap();
    let status = until("the pause", || {
        let status = a.json("status", "away", &[]);
        (!status["paused"].is_null()).then_some(status)
    });
    assert_eq!(status["paused"]["only_receiving"], false, "{status}");
    assert!(status["paused"]["why"].as_str().unwrap().contains("not there"), "{status}");
    assert!(a.ask("status", "away", &[]).contains("PAUSED     nothing is done since 2"));
    assert!(expect_failure("syncd", &["digest", &a.path("away")]).contains("paused"));
    let folder = a.path("f");
    assert!(scrape(&da).contains(&format!("syncfs_paused{{folder=\"{folder}\"}} 1")));

    // What is done on either side meanwhile is taken up.
    fs::remove_file(a.path("away/7")).unwrap();
    fs::write(a.path("away/8"), "written while it was away").unwrap();
    b.write("f/from-b", "written at the peer");
    b.ask("flush", "f", &[]);
    fs::rename(a.path("away"), a.path("f")).unwrap();
    until("the end of the pause", || a.json("status", "f", &[])["paused"].is_null().then_some(()));
    a.wait("f");
    b.wait("f");
    equal_digests(&a, &b);
    for number in (0..300).filter(|number| *number != 7) {
        let name = format!("f/{number}");
        assert!(a.read(&name).is_some() && a.read(&name) == b.read(&name), "{name}");
    }
    assert_eq!((a.read("f/7"), b.read("f/7")), (None, None), "a deletion that somebody made");
    assert_eq!(b.read("f/8").as_deref(), Some("written while it was away"));
    assert_eq!(a.read("f/from-b").as_deref(), Some("written at the peer"));
    assert_eq!(b.read("f/big").map(|text| text.len()), Some(12_000_000));
    assert_eq!(a.ask("conflicts", "f", &[]), "");
    drop(da);
}

/// A file system in memory, unmounted in the end.
struct Tmpfs(String);

impl Tmpfs {
    fn mount(at: &str, size: &str) -> Tmpfs {
        let options = format!("size={size}");
        let done = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs", at]).status();
        assert!(done.unwrap().success());
        Tmpfs(at.to_owned())
    }

    fn grow(&self, size: &str) {
        let options = format!("remount,size={size}");
        assert!(Command::new("mount").args(["-o", &options, &self.0]).status().unwrap().success());
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["--lazy", &self.0]).status();
    }
}

#[test]
#[ignore = "needs root: mounts a small file system"]
fn what_is_to_stay_free_stays_free_and_the_rest_comes_when_there_is_room() {
    if !can_run(&["mount", "umount"], &[]) {
        return;
    }
    let [a, b] = ["a", "b"].map(|name| Device::new(name, &["unused"]));
    for device in [&a, &b] {
        fs::create_dir(device.path("f")).unwrap();
    }
    let small = Tmpfs::mount(&b.path("f"), "24m");
    for device in [&a, &b] {
        expect_status(&run("syncd", &["init", &device.path("f"), "--key", &device.path("key")]), 0);
    }
    a.configure(&[&b], &[("f", "")]);
    b.configure(&[&a], &[("f", "min-free = \"8MiB\"")]);
    // Bytes that compress to nothing less.
    let film = |seed: u64| -> Vec<u8> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        };
        (0..6 << 20).map(|_| next()).collect()
    };
    for number in 0..5 {
        a.write(&format!("f/film-{number}"), film(number));
    }
    let (_da, db) = (a.serve(), b.serve());
    let status = until("the lack of room", || {
        let status = b.json("status", "f", &[]);
        (!status["paused"].is_null()).then_some(status)
    });
    assert_eq!(status["paused"]["only_receiving"], true, "{status}");
    assert!(status["paused"]["since"].as_i64() > Some(1_700_000_000), "{status}");
    assert!(b.ask("status", "f", &[]).contains("PAUSED     nothing is fetched from peers since 2"));
    let folder = b.path("f");
    let metrics = scrape(&db);
    assert!(metrics.contains(&format!("syncfs_receiving_paused{{folder=\"{folder}\"}} 1")), "{metrics}");
    assert!(metrics.contains(&format!("syncfs_paused{{folder=\"{folder}\"}} 0")), "{metrics}");
    let free = rustix::fs::statvfs(Path::new(&folder)).unwrap();
    assert!(free.f_bavail * free.f_frsize >= 7 << 20, "{} blocks", free.f_bavail);

    // What is written here goes out all the same.
    fs::write(b.path("f/from-b"), "small").unwrap();
    b.wait("f");
    assert_eq!(a.read("f/from-b").as_deref(), Some("small"));
    assert!(b.json("status", "f", &[])["paused"] != Value::Null);

    small.grow("128m");
    a.wait("f");
    equal_digests(&a, &b);
    assert!(b.json("status", "f", &[])["paused"].is_null());
    for number in 0..5 {
        assert_eq!(fs::read(b.path(&format!("f/film-{number}"))).unwrap(), film(number));
    }
    db.terminate();
}
