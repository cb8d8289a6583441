//! Change notifications (inotify): which paths may have changed since that was last asked. When in doubt, everything may
//! have.
//!
//! Whoever lists a directory has it watched first ([`Watch::add`]), so that nothing falls between the two, what is
//! ignored is not watched, and a directory that appears is found by the look that its notification causes. A directory
//! that is renamed keeps its watch, and gets its new name here.
//!
//! What this replica itself renames into place or removes comes back as a notification, too. It is told of here
//! ([`Watch::did`]), so that nobody need look at what stands exactly as it was left.

use std::collections::BTreeMap;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;

use super::attributes::link_to;
use crate::disk::{FileKind, Stat};
use crate::path::{PathError, RelPath};

/// How much is read at once.
const READ_BYTES: usize = 64 << 10;
/// More notifications than this in one go are answered with a walk of everything.
const READ_MAX: usize = 1 << 16;

/// What happened at one path.
type Noticed = BTreeMap<RelPath, ReadFlags>;
/// What this replica left at its paths: an entry, or nothing.
type Own = BTreeMap<RelPath, Option<Stat>>;

/// The watched directories of one folder.
#[derive(Debug)]
pub(super) struct Watch {
    /// `None` if the system gives no watches at all.
    inotify: Option<Arc<OwnedFd>>,
    /// By watch; `None` is the folder itself.
    dirs: BTreeMap<i32, Option<RelPath>>,
    watches: BTreeMap<RelPath, i32>,
    own: Own,
    /// Why the changes of some directories are not reported.
    missing: Option<String>,
}

impl Watch {
    pub(super) fn new() -> Self {
        let (inotify, missing) = match inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK) {
            Ok(inotify) => (Some(Arc::new(inotify)), None),
            Err(error) => (None, Some(reason(error))),
        };
        let (dirs, watches, own) = (BTreeMap::new(), BTreeMap::new(), Own::new());
        Self { inotify, dirs, watches, own, missing }
    }

    /// What becomes readable when there is something to take.
    pub(super) fn fd(&self) -> Option<Arc<OwnedFd>> {
        self.inotify.clone()
    }

    /// Why the changes of some directories are not reported, if so: only a walk finds them.
    pub(super) fn missing(&self) -> Option<&str> {
        self.missing.as_deref()
    }

    /// Watches an open directory, which stands at `dir`. Before it is read.
    pub(super) fn add(&mut self, dir: Option<&RelPath>, fd: impl AsFd) {
        let Some(inotify) = &self.inotify else { return };
        if dir.is_none() {
            // A walk begins: what was missing last time may be had by now.
            self.missing = None;
        }
        // No IN_OPEN or IN_ACCESS: being read changes nothing.
        let flags = WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVE
            | WatchFlags::MODIFY
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::ATTRIB
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::EXCL_UNLINK
            | WatchFlags::ONLYDIR;
        match inotify::add_watch(inotify, link_to(&fd), flags) {
            Ok(watch) => self.name(watch, dir.cloned()),
            Err(error) => self.missing = Some(reason(error)),
        }
    }

    fn name(&mut self, watch: i32, dir: Option<RelPath>) {
        if let Some(dir) = &dir {
            self.watches.insert(dir.clone(), watch);
        }
        let before = self.dirs.insert(watch, dir.clone());
        if let Some(before) = before.flatten().filter(|before| Some(before) != dir.as_ref())
            && self.watches.get(&before) == Some(&watch)
        {
            self.watches.remove(&before);
        }
    }

    /// This replica put an entry at a path, or removed what stood there.
    pub(super) fn did(&mut self, path: &RelPath, left: Option<Stat>) {
        if !self.dirs.is_empty() {
            self.own.insert(path.clone(), left);
        }
    }

    /// What happened since the last call, and what this replica did meanwhile; `None` if notifications were lost, or
    /// are too many, or the folder itself went.
    pub(super) fn take(&mut self) -> Option<(Noticed, Own)> {
        // A rename's notification is there when the call returns: after this, none of these is outstanding.
        let mut own = std::mem::take(&mut self.own);
        let Some(inotify) = self.inotify.clone() else { return Some((Noticed::new(), own)) };
        let mut noticed = Noticed::new();
        let (mut complete, mut leaving) = (true, None);
        let mut buffer = vec![MaybeUninit::uninit(); READ_BYTES];
        let mut reader = inotify::Reader::new(&*inotify, &mut buffer);
        for count in 0.. {
            let event = match reader.next() {
                Ok(event) if count < READ_MAX => event,
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => continue,
                Ok(_) | Err(_) => {
                    complete = false;
                    break;
                }
            };
            let what = event.events();
            if what.intersects(ReadFlags::QUEUE_OVERFLOW | ReadFlags::UNMOUNT) {
                complete = false;
            }
            let Some(dir) = self.dirs.get(&event.wd()).cloned() else { continue };
            let Some(name) = event.file_name() else {
                let gone = ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF;
                complete &= dir.is_some() || !what.intersects(gone);
                if what.contains(ReadFlags::IGNORED) {
                    self.forget(event.wd());
                }
                continue;
            };
            let path = match RelPath::child(dir.as_ref(), name.to_bytes()) {
                Ok(path) => path,
                Err(PathError::Reserved) => continue,
                // The walk says so.
                Err(_) => {
                    complete = false;
                    continue;
                }
            };
            if what.contains(ReadFlags::ISDIR | ReadFlags::MOVED_FROM) {
                self.leave(leaving.replace((event.cookie(), path.clone())));
            } else if what.contains(ReadFlags::ISDIR | ReadFlags::MOVED_TO) {
                match leaving.take_if(|(cookie, _)| *cookie == event.cookie()) {
                    Some((_, from)) => self.rename(&from, &path),
                    // What is in it may not be watched.
                    None => drop(own.remove(&path)),
                }
            }
            *noticed.entry(path).or_insert(ReadFlags::empty()) |= what;
        }
        self.leave(leaving);
        complete.then_some((noticed, own))
    }

    fn forget(&mut self, watch: i32) {
        if let Some(Some(dir)) = self.dirs.remove(&watch)
            && self.watches.get(&dir) == Some(&watch)
        {
            self.watches.remove(&dir);
        }
    }

    /// A directory was renamed to where nothing is watched.
    fn leave(&mut self, left: Option<(u32, RelPath)>) {
        for (_, watch) in left.map(|(_, top)| self.detach(&top)).unwrap_or_default() {
            self.dirs.remove(&watch);
            if let Some(inotify) = &self.inotify {
                // It may be gone already.
                let _ = inotify::remove_watch(inotify, watch);
            }
        }
    }

    fn rename(&mut self, from: &RelPath, to: &RelPath) {
        for (old, watch) in self.detach(from) {
            let name = [to.as_bytes(), &old.as_bytes()[from.as_bytes().len()..]].concat();
            match RelPath::new(name) {
                Ok(new) => self.name(watch, Some(new)),
                // Too long for this crate: the walk says so.
                Err(_) => drop(self.dirs.remove(&watch)),
            }
        }
    }

    /// Takes the watches of a directory and of all below it out of the list of names.
    fn detach(&mut self, top: &RelPath) -> Vec<(RelPath, i32)> {
        let near = self.watches.range(top.clone()..);
        let near = near.take_while(|(path, _)| path.as_bytes().starts_with(top.as_bytes()));
        let below: Vec<_> = near
            .filter(|(path, _)| *path == top || path.is_below(top))
            .map(|(path, watch)| (path.clone(), *watch))
            .collect();
        for (path, _) in &below {
            self.watches.remove(path);
        }
        below
    }
}

