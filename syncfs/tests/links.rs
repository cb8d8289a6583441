//! Hard links between two real folders.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test touches the world"
)]

mod pair;

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use pair::{LONG, Pair};
use syncfs::{Config, Event, Folder, History, Role};

impl Pair {
    /// Names of one file at both sides, with this content.
    fn assert_linked(&self, names: &[&str], text: &str) {
        for side in 0..2 {
            let inodes: BTreeSet<_> = names.iter().map(|name| self.meta(side, name).ino()).collect();
            assert_eq!(inodes.len(), 1, "side {side}: {names:?} are {} files", inodes.len());
            assert_eq!(self.meta(side, names[0]).nlink(), names.len() as u64, "side {side}: {names:?}");
            assert_eq!(
                fs::read_to_string(self.path(side, names[0])).unwrap(),
                text,
                "side {side}: {names:?}"
            );
        }
    }

    fn link(&self, side: usize, from: &str, to: &str) {
        fs::hard_link(self.path(side, from), self.path(side, to)).unwrap();
    }

    fn append(&self, side: usize, name: &str, text: &str) {
        let mut file = fs::File::options().append(true).open(self.path(side, name)).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }
}

#[tokio::test]
async fn names_of_one_file_are_names_of_one_file_at_the_peer() {
    let pair = Pair::new().await;
    fs::create_dir(pair.path(0, "dir")).unwrap();
    fs::write(pair.path(0, "dir/first"), "text").unwrap();
    pair.link(0, "dir/first", "second");
    fs::write(pair.path(0, "empty"), "").unwrap();
    pair.link(0, "empty", "a-empty");
    pair.settle().await;
    pair.assert_linked(&["dir/first", "second"], "text");
    pair.assert_linked(&["empty", "a-empty"], "");
    // More names of files that are there already, before and behind the others.
    pair.link(0, "second", "a");
    pair.settle().await;
    pair.link(1, "a", "z");
    pair.settle().await;
    pair.assert_linked(&["a", "dir/first", "second", "z"], "text");
}

