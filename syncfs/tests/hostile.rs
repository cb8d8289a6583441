//! A peer that lies: its session ends with a named reason, the folder and other sessions go on.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test touches the world"
)]

use std::fs;
use std::time::Duration;

use syncfs::cutting::Mark;
use syncfs::fence::Tenure;
use syncfs::record::{Attributes, Chunk, Content, Kind, Record, VersionVector};
use syncfs::wire::{DecodeError, FRAME_BYTES_MAX, Message, Numbered, VERSION, Want, decode, encode};
use syncfs::{Blob, Config, ContentHash, DeviceId, Folder, IndexId, RelPath, SyncError, Violation};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::JoinHandle;

struct Attack {
    stream: DuplexStream,
    session: JoinHandle<Result<syncfs::Summary, SyncError>>,
}

async fn victim() -> (TempDir, Folder) {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("precious"), "mine").unwrap();
    let folder = Folder::create(Config::new(dir.path())).await.unwrap();
    (dir, folder)
}

impl Attack {
    /// Connects; says nothing yet.
    fn new(folder: &Folder) -> Self {
        let (stream, theirs) = tokio::io::duplex(1 << 20);
        let folder = folder.clone();
        Self { stream, session: tokio::spawn(async move { folder.sync(theirs, None).await }) }
    }

    /// Connects and behaves until records may be sent.
    async fn greeted(folder: &Folder) -> (Self, u64) {
        let mut attack = Self::new(folder);
        attack.send(&hello(folder.status().folder)).await;
        loop {
            if let Message::Have { round, .. } = attack.receive().await {
                return (attack, round);
            }
        }
    }

    async fn send(&mut self, message: &Message) {
        self.raw(&encode(message)).await;
    }

    async fn raw(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(&u32::try_from(bytes.len()).unwrap().to_le_bytes()).await;
        let _ = self.stream.write_all(bytes).await;
    }

    async fn receive(&mut self) -> Message {
        let length = self.stream.read_u32_le().await.unwrap();
        let mut bytes = vec![0; length as usize];
        self.stream.read_exact(&mut bytes).await.unwrap();
        decode(&bytes).unwrap()
    }

    /// How the victim ended the session.
    async fn verdict(self) -> Violation {
        let ended = tokio::time::timeout(Duration::from_secs(30), self.session).await;
        match ended.expect("the victim ends the session").unwrap() {
            Err(SyncError::Protocol(violation)) => violation,
            other => panic!("expected a violation: {other:?}"),
        }
    }
}

fn attacker() -> DeviceId {
    DeviceId::from_bytes([0xbb; 32])
}

fn hello(folder: Option<syncfs::FolderId>) -> Message {
    let (device, index, fences) = (attacker(), IndexId(1), Vec::new());
    Message::Hello { version: VERSION, folder, device, index, fences, tenure: Tenure::default() }
}

fn offer(round: u64, path: &str, text: &[u8]) -> Message {
    let content = Content::new(vec![Chunk { hash: ContentHash::of(text), length: text.len() as u32 }]);
    let record = Record {
        path: RelPath::new(path).unwrap(),
        kind: Kind::File { attributes: Attributes::of_mode(0o644), mtime_ns: i64::MAX, content, link: None },
        version: [(attacker(), 1)].into_iter().collect(),
        by: attacker(),
        epoch: 0,
    };
    let records = vec![Numbered { sequence: 1, record }];
    Message::Records {
        round,
        records,
        through: 1,
        knowledge: VersionVector::default(),
        mark: Mark::default(),
        complete: true,
    }
}

async fn still_works(dir: &TempDir, folder: &Folder) {
    assert_eq!(fs::read_to_string(dir.path().join("precious")).unwrap(), "mine");
    let other = tempfile::tempdir().unwrap();
    let peer = Folder::create(Config::new(other.path())).await.unwrap();
    let (left, right) = tokio::io::duplex(1 << 16);
    let (a, b) = (folder.clone(), peer.clone());
    tokio::spawn(async move { a.sync(left, None).await });
    tokio::spawn(async move { b.sync(right, None).await });
    let token = folder.flush().await.unwrap();
    folder.wait(&token, &[peer.device()], Duration::from_secs(30)).await.unwrap();
    assert_eq!(fs::read_to_string(other.path().join("precious")).unwrap(), "mine");
}

