//! `syncd` with settings in files: several folders and peers in one daemon, one-way folders, histories, and moving in.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, clippy::unwrap_used)]

mod support;

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, UNIX_EPOCH};

use serde_json::Value;
use support::device::{Device, scrape, scrape_at};
use support::replica::own_address;
use support::{Daemon, command, expect_failure, expect_status, run, until};

#[test]
fn three_daemons_with_two_folders_each_go_on_after_a_kill() {
    let [a, b, c] = ["a", "b", "c"].map(|name| Device::new(name, &["notes", "media"]));
    a.configure(&[&b, &c], &[("notes", ""), ("media", "")]);
    b.configure(&[&a, &c], &[("notes", ""), ("media", "")]);
    c.configure(&[&a, &b], &[("notes", ""), ("media", "direction = \"receive\"")]);
    a.write("notes/one", "1");
    a.write("media/film", "moving".repeat(100_000));
    let daemons = [a.serve(), b.serve(), c.serve()];
    a.wait("notes");
    a.wait("media");
    assert_eq!((b.read("notes/one").as_deref(), c.read("notes/one").as_deref()), (Some("1"), Some("1")));
    assert_eq!(c.read("media/film"), a.read("media/film"));
    assert_eq!(c.read("notes/film"), None, "folders stay apart");

    let mut events = command("syncd", &["events", &a.path("notes"), "--after", "0"]);
    let mut events = events.stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(events.stdout.take().unwrap()).lines();
    b.write("notes/two", "22");
    let applied = |line: &Value| line["event"] == "applied" && line["path"] == "two";
    let line = lines.map(|line| serde_json::from_str(&line.unwrap()).unwrap()).find(applied);
    assert!(line.is_some_and(|line: Value| line["number"].as_u64() > Some(1)));
    events.kill().unwrap();
    events.wait().unwrap();

    let folder = a.path("notes");
    let [files, peer] = [
        format!("syncfs_files{{folder=\"{folder}\"}} 2\n"),
        format!("syncfs_peer_connected{{folder=\"{folder}\",peer=\"c\"}} 1\n"),
    ];
    // Of two streams that cross, one ends and the other stays.
    until("the metrics", || {
        let metrics = scrape(&daemons[0]);
        (metrics.contains(&files) && metrics.contains(&peer)).then_some(())
    });

    // What a receiver writes is undone and reaches nobody.
    c.write("media/mine", "only here");
    until("the undoing", || c.read("media/mine").is_none().then_some(()));
    assert!(c.json("status", "media", &[])["problems"].as_array().unwrap().is_empty());
    assert_eq!(
        (c.json("status", "media", &[])["direction"].as_str(), a.read("media/mine")),
        (Some("receive"), None)
    );

    // One daemon a folder, and with its own key only.
    let second = expect_failure(
        "syncd",
        &["serve", &b.path("notes"), "--listen", "127.0.0.1:0", "--key", &b.path("key")],
    );
    assert!(second.contains("already open"), "{second}");
    let [da, db, dc] = daemons;
    db.kill();
    let foreign = expect_failure(
        "syncd",
        &["serve", &b.path("notes"), "--listen", "127.0.0.1:0", "--key", &a.path("key")],
    );
    assert!(foreign.contains("another key") && foreign.contains(&b.id), "{foreign}");
    a.write("notes/three", "333");
    b.write("notes/four", "4444");
    let db = b.serve();
    a.wait("notes");
    b.wait("notes");
    assert_eq!(
        (b.read("notes/three").as_deref(), a.read("notes/four").as_deref()),
        (Some("333"), Some("4444"))
    );
    until("equal digests", || {
        let digests = [&a, &b, &c].map(|device| device.ask("digest", "notes", &[]));
        (digests[0] == digests[1] && digests[1] == digests[2]).then_some(())
    });
    for daemon in [da, db, dc] {
        let (status, took) = daemon.interrupt();
        assert!(status.success() && took < Duration::from_secs(3), "{status} after {took:?}");
    }
}

