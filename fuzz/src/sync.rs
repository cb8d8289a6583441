//! syncfs: whatever a peer may send (messages, paths, records), and sessions under lists of operations.

use syncfs::cutting::{Group, Groups, Mark};
use syncfs::disk::Run;
use syncfs::fence::Tenure;
use syncfs::ignore::{Ignore, is_foreign};
use syncfs::path::{NAME_BYTES_MAX, PATH_BYTES_MAX, PATH_DEPTH_MAX, STATE_DIR};
use syncfs::reconcile::{Decision, conflict_path, reconcile};
use syncfs::record::{Attributes, Chunk, Content, Kind, Owner, Record, VersionVector};
use syncfs::wire::{FRAME_BYTES_MAX, Message, Moved, Numbered, VERSION, Want, decode, encode, frame};
use syncfs::{Blob, ContentHash, DeviceId, FolderId, IndexId, RelPath, Token};

use crate::Seed;
use crate::input::Input;

pub use crate::sync_world::{session, session_seeds};

/// A frame's content, plain or compressed, or a token as text: what decodes is within its limits and has one encoding.
pub fn message(data: &[u8]) {
    if let Ok(message) = decode(data) {
        assert!(data.len() <= FRAME_BYTES_MAX);
        assert_eq!(encode(&message), data, "{message:?}");
    }
    if let Ok(message) = frame::decompress(data) {
        assert!(message.len() <= FRAME_BYTES_MAX);
    }
    let text = String::from_utf8_lossy(data);
    if let Ok(token) = text.parse::<Token>() {
        assert!(token.to_string().eq_ignore_ascii_case(&text));
    }
    if let Ok(device) = text.parse::<DeviceId>() {
        assert!(device.to_string().eq_ignore_ascii_case(&text));
    }
    if let Ok(folder) = text.parse::<FolderId>() {
        assert!(folder.to_string().eq_ignore_ascii_case(&text));
    }
}

/// A path: what is accepted stays inside the folder, out of its state directory, within the limits, and is one path only.
pub fn path(data: &[u8]) {
    let Ok(path) = RelPath::new(data) else { return };
    assert_eq!(path.as_bytes(), data);
    assert!(data.len() <= PATH_BYTES_MAX && path.depth() <= PATH_DEPTH_MAX);
    for name in path.names() {
        assert!(!name.is_empty() && name != b"." && name != b".." && name != STATE_DIR);
        assert!(name.len() <= NAME_BYTES_MAX && !name.contains(&0) && !name.contains(&b'/'));
    }
    assert_eq!(path.depth(), path.names().count());
    let parent = path.parent();
    assert!(parent.as_ref().is_none_or(|parent| path.is_below(parent) && !parent.is_below(&path)));
    assert_eq!(RelPath::child(parent.as_ref(), path.name()).as_ref(), Ok(&path));
}

/// Ignore rules, a NUL byte, a path: what is in an ignored directory is ignored, other rules can be taken back by one that
/// comes later, and a second reading gives the same.
pub fn ignore(data: &[u8]) {
    let at = data.iter().position(|&byte| byte == 0).unwrap_or(data.len());
    let (text, path) = (&data[..at], data.get(at + 1..).unwrap_or_default());
    let (rules, misfits) = Ignore::parse(text);
    assert_eq!(Ignore::parse(text), (rules.clone(), misfits.clone()));
    assert!(misfits.iter().all(|misfit| (1..=text.len() + 1).contains(&misfit.line)));
    let Ok(path) = RelPath::new(path) else { return };
    let in_ignored = path.parent().is_some_and(|dir| rules.covers(&dir, true));
    for is_dir in [false, true] {
        assert_eq!(rules.covers(&path, is_dir), in_ignored || rules.covers_entry(&path, is_dir));
    }
    let everything = rules.clone().then(&Ignore::parse(b"*").0);
    assert!(everything.covers(&path, false));
    let nothing = rules.then(&Ignore::parse(b"!*").0);
    assert_eq!(nothing.covers(&path, false), path.names().any(is_foreign));
}

