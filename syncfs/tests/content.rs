//! What an entry has besides its bytes, between two real folders.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test touches the world"
)]

mod pair;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::time::Duration;

use pair::{LONG, Pair};
use rustix::fs::{XattrFlags, removexattr, setxattr};

#[tokio::test]
async fn extended_attributes_of_files_and_directories_arrive_change_and_go() {
    let pair = Pair::new().await;
    fs::create_dir(pair.path(0, "dir")).unwrap();
    fs::write(pair.path(0, "dir/file"), "content").unwrap();
    for name in ["dir", "dir/file"] {
        setxattr(pair.path(0, name), "user.note", name.as_bytes(), XattrFlags::empty()).unwrap();
        setxattr(pair.path(0, name), "user.gone", b"soon", XattrFlags::empty()).unwrap();
    }
    pair.settle().await;
    for name in ["dir", "dir/file"] {
        assert_eq!(pair.xattr(1, name, "user.note").as_deref(), Some(name.as_bytes()));
        assert_eq!(pair.xattr(1, name, "user.gone").as_deref(), Some(&b"soon"[..]));
        setxattr(pair.path(0, name), "user.note", b"changed", XattrFlags::empty()).unwrap();
        removexattr(pair.path(0, name), "user.gone").unwrap();
    }
    pair.settle().await;
    for name in ["dir", "dir/file"] {
        assert_eq!(pair.xattr(1, name, "user.note").as_deref(), Some(&b"changed"[..]));
        assert_eq!(pair.xattr(1, name, "user.gone"), None);
    }
}

#[tokio::test]
async fn permissions_times_and_attributes_change_without_a_new_file() {
    let pair = Pair::new().await;
    fs::write(pair.path(0, "file"), vec![7; 300_000]).unwrap();
    pair.settle().await;
    let before = pair.meta(1, "file");
    fs::set_permissions(pair.path(0, "file"), fs::Permissions::from_mode(0o640)).unwrap();
    setxattr(pair.path(0, "file"), "user.note", b"n", XattrFlags::empty()).unwrap();
    let then = std::time::UNIX_EPOCH + Duration::new(1_600_000_000, 123_456_789);
    fs::File::options().write(true).open(pair.path(0, "file")).unwrap().set_modified(then).unwrap();
    pair.settle().await;
    let after = pair.meta(1, "file");
    assert_eq!(after.ino(), before.ino(), "the file was replaced");
    assert_eq!(after.mode() & 0o7777, 0o640);
    assert_eq!(after.modified().unwrap(), then);
    assert_eq!(pair.xattr(1, "file", "user.note").as_deref(), Some(&b"n"[..]));
    assert_eq!(fs::read(pair.path(1, "file")).unwrap(), vec![7; 300_000]);
}

#[tokio::test]
async fn a_file_with_more_attributes_than_a_version_can_hold_is_named_and_stops_nothing() {
    let pair = Pair::new().await;
    fs::write(pair.path(0, "many"), "x").unwrap();
    for number in 0..=syncfs::record::XATTRS_MAX {
        setxattr(pair.path(0, "many"), format!("user.{number}"), b"", XattrFlags::empty()).unwrap();
    }
    fs::write(pair.path(0, "other"), "y").unwrap();
    pair.folders[0].scan().await.unwrap();
    let token = pair.folders[0].flush().await;
    assert!(token.is_err() || !pair.path(1, "many").exists());
    let report = pair.folders[0].scan().await.unwrap();
    assert!(report.problems.iter().any(|problem| problem.what.contains("extended attributes")), "{report:?}");
    let deadline = std::time::Instant::now() + LONG;
    while !pair.path(1, "other").exists() {
        assert!(std::time::Instant::now() < deadline, "the other file did not arrive");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
#[ignore = "needs root: run with --ignored"]
async fn owners_set_uid_bits_and_capabilities_arrive() {
    let pair = Pair::new().await;
    fs::create_dir(pair.path(0, "dir")).unwrap();
    fs::write(pair.path(0, "dir/program"), "#!/bin/true").unwrap();
    symlink("nowhere", pair.path(0, "link")).unwrap();
    chown(pair.path(0, "dir"), Some(1001), Some(2001)).unwrap();
    chown(pair.path(0, "dir/program"), Some(1002), Some(2002)).unwrap();
    lchown(pair.path(0, "link"), Some(1003), Some(2003)).unwrap();
    fs::set_permissions(pair.path(0, "dir/program"), fs::Permissions::from_mode(0o6755)).unwrap();
    // cap_net_raw+ep, revision 2.
    let capability = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    setxattr(pair.path(0, "dir/program"), "security.capability", &capability, XattrFlags::empty()).unwrap();
    pair.settle().await;
    let owner = |name: &str| (pair.meta(1, name).uid(), pair.meta(1, name).gid());
    assert_eq!(owner("dir"), (1001, 2001));
    assert_eq!(owner("dir/program"), (1002, 2002));
    assert_eq!(owner("link"), (1003, 2003));
    assert_eq!(pair.meta(1, "dir/program").mode() & 0o7777, 0o6755);
    assert_eq!(pair.xattr(1, "dir/program", "security.capability").as_deref(), Some(&capability[..]));
    // A change of the owner alone.
    let inode = pair.meta(1, "dir/program").ino();
    chown(pair.path(0, "dir/program"), Some(1004), Some(2002)).unwrap();
    pair.settle().await;
    assert_eq!(owner("dir/program"), (1004, 2002));
    assert_eq!(pair.meta(1, "dir/program").ino(), inode);
}
