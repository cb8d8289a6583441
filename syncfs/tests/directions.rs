//! Folders of one direction: what a receiver edits is undone, what a sender is offered is not taken.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test touches the world"
)]

mod pair;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use pair::{Replica, Session, connect, eventually};
use syncfs::{Config, Direction, FenceError, RelPath};

fn one_way(direction: Direction) -> impl FnOnce(&mut Config) {
    move |config| config.direction = direction
}

async fn replica(direction: Direction, files: &[(&str, &str)]) -> Replica {
    let dir = tempfile::tempdir().unwrap();
    files.iter().for_each(|(name, text)| write(dir.path(), name, text));
    Replica::at(dir, one_way(direction)).await
}

/// The texts of everything that was set aside, sorted.
fn aside(replica: &Replica) -> Vec<String> {
    let (mut texts, mut todo) = (Vec::new(), vec![replica.path(".syncfs/aside")]);
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { todo.push(path) } else { texts.push(fs::read_to_string(path).unwrap()) }
        }
    }
    texts.sort();
    // An edit that was seen at two paths, before and after a rename, is kept twice.
    texts.dedup();
    texts
}

/// With a time of its own, as another machine that had the same file would have it.
fn write(dir: &Path, name: &str, text: &str) {
    let path = dir.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, text).unwrap();
    let time = std::time::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + text.len() as u64);
    fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
}

#[tokio::test]
async fn what_a_receiver_edits_creates_or_deletes_is_set_aside_and_undone() {
    let source = replica(Direction::Both, &[("d/one", "1"), ("two", "22")]).await;
    let receiver = replica(Direction::Receive, &[]).await;
    connect(&source.folder, &receiver.folder);
    source.reaches(&receiver).await;
    write(receiver.dir.path(), "two", "edited");
    write(receiver.dir.path(), "extra/three", "new");
    fs::remove_file(receiver.dir.path().join("d/one")).unwrap();
    fs::rename(receiver.dir.path().join("two"), receiver.dir.path().join("elsewhere")).unwrap();
    let intact = || receiver.read("two") == Some("22".into()) && receiver.read("d/one") == Some("1".into());
    let gone = || receiver.read("extra/three").is_none() && receiver.read("elsewhere").is_none();
    eventually("everything stands as the peer has it", || intact() && gone()).await;
    // What is renamed may be the edit, or what the edit was undone to already, and is then kept, too.
    eventually("and nothing was lost", || {
        let aside = aside(&receiver);
        ["edited", "new"].iter().all(|edit| aside.iter().any(|text| text == edit))
    })
    .await;
    receiver.folder.flush().await.unwrap();
    // Nothing of that reached the peer, and it goes on getting what is new.
    write(source.dir.path(), "four", "4444");
    source.reaches(&receiver).await;
    assert_eq!(receiver.read("four").as_deref(), Some("4444"));
    assert_eq!(source.names(), ["d", "four", "two"]);
    assert_eq!(source.read("two").as_deref(), Some("22"));
    assert_eq!(source.folder.digest().await.unwrap(), receiver.folder.digest().await.unwrap());
    assert!(matches!(receiver.folder.hold(1).await, Err(FenceError::ReceiveOnly)));
}

#[tokio::test]
async fn what_a_receiver_finds_at_its_beginning_is_adopted_where_it_is_the_same() {
    let large = "the same on both sides ".repeat(50_000);
    let theirs = [("same", large.as_str()), ("other", "theirs"), ("d/deep", "deep")];
    let source = replica(Direction::Both, &theirs).await;
    let ours = [("same", large.as_str()), ("other", "ours"), ("d/deep", "deep"), ("d/mine", "mine")];
    let receiver = replica(Direction::Receive, &ours).await;
    let inode = |name: &str| fs::metadata(receiver.dir.path().join(name)).unwrap().ino();
    let (same, deep) = (inode("same"), inode("d/deep"));
    assert_eq!(receiver.folder.current_status().await.folder, None, "it founds no folder");
    let [out, back] = connect(&source.folder, &receiver.folder);
    source.reaches(&receiver).await;
    eventually("the rest is set aside", || aside(&receiver) == ["mine", "ours"]).await;
    assert_eq!((receiver.read("other").as_deref(), receiver.read("d/mine")), (Some("theirs"), None));
    assert_eq!((inode("same"), inode("d/deep")), (same, deep), "not written anew");
    assert_eq!(source.names(), ["d", "other", "same"]);
    assert_eq!(source.folder.digest().await.unwrap(), receiver.folder.digest().await.unwrap());
    back.abort();
    let sent = out.await.unwrap().unwrap().sent_bytes;
    assert!(sent < 5_000, "{sent} bytes: what is equal is not transferred");
}