#[test]
fn a_transfer_says_how_much_is_left_how_fast_it_goes_and_how_long_it_takes() {
    let [a, b] = ["a", "b"].map(|name| Device::new(name, &["f"]));
    a.configure(&[&b], &[("f", "")]);
    b.configure(&[&a], &[("f", "")]);
    // Bytes that compress to nothing less.
    let mut state = 1_u64;
    let film = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    });
    a.write("f/film", film.take(6 << 20).collect::<Vec<_>>());
    let (settings, limit) = (a.path("syncd.toml"), ["--send-limit", "1MiB/s"]);
    let _da = Daemon::start(command("syncd", &[&["serve", "--config", &settings], &limit[..]].concat()));
    let _db = b.serve();
    let peer = until("a rate", || {
        let peer = b.json("status", "f", &[])["peers"][0].clone();
        (peer["seconds_left"].as_u64() > Some(0)).then_some(peer)
    });
    let number = |key: &str| peer[key].as_u64().unwrap();
    assert!(number("left_files") == 1 && number("done_bytes") > 0, "{peer}");
    assert_eq!(
        number("seconds_left"),
        number("left_bytes").div_ceil(number("done_bytes_per_second")),
        "{peer}"
    );
    let mut events = command("syncd", &["events", &b.path("f"), "--after", "0"]);
    let mut events = events.stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(events.stdout.take().unwrap()).lines();
    let mut lines = lines.map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());
    let told = |line: &Value| line["event"] == "progress" && line["seconds_left"].as_u64() > Some(0);
    let line = lines.find(told).unwrap();
    assert!(line["bytes_per_second"].as_u64() > Some(0) && line["left_bytes"].as_u64() > Some(0), "{line}");
    events.kill().unwrap();
    events.wait().unwrap();
    a.wait("f");
    let peer = b.json("status", "f", &[])["peers"][0].clone();
    assert!(peer["left_bytes"] == 0 && peer["seconds_left"].is_null(), "{peer}");
}

#[test]
fn a_first_scan_says_how_far_it_is_and_ends_at_once_when_it_is_told_to() {
    const FILES: u64 = 12_000;
    let device = Device::new("a", &["f"]);
    for number in 0..FILES {
        fs::write(device.path(&format!("f/{number}")), number.to_string()).unwrap();
    }
    let metrics = own_address().to_string();
    let daemon = Daemon::launch(device.daemon(&["--metrics", &metrics]));
    // Whoever asks before there is a daemon opens the folder.
    let control = device.path("f/.syncfs/control.sock");
    until("the control socket", || UnixStream::connect(&control).ok());
    let read = until("the first file", || {
        device.json("status", "f", &[])["first_scan"]["files_read"].as_u64().filter(|read| *read > 0)
    });
    assert!(read < FILES, "{read}");
    let said = device.ask("status", "f", &[]);
    assert!(said.contains("still looks through the folder: ") && !said.contains("holds"), "{said}");
    let refused = expect_failure("syncd", &["flush", &device.path("f")]);
    assert!(refused.contains("still looks through the folder: "), "{refused}");
    let folder = device.path("f");
    let counted = scrape_at(&metrics);
    assert!(counted.contains(&format!("syncfs_first_scan{{folder=\"{folder}\"}} 1\n")), "{counted}");
    assert!(!counted.contains("syncfs_files{"), "what is not known is not counted: {counted}");
    let (status, took) = daemon.interrupt();
    assert!(status.code() == Some(0) && took < Duration::from_secs(2), "{status} after {took:?}");

    let daemon = device.serve();
    let report = device.json("status", "f", &[]);
    assert!(report["files"] == FILES && report["first_scan"].is_null(), "{report}");
    let counted = scrape(&daemon);
    assert!(counted.contains(&format!("syncfs_first_scan{{folder=\"{folder}\"}} 0\n")), "{counted}");
    let read = format!("syncfs_files_read_total{{folder=\"{folder}\"}} {FILES}\n");
    assert!(counted.contains(&read), "{counted}");
}