/// Two records of one path, as two replicas hold them: both decide the same, nothing live is dropped without a trace, and
/// the copy of a loser is a path of its own beside it.
pub fn reconcile_records(data: &[u8]) {
    let mut input = Input::new(data);
    let path =
        RelPath::new(input.slice()).unwrap_or_else(|_| RelPath::new("notes.txt").expect("a plain name"));
    let (ours, theirs) = (record(&mut input, &path), record(&mut input, &path));
    assert_eq!(reconcile(None, &theirs), Decision::Take);
    assert_eq!(reconcile(Some(&ours), &ours), Decision::Keep);

    let (here, there) = (reconcile(Some(&ours), &theirs), reconcile(Some(&theirs), &ours));
    // The later lease began with the other version.
    let builds_on = |new: &Record, old: &Record| new.version.covers(&old.version) || new.epoch > old.epoch;
    match (&here, &there) {
        (Decision::Keep, Decision::Take) => assert!(builds_on(&ours, &theirs)),
        (Decision::Take, Decision::Keep) => assert!(builds_on(&theirs, &ours)),
        (Decision::Keep, Decision::Keep) => assert_eq!(ours.version, theirs.version),
        (
            Decision::Merge { theirs: a_theirs, version: a },
            Decision::Merge { theirs: b_theirs, version: b },
        ) => {
            assert_eq!((a, &ours.kind), (b, &theirs.kind));
            assert_eq!(a, &ours.version.merged(&theirs.version));
            let name = |is_theirs: bool| {
                if is_theirs { (&theirs.by, theirs.counter()) } else { (&ours.by, ours.counter()) }
            };
            assert_eq!(name(*a_theirs), name(!*b_theirs), "the replicas name different writers");
        }
        (
            Decision::Conflict { theirs_wins, version, copy },
            Decision::Conflict { theirs_wins: ours_wins, version: version_there, copy: copy_there },
        ) => {
            assert_eq!((version, copy), (version_there, copy_there));
            assert!(version.covers(&ours.version) && version.covers(&theirs.version));
            let winner = |theirs_wins: bool| if theirs_wins { &theirs.kind } else { &ours.kind };
            assert_eq!(winner(*theirs_wins), winner(!*ours_wins), "the replicas keep different versions");
            let loser = if *theirs_wins { &ours } else { &theirs };
            let lost =
                loser.kind.is_live() && !loser.kind.is_dir() && !loser.kind.holds_same(winner(*theirs_wins));
            assert_eq!(copy.as_ref(), lost.then(|| conflict_path(loser)).as_ref(), "{loser:?} has no copy");
            assert!(copy.as_ref().is_none_or(|copy| *copy != path));
        }
        _ => panic!("one replica decides {here:?}, the other {there:?}"),
    }
}

fn record(input: &mut Input<'_>, path: &RelPath) -> Record {
    let by = device(input);
    let content = |input: &mut Input<'_>| {
        let chunks = (0..input.byte() % 4)
            .map(|_| Chunk { hash: ContentHash::of(input.slice()), length: input.u32() % (1 << 22) });
        Content::new(chunks.collect())
    };
    let kind = match input.byte() % 4 {
        0 => Kind::Deleted,
        1 => Kind::Dir { attributes: attributes(input) },
        2 => Kind::Symlink { owner: owner(input), target: input.slice().to_vec() },
        _ => Kind::File {
            attributes: attributes(input),
            mtime_ns: i64::from_le_bytes(input.array()),
            content: content(input),
            link: input.byte().is_multiple_of(4).then(|| RelPath::new("a").expect("a plain path")),
        },
    };
    let mut version: VersionVector =
        (0..input.byte() % 4).map(|_| (device(input), u64::from(input.byte() % 8) + 1)).collect();
    version.raise(by, u64::from(input.byte() % 8) + 1);
    Record { path: path.clone(), kind, version, by, epoch: u64::from(input.byte() % 3) }
}

fn owner(input: &mut Input<'_>) -> Option<Owner> {
    let id = u32::from(input.byte() % 4);
    (id > 0).then_some(Owner { uid: id, gid: 7 })
}

fn attributes(input: &mut Input<'_>) -> Attributes {
    let mode = u32::from(input.u16()) & 0o7777;
    let owner = owner(input);
    let names = (0..input.byte() % 3).map(|_| format!("user.{}", input.byte() % 4).into_bytes());
    let names: Vec<_> = names.collect();
    let xattrs = names.into_iter().map(|name| (name, input.slice().to_vec())).collect();
    Attributes { mode, owner, xattrs }
}

/// One of a few devices, so that histories meet.
fn device(input: &mut Input<'_>) -> DeviceId {
    DeviceId::from_bytes([input.byte() % 4; 32])
}

fn wanted() -> Message {
    Message::Want(vec![
        Want::whole(ContentHash::of(b"a")),
        Want { hash: ContentHash::of(b"b"), basis: Some(ContentHash::of(b"c")) },
    ])
}

fn patched() -> Message {
    Message::Patch {
        hash: ContentHash::of(b"b"),
        runs: vec![Run { offset: 2, bytes: b"two".to_vec() }, Run { offset: 9, bytes: b"x".to_vec() }],
    }
}

