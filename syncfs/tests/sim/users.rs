//! What users do to the folders, and what happens to the machines they do it on.

use syncfs::chunk::SQLITE_MAGIC;
use syncfs::disk::{Act, Fault, FileKind};
use syncfs::engine::Input;
use syncfs::index::Index;
use syncfs::{RelPath, Role};

use crate::ledger::{Text, Tree, tree};
use crate::rng::Rng;
use crate::world::{Replica, World};

const PATHS: [&str; 14] =
    ["a", "b", "c.txt", "d", "d/a", "d/b", "d/e", "d/e/a", "d/e/g", "f", "g", "g/a", "g/d", "g/d/a"];

/// The steps of an engine in the main world.
const STEPS: [&str; 13] = [
    "change attributes",
    "commit",
    "keep a file",
    "keep a version",
    "make a directory",
    "remove",
    "remove a stage",
    "rename",
    "rename a stage",
    "seal a stage",
    "stage a symlink",
    "sync",
    "write a stage",
];

/// What is written here in the climate for it are databases, of which a replica keeps deltas.
pub(crate) const DATABASE: &str = "app.db";

/// A database that holds a text here and there; the rest is always the same.
pub(crate) fn database(text: &[u8], rng: &mut Rng) -> Text {
    let length = if rng.chance(80) { 40_000 } else { 30_000 + rng.below(20_000) as usize };
    let mut bytes = vec![7; length];
    let text = &text[..text.len().min(100)];
    let middle = rng.below(25_000) as usize;
    for at in [16, 100 + middle, length - text.len()] {
        bytes[at..at + text.len()].copy_from_slice(text);
    }
    bytes[..16].copy_from_slice(SQLITE_MAGIC);
    bytes
}

impl World {
    /// An application on the holder, or the first replica, commits a few times; the others follow as far as they get.
    pub(crate) fn write_database(&mut self) {
        let path = RelPath::new(DATABASE).unwrap();
        let is_holder = |replica: &Replica| {
            replica.engine.as_ref().is_some_and(|engine| engine.meta().role == Role::Holder)
        };
        let writer = match self.replicas.iter().position(is_holder) {
            Some(holder) => holder,
            None if self.epoch == 0 => 0,
            None => return,
        };
        for _ in 0..1 + self.rng.below(4) {
            let text = self.ledger.fresh(writer, false);
            let text = database(&text, &mut self.rng);
            let disk = self.replicas[writer].disk.clone();
            let (before, logged) = (tree(&disk), disk.durably_logged());
            if !disk.user_write(&path, &text, self.rng.chance(80)) {
                return;
            }
            self.ledger.wrote(text);
            self.ledger.undermined.extend(logged);
            self.note_act(writer, &before);
            self.scan(writer);
            for round in 0..120 {
                self.connect();
                self.move_message();
                if round % 4 == 0 {
                    let replica = self.any();
                    self.drive(replica);
                }
            }
        }
        let blocks = self.replicas.iter().map(|replica| replica.disk.logged_blocks() as u64).sum();
        self.count("blocks in logs", blocks);
    }

    pub(crate) fn a_path(&mut self) -> RelPath {
        RelPath::new(PATHS[self.rng.below(PATHS.len() as u64) as usize]).unwrap()
    }

    /// A user's act on some replica, and perhaps the watcher's report of it.
    pub(crate) fn user_act(&mut self) {
        let replica = self.any();
        let (mut path, other) = (self.a_path(), self.a_path());
        if !self.climate.databases && self.rng.chance(40) {
            path.clone_from(&self.busy);
        }
        self.busy.clone_from(&path);
        let database = RelPath::new(DATABASE).unwrap();
        if self.climate.databases && self.epoch == 0 && self.rng.chance(20) {
            path = database.clone();
        }
        let before = tree(&self.replicas[replica].disk);
        let logged = self.replicas[replica].disk.durably_logged();
        let renamed = self.act(replica, &path, &other, &before);
        self.note_act(replica, &before);
        let after = tree(&self.replicas[replica].disk);
        if before.texts.get(&database) != after.texts.get(&database) {
            self.ledger.undermined.extend(logged);
        }
        self.say(|| format!("{replica}: {path} {other}: {:?} -> {:?}", before.paths, after.paths));
        if self.rng.chance(70) {
            let paths = if renamed { vec![path, other] } else { vec![path] };
            let now_ms = self.now_ms;
            self.run(replica, |engine| engine.handle(now_ms, Input::Touched(paths)));
        }
    }

    pub(crate) fn note_act(&mut self, replica: usize, before: &Tree) {
        let slot = &mut self.replicas[replica];
        self.ledger.acted(before, &tree(&slot.disk), &mut slot.taken);
    }