#[tokio::test]
async fn a_path_out_of_the_folder_ends_the_session() {
    let (dir, folder) = victim().await;
    let (mut attack, round) = Attack::greeted(&folder).await;
    let mut bytes = encode(&offer(round, "xx/evil", b"payload"));
    let at = bytes.windows(7).position(|part| part == b"xx/evil").unwrap();
    bytes[at..at + 2].copy_from_slice(b"..");
    attack.raw(&bytes).await;
    assert!(matches!(attack.verdict().await, Violation::Decode(DecodeError::Path(_))));
    assert!(!dir.path().parent().unwrap().join("evil").exists());
    still_works(&dir, &folder).await;
}

#[tokio::test]
async fn bytes_that_do_not_match_their_hash_never_land() {
    let (dir, folder) = victim().await;
    let (mut attack, round) = Attack::greeted(&folder).await;
    attack.send(&offer(round, "precious", b"true bytes")).await;
    loop {
        if let Message::Want(_) = attack.receive().await {
            attack.send(&Message::Chunks(vec![Blob::new(b"evil bytes".to_vec())])).await;
            break;
        }
    }
    assert_eq!(attack.verdict().await, Violation::BadChunk);
    still_works(&dir, &folder).await;
}

#[tokio::test]
async fn an_oversized_frame_is_refused_before_it_is_read() {
    let (dir, folder) = victim().await;
    let mut attack = Attack::new(&folder);
    attack.stream.write_all(&u32::try_from(FRAME_BYTES_MAX + 1).unwrap().to_le_bytes()).await.unwrap();
    assert_eq!(attack.verdict().await, Violation::Decode(DecodeError::Limit("frame")));
    still_works(&dir, &folder).await;
}

#[tokio::test]
async fn messages_out_of_order_end_the_session() {
    let (dir, folder) = victim().await;
    let mut early = Attack::new(&folder);
    early.send(&Message::Have { round: 1, index: IndexId(1), since: 0, full: false }).await;
    assert!(matches!(early.verdict().await, Violation::Order(_)));
    let (mut twice, _) = Attack::greeted(&folder).await;
    twice.send(&hello(folder.status().folder)).await;
    assert!(matches!(twice.verdict().await, Violation::Order(_)));
    let mut unknown = Attack::new(&folder);
    unknown.raw(&[200]).await;
    assert!(matches!(unknown.verdict().await, Violation::Decode(DecodeError::Unknown(_))));
    still_works(&dir, &folder).await;
}

#[tokio::test]
async fn impossible_claims_end_the_session() {
    let (dir, folder) = victim().await;
    let (mut acks, _) = Attack::greeted(&folder).await;
    acks.send(&Message::Ack { round: 0, durable: 1 << 40, taken: 1 << 40 }).await;
    assert!(matches!(acks.verdict().await, Violation::Record(_)), "an acknowledgement of the future");

    let (mut future, round) = Attack::greeted(&folder).await;
    let mut message = offer(round, "precious", b"x");
    if let Message::Records { records, .. } = &mut message {
        records[0].record.version.raise(folder.device(), 1 << 52);
    }
    future.send(&message).await;
    assert!(
        matches!(future.verdict().await, Violation::Record(_)),
        "a write of the victim that it can never have made"
    );

    let (mut backwards, round) = Attack::greeted(&folder).await;
    let mut message = offer(round, "other", b"x");
    if let Message::Records { through, .. } = &mut message {
        *through = 0;
    }
    backwards.send(&message).await;
    assert!(matches!(backwards.verdict().await, Violation::Record(_)), "sequences that do not grow");

    let mut copied = Attack::new(&folder);
    copied
        .send(&Message::Hello {
            version: VERSION,
            folder: folder.status().folder,
            device: folder.device(),
            index: IndexId(1),
            fences: Vec::new(),
            tenure: Tenure::default(),
        })
        .await;
    assert_eq!(copied.verdict().await, Violation::Myself);
    still_works(&dir, &folder).await;
}