/// Seeds of [`message`].
pub fn message_seeds() -> Vec<Seed> {
    let (device, index) = (DeviceId::from_bytes([1; 32]), IndexId(7));
    let file = |input: &[u8]| {
        let path = RelPath::new("dir/notes.txt").expect("a plain path");
        Numbered { sequence: 3, record: record(&mut Input::new(input), &path) }
    };
    let records = |numbered: Vec<Numbered>| Message::Records {
        round: 1,
        records: numbered,
        through: 9,
        knowledge: [(device, 9)].into_iter().collect(),
        mark: Mark { seen: [(device, 8)].into_iter().collect(), ..Mark::default() },
        complete: true,
    };
    let full = encode(&records(vec![
        file(&[1, 3, 0xa4, 1, 9, 0, 0, 0, 0, 0, 0, 0, 1, 1, 7, 5]),
        file(&[2, 2, 1, b'x']),
    ]));
    let mut endless = full.clone();
    let count = 1 + 8 + 8 + 1 + 4 + 40 + 4 + 40 + 1 + 4;
    endless[count..count + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    let mut groups = Groups::default();
    let paths = ["repo", "app.db"].map(|name| RelPath::new(name).expect("a valid path"));
    if let Some(group) = Group::new(paths.into()) {
        groups.add(group);
    }
    let token = Token { folder: FolderId::from_bytes([2; 16]), device, index, sequence: 12 };
    let frame = frame::compress(&b"again and again ".repeat(100)).expect("it repeats itself");
    vec![
        ("compressed", frame),
        (
            "hello",
            encode(&Message::Hello {
                version: VERSION,
                folder: Some(token.folder),
                device,
                index,
                fences: vec![],
                tenure: Tenure { at: 9, released: false },
            }),
        ),
        ("have", encode(&Message::Have { round: 1, index, since: 4, full: false })),
        (
            "moved",
            encode(&Message::Moved {
                round: 1,
                moved: Moved {
                    from: RelPath::new("old").expect("a valid path"),
                    to: RelPath::new("new/place").expect("a valid path"),
                    count: 2,
                    first: 12,
                    epoch: 0,
                    digest: ContentHash::of(b"what stood there"),
                },
            }),
        ),
        ("groups", encode(&Message::Groups(groups))),
        ("records", full),
        ("ack", encode(&Message::Ack { round: 1, durable: 9, taken: 9 })),
        ("want", encode(&wanted())),
        ("patch", encode(&patched())),
        ("chunks", encode(&Message::Chunks(vec![Blob::new(b"abc".to_vec()), Blob::new(b"d".to_vec())]))),
        ("bye", encode(&Message::Bye("the folder is being closed".to_owned()))),
        ("token", token.to_string().into()),
        ("device", device.to_string().into()),
        ("hostile_endless", endless),
        ("hostile_type", vec![255; 64]),
    ]
}

/// Seeds of [`path`].
pub fn path_seeds() -> Vec<Seed> {
    vec![
        ("plain", "notes/2024/summer.txt".into()),
        ("bytes", b"caf\xe9/\xff".to_vec()),
        ("longest", vec!["a".repeat(127); PATH_BYTES_MAX / 128].join("/").into()),
        ("deepest", vec!["d"; PATH_DEPTH_MAX].join("/").into()),
        ("hostile_up", "a/../../etc/passwd".into()),
        ("hostile_absolute", "/etc/passwd".into()),
        ("hostile_state", "sub/.syncfs/index.db".into()),
        ("hostile_nul", b"a\0b".to_vec()),
        ("hostile_too_deep", vec!["d"; PATH_DEPTH_MAX + 1].join("/").into()),
    ]
}

/// Seeds of [`ignore`].
pub fn ignore_seeds() -> Vec<Seed> {
    let seed = |name, rules: &str, path: &str| -> Seed { (name, format!("{rules}\0{path}").into_bytes()) };
    vec![
        seed("plain", "# made\n*.o\n/build/\n!keep.o\n", "d/x.o"),
        seed("any_depth", "a/**/b\n**/foo\nabc/**", "a/x/y/b"),
        seed("classes", "[!a-c][[:digit:]]?\\*\\ ", "x1y* "),
        seed("foreign", "!*", "d/.syncthing.x.tmp"),
        seed("hostile_open_class", "[a-\n[[:foo:]]\n\\", "a"),
        seed("hostile_stars", &format!("{}b", "a*".repeat(40)), &"a".repeat(200)),
        seed("hostile_any_names", &format!("{}b", "**/a/".repeat(20)), &["a"; 60].join("/")),
    ]
}

/// Seeds of [`reconcile_records`].
pub fn reconcile_seeds() -> Vec<Seed> {
    let file = |by: u8, mtime: u8, counter: u8| {
        let content = [&[1, 1, mtime][..], &[5, 0, 0, 0]].concat();
        [&[by, 3, 0xa4, 0x01, mtime, 0, 0, 0, 0, 0, 0, 0][..], &content, &[0, counter, 0]].concat()
    };
    let deleted = |by: u8, counter: u8| vec![by, 0, 0, counter, 0];
    let with_path = |path: &str, records: &[Vec<u8>]| {
        let length = u8::try_from(path.len()).expect("a short path");
        [&[length], path.as_bytes(), &records.concat()].concat()
    };
    vec![
        ("edit_edit", with_path("dir/notes.txt", &[file(1, 1, 1), file(2, 2, 1)])),
        ("edit_delete", with_path("a", &[file(1, 1, 1), deleted(2, 1)])),
        ("newer", with_path("a", &[file(1, 1, 1), file(1, 2, 2)])),
        ("same_dot_other_content", with_path("a", &[file(1, 1, 1), file(1, 2, 1)])),
        ("long_name", with_path(&format!("{}.tar.gz", "n".repeat(240)), &[file(1, 1, 1), file(2, 1, 1)])),
        ("nothing", Vec::new()),
    ]
}
