//! Names and entries that are out of the ordinary, between two real folders.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test touches the world"
)]

mod pair;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use pair::{LONG, Pair};
use rustix::fs::{CWD, FileType, Mode, OFlags, mkdirat, mknodat, openat};
use syncfs::{Config, Folder, OpenError};

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn odd_names() -> Vec<Vec<u8>> {
    let mut names: Vec<Vec<u8>> = [
        &b"-rf"[..],
        b"..foo",
        b"...",
        b" ",
        b"ends with a space ",
        b"ends with a dot.",
        b"new\nline",
        b"tab\t",
        b"\xff\xfe not utf-8",
        b"\x01\x7f",
        b"back\\slash",
        b"*?[a]",
        b"quote'\"",
        b"a.syncfs",
        b".syncfs.bak",
        b"A.txt",
        b"a.txt",
        "\u{e4}".as_bytes(),
        "a\u{308}".as_bytes(),
    ]
    .map(<[u8]>::to_vec)
    .into();
    names.push(vec![b'n'; 255]);
    names
}

#[tokio::test]
async fn names_of_any_bytes_arrive_change_and_go() {
    let pair = Pair::new().await;
    let at = |side: usize, name: &[u8]| pair.dirs[side].path().join(OsStr::from_bytes(name));
    for name in odd_names() {
        fs::create_dir(at(0, &[&name[..name.len().min(250)], b".dir"].concat())).unwrap();
        fs::write(at(0, &name), &name).unwrap();
    }
    pair.settle().await;
    for name in odd_names() {
        let read = fs::read(at(1, &name));
        assert!(read.is_ok_and(|read| read == name), "{:?}", String::from_utf8_lossy(&name));
        fs::rename(at(1, &name), at(1, &[&name[..name.len().min(250)], b".dir/in"].concat())).unwrap();
    }
    pair.settle().await;
    for name in odd_names() {
        let moved = [&name[..name.len().min(250)], b".dir/in"].concat();
        assert_eq!(fs::read(at(0, &moved)).unwrap(), name);
        fs::remove_dir_all(at(0, &moved).parent().unwrap()).unwrap();
    }
    pair.settle().await;
    assert_eq!(fs::read_dir(pair.dirs[1].path()).unwrap().count(), 1, "only the state directory is left");
}

#[tokio::test]
async fn a_name_whose_letters_change_their_case_is_a_rename_without_data() {
    let pair = Pair::new().await;
    fs::write(pair.path(0, "readme.txt"), vec![5; 200_000]).unwrap();
    fs::create_dir(pair.path(0, "dir")).unwrap();
    fs::write(pair.path(0, "dir/file"), "file").unwrap();
    pair.settle().await;
    let inodes = ["readme.txt", "dir/file"].map(|name| pair.meta(1, name).ino());
    fs::rename(pair.path(0, "readme.txt"), pair.path(0, "README.txt")).unwrap();
    fs::rename(pair.path(0, "dir"), pair.path(0, "Dir")).unwrap();
    pair.settle().await;
    assert_eq!(["README.txt", "Dir/file"].map(|name| pair.meta(1, name).ino()), inodes);
    assert!(!pair.path(1, "readme.txt").exists() && !pair.path(1, "dir").exists());
}

#[tokio::test]
async fn a_directory_is_renamed_without_data_although_its_files_have_only_just_been_written() {
    let pair = Pair::new().await;
    fs::create_dir(pair.path(0, "dir")).unwrap();
    fs::write(pair.path(0, "dir/file"), "file").unwrap();
    // To whoever looks, a file with a time to come is never old enough.
    let soon = std::time::SystemTime::now() + Duration::from_secs(3600);
    let file = fs::File::options().write(true).open(pair.path(0, "dir/file")).unwrap();
    file.set_modified(soon).unwrap();
    drop(file);
    pair.settle().await;
    let inode = pair.meta(1, "dir/file").ino();
    fs::rename(pair.path(0, "dir"), pair.path(0, "Dir")).unwrap();
    pair.settle().await;
    assert_eq!(pair.meta(1, "Dir/file").ino(), inode);
}

#[tokio::test]
async fn state_directories_in_subdirectories_and_paths_that_are_too_long_are_named_and_left_alone() {
    let pair = Pair::new().await;
    fs::create_dir_all(pair.path(0, "sub/.syncfs")).unwrap();
    fs::write(pair.path(0, "sub/.syncfs/index.db"), "another folder's").unwrap();
    fs::write(pair.path(0, "sub/file"), "file").unwrap();
    // Deeper than any path may be that a system call takes: by steps from directory to directory.
    let name = "d".repeat(200);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut dir = openat(CWD, pair.dirs[0].path(), flags, Mode::empty()).unwrap();
    for _ in 0..30 {
        mkdirat(&dir, &name, Mode::from_raw_mode(0o755)).unwrap();
        dir = openat(&dir, &name, flags, Mode::empty()).unwrap();
    }
    let report = pair.folders[0].scan().await.unwrap();
    assert!(report.problems.iter().any(|problem| problem.what.contains("longer or deeper")), "{report:?}");
    eventually("the rest arrives", || pair.path(1, "sub/file").exists()).await;
    pair.settle().await;
    assert!(!pair.path(1, "sub/.syncfs").exists());
    let deep: PathBuf = std::iter::repeat_n(&name, 9).collect();
    assert!(pair.dirs[1].path().join(deep).is_dir(), "what is not too long arrives");
    // `remove_dir_all` of the test's directory goes by steps, too.
}