#[tokio::test]
async fn wanting_without_end_ends_the_session() {
    let (dir, folder) = victim().await;
    let (mut attack, _) = Attack::greeted(&folder).await;
    // It asks, and never takes the answers.
    for number in 0..2000_u32 {
        let hash = ContentHash::of(&number.to_le_bytes());
        let sent = tokio::time::timeout(
            Duration::from_secs(5),
            attack.send(&Message::Want(vec![Want::whole(hash); 128])),
        )
        .await;
        if sent.is_err() || attack.session.is_finished() {
            break;
        }
    }
    let Attack { stream, session } = attack;
    drop(stream);
    let ended =
        tokio::time::timeout(Duration::from_secs(30), session).await.expect("the session ends").unwrap();
    assert!(matches!(ended, Err(SyncError::Protocol(Violation::Excess(_))) | Ok(_)), "{ended:?}");
    still_works(&dir, &folder).await;
}

#[tokio::test]
async fn a_symlink_does_not_lead_a_write_out_of_the_folder() {
    let (dir, folder) = victim().await;
    let outside = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(outside.path(), dir.path().join("way-out")).unwrap();
    folder.scan().await.unwrap();
    let (mut attack, round) = Attack::greeted(&folder).await;
    attack.send(&offer(round, "way-out/evil", b"payload")).await;
    loop {
        if let Message::Want(_) = attack.receive().await {
            attack.send(&Message::Chunks(vec![Blob::new(b"payload".to_vec())])).await;
            break;
        }
    }
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while !folder.status().problems.iter().any(|problem| problem.what.contains("symlink")) {
        assert!(std::time::Instant::now() < deadline, "{:?}", folder.status());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    still_works(&dir, &folder).await;
}

#[tokio::test]
async fn a_chunk_that_the_peer_could_not_read_is_asked_for_again() {
    let (dir, folder) = victim().await;
    let (mut peer, round) = Attack::greeted(&folder).await;
    peer.send(&offer(round, "late", b"there after all")).await;
    let mut refusals = 3;
    while fs::read(dir.path().join("late")).is_err() {
        let message = tokio::time::timeout(Duration::from_secs(30), peer.receive()).await;
        let Message::Want(wants) = message.expect("it asks again") else { continue };
        if refusals > 0 {
            refusals -= 1;
            peer.send(&Message::Gone(wants[0].hash)).await;
        } else {
            peer.send(&Message::Chunks(vec![Blob::new(b"there after all".to_vec())])).await;
            while !matches!(peer.receive().await, Message::Ack { durable: 1, .. }) {}
        }
    }
    assert_eq!(fs::read_to_string(dir.path().join("late")).unwrap(), "there after all");
}

/// Devices that do not exist.
fn crowd(first: u8, count: u8) -> VersionVector {
    (first..first + count).map(|id| (DeviceId::from_bytes([id; 32]), 1)).collect()
}

#[tokio::test]
async fn more_devices_than_an_index_can_name_are_refused_and_it_stays_readable() {
    let (dir, folder) = victim().await;
    let (mut attack, round) = Attack::greeted(&folder).await;
    let knows = |through, knowledge| Message::Records {
        round,
        records: Vec::new(),
        through,
        knowledge,
        mark: Mark::default(),
        complete: true,
    };
    attack.send(&knows(1, crowd(1, 30))).await;
    while !matches!(attack.receive().await, Message::Ack { durable: 1, .. }) {}
    attack.send(&knows(2, crowd(100, 40))).await;
    assert!(matches!(attack.verdict().await, Violation::Excess(_)));
    // A path that so many are said to have written at once with this replica is not taken, either.
    let (mut attack, round) = Attack::greeted(&folder).await;
    let mut message = offer(round, "precious", b"mine");
    if let Message::Records { records, through, .. } = &mut message {
        (*through, records[0].sequence) = (3, 3);
        records[0].record.version = crowd(1, 64);
        records[0].record.by = DeviceId::from_bytes([1; 32]);
    }
    attack.send(&message).await;
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while !folder.status().problems.iter().any(|problem| problem.what.contains("64 devices")) {
        assert!(std::time::Instant::now() < deadline, "{:?}", folder.status());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(attack);
    folder.close().await;
    let folder = Folder::open(Config::new(dir.path())).await.unwrap();
    still_works(&dir, &folder).await;
}
