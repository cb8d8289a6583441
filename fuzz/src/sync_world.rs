//! A replica and a peer that may say anything: the fuzz input is the peer's side of one session after another, mixed with edits
//! of the person who owns the folder. The world checks what a replica promises whatever its peer does.

use std::collections::BTreeSet;

use syncfs::cutting::{Group, Groups, Mark};
use syncfs::disk::{FileKind, MemoryDisk, is_intact};
use syncfs::engine::{EVENTS_MAX, Engine, Input as Event, SessionId};
use syncfs::fence::{Fence, Tenure};
use syncfs::index::{MemoryIndex, Meta};
use syncfs::record::{Attributes, Chunk, Content, Kind, Record, VersionVector};
use syncfs::wire::{Edited, FRAME_BYTES_MAX, Message, Moved, Numbered, VERSION, Want, decode, encode};
use syncfs::{Blob, ContentHash, DeviceId, IndexId, RelPath};

use crate::Seed;
use crate::input::Input;

/// No input needs more; keeps one run short.
const OPERATIONS_MAX: usize = 200;
const OURS: DeviceId = DeviceId::from_bytes([1; 32]);
const INDEX: IndexId = IndexId(10);
const PATHS: [&str; 6] = ["a.txt", "b.txt", "dir", "dir/c.txt", "dir/deep/d.txt", "e"];
/// What the peer's files consist of.
const CHUNKS: [&[u8]; 4] = [b"first chunk\n", b"second\n", b"3\n", b"the fourth one is a little longer\n"];

/// A peer's messages and a person's edits: nothing panics and no step fails because of them; a file is always one that the
/// person wrote or one that was offered, whole; an edit that the replica has not seen yet is never lost; and what the replica says
/// decodes.
pub fn session(data: &[u8]) {
    play(data);
}

fn play(data: &[u8]) -> World {
    let mut input = Input::new(data);
    let mut world = World::new();
    for _ in 0..OPERATIONS_MAX {
        if input.is_empty() {
            break;
        }
        world.operate(&mut input);
        world.check();
    }
    world
}

struct World {
    engine: Engine<MemoryDisk, MemoryIndex>,
    disk: MemoryDisk,
    now_ms: u64,
    session: u64,
    /// Of the replica's last request for records.
    round: u64,
    sequence: u64,
    edits: u64,
    /// Every whole content that may stand in the folder.
    legitimate: BTreeSet<Vec<u8>>,
    /// What the replica asked for and has not been given.
    wanted: Vec<ContentHash>,
}

impl World {
    fn new() -> Self {
        let meta = Meta::new(OURS, None, IndexId(5));
        let disk = MemoryDisk::default();
        let engine = Engine::new(disk.clone(), MemoryIndex::new(meta)).expect("an empty index can be read");
        let mut world = Self {
            engine,
            disk,
            now_ms: 0,
            session: 0,
            round: 1,
            sequence: 0,
            edits: 0,
            legitimate: BTreeSet::new(),
            wanted: Vec::new(),
        };
        world.edit(&path(0), true);
        world.open();
        world
    }

    fn operate(&mut self, input: &mut Input<'_>) {
        match input.byte() % 17 {
            0 => {
                if let Ok(message) = decode(input.slice()) {
                    self.say(message);
                }
            }
            1 => self.hello(input),
            2 => self.say(Message::Have {
                round: u64::from(input.byte() % 4),
                index: IndexId(u64::from(input.byte() % 8)),
                since: u64::from(input.byte()),
                full: input.byte().is_multiple_of(2),
            }),
            3 | 4 => self.offer(input),
            5 => self.give(input.byte()),
            6 => self.say(Message::Ack {
                round: u64::from(input.byte() % 4),
                durable: u64::from(input.byte()),
                taken: u64::from(input.byte()),
            }),
            7 => {
                let chunk = input.pick(&CHUNKS);
                self.say(Message::Want(vec![
                    Want::whole(ContentHash::of(chunk));
                    usize::from(input.byte() % 4)
                ]));
            }
            8 => self.say(Message::Gone(ContentHash::of(input.pick::<&[u8]>(&CHUNKS)))),
            9 => self.say(Message::State {
                folder: None,
                index: INDEX,
                fences: fences(input),
                tenure: tenure(input.byte()),
            }),
            10 => {
                let path = path(input.byte());
                self.edit(&path, input.byte().is_multiple_of(2));
            }
            11 => {
                let session = SessionId(self.session);
                self.handle(Event::Closed { session });
                self.open();
            }
            12 => {
                self.now_ms += u64::from(input.u16());
                self.handle(Event::Tick);
            }
            14 => self.moved(input),
            15 => self.edited(input),
            16 => {
                let mut groups = Groups::default();
                let paths = (0..1 + input.byte() % 3).map(|_| path(input.byte())).collect();
                groups.add(Group::new(paths).expect("at least one path"));
                self.say(Message::Groups(groups));
            }
            _ => self.settle(),
        }
    }