    /// Returns whether something was renamed.
    fn act(&mut self, replica: usize, path: &RelPath, other: &RelPath, before: &Tree) -> bool {
        let disk = self.replicas[replica].disk.clone();
        let act = self.rng.below(100);
        match act {
            0..46 => {
                let mut text = self.ledger.fresh(replica, act < 3);
                if path.as_bytes() == DATABASE.as_bytes() {
                    text = database(&text, &mut self.rng);
                }
                if disk.user_write(path, &text, act.is_multiple_of(2)) {
                    self.ledger.wrote(text);
                }
            }
            46..58 => drop(disk.user_make(path, FileKind::Dir, b"")),
            58..62 => {
                let target = self.ledger.fresh(replica, false);
                if disk.user_make(path, FileKind::Symlink, &target) {
                    self.ledger.wrote(target);
                }
            }
            62..71 => drop(disk.user_remove(path)),
            71..84 => return disk.user_rename(path, other),
            // Another type in its place; of a directory, what a symlink swap does to it.
            84..91 => {
                let text = self.ledger.fresh(replica, false);
                if act.is_multiple_of(2) || !disk.user_rename(path, other) {
                    disk.user_remove(path);
                }
                // Also where it is of the same kind.
                let replaced = before.paths.iter().filter(|other| *other == path || other.is_below(path));
                self.replicas[replica].taken.replaced.extend(replaced.cloned());
                let kind = [FileKind::Symlink, FileKind::Dir, FileKind::File][self.rng.below(3) as usize];
                let made = match kind {
                    FileKind::File => disk.user_write(path, &text, false),
                    _ => disk.user_make(path, kind, &text),
                };
                if made && kind != FileKind::Dir {
                    self.ledger.wrote(text);
                }
            }
            91..92 => drop(disk.user_make(path, FileKind::Special, b"")),
            _ => self.change_attributes(replica, path, act, before),
        }
        false
    }

    fn change_attributes(&mut self, replica: usize, path: &RelPath, act: u64, before: &Tree) {
        let disk = self.replicas[replica].disk.clone();
        let (able, value) = (self.replicas[replica].able, self.rng.below(4) as u8);
        let changed = match act {
            92..95 => {
                let mode = [0o600, 0o755, 0o1777, 0o4755][usize::from(value)];
                disk.user_attributes(path, |given| given.mode = mode)
            }
            95..97 => {
                let time = 1_000_000_000 * i64::from(value) + self.rng.below(1 << 40) as i64;
                disk.user_touch(path, time)
            }
            _ if able.has_xattrs => disk.user_attributes(path, |given| {
                given.xattrs.insert(b"user.tag".to_vec(), vec![value]);
            }),
            _ => false,
        };
        if changed {
            self.ledger.touched.extend(before.texts.get(path).cloned());
        }
    }

    /// Something goes wrong on some machine.
    pub(crate) fn fault(&mut self) {
        let replica = self.any();
        let far = if self.rng.chance(25) { 80 } else { 12 };
        let after = 1 + self.rng.below(far);
        let disk = self.replicas[replica].disk.clone();
        self.say(|| format!("{replica}: a fault"));
        match self.rng.below(24) {
            0..4 => disk.fail(after, Fault::Power),
            4..8 => disk.cut_power_at(STEPS[self.rng.below(STEPS.len() as u64) as usize]),
            8 => disk.fail(after, Fault::Sync),
            9..11 => disk.fail(after, Fault::Io),
            11 => disk.fail(after, Fault::Full),
            12 => disk.set_missing(true),
            13 => {
                let path = self.a_path();
                disk.set_unreadable(&path, true);
            }
            14..16 => self.replicas[replica].disk.heal(),
            16 => {
                // By hours, or by years.
                let far = if self.rng.chance(50) { 42 } else { 58 };
                let by = self.rng.below(1 << far) as i64;
                disk.jump(if self.rng.chance(50) { by } else { -by / 3 });
            }
            17 => {
                let by = self.rng.below(60_000);
                self.latest_ms = self.latest_ms.max(self.now_ms);
                self.now_ms =
                    if self.rng.chance(50) { self.now_ms + by } else { self.now_ms.saturating_sub(by) };
            }
            18..20 => self.part(),
            // A program that puts a symlink in the place of a directory meanwhile.
            20..22 => {
                let (path, to, target) = (self.a_path(), self.a_path(), self.ledger.fresh(replica, false));
                let is_dir = disk.node(&path).is_some_and(|node| node.kind == FileKind::Dir);
                if is_dir && path != to && !to.is_below(&path) {
                    self.say(|| format!("{replica}: {path} becomes {to} in {after} steps"));
                    self.ledger.wrote(target.clone());
                    self.replicas[replica].edits.insert(target.clone(), path.clone());
                    disk.fail(after, Fault::Program(Act::Swap { path, to, target }));
                }
            }
            // A program that writes while a replica is in the middle of something.
            _ => {
                let (path, text) = (self.a_path(), self.ledger.fresh(replica, false));
                self.ledger.wrote(text.clone());
                self.replicas[replica].edits.insert(text.clone(), path.clone());
                let in_place = after.is_multiple_of(2);
                disk.fail(after, Fault::Program(Act::Edit { path, data: text, in_place }));
            }
        }
    }

    /// All files vanish at once, and it was an accident: nothing may be deleted; they come back.
    pub(crate) fn accident(&mut self) {
        let replica = self.any();
        let slot = &self.replicas[replica];
        let Some(engine) = slot.engine.as_ref() else { return };
        let backup = slot.disk.copy();
        let files = backup.files().len() as u64;
        let known = engine.index().memory.totals().unwrap().files;
        if self.epoch > 0 || slot.disk.is_dead() || files != known || files <= self.guard {
            return;
        }
        for path in backup.tree().keys() {
            slot.disk.user_remove(path);
        }
        // What else is to happen there happens after everything has come back: after a power cut it would not be the same.
        slot.disk.heal();
        let disk = slot.disk.clone();
        self.run(replica, |engine| engine.scan().map(drop));
        disk.restore(&backup);
        if self.replicas[replica].engine.as_ref().is_some_and(|engine| engine.held_deletions() > 0) {
            self.count("mass deletions held back", 1);
            self.scan(replica);
        }
    }
}
