//! The wire format: golden vectors, round trips, limits, and bytes of every kind.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test touches the world")]

use std::fmt::Write as _;
use std::path::Path;

use proptest::prelude::*;
use syncfs::chunk::CHUNK_BYTES_MAX;
use syncfs::cutting::{GROUP_PATHS_MAX, GROUPS_MAX, Group, Groups, LOOSE_MAX, Mark};
use syncfs::disk::Run;
use syncfs::fence::{FENCES_MAX, Fence, Tenure};
use syncfs::record::{
    Attributes, Chunk, Content, FILE_CHUNKS_MAX, Kind, Owner, Record, VECTOR_DEVICES_MAX, VersionVector,
    XATTRS_BYTES_MAX, XATTRS_MAX, Xattrs,
};
use syncfs::wire::{
    CHUNKS_MAX, DecodeError, Edited, FRAME_BYTES_MAX, MOVED_MAX, Message, Moved, Numbered, RECORDS_MAX,
    RUNS_MAX, VERSION, WANT_MAX, Want, decode, encode,
};
use syncfs::{Blob, ContentHash, DeviceId, FolderId, IndexId, PathError, RelPath};

fn device(id: u8) -> DeviceId {
    DeviceId::from_bytes([id; 32])
}

fn record(kind: Kind) -> Record {
    Record {
        path: RelPath::new("dir/name").unwrap(),
        kind,
        version: [(device(1), 7), (device(2), 9)].into_iter().collect(),
        by: device(2),
        epoch: 3,
    }
}

fn edited() -> Edited {
    Edited {
        sequence: 40,
        record: record(Kind::File {
            attributes: Attributes::of_mode(0o644),
            mtime_ns: 6,
            content: Content::new(vec![Chunk { hash: ContentHash::of(b"new"), length: 3 }]),
            link: None,
        }),
        basis: ContentHash::of(b"what it was"),
        first: 100,
        last: 7,
    }
}

fn cuts() -> (Mark, Groups) {
    let mut mark = Mark { seen: [(device(1), 6)].into_iter().collect(), ..Mark::default() };
    ["dir/name", "old"].iter().for_each(|name| mark.loose.insert(RelPath::new(name).unwrap()));
    mark.loose.set_more();
    let group = ["repo", "app.db"].map(|name| RelPath::new(name).unwrap());
    let mut groups = Groups::default();
    assert!(groups.add(Group::new(group.into()).unwrap()));
    (mark, groups)
}

fn samples() -> Vec<(&'static str, Message)> {
    let content = Content::new(vec![Chunk { hash: ContentHash::of(b"chunk"), length: 5 }]);
    let fence = Fence { epoch: 3, holder: device(2), base: [(device(1), 7)].into_iter().collect() };
    let (folder, tenure) = (Some(FolderId::from_bytes([4; 16])), Tenure { at: 9, released: true });
    let owner = Some(Owner { uid: 1000, gid: 100 });
    let xattrs =
        [("security.capability", "cap"), ("user.note", "n")].map(|(name, value)| (name.into(), value.into()));
    let attributes = Attributes { mode: 0o4640, owner, xattrs: xattrs.into() };
    let kinds = [
        Kind::File { attributes: attributes.clone(), mtime_ns: -5, content, link: RelPath::new("a").ok() },
        Kind::Dir { attributes: Attributes { owner: None, ..attributes } },
        Kind::Symlink { owner, target: b"../target".to_vec() },
        Kind::Deleted,
    ];
    let records = kinds
        .into_iter()
        .zip(10..)
        .map(|(kind, sequence)| Numbered { sequence, record: record(kind) })
        .collect();
    let moved = Moved {
        from: RelPath::new("old").unwrap(),
        to: RelPath::new("dir/new").unwrap(),
        count: 3,
        first: 30,
        epoch: 3,
        digest: ContentHash::of(b"what stood there"),
    };
    let knowledge = [(device(1), 7)].into_iter().collect();
    let (mark, groups) = cuts();
    let runs =
        [(2, &b"two"[..]), (4096, b"page")].map(|(offset, bytes)| Run { offset, bytes: bytes.to_vec() });
    let runs = runs.to_vec();
    vec![
        (
            "hello",
            Message::Hello {
                version: VERSION,
                folder,
                device: device(1),
                index: IndexId(5),
                fences: vec![fence.clone()],
                tenure,
            },
        ),
        ("state", Message::State { folder: None, index: IndexId(6), fences: vec![fence], tenure }),
        ("have", Message::Have { round: 1, index: IndexId(5), since: 12, full: false }),
        ("records", Message::Records { round: 1, records, through: 20, knowledge, mark, complete: true }),
        ("groups", Message::Groups(groups)),
        ("moved", Message::Moved { round: 1, moved }),
        ("edited", Message::Edited { round: 1, edited: edited() }),
        ("ack", Message::Ack { round: 1, durable: 12, taken: 20 }),
        (
            "want",
            Message::Want(vec![
                Want::whole(ContentHash::of(b"a")),
                Want { hash: ContentHash::of(b"b"), basis: Some(ContentHash::of(b"c")) },
            ]),
        ),
        ("patch", Message::Patch { hash: ContentHash::of(b"b"), runs }),
        ("chunks", Message::Chunks(vec![Blob::new(b"chunk".to_vec()), Blob::new(b"2".to_vec())])),
        ("gone", Message::Gone(ContentHash::of(b"a"))),
        ("refused", Message::Refused { path: RelPath::new("dir/name").unwrap(), epoch: 3 }),
        ("paused", Message::Paused(Some("no room".to_owned()))),
        ("ping", Message::Ping),
        ("bye", Message::Bye("because".to_owned())),
    ]
}