    fn moved(&mut self, input: &mut Input<'_>) {
        let moved = Moved {
            from: path(input.byte()),
            to: path(input.byte()),
            count: u32::from(input.byte() % 4) + 1,
            first: self.sequence + 1 + u64::from(input.byte() % 2),
            epoch: u64::from(input.byte() % 3),
            digest: ContentHash::from_bytes([input.byte(); 32]),
        };
        self.sequence = self.sequence.max(moved.last());
        self.say(Message::Moved { round: self.round, moved });
    }

    fn edited(&mut self, input: &mut Input<'_>) {
        let edited = Edited {
            sequence: self.sequence + 1,
            record: self.record(input),
            basis: ContentHash::from_bytes([input.byte(); 32]),
            first: u32::from(input.byte() % 3),
            last: u32::from(input.byte() % 3),
        };
        self.sequence += 1;
        self.say(Message::Edited { round: self.round, edited });
    }

    fn open(&mut self) {
        self.session += 1;
        self.round = 1;
        self.sequence = 0;
        self.wanted.clear();
        let session = SessionId(self.session);
        self.handle(Event::Opened { session, expect: None });
    }

    fn hello(&mut self, input: &mut Input<'_>) {
        let who = input.byte();
        let device = DeviceId::from_bytes([who % 4; 32]);
        self.say(Message::Hello {
            version: VERSION,
            folder: None,
            device,
            index: INDEX,
            fences: fences(input),
            tenure: tenure(who >> 2),
        });
    }

    fn say(&mut self, message: Message) {
        let session = SessionId(self.session);
        self.handle(Event::Received { session, message });
    }

    fn handle(&mut self, event: Event) {
        self.engine.handle(self.now_ms, event).expect("a peer or an edit makes no step fail");
    }

    /// One batch with one or two records, of growing sequences unless the input wants it otherwise.
    fn offer(&mut self, input: &mut Input<'_>) {
        let how = input.byte();
        let records: Vec<Numbered> = (0..1 + how % 2)
            .map(|_| {
                self.sequence += u64::from(how % 16 != 7);
                Numbered { sequence: self.sequence, record: self.record(input) }
            })
            .collect();
        // Of a state that it may or may not have.
        let mut mark = Mark::default();
        mark.see(&[(DeviceId::from_bytes([2; 32]), self.sequence + 1)].into_iter().collect());
        if how & 8 == 0 {
            mark.loose.insert(path(how));
        }
        self.say(Message::Records {
            round: self.round,
            records,
            through: self.sequence,
            knowledge: [(DeviceId::from_bytes([2; 32]), self.sequence)].into_iter().collect(),
            mark,
            complete: how & 4 == 0,
        });
    }

    fn record(&mut self, input: &mut Input<'_>) -> Record {
        let by = DeviceId::from_bytes([2 + input.byte() % 3; 32]);
        let path = path(input.byte());
        let kind = match input.byte() % 5 {
            0 => Kind::Deleted,
            1 => Kind::Dir { attributes: Attributes::of_mode(0o755) },
            2 => Kind::Symlink { owner: None, target: b"../outside".to_vec() },
            count => {
                let parts: Vec<&[u8]> = (0..count - 2).map(|_| *input.pick(&CHUNKS)).collect();
                self.legitimate.insert(parts.concat());
                let chunk = |part: &&[u8]| Chunk { hash: ContentHash::of(part), length: length(part) };
                let content = Content::new(parts.iter().map(chunk).collect());
                let attributes = Attributes::of_mode(0o644);
                Kind::File { attributes, mtime_ns: i64::from(input.byte()), content, link: None }
            }
        };
        let mut version: VersionVector = [(by, u64::from(input.byte()) + 1)].into_iter().collect();
        let seen = u64::from(input.byte() % 8);
        if seen > 0 {
            version.raise(OURS, seen);
        }
        Record { path, kind, version, by, epoch: u64::from(input.byte() % 3) }
    }

    /// A chunk: one that was asked for, or not.
    fn give(&mut self, how: u8) {
        let known = |hash: ContentHash| CHUNKS.iter().find(|chunk| is_intact(chunk, &hash));
        let bytes = match (how % 8, self.wanted.pop()) {
            (0, _) => b"forged".to_vec(),
            (_, Some(hash)) => known(hash).map_or_else(|| b"?".to_vec(), |chunk| chunk.to_vec()),
            (_, None) => CHUNKS[0].to_vec(),
        };
        self.say(Message::Chunks(vec![Blob::new(bytes)]));
    }

    /// A person writes a file. Either the replica is told, or what was offered before is applied over its head; the edit
    /// stands somewhere in both cases: nobody has seen it, so nobody may replace it.
    fn edit(&mut self, path: &RelPath, told: bool) {
        self.edits += 1;
        let bytes = format!("edit {}\n", self.edits).into_bytes();
        if !self.disk.user_write(path, &bytes, false) {
            return;
        }
        self.legitimate.insert(bytes.clone());
        if told {
            self.handle(Event::Touched(vec![path.clone()]));
        } else {
            self.settle();
        }
        assert!(self.contents().contains(&bytes), "an edit of {path} was lost");
    }