#[test]
fn a_history_is_listed_and_brought_back_and_deletions_wait_for_a_word() {
    let [a, b] = ["a", "b"].map(|name| Device::new(name, &["f"]));
    a.configure(&[&b], &[("f", "mass-deletion = 2")]);
    b.configure(&[&a], &[("f", "history = \"staggered\"\nignore = [\"*.tmp\"]")]);
    let (da, db) = (a.serve(), b.serve());
    fs::create_dir(a.path("f/d")).unwrap();
    for number in 0..6 {
        a.write(&format!("f/d/{number}"), number.to_string());
    }
    a.write("f/letter", "first");
    a.wait("f");
    a.write("f/letter", "second");
    a.wait("f");
    let versions = b.json("history", "f/letter", &[]);
    assert_eq!(
        (versions.as_array().unwrap().len(), &versions[0]["bytes"]),
        (1, &Value::from(5)),
        "{versions}"
    );
    assert!(b.ask("history", "f/letter", &[]).contains("letter"));
    let number = versions[0]["version"].to_string();
    let early = expect_failure("syncd", &["restore", &b.path("f/letter"), "--at", "999"]);
    assert!(early.contains("1 kept, from"), "{early}");
    b.ask("restore", "f/letter", &["--at", &number, "--to", &b.path("f/copy")]);
    assert_eq!((b.read("f/copy").as_deref(), b.read("f/letter").as_deref()), (Some("first"), Some("second")));
    b.ask("restore", "f/letter", &["--at", &number]);
    b.wait("f");
    assert_eq!((a.read("f/letter").as_deref(), a.read("f/copy").as_deref()), (Some("first"), Some("first")));
    assert!(a.ask("flush", "f", &[]).len() > 20);
    assert!(a.ask("scan", "f", &[]).contains("0 changed, 0 deleted"));

    // All at once, before anybody looks.
    fs::rename(a.path("f/d"), a.path("away")).unwrap();
    until("the guard", || (a.json("status", "f", &[])["held_deletions"] == 6).then_some(()));
    assert!(b.read("f/d/5").is_some());
    assert!(expect_failure("syncd", &["flush", &a.path("f")]).contains("confirm"));
    assert_eq!(a.json("confirm-deletions", "f", &[])["deleted"], 7, "and their directory");
    a.wait("f");
    assert_eq!(b.read("f/d/5"), None);
    assert_eq!(
        b.json("history", "f/d", &[]).as_array().unwrap().iter().filter(|v| v["deleted"] == true).count(),
        6
    );

    // Whoever asks while nobody serves the folder keeps to the settings that it was served with.
    db.terminate();
    b.write("f/scratch.tmp", "ignored here");
    let files = b.json("status", "f", &[])["files"].clone();
    assert_eq!(files, 2, "letter and copy");
    assert!(expect_failure("syncd", &["history", &b.path("f/letter")]).contains("nobody serves"));
    assert!(expect_failure("syncd", &["history", "/no/such/place"]).contains("/no/such/place"));
    drop(da);
}

#[test]
fn a_sender_lists_what_differs_and_has_its_way() {
    let [a, b] = ["a", "b"].map(|name| Device::new(name, &["f"]));
    a.configure(&[&b], &[("f", "direction = \"send\"")]);
    b.configure(&[&a], &[("f", "")]);
    a.write("f/plan", "ours");
    let _daemons = (a.serve(), b.serve());
    a.wait("f");
    b.write("f/plan", "theirs");
    b.write("f/extra", "more");
    until("both differences", || (a.json("status", "f", &[])["differing"] == 2).then_some(()));
    assert_eq!(a.ask("differing", "f", &[]), "extra\nplan\n");
    assert!(a.ask("status", "f", &[]).contains("2 paths differ"));
    assert_eq!(a.read("f/plan").as_deref(), Some("ours"));
    assert!(expect_failure("syncd", &["override", &b.path("f")]).contains("`both`"));
    assert_eq!(a.json("override", "f", &[])["overridden"], 2);
    a.wait("f");
    assert_eq!((b.read("f/plan").as_deref(), b.read("f/extra")), (Some("ours"), None));
}