/// Whether nothing but this replica's own step, which left `left` there, caused these notifications, if `stands` is
/// what stands there now.
pub(super) fn is_own(what: ReadFlags, left: Option<&Stat>, stands: Option<&Stat>) -> bool {
    let step = match left {
        Some(_) => ReadFlags::MOVED_TO | ReadFlags::CREATE,
        None => ReadFlags::MOVED_FROM | ReadFlags::DELETE,
    };
    let same = match (left, stands) {
        // Its times change with its entries, which have notifications of their own.
        (Some(left), Some(stands)) if left.kind == FileKind::Dir => {
            (left.kind, left.dev, left.ino) == (stands.kind, stands.dev, stands.ino)
        }
        (left, stands) => left == stands,
    };
    same && (step | ReadFlags::ISDIR).contains(what)
}

fn reason(error: Errno) -> String {
    let remedy = match error {
        Errno::NOSPC => "raise the limit fs.inotify.max_user_watches (see sysctl)",
        Errno::MFILE => "raise the limit fs.inotify.max_user_instances (see sysctl)",
        Errno::NOENT => "there is no /proc",
        error => &error.to_string(),
    };
    format!("not all changes are reported, only rescans find them: {remedy}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::disk::Disk;
    use crate::driver::aftermath::Aftermath;
    use crate::driver::changes::Changes;
    use crate::driver::disk::RealDisk;
    use crate::driver::state::State;
    use crate::record::Attributes;
    use std::path::Path;

    struct Ground {
        dir: tempfile::TempDir,
        disk: RealDisk,
        _state: State,
    }

    impl Ground {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let config = Config::new(dir.path());
            State::init(&config).unwrap();
            let (state, _, _) = State::open(&config, false).unwrap();
            let mut disk = RealDisk::new(&state, config.min_free, &Aftermath::default()).unwrap();
            disk.list(None).unwrap();
            Self { dir, disk, _state: state }
        }

        fn at(&self, path: &str) -> std::path::PathBuf {
            self.dir.path().join(path)
        }

        fn changed(&mut self) -> Vec<String> {
            let Changes { paths, everything, .. } = self.disk.changes();
            assert!(!everything);
            paths.iter().map(ToString::to_string).collect()
        }

        /// Lists a directory, as the walk does that its notification causes.
        fn look(&mut self, path: &str) {
            self.disk.list(Some(&rel(path))).unwrap();
        }
    }

    fn rel(path: &str) -> RelPath {
        RelPath::new(path).unwrap()
    }

    fn write(path: &Path) {
        std::fs::write(path, "x").unwrap();
    }

    #[test]
    fn directories_are_watched_from_when_they_are_listed_and_under_their_new_names() {
        let mut ground = Ground::new();
        std::fs::create_dir_all(ground.at("a/b")).unwrap();
        assert_eq!(ground.changed(), ["a"]);
        ground.look("a");
        ground.look("a/b");
        write(&ground.at("a/b/one"));
        assert_eq!(ground.changed(), ["a/b/one"]);
        std::fs::rename(ground.at("a"), ground.at("c")).unwrap();
        write(&ground.at("c/b/two"));
        assert_eq!(ground.changed(), ["a", "c", "c/b/two"]);
        let outside = tempfile::tempdir().unwrap();
        std::fs::rename(ground.at("c"), outside.path().join("c")).unwrap();
        assert_eq!(ground.changed(), ["c"]);
        write(&outside.path().join("c/b/three"));
        assert_eq!(ground.changed(), [""; 0]);
        std::fs::rename(outside.path().join("c"), ground.at("d")).unwrap();
        assert_eq!(ground.changed(), ["d"]);
    }

    #[test]
    fn being_read_and_what_is_in_the_state_directory_is_no_change() {
        let mut ground = Ground::new();
        write(&ground.at("file"));
        assert_eq!(ground.changed(), ["file"]);
        std::fs::read(ground.at("file")).unwrap();
        write(&ground.at(".syncfs/staging/x"));
        assert_eq!(ground.changed(), [""; 0]);
    }

    #[test]
    fn own_steps_are_not_reported_but_whatever_anybody_does_there_is() {
        let mut ground = Ground::new();
        let (dir, file) = (rel("d"), rel("d/file"));
        ground.disk.make_dir(&dir, &Attributes::of_mode(0o755)).unwrap();
        let publish = |ground: &mut Ground, expect: Option<&Stat>| {
            ground.disk.stage_write(&file, 0, b"text").unwrap();
            ground.disk.stage_seal(&file, 4, &Attributes::of_mode(0o644), 1).unwrap();
            ground.disk.publish(&file, &file, expect).unwrap()
        };
        let stat = publish(&mut ground, None);
        assert_eq!(ground.changed(), [""; 0]);
        let stat = publish(&mut ground, Some(&stat));
        std::fs::File::options().write(true).open(ground.at("d/file")).unwrap();
        assert_eq!(ground.changed(), ["d/file"], "it was opened to be written and closed");
        publish(&mut ground, Some(&stat));
        // The two renames may be one notification.
        write(&ground.at(".syncfs/mine"));
        std::fs::rename(ground.at(".syncfs/mine"), ground.at("d/file")).unwrap();
        assert_eq!(ground.changed(), ["d/file"], "something else was renamed over it");
        let stat = ground.disk.stat(&file).unwrap().unwrap();
        ground.disk.remove(&file, &stat).unwrap();
        assert_eq!(ground.changed(), [""; 0]);
        let stat = ground.disk.stat(&dir).unwrap().unwrap();
        ground.disk.rename(&dir, &rel("e"), &stat).unwrap();
        write(&ground.at("e/mine"));
        assert_eq!(ground.changed(), ["e/mine"]);
        write(&ground.at("e/mine"));
        assert_eq!(ground.changed(), ["e/mine"], "what was done before counts no more");
    }

    #[test]
    fn what_is_put_into_a_new_directory_before_it_is_watched_is_found() {
        let mut ground = Ground::new();
        std::fs::create_dir(ground.at("d")).unwrap();
        write(&ground.at("d/early"));
        // It stands already, so it is not this replica's.
        ground.disk.make_dir(&rel("d"), &Attributes::of_mode(0o755)).unwrap();
        assert_eq!(ground.changed(), ["d"]);
    }

    #[test]
    fn lost_notifications_make_everything_suspect() {
        let mut ground = Ground::new();
        let most = std::fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
        let most: usize = most.trim().parse().unwrap();
        for n in 0..=most {
            // Two files in turn: no two notifications in a row are equal, which would be merged.
            std::fs::File::options().append(true).create(true).open(ground.at(&(n % 2).to_string())).unwrap();
        }
        assert!(ground.disk.changes().everything);
        write(&ground.at("later"));
        assert_eq!(ground.changed(), ["later"]);
    }

    #[test]
    fn a_directory_that_cannot_be_watched_is_named_and_the_rest_goes_on() {
        let mut ground = Ground::new();
        write(&ground.at("file"));
        let mut watch = Watch::new();
        watch.add(None, std::fs::File::open(ground.dir.path()).unwrap());
        watch.add(Some(&rel("file")), std::fs::File::open(ground.at("file")).unwrap());
        assert!(watch.missing().is_some_and(|why| why.contains("only rescans find them")));
        write(&ground.at("file"));
        assert!(watch.take().is_some_and(|(noticed, _)| noticed.contains_key(&rel("file"))));
        watch.add(None, std::fs::File::open(ground.dir.path()).unwrap());
        assert_eq!(watch.missing(), None, "the next walk tries again");
        assert!(reason(Errno::NOSPC).contains("fs.inotify.max_user_watches"));
        ground.changed();
    }
}