    fn settle(&mut self) {
        while self.engine.work().expect("no step fails") {}
        self.engine.settle().expect("no step fails");
        let session = SessionId(self.session);
        while let Some(message) = self.engine.poll(session).expect("no step fails") {
            let bytes = encode(&message);
            assert!(bytes.len() <= FRAME_BYTES_MAX);
            assert_eq!(decode(&bytes).as_ref(), Ok(&message));
            match message {
                Message::Have { round, since, .. } => (self.round, self.sequence) = (round, since),
                Message::Want(wants) => self.wanted.extend(wants.into_iter().map(|want| want.hash)),
                _ => {}
            }
        }
    }

    /// Every file that stands anywhere: at a path or set aside.
    fn contents(&self) -> BTreeSet<Vec<u8>> {
        let kept = self.disk.kept().into_iter().filter(|node| node.kind == FileKind::File);
        self.disk.files().into_values().chain(kept.map(|node| node.data)).collect()
    }

    fn check(&mut self) {
        let torn: Vec<_> = self.contents().difference(&self.legitimate).cloned().collect();
        assert!(torn.is_empty(), "files that nobody wrote: {torn:?}");
        assert!(self.engine.events().len() <= EVENTS_MAX);
    }
}

fn fences(input: &mut Input<'_>) -> Vec<Fence> {
    let count = input.byte() % 3;
    let fence = |epoch| Fence {
        epoch,
        holder: DeviceId::from_bytes([2 + input.byte() % 3; 32]),
        base: [(OURS, u64::from(input.byte() % 8) + 1)].into_iter().collect(),
    };
    (1..=u64::from(count)).map(fence).collect()
}

fn tenure(word: u8) -> Tenure {
    Tenure { at: u64::from(word >> 1) % 8, released: word.is_multiple_of(2) }
}

fn path(number: u8) -> RelPath {
    RelPath::new(PATHS[usize::from(number) % PATHS.len()]).expect("a plain path")
}

fn length(chunk: &[u8]) -> u32 {
    u32::try_from(chunk.len()).expect("a short chunk")
}

/// Seeds of [`session`].
pub fn session_seeds() -> Vec<Seed> {
    const SETTLE: u8 = 13;
    // Device 2 without fences, and one file record: writer 2, a path, three chunks less two, their numbers, mtime, counter,
    // what it saw of ours, epoch.
    let hello = [1, 2, 0];
    let file = |how: u8, path: u8, chunk: u8, seen: u8| [3, how, 0, path, 3, chunk, 9, 4, seen, 0];
    vec![
        ("new_file", [&hello[..], &file(0, 1, 0, 0), &[SETTLE, 5, 1, SETTLE]].concat()),
        ("newer_file", [&hello[..], &file(0, 0, 1, 1), &[SETTLE, 5, 1, SETTLE]].concat()),
        ("conflict", [&hello[..], &file(0, 0, 1, 0), &[SETTLE, 5, 1, SETTLE]].concat()),
        ("edit_meanwhile", [&hello[..], &file(0, 0, 1, 1), &[SETTLE, 5, 1, 10, 0, 1, SETTLE]].concat()),
        (
            "directory_over_file",
            [&hello[..], &[3, 0, 0, 0, 1, 4, 1, 0, SETTLE], &file(0, 0, 1, 0), &[SETTLE]].concat(),
        ),
        ("deletion", [&hello[..], &[3, 0, 0, 0, 0, 4, 1, 0, SETTLE]].concat()),
        (
            "fenced",
            [&[1, 2, 1, 0, 0][..], &file(0, 1, 0, 0), &[SETTLE, 10, 1, 0, 9, 2, 0, 1, 1, 1, SETTLE]].concat(),
        ),
        ("hostile_before_hello", [&file(0, 1, 0, 0)[..], &[SETTLE]].concat()),
        (
            "hostile_forged_chunk",
            [&hello[..], &file(0, 1, 0, 0), &[SETTLE, 5, 0, SETTLE, 11, 1, 2, 0]].concat(),
        ),
        ("hostile_sequences", [&hello[..], &file(7, 1, 0, 0), &file(7, 1, 0, 0), &[SETTLE]].concat()),
        ("hostile_acks", [&hello[..], &[2, 1, 5, 0, SETTLE, 6, 1, 1, 1, 6, 1, 255, 255, SETTLE]].concat()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seeds_reach_what_they_are_named_after() {
        let world = |name: &str| {
            let (_, bytes) = session_seeds().into_iter().find(|(seed, _)| *seed == name).unwrap();
            play(&bytes)
        };
        assert!(world("new_file").contents().contains(CHUNKS[0]));
        assert!(!world("newer_file").contents().contains(&b"edit 1\n"[..]));
        assert!(world("conflict").contents().contains(&b"edit 1\n"[..]));
        assert!(world("edit_meanwhile").contents().contains(&b"edit 2\n"[..]));
        assert!(world("deletion").contents().is_empty());
        let hostile = world("hostile_before_hello");
        assert!(hostile.engine.ended(SessionId(hostile.session)).is_some());
    }
}