/// The bytes of every message are pinned. After an intended change of format, and of `VERSION`, write them anew with
/// `WRITE_VECTORS=1 cargo test -p syncfs --test wire`.
#[test]
fn every_message_has_the_bytes_that_were_agreed_on() {
    for (name, message) in samples() {
        let hex = encode(&message).iter().fold(String::new(), |mut hex, byte| {
            write!(hex, "{byte:02x}").unwrap();
            hex
        });
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/vectors/{name}.hex"));
        if std::env::var_os("WRITE_VECTORS").is_some() {
            std::fs::write(&path, format!("{hex}\n")).unwrap();
        }
        let pinned = std::fs::read_to_string(&path).unwrap();
        assert_eq!(hex, pinned.trim(), "{name}");
        assert_eq!(decode(&encode(&message)).unwrap(), message, "{name}");
    }
}

#[test]
fn every_truncation_and_every_extra_byte_is_refused() {
    for (name, message) in samples() {
        let bytes = encode(&message);
        for length in 0..bytes.len() {
            assert!(decode(&bytes[..length]).is_err(), "{name} cut to {length}");
        }
        assert_eq!(decode(&[&bytes[..], b"x"].concat()), Err(DecodeError::Trailing), "{name}");
    }
}

fn ok(message: &Message) {
    assert!(decode(&encode(message)).is_ok());
}

fn excess(message: &Message) {
    assert!(matches!(decode(&encode(message)), Err(DecodeError::Limit(_))));
}

fn one_record(kind: Kind) -> Message {
    let records = vec![Numbered { sequence: 1, record: record(kind) }];
    Message::Records {
        round: 0,
        records,
        through: 1,
        knowledge: VersionVector::default(),
        mark: Mark::default(),
        complete: false,
    }
}

#[test]
fn limits_of_what_carries_content_hold_exactly_at_the_limit() {
    let hash = ContentHash::of(b"x");
    ok(&Message::Want(vec![Want { hash, basis: Some(hash) }; WANT_MAX]));
    excess(&Message::Want(vec![Want::whole(hash); WANT_MAX + 1]));
    let runs = |count: u32| {
        let runs = (0..count).map(|at| Run { offset: 2 * at, bytes: vec![1] }).collect();
        Message::Patch { hash, runs }
    };
    ok(&runs(RUNS_MAX as u32));
    excess(&runs(RUNS_MAX as u32 + 1));
    let bad = |runs: Vec<Run>| {
        assert_eq!(decode(&encode(&Message::Patch { hash, runs })), Err(DecodeError::Invalid("run")));
    };
    let run = |offset, length| Run { offset, bytes: vec![1; length] };
    bad(vec![run(3, 0), run(9, 9)]);
    bad(vec![run(0, 4), run(3, 1)]);
    bad(vec![run(CHUNK_BYTES_MAX as u32, 1)]);
    bad(vec![run(u32::MAX, 2)]);
    ok(&Message::Chunks(vec![Blob::new(vec![0; CHUNK_BYTES_MAX])]));
    excess(&Message::Chunks(vec![Blob::new(vec![0; CHUNK_BYTES_MAX + 1])]));
    ok(&Message::Chunks(vec![Blob::new(vec![0]); CHUNKS_MAX]));
    excess(&Message::Chunks(vec![Blob::new(vec![0]); CHUNKS_MAX + 1]));
    let empty = Message::Chunks(vec![Blob::new(Vec::new())]);
    assert_eq!(decode(&[&encode(&empty)[..], b"x"].concat()), Err(DecodeError::Invalid("chunk")));
    assert_eq!(decode(&vec![10; FRAME_BYTES_MAX + 1]), Err(DecodeError::Limit("frame")));
}