#[tokio::test]
async fn special_files_are_named_never_opened_and_stop_nothing() {
    let pair = Pair::new().await;
    let fifo = |side: usize, name: &str| {
        let (mode, path) = (Mode::from_raw_mode(0o644), pair.path(side, name));
        mknodat(CWD, path, FileType::Fifo, mode, 0).unwrap();
    };
    fifo(0, "fifo");
    let _socket = UnixListener::bind(pair.path(0, "socket")).unwrap();
    fs::write(pair.path(0, "file"), "one").unwrap();
    fs::write(pair.path(0, "other"), "other").unwrap();
    pair.settle().await;
    let named = |side: usize, name: &str| {
        let problems = pair.folders[side].status().problems;
        problems.iter().any(|problem| {
            problem.path.as_ref().is_some_and(|path| path.to_string() == name)
                && problem.what.contains("pipe")
        })
    };
    eventually("they are named", || named(0, "fifo") && named(0, "socket")).await;
    assert!(!pair.path(1, "fifo").exists() && !pair.path(1, "socket").exists());
    // A file becomes one: the peer keeps the file.
    fs::remove_file(pair.path(0, "file")).unwrap();
    fifo(0, "file");
    pair.folders[0].scan().await.unwrap();
    eventually("it is named", || named(0, "file")).await;
    assert_eq!(fs::read(pair.path(1, "file")).unwrap(), b"one");
    // The peer's edit of it waits, and nothing else does.
    fs::write(pair.path(1, "file"), "two").unwrap();
    fs::write(pair.path(1, "other"), "more").unwrap();
    eventually("the other one arrives", || fs::read(pair.path(0, "other")).unwrap() == b"more").await;
    assert!(fs::symlink_metadata(pair.path(0, "file")).unwrap().file_type().is_fifo());
    fs::remove_file(pair.path(0, "file")).unwrap();
    // Whatever the absence is taken for: the edit has not seen it, and is not lost.
    eventually("the edit arrives", || fs::read(pair.path(0, "file")).is_ok_and(|text| text == b"two")).await;
    pair.settle().await;
    assert_eq!(fs::read(pair.path(1, "file")).unwrap(), b"two");
    // And one becomes a file.
    fs::remove_file(pair.path(0, "fifo")).unwrap();
    fs::write(pair.path(0, "fifo"), "a file now").unwrap();
    pair.settle().await;
    assert_eq!(fs::read(pair.path(1, "fifo")).unwrap(), b"a file now");
    eventually("it is solved", || !named(0, "fifo")).await;
}

#[tokio::test]
async fn an_entry_may_become_one_of_another_kind_in_any_order() {
    let pair = Pair::new().await;
    type Make = fn(&std::path::Path);
    let makes: [Make; 3] = [
        |path| fs::write(path, "file").unwrap(),
        |path| fs::create_dir(path).unwrap(),
        |path| symlink("nowhere", path).unwrap(),
    ];
    let remove = |path: &std::path::Path| match fs::symlink_metadata(path).unwrap().is_dir() {
        true => fs::remove_dir_all(path).unwrap(),
        false => fs::remove_file(path).unwrap(),
    };
    for (number, from) in makes.iter().enumerate() {
        for (other, to) in makes.iter().enumerate() {
            let path = pair.path(number % 2, &format!("{number}-{other}"));
            from(&path);
            pair.settle().await;
            remove(&path);
            to(&path);
            pair.settle().await;
            let kinds = [0, 1].map(|side| pair.meta(side, &format!("{number}-{other}")).file_type());
            assert_eq!(kinds[0], kinds[1], "{number} to {other}");
        }
    }
}

#[tokio::test]
async fn a_filesystem_that_folds_case_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let replica = Folder::create(Config::new(dir.path())).await.unwrap();
    replica.close().await;
    // As it is where one name is found by the other. (A link does what such a filesystem would.)
    std::os::unix::fs::symlink(".syncfs", dir.path().join(".SYNCFS")).unwrap();
    let refused = Folder::open(Config::new(dir.path())).await.unwrap_err();
    assert!(
        matches!(&refused, OpenError::FoldsCase(_)) && refused.to_string().contains("capital"),
        "{refused}"
    );
    fs::remove_file(dir.path().join(".SYNCFS")).unwrap();
    fs::write(dir.path().join(".SYNCFS"), "another file").unwrap();
    Folder::open(Config::new(dir.path())).await.unwrap();
}