#[tokio::test]
async fn an_edit_through_one_name_is_one_of_all_at_both_sides() {
    let pair = Pair::new().await;
    fs::write(pair.path(0, "a"), "one").unwrap();
    pair.link(0, "a", "b");
    pair.link(0, "a", "c");
    pair.settle().await;
    pair.append(0, "b", ", two");
    // Nothing but the watcher tells: no scan.
    let deadline = std::time::Instant::now() + LONG;
    while ["a", "b", "c"].iter().any(|name| fs::read(pair.path(1, name)).unwrap() != b"one, two") {
        assert!(std::time::Instant::now() < deadline, "the edit did not arrive under every name");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    pair.settle().await;
    pair.assert_linked(&["a", "b", "c"], "one, two");
    pair.append(1, "c", ", three");
    fs::set_permissions(pair.path(1, "a"), fs::Permissions::from_mode(0o640)).unwrap();
    pair.settle().await;
    pair.assert_linked(&["a", "b", "c"], "one, two, three");
    assert_eq!(pair.meta(0, "b").mode() & 0o777, 0o640);
}

#[tokio::test]
async fn a_link_that_is_broken_or_made_anew_is_so_at_the_peer() {
    let pair = Pair::new().await;
    fs::write(pair.path(0, "a"), "one").unwrap();
    pair.link(0, "a", "b");
    fs::write(pair.path(0, "other"), "other").unwrap();
    pair.settle().await;
    // Another file under the name, once with other bytes and once with the very same in all respects.
    fs::write(pair.path(0, "new"), "two").unwrap();
    fs::rename(pair.path(0, "new"), pair.path(0, "b")).unwrap();
    pair.settle().await;
    pair.assert_linked(&["a"], "one");
    pair.assert_linked(&["b"], "two");
    fs::remove_file(pair.path(0, "b")).unwrap();
    pair.link(0, "a", "b");
    pair.settle().await;
    pair.assert_linked(&["a", "b"], "one");
    let then = pair.meta(0, "a").modified().unwrap();
    fs::copy(pair.path(0, "a"), pair.path(0, "copy")).unwrap();
    fs::File::options().write(true).open(pair.path(0, "copy")).unwrap().set_modified(then).unwrap();
    fs::rename(pair.path(0, "copy"), pair.path(0, "b")).unwrap();
    pair.settle().await;
    pair.assert_linked(&["a"], "one");
    pair.assert_linked(&["b"], "one");
    // A name goes from one file to the other.
    fs::remove_file(pair.path(1, "other")).unwrap();
    pair.link(1, "b", "other");
    pair.settle().await;
    pair.assert_linked(&["b", "other"], "one");
}

#[tokio::test]
async fn the_end_or_a_move_of_the_first_name_leaves_the_others_together() {
    let pair = Pair::new().await;
    fs::write(pair.path(0, "a"), "text").unwrap();
    pair.link(0, "a", "b");
    pair.link(0, "a", "c");
    pair.settle().await;
    let inode = pair.meta(1, "b").ino();
    fs::remove_file(pair.path(0, "a")).unwrap();
    pair.settle().await;
    pair.assert_linked(&["b", "c"], "text");
    fs::rename(pair.path(0, "b"), pair.path(0, "z")).unwrap();
    pair.settle().await;
    pair.assert_linked(&["c", "z"], "text");
    pair.append(0, "z", "!");
    pair.settle().await;
    pair.assert_linked(&["c", "z"], "text!");
    assert_ne!(pair.meta(1, "c").ino(), inode, "an edit is a new file at the peer");
    // One that comes later gets it right although the first name is gone.
    let dir = tempfile::tempdir().unwrap();
    let late = Folder::create(Config::new(dir.path())).await.unwrap();
    let (left, right) = tokio::io::duplex(1 << 20);
    let (one, two) = (pair.folders[0].clone(), late.clone());
    tokio::spawn(async move { one.sync(left, None).await });
    tokio::spawn(async move { two.sync(right, None).await });
    let token = pair.folders[0].flush().await.unwrap();
    pair.folders[0].wait(&token, &[late.device()], LONG).await.unwrap();
    let inode = |name: &str| fs::metadata(dir.path().join(name)).unwrap().ino();
    assert_eq!(inode("c"), inode("z"));
}

#[tokio::test]
async fn a_directory_moves_with_the_links_in_it_and_costs_no_data() {
    let pair = Pair::new().await;
    fs::create_dir_all(pair.path(0, "dir/sub")).unwrap();
    fs::write(pair.path(0, "dir/a"), "text").unwrap();
    pair.link(0, "dir/a", "dir/sub/b");
    pair.link(0, "dir/a", "outside");
    pair.settle().await;
    let inode = pair.meta(1, "outside").ino();
    fs::rename(pair.path(0, "dir"), pair.path(0, "moved")).unwrap();
    pair.settle().await;
    pair.assert_linked(&["moved/a", "moved/sub/b", "outside"], "text");
    assert_eq!(pair.meta(1, "moved/a").ino(), inode);
    pair.append(0, "outside", "!");
    pair.settle().await;
    pair.assert_linked(&["moved/a", "moved/sub/b", "outside"], "text!");
}

#[tokio::test]
async fn names_outside_of_the_folder_and_ignored_ones_make_no_link() {
    let pair = Pair::new().await;
    let outside = tempfile::tempdir_in(pair.dirs[0].path().parent().unwrap()).unwrap();
    fs::write(pair.path(0, ".syncignore"), "*.tmp\n").unwrap();
    fs::write(pair.path(0, "a"), "text").unwrap();
    fs::hard_link(pair.path(0, "a"), outside.path().join("a")).unwrap();
    pair.link(0, "a", "a.tmp");
    pair.settle().await;
    assert_eq!(pair.meta(1, "a").nlink(), 1);
    assert!(!pair.path(1, "a.tmp").exists());
    // Still watched: an edit from outside is found by a scan.
    fs::write(outside.path().join("a"), "edited").unwrap();
    pair.settle().await;
    assert_eq!(fs::read(pair.path(1, "a")).unwrap(), b"edited");
}

#[tokio::test]
async fn a_conflict_keeps_a_copy_that_no_other_name_can_change() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let pair = Pair::of(dirs, |config| config).await;
    fs::write(pair.path(0, "a"), "base").unwrap();
    pair.link(0, "a", "b");
    pair.settle().await;
    let mut pair = pair;
    pair.disconnect().await;
    pair.append(0, "a", ", zero");
    pair.append(1, "b", ", one");
    for folder in &pair.folders {
        folder.scan().await.unwrap();
    }
    pair.connect();
    pair.settle().await;
    pair.settle().await;
    let won = fs::read_to_string(pair.path(0, "a")).unwrap();
    assert!(["base, zero", "base, one"].contains(&won.as_str()), "{won}");
    pair.assert_linked(&["a", "b"], &won);
    let conflicts = pair.folders[0].conflicts().await.unwrap();
    assert_eq!(conflicts.len(), 2, "{conflicts:?}");
    for conflict in conflicts {
        for side in 0..2 {
            let kept = pair.path(side, &conflict.kept_as.to_string());
            let lost = if won.ends_with("one") { "base, zero" } else { "base, one" };
            assert_eq!(fs::read_to_string(&kept).unwrap(), lost);
            assert_eq!(fs::metadata(&kept).unwrap().nlink(), 1, "{}", kept.display());
        }
    }
}

