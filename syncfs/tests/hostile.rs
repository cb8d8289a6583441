//! A peer that lies: its session ends with a named reason, the folder and other sessions go on.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test touches the world"
)]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use syncfs::chunk::CHUNK_BYTES_MAX;
use syncfs::cutting::Mark;
use syncfs::disk::Run;
use syncfs::fence::{Fence, Tenure};
use syncfs::record::{Attributes, Chunk, Content, FILE_CHUNKS_MAX, Kind, Record, VersionVector};
use syncfs::wire::{
    DecodeError, FRAME_BYTES_MAX, Message, Numbered, RECORDS_MAX, VERSION, Want, decode, encode,
};
use syncfs::{Blob, Config, ContentHash, DeviceId, Folder, FolderId, IndexId, RelPath, SyncError, Violation};
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
async fn a_path_that_no_folder_can_hold_ends_the_session() {
    let (dir, folder) = victim().await;
    let long = [&[b'n'; 256][..], &b"d/".repeat(2048)];
    for path in [
        &b"../evil"[..],
        b"a/../../evil",
        b"..",
        b".",
        b"/evil",
        b"a//evil",
        b"evil/",
        b"ev\0il",
        b"",
        b".syncfs/index.db",
        long[0],
        long[1],
    ] {
        let (mut attack, round) = Attack::greeted(&folder).await;
        let bytes = encode(&offer(round, "xx/evil", b"payload"));
        let at = bytes.windows(7).position(|part| part == b"xx/evil").unwrap();
        let length = u32::try_from(path.len()).unwrap().to_le_bytes();
        attack.raw(&[&bytes[..at - 4], &length, path, &bytes[at + 7..]].concat()).await;
        let verdict = attack.verdict().await;
        let refused = matches!(verdict, Violation::Decode(DecodeError::Path(_) | DecodeError::Limit("path")));
        assert!(refused, "{:?}: {verdict}", String::from_utf8_lossy(path));
    }
    assert!(!dir.path().parent().unwrap().join("evil").exists());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "the state and what is precious");
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

/// An offer of `precious`, with these chunks.
fn offer_of(round: u64, chunks: Vec<Chunk>) -> Message {
    let mut message = offer(round, "precious", b"");
    if let Message::Records { records, .. } = &mut message
        && let Kind::File { content, .. } = &mut records[0].record.kind
    {
        *content = Content::new(chunks);
    }
    message
}

#[tokio::test]
async fn chunks_that_are_not_what_was_said_never_land() {
    let (dir, folder) = victim().await;
    let text = b"true bytes";
    let chunk = |length| Chunk { hash: ContentHash::of(text), length };
    let run = |offset: u32| vec![Run { offset, bytes: b"longer than that".to_vec() }];
    let patch = |offset| Message::Patch { hash: ContentHash::of(text), runs: run(offset) };
    let whole = Message::Chunks(vec![Blob::new(text.to_vec())]);
    let other = Message::Chunks(vec![Blob::new(b"evil bytes".to_vec())]);
    for (chunks, answer, verdict) in [
        (vec![chunk(10)], other.clone(), Violation::BadChunk),
        (vec![chunk(9)], whole.clone(), Violation::BadChunk),
        (vec![chunk(10), chunk(9)], whole, Violation::Record("one chunk of two lengths")),
        (vec![chunk(10)], patch(0), Violation::BadChunk),
        (vec![chunk(10)], patch(1 << 20), Violation::BadChunk),
        (vec![chunk(10)], Message::Gone(ContentHash::of(b"another")), Violation::BadChunk),
    ] {
        let (mut attack, round) = Attack::greeted(&folder).await;
        attack.send(&offer_of(round, chunks)).await;
        while !matches!(attack.receive().await, Message::Want(_)) {}
        attack.send(&answer).await;
        let given = attack.verdict().await;
        let same = std::mem::discriminant(&given) == std::mem::discriminant(&verdict);
        assert!(same, "{answer:?}: {given}, and not {verdict}");
        assert_eq!(fs::read_to_string(dir.path().join("precious")).unwrap(), "mine");
    }
    still_works(&dir, &folder).await;
}