#[test]
fn limits_of_groups_and_loose_paths_hold_exactly_at_the_limit() {
    let path = |number: usize| RelPath::new(format!("{number:05}")).unwrap();
    let groups = |count: usize, of: usize| {
        let mut bytes = vec![15];
        bytes.extend((count as u32).to_le_bytes());
        for group in 0..count {
            bytes.extend((of as u32).to_le_bytes());
            for number in 0..of {
                bytes.extend(5u32.to_le_bytes());
                bytes.extend(path(group * of + number).as_bytes());
            }
        }
        decode(&bytes)
    };
    assert!(groups(GROUPS_MAX, GROUP_PATHS_MAX / GROUPS_MAX).is_ok());
    assert!(matches!(groups(GROUPS_MAX + 1, 1), Err(DecodeError::Limit(_))));
    assert!(groups(1, GROUP_PATHS_MAX).is_ok());
    assert!(matches!(groups(1, GROUP_PATHS_MAX + 1), Err(DecodeError::Limit(_))));
    assert!(matches!(groups(2, GROUP_PATHS_MAX / 2 + 1), Err(DecodeError::Limit(_))));
    assert!(groups(1, 0).is_err());
    let mut mark = Mark::default();
    (0..=LOOSE_MAX).for_each(|number| mark.loose.insert(path(number)));
    assert!(mark.loose.has_more() && mark.loose.iter().count() == LOOSE_MAX);
    let knowledge = VersionVector::default();
    ok(&Message::Records { round: 0, records: Vec::new(), through: 1, knowledge, mark, complete: true });
}

#[test]
fn limits_of_records_hold_exactly_at_the_limit() {
    let hash = ContentHash::of(b"x");
    let moved = |count: usize| {
        let count = u32::try_from(count).unwrap();
        let (from, to) = (RelPath::new("a").unwrap(), RelPath::new("b").unwrap());
        Message::Moved { round: 0, moved: Moved { from, to, count, first: 1, epoch: 0, digest: hash } }
    };
    ok(&moved(MOVED_MAX));
    excess(&moved(MOVED_MAX + 1));
    let records = |count: usize| Message::Records {
        round: 0,
        records: vec![Numbered { sequence: 1, record: record(Kind::Deleted) }; count],
        through: 1,
        knowledge: VersionVector::default(),
        mark: Mark::default(),
        complete: false,
    };
    ok(&records(RECORDS_MAX));
    excess(&records(RECORDS_MAX + 1));
    let chunks = |count: usize| {
        let content = Content::new(vec![Chunk { hash, length: 1 }; count]);
        let kind = Kind::File { attributes: Attributes::of_mode(0), mtime_ns: 0, content, link: None };
        one_record(kind)
    };
    ok(&chunks(FILE_CHUNKS_MAX));
    excess(&chunks(FILE_CHUNKS_MAX + 1));
    let xattrs = |xattrs: Xattrs| {
        let kind = Kind::Dir { attributes: Attributes { xattrs, ..Attributes::of_mode(0) } };
        one_record(kind)
    };
    let many = |count: usize| (0..count).map(|n| (format!("user.{n:02}").into(), Vec::new())).collect();
    ok(&xattrs(many(XATTRS_MAX)));
    excess(&xattrs(many(XATTRS_MAX + 1)));
    let long = |bytes: usize| [(b"user.x".to_vec(), vec![0; bytes - 6])].into();
    ok(&xattrs(long(XATTRS_BYTES_MAX)));
    excess(&xattrs(long(XATTRS_BYTES_MAX + 1)));
    let vector = |count: usize| {
        let knowledge = (0..count).map(|id| (device(u8::try_from(id).unwrap()), 1)).collect();
        Message::Records {
            round: 0,
            records: Vec::new(),
            through: 1,
            knowledge,
            mark: Mark::default(),
            complete: true,
        }
    };
    ok(&vector(VECTOR_DEVICES_MAX));
    excess(&vector(VECTOR_DEVICES_MAX + 1));
    let fences = |count: u64| {
        let fence = |epoch| Fence { epoch, holder: device(1), base: VersionVector::default() };
        let fences = (1..=count).map(fence).collect();
        Message::State { folder: None, index: IndexId(1), fences, tenure: Tenure::default() }
    };
    ok(&fences(FENCES_MAX as u64));
    excess(&fences(FENCES_MAX as u64 + 1));
}

#[test]
fn a_path_that_escapes_is_named_as_such() {
    let mut bytes = encode(&Message::Refused { path: RelPath::new("aa/bb").unwrap(), epoch: 0 });
    let at = bytes.windows(5).position(|part| part == b"aa/bb").unwrap();
    bytes[at..at + 5].copy_from_slice(b"../bb");
    assert_eq!(decode(&bytes), Err(DecodeError::Path(PathError::Escapes)));
}