#[test]
fn two_that_were_initialised_apart_say_so_and_become_one() {
    let [a, b] = ["a", "b"].map(|name| Device::new(name, &["empty"]));
    for device in [&a, &b] {
        fs::create_dir(device.path("f")).unwrap();
        device.write("f/same", "on both");
        device.write(&format!("f/{}", device.name), device.name);
        expect_status(&run("syncd", &["init", &device.path("f"), "--key", &device.path("key")]), 0);
    }
    a.configure(&[&b], &[("f", "")]);
    b.configure(&[&a], &[("f", "")]);
    let (_a, daemon) = (a.serve(), b.serve());
    let folders =
        [&a, &b].map(|device| device.json("status", "f", &[])["folder"].as_str().unwrap().to_owned());
    assert_ne!(folders[0], folders[1]);
    let trouble = until("the reason", || {
        let said = b.json("status", "f", &[])["peers"][0]["trouble"].as_str().unwrap_or_default().to_owned();
        said.contains("initialised apart").then_some(said)
    });
    assert!(folders.iter().all(|folder| trouble.contains(folder.as_str())), "{trouble}");
    let advice = format!("`syncd init {} --folder {}`", b.path("f"), folders[0]);
    // Between two attempts it may be told by the peer's farewell instead.
    until("the advice", || b.ask("status", "f", &[]).contains(&advice).then_some(()));
    daemon.terminate();
    b.ask("init", "f", &["--folder", &folders[0], "--key", &b.path("key")]);
    let daemon = b.serve();
    b.wait("f");
    a.wait("f");
    assert_eq!((a.read("f/b").as_deref(), b.read("f/a").as_deref()), (Some("b"), Some("a")));
    assert_eq!(a.ask("conflicts", "f", &[]), "");
    // Once it belongs to others it stays what it is.
    daemon.terminate();
    let again = ["init", &b.path("f"), "--folder", &folders[1], "--key", &b.path("key")];
    assert!(expect_failure("syncd", &again).contains(&folders[0]));
}

#[test]
fn a_dump_is_made_for_each_cut_and_seal_settles_the_rest() {
    let [a, b] = ["a", "b"].map(|name| Device::new(name, &["f"]));
    let hook = "[[folder.cut]]\nkind = \"hook\"\npaths = [\"dump\"]\ntimeout = \"20s\"\n\
                before = [\"cp\", \"../source\", \"dump\"]\nafter = [\"cp\", \"dump\", \"../after\"]\n";
    a.write("source", "one");
    a.configure(&[&b], &[("f", hook)]);
    b.configure(&[&a], &[("f", "")]);
    let (da, db) = (a.serve(), b.serve());
    a.wait("f");
    assert_eq!((b.read("f/dump").as_deref(), a.read("after").as_deref()), (Some("one"), Some("one")));
    a.write("source", "two");
    a.wait("f");
    assert_eq!(b.read("f/dump").as_deref(), Some("two"));
    let consistency = |device: &Device| device.json("status", "f", &[])["consistency"].clone();
    let known = until("what is known", || (consistency(&b)["state"] == "known").then(|| consistency(&a)));
    assert_eq!(known, consistency(&b));

    // A file that no rule names.
    a.write("f/note", "written by something that runs");
    a.wait("f");
    until("the doubt", || (consistency(&b)["loose"][0] == "note").then_some(()));
    assert_eq!(consistency(&a), consistency(&b));
    assert!(b.ask("status", "f", &[]).contains("consistent not known: note may be in use"));
    assert!(scrape(&db).contains(&format!("syncfs_consistent{{folder=\"{}\"}} 0\n", b.path("f"))));
    assert!(a.ask("seal", "f", &[]).starts_with("st1"));
    a.wait("f");
    until("certainty", || (consistency(&b)["state"] == "known").then_some(()));
    assert!(b.ask("status", "f", &[]).contains("consistent yes"));
    assert!(scrape(&db).contains(&format!("syncfs_consistent{{folder=\"{}\"}} 1\n", b.path("f"))));

    // A dump that fails is none: the last one stays, and whoever waits is told.
    fs::remove_file(a.path("source")).unwrap();
    assert!(expect_failure("syncd", &["flush", &a.path("f")]).contains("dump: "));
    let problems = a.json("status", "f", &[])["problems"].clone();
    assert!(problems[0].as_str().is_some_and(|what| what.contains("dump: not cut: cp ended")), "{problems}");
    assert_eq!(b.read("f/dump").as_deref(), Some("two"));
    drop(da);
}