#[tokio::test]
async fn terabytes_that_are_announced_take_no_room_and_others_go_on() {
    let (dir, folder) = victim().await;
    let (mut attack, round) = Attack::greeted(&folder).await;
    // Five of the longest records there are.
    for number in 0..5_u32 {
        let hash = |chunk: u32| ContentHash::of(&[number, chunk].map(u32::to_le_bytes).concat());
        let chunks = (0..FILE_CHUNKS_MAX as u32)
            .map(|chunk| Chunk { hash: hash(chunk), length: CHUNK_BYTES_MAX as u32 })
            .collect();
        let mut message = offer_of(round, chunks);
        if let Message::Records { records, through, complete, .. } = &mut message {
            (records[0].record.path, *complete) = (RelPath::new(format!("huge {number}")).unwrap(), false);
            (*through, records[0].sequence) = (u64::from(number) + 1, u64::from(number) + 1);
            records[0].record.version = [(attacker(), u64::from(number) + 1)].into_iter().collect();
        }
        attack.send(&message).await;
    }
    while !matches!(attack.receive().await, Message::Want(_)) {}
    // The liar's session is open, and keeps what it has to itself.
    still_works(&dir, &folder).await;
    let staged: u64 = fs::read_dir(dir.path().join(".syncfs/staging"))
        .unwrap()
        .map(|stage| stage.unwrap().metadata().unwrap().blocks() * 512)
        .sum();
    assert_eq!(staged, 0, "room for what did not come");
    assert!(!attack.session.is_finished());
}

/// Records, always more of them, of a peer that does not pause when it is asked to.
async fn index_without_end(kind: impl Fn(u64) -> Kind) {
    let (dir, folder) = victim().await;
    let (mut attack, round) = Attack::greeted(&folder).await;
    let mut sequence = 0;
    while !attack.session.is_finished() {
        let mut records = Vec::new();
        let mut bytes = 0;
        while records.len() < RECORDS_MAX && bytes < 2 << 20 {
            sequence += 1;
            let record = Record {
                path: RelPath::new(format!("precious/{sequence}")).unwrap(),
                kind: kind(sequence),
                version: [(attacker(), sequence)].into_iter().collect(),
                by: attacker(),
                epoch: 0,
            };
            bytes += record.weight_bytes();
            records.push(Numbered { sequence, record });
        }
        assert!(sequence < 1 << 20, "an index without end is taken");
        let (knowledge, mark) = Default::default();
        let message =
            Message::Records { round, records, through: sequence, knowledge, mark, complete: false };
        let sent = tokio::time::timeout(Duration::from_secs(30), attack.send(&message)).await;
        if sent.is_err() {
            break;
        }
    }
    let Attack { stream, session } = attack;
    drop(stream);
    assert!(matches!(session.await.unwrap(), Err(SyncError::Protocol(Violation::Excess(_)))));
    still_works(&dir, &folder).await;
}

#[tokio::test]
async fn an_index_without_end_ends_the_session() {
    // Nothing can stand in a file, so each waits for what is still to be told.
    index_without_end(|_| Kind::Dir { attributes: Attributes::of_mode(0o755) }).await;
}