#[test]
fn an_attribute_that_is_not_replicated_is_refused_and_a_label_is_any_path() {
    let message = |name: &str, link: &str| {
        let xattrs = [(name.as_bytes().to_vec(), b"v".to_vec())].into();
        let attributes = Attributes { xattrs, ..Attributes::of_mode(0o644) };
        let (content, link) = (Content::default(), RelPath::new(link).ok());
        let kind = Kind::File { attributes, mtime_ns: 0, content, link };
        let records = vec![Numbered { sequence: 1, record: record(kind) }];
        let knowledge = VersionVector::default();
        decode(&encode(&Message::Records {
            round: 0,
            records,
            through: 1,
            knowledge,
            mark: Mark::default(),
            complete: false,
        }))
    };
    for label in ["dir/earlier", "dir/name", "later"] {
        assert!(message("user.x", label).is_ok(), "{label}");
    }
    for name in ["system.posix_acl_access", "security.selinux", "trusted.x", "user."] {
        assert_eq!(message(name, "a"), Err(DecodeError::Invalid("extended attributes")), "{name}");
    }
}

/// What comes of the bytes of a message once these are in the place of those.
fn decode_with(message: &Message, old: &[u8], new: &[u8]) -> Result<Message, DecodeError> {
    let bytes = encode(message);
    let places: Vec<_> = bytes.windows(old.len()).enumerate().filter(|(_, part)| *part == old).collect();
    assert_eq!(places.len(), 1, "it stands there once");
    let at = places[0].0;
    decode(&[&bytes[..at], new, &bytes[at + old.len()..]].concat())
}

#[test]
fn what_no_replica_says_is_refused() {
    let fence = |epoch| Fence { epoch, holder: device(9), base: VersionVector::default() };
    let fences = |fences: Vec<Fence>| {
        decode(&encode(&Message::State {
            folder: None,
            index: IndexId(1),
            fences,
            tenure: Tenure::default(),
        }))
    };
    assert!(fences(vec![fence(1), fence(2)]).is_ok());
    for bad in [vec![fence(2), fence(2)], vec![fence(2), fence(1)], vec![fence(0)], vec![fence(u64::MAX)]] {
        assert_eq!(fences(bad), Err(DecodeError::Invalid("fence list")));
    }

    let moved = |count, first| {
        let (from, to) = (RelPath::new("a").unwrap(), RelPath::new("b").unwrap());
        let digest = ContentHash::of(b"x");
        decode(&encode(&Message::Moved {
            round: 0,
            moved: Moved { from, to, count, first, epoch: 0, digest },
        }))
    };
    assert!(moved(1, 1).is_ok());
    for (count, first) in [(0, 1), (1, 0), (1, u64::MAX)] {
        assert_eq!(moved(count, first), Err(DecodeError::Invalid("move")), "{count} from {first}");
    }

    let mut unwritten = record(Kind::Deleted);
    unwritten.by = device(3);
    let (records, knowledge) = (vec![Numbered { sequence: 1, record: unwritten }], VersionVector::default());
    let (mark, complete) = (Mark::default(), false);
    let message = Message::Records { round: 0, records, through: 1, knowledge, mark, complete };
    assert_eq!(decode(&encode(&message)), Err(DecodeError::Invalid("writer of a record")));

    // A vector names its devices in their order, each with what it wrote.
    let place = |id: u8, counter: u64| [&[id; 32][..], &counter.to_le_bytes()].concat();
    let agreed = [place(1, 7), place(2, 9)].concat();
    for bad in [
        [place(2, 9), place(1, 7)],
        [place(1, 7), place(1, 7)],
        [place(1, 7), place(2, 0)],
        [place(1, 7), place(2, u64::MAX)],
    ] {
        let given = decode_with(&one_record(Kind::Deleted), &agreed, &bad.concat());
        assert_eq!(given, Err(DecodeError::Invalid("version vector")));
    }
}

#[test]
fn a_count_that_promises_more_than_there_is_allocates_nothing() {
    let mut bytes = vec![6];
    bytes.extend_from_slice(&(WANT_MAX as u32).to_le_bytes());
    assert_eq!(decode(&bytes), Err(DecodeError::Truncated));
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        if let Ok(message) = decode(&bytes) {
            prop_assert_eq!(encode(&message), bytes);
        }
    }

    #[test]
    fn damaged_messages_decode_to_what_encodes_to_the_same(which in 0_usize..13, at in any::<u16>(), with in any::<u8>()) {
        let mut bytes = encode(&samples()[which].1);
        let at = usize::from(at) % bytes.len();
        bytes[at] ^= with;
        if let Ok(message) = decode(&bytes) {
            prop_assert_eq!(encode(&message), bytes);
        }
    }
}