#[test]
fn an_import_adopts_folders_in_place_and_transfers_only_what_differs() {
    let [a, b] = ["a", "b"].map(|name| Device::new(name, &["unused"]));
    let text = |number: usize| format!("file {number} ").repeat(20_000);
    let mut inodes = Vec::new();
    for device in [&a, &b] {
        fs::create_dir_all(device.path("sync/.stfolder")).unwrap();
        fs::write(device.path("sync/.syncthing.x.tmp"), "half of something").unwrap();
        for number in 0..30 {
            // Syncthing keeps modification times.
            let path = device.path(&format!("sync/{number}"));
            fs::write(&path, text(number)).unwrap();
            let time = UNIX_EPOCH + Duration::from_secs(1_600_000_000 + number as u64);
            fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
            inodes.push(inode(&path));
        }
    }
    b.write("sync/news", "only on b");
    let imported = |device: &Device| -> PathBuf {
        let place = device.home.path().join("new");
        fs::create_dir(&place).unwrap();
        let (xml, out) = (place.join("config.xml"), place.join("syncd.toml"));
        let peers = [&a, &b].map(|peer| {
            let address = format!("<address>tcp://{}</address>", peer.at);
            format!("<device id=\"{0}\" name=\"{0}\">{address}</device>", peer.name)
        });
        let shared = "<device id=\"a\"/><device id=\"b\"/><minDiskFree unit=\"%\">0</minDiskFree>";
        let path = device.path("sync");
        let folder = format!("<folder id=\"s-1\" path=\"{path}\" rescanIntervalS=\"60\">{shared}</folder>");
        let listen = format!("<options><listenAddress>tcp://{}</listenAddress></options>", device.at);
        let all = format!("<configuration version=\"37\">{folder}{}{listen}</configuration>", peers.concat());
        fs::write(&xml, all).unwrap();
        let words = ["import", xml.to_str().unwrap(), "--out", out.to_str().unwrap(), "--apply"];
        let said = expect_status(&run("syncd", &words), 0);
        assert!(said.contains("folder/@path: taken over") && said.contains("this device is sd1"), "{said}");
        out
    };
    let files = [&a, &b].map(imported);
    // What the import leaves to a person: the IDs of the others.
    let id = |folder: &str| expect_status(&run("syncd", &["id", folder]), 0).trim().to_owned();
    let ids = [&a, &b].map(|device| id(&device.path("sync")));
    for (file, (name, id)) in files.iter().zip([("b", &ids[1]), ("a", &ids[0])]) {
        let text = fs::read_to_string(file).unwrap();
        fs::write(file, text.replace(&format!("the ID of {name}"), id)).unwrap();
    }
    let serve =
        |file: &PathBuf| Daemon::start(command("syncd", &["serve", "--config", file.to_str().unwrap()]));
    let _daemons = files.each_ref().map(serve);
    b.wait("sync");
    a.wait("sync");
    assert_eq!(a.read("sync/news").as_deref(), Some("only on b"));
    let after = [&a, &b].map(|device| {
        (0..30).map(|number| inode(&device.path(&format!("sync/{number}")))).collect::<Vec<_>>()
    });
    assert_eq!(after.concat(), inodes, "nothing was written anew");
    let peer = b.json("status", "sync", &[])["peers"][0].clone();
    let bytes = peer["sent_bytes"].as_u64().unwrap() + peer["received_bytes"].as_u64().unwrap();
    assert!(bytes < 50_000, "{bytes} bytes for {} in common", 30 * text(0).len());
    assert_eq!(a.ask("conflicts", "sync", &[]), "");
    assert!(Path::new(&a.path("sync/.stfolder")).is_dir() && a.read("sync/.syncthing.x.tmp").is_some());
    // A status may be of a moment ago.
    until("31 files: Syncthing's own are no part of the folder", || {
        (a.json("status", "sync", &[])["files"] == 31).then_some(())
    });
}

fn inode(path: &str) -> u64 {
    fs::metadata(path).unwrap().ino()
}