#[tokio::test]
async fn an_index_of_endless_files_ends_the_session() {
    index_without_end(|sequence| {
        let hash = ContentHash::of(&sequence.to_le_bytes());
        let chunks = vec![Chunk { hash, length: CHUNK_BYTES_MAX as u32 }; FILE_CHUNKS_MAX];
        let (attributes, content) = (Attributes::of_mode(0o644), Content::new(chunks));
        Kind::File { attributes, mtime_ns: 0, content, link: None }
    })
    .await;
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
        records[0].record.version.raise(folder.device(), (1 << 62) + 1);
    }
    future.send(&message).await;
    assert!(
        matches!(future.verdict().await, Violation::Record(_)),
        "a write of the victim that it can never have made"
    );

    // The sequences of two records, and what they lead up to.
    for (sequences, up_to) in [([1, 2], 0), ([1, 2], 1), ([1, 1], 1), ([2, 1], 2), ([0, 1], 1)] {
        let (mut backwards, round) = Attack::greeted(&folder).await;
        let mut message = offer(round, "other", b"x");
        if let Message::Records { records, through, .. } = &mut message {
            records.push(records[0].clone());
            records[1].record.path = RelPath::new("another").unwrap();
            (records[0].sequence, records[1].sequence, *through) = (sequences[0], sequences[1], up_to);
        }
        backwards.send(&message).await;
        let verdict = backwards.verdict().await;
        assert_eq!(verdict, Violation::Record("sequences do not grow"), "{sequences:?} up to {up_to}");
    }

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
async fn numbers_that_an_index_cannot_hold_end_the_session_and_it_stays_readable() {
    let (dir, folder) = victim().await;
    type Lie = fn(&mut Numbered, &mut u64);
    let lies: [Lie; 4] = [
        |_, through| *through = u64::MAX,
        |numbered, through| (numbered.sequence, *through) = (u64::MAX, u64::MAX),
        |numbered, _| numbered.record.epoch = u64::MAX,
        |numbered, _| numbered.record.version.raise(attacker(), u64::MAX),
    ];
    for lie in lies {
        let (mut attack, round) = Attack::greeted(&folder).await;
        let mut message = offer(round, "empty", b"");
        if let Message::Records { records, through, .. } = &mut message {
            records[0].record.kind = Kind::Dir { attributes: Attributes::of_mode(0o755) };
            lie(&mut records[0], through);
        }
        attack.send(&message).await;
        assert!(matches!(attack.verdict().await, Violation::Decode(DecodeError::Invalid(_))));
    }
    folder.close().await;
    let folder = Folder::open(Config::new(dir.path())).await.unwrap();
    assert!(folder.current_status().await.problems.is_empty(), "{:?}", folder.current_status().await);
    still_works(&dir, &folder).await;
}

#[tokio::test]
async fn whoever_it_cannot_be_is_turned_away() {
    let (dir, folder) = victim().await;
    folder.hold(3).await.unwrap();
    let said = |change: fn(&mut Message)| {
        let mut message = hello(folder.status().folder);
        change(&mut message);
        message
    };
    let other_version = said(|message| {
        if let Message::Hello { version, .. } = message {
            *version += 1;
        }
    });
    let other_folder = hello(Some(FolderId::from_bytes([9; 16])));
    // It says that it holds the very lease that this replica holds.
    let second_holder = said(|message| {
        if let Message::Hello { fences, .. } = message {
            let base = [(attacker(), 1)].into_iter().collect();
            *fences = vec![Fence { epoch: 3, holder: attacker(), base }];
        }
    });
    for (message, is_right) in [
        (other_version, (|given| matches!(given, Violation::Order(_))) as fn(&Violation) -> bool),
        (other_folder, |given| matches!(given, Violation::WrongFolder { .. })),
        (second_holder, |given| matches!(given, Violation::Split(_))),
    ] {
        let mut attack = Attack::new(&folder);
        attack.send(&message).await;
        let verdict = attack.verdict().await;
        assert!(is_right(&verdict), "{message:?}: {verdict}");
    }
    let (mut stream, theirs) = tokio::io::duplex(1 << 20);
    let expected = DeviceId::from_bytes([1; 32]);
    let session = tokio::spawn({
        let folder = folder.clone();
        async move { folder.sync(theirs, Some(expected)).await }
    });
    let bytes = encode(&hello(folder.status().folder));
    stream.write_all(&u32::try_from(bytes.len()).unwrap().to_le_bytes()).await.unwrap();
    stream.write_all(&bytes).await.unwrap();
    let wrong = Violation::WrongDevice { expected, found: attacker() };
    assert!(matches!(session.await.unwrap(), Err(SyncError::Protocol(given)) if given == wrong));
    assert_eq!(folder.current_status().await.epoch, 3);
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