#[tokio::test]
async fn a_directory_that_goes_takes_along_what_a_receiver_put_into_it() {
    let source = replica(Direction::Both, &[("d/one", "1"), ("keep", "k")]).await;
    let receiver = replica(Direction::Receive, &[]).await;
    let sessions = connect(&source.folder, &receiver.folder);
    source.reaches(&receiver).await;
    sessions.iter().for_each(Session::abort);
    receiver.folder.close().await;
    // Nobody is there to see it.
    write(receiver.dir.path(), "d/mine", "mine");
    fs::remove_dir_all(source.dir.path().join("d")).unwrap();
    let receiver = Replica::at(receiver.dir, one_way(Direction::Receive)).await;
    connect(&source.folder, &receiver.folder);
    source.reaches(&receiver).await;
    eventually("the directory is gone", || receiver.names() == ["keep"]).await;
    assert_eq!(aside(&receiver), ["mine"]);
    assert_eq!(source.names(), ["keep"]);
}

#[tokio::test]
async fn a_sender_takes_nothing_says_what_differs_and_overrides_it() {
    let sender = replica(Direction::Send, &[("d/one", "1"), ("two", "22"), ("three", "333")]).await;
    let peer = replica(Direction::Both, &[]).await;
    let sessions = connect(&sender.folder, &peer.folder);
    sender.reaches(&peer).await;
    write(peer.dir.path(), "two", "edited");
    write(peer.dir.path(), "extra", "new");
    fs::rename(peer.dir.path().join("d"), peer.dir.path().join("moved")).unwrap();
    fs::remove_file(peer.dir.path().join("three")).unwrap();
    let expected = ["d", "d/one", "extra", "moved", "moved/one", "three", "two"];
    eventually("the differences are known", || sender.folder.status().differing == expected.len() as u64)
        .await;
    let paths = |list: Vec<RelPath>| list.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(paths(sender.folder.differing().await.unwrap()), expected);
    let token = peer.folder.flush().await.unwrap();
    let early = peer.folder.wait(&token, &[sender.folder.device()], Duration::from_millis(100)).await;
    early.expect_err("a sender does not say that it has what it did not take");
    assert_eq!(sender.names(), ["d", "three", "two"]);
    assert_eq!(sender.read("two").as_deref(), Some("22"));
    // What it writes itself still goes out.
    write(sender.dir.path(), "four", "4444");
    sender.reaches(&peer).await;
    assert_eq!(peer.read("four").as_deref(), Some("4444"));
    assert_eq!(peer.read("two").as_deref(), Some("edited"));

    // A new session tells it again, and then it has its way.
    sessions.iter().for_each(Session::abort);
    let sender = {
        sender.folder.close().await;
        Replica::at(sender.dir, one_way(Direction::Send)).await
    };
    connect(&sender.folder, &peer.folder);
    eventually("the differences are known again", || {
        sender.folder.status().differing == expected.len() as u64
    })
    .await;
    assert_eq!(sender.folder.override_peers().await.unwrap(), expected.len() as u64);
    sender.reaches(&peer).await;
    eventually("the peer has what the sender has", || peer.names() == ["d", "four", "three", "two"]).await;
    assert_eq!(peer.read("two").as_deref(), Some("22"));
    assert_eq!(peer.read("d/one").as_deref(), Some("1"));
    peer.reaches(&sender).await;
    eventually("nothing differs", || sender.folder.status().differing == 0).await;
    assert_eq!(sender.folder.digest().await.unwrap(), peer.folder.digest().await.unwrap());
}

#[tokio::test]
async fn a_lease_is_stronger_than_a_direction() {
    let sender = replica(Direction::Send, &[("one", "1")]).await;
    let peer = replica(Direction::Both, &[]).await;
    connect(&sender.folder, &peer.folder);
    sender.reaches(&peer).await;
    write(peer.dir.path(), "two", "22");
    eventually("the difference is known", || sender.folder.status().differing == 1).await;
    peer.folder.hold(1).await.unwrap();
    peer.reaches(&sender).await;
    assert_eq!(sender.read("two").as_deref(), Some("22"), "it follows the holder");
    eventually("nothing differs", || sender.folder.status().differing == 0).await;
}