#[tokio::test]
async fn a_followers_edit_of_a_linked_file_is_undone_under_every_name() {
    let pair = Pair::new().await;
    fs::write(pair.path(0, "a"), "held").unwrap();
    pair.link(0, "a", "b");
    pair.settle().await;
    pair.folders[0].hold(1).await.unwrap();
    pair.settle().await;
    while pair.folders[1].status().role != Role::Follower {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let mut events = pair.folders[1].subscribe();
    pair.append(1, "b", ", edited");
    pair.folders[1].scan().await.unwrap();
    let mut kept = Vec::new();
    while kept.len() < 2 {
        if let Event::SetAside { path, branch } = events.recv().await.unwrap() {
            kept.push(format!("{branch}/{path}"));
        }
    }
    let deadline = std::time::Instant::now() + LONG;
    while ["a", "b"].iter().any(|name| fs::read(pair.path(1, name)).unwrap() != b"held") {
        assert!(std::time::Instant::now() < deadline, "the edit was not undone");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    pair.settle().await;
    pair.assert_linked(&["a", "b"], "held");
    for name in kept {
        let kept = pair.path(1, ".syncfs/aside").join(name);
        assert_eq!(fs::read(&kept).unwrap(), b"held, edited");
    }
}

#[tokio::test]
async fn a_restore_of_one_name_leaves_the_other_as_it_is() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let keep = std::time::Duration::from_secs(3600);
    let pair = Pair::of(dirs, |config| {
        let mut config = config;
        config.history = History::Trash { keep };
        config
    })
    .await;
    fs::write(pair.path(0, "a"), "old").unwrap();
    pair.link(0, "a", "b");
    pair.settle().await;
    pair.append(0, "a", " and new");
    pair.settle().await;
    let path = syncfs::RelPath::new("b").unwrap();
    let versions = pair.folders[1].history(&path).await.unwrap();
    assert_eq!(versions.len(), 1, "{versions:?}");
    pair.folders[1].restore(&path, syncfs::At::Version(versions[0].id), None).await.unwrap();
    pair.settle().await;
    pair.assert_linked(&["a"], "old and new");
    pair.assert_linked(&["b"], "old");
}
