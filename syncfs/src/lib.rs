//! Content-addressed folder sync that never loses a write and can prove that a replica is up to date.
//!
//! A [`Folder`] is a replica: a real directory and a small state directory in it. Give it authenticated byte streams
//! to other replicas, and files, directories, symlinks, hard links, with their attributes, and *live SQLite databases* become the
//! same on all of them.
//! A [`Token`] and a [`Digest`] prove it; a lease number ([`fence`]) makes one replica the only writer.
//!
//! # Example
//!
#![cfg_attr(feature = "driver", doc = "```")]
#![cfg_attr(not(feature = "driver"), doc = "```ignore")]
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let (home, vm) = (tempfile::tempdir()?, tempfile::tempdir()?);
//! use syncfs::{Config, Folder};
//! let a = Folder::create(Config::new(home.path())).await?;
//! let b = Folder::create(Config::new(vm.path())).await?;
//! let (left, right) = tokio::io::duplex(1 << 16); // any authenticated stream
//! let (one, two) = (a.clone(), b.clone());
//! tokio::spawn(async move { one.sync(left, None).await });
//! tokio::spawn(async move { two.sync(right, None).await });
//!
//! std::fs::write(home.path().join("note"), "kept")?;
//! let token = a.flush().await?;
//! a.wait(&token, &[b.device()], std::time::Duration::from_secs(30)).await?;
//! assert_eq!(std::fs::read_to_string(vm.path().join("note"))?, "kept");
//! # Ok(())
//! # }
//! ```
//!
//! # Architecture
//!
//! Pure by default; one folder touches the world. Everything outside `driver` is deterministic and runs in the
//! simulation (`tests/sim`) exactly as in production.
//!
//! | module | owns |
//! |---|---|
//! | [`path`], [`hash`], [`device`] | the nouns: a path that cannot leave the folder, a chunk's name, who is who |
//! | [`record`] | a version of a path; version vectors |
//! | [`sqlite`] | SQLite's file formats: the write-ahead log, which blocks of an image changed |
//! | [`chunk`] | how contents are cut: whole, by content (FastCDC), in blocks (SQLite) |
//! | [`reconcile`] | the decision between two versions of one path, and conflict names |
//! | [`branch`] | what left the folder without being lost: stale tails, edits on a follower |
//! | [`check`] | what a replica finds when it checks itself: bytes that nobody wrote |
//! | [`history`] | which replaced versions are worth keeping |
//! | [`ignore`] | which paths are left alone: gitignore rules |
//! | [`cutting`] | how state of more than one file is cut; what is known to be consistent |
//! | [`fence`] | leases: what belongs to the folder, what is a stale tail |
//! | [`index`], [`disk`] | the traits through which the engine remembers and acts; an index and a disk in memory |
//! | [`wire`] | the message set, its limits, bytes <-> messages |
//! | [`greeting`] | which folder a stream is about, before its first message |
//! | [`engine`] | the replica as a state machine: `intake` and `scanning` (local changes), `links` (names of one file), `exchange` (sessions), `barrier` (who has what), `pending` (what is under way), `transfer` and `wants` (chunks), `moves` and `edits` (what is told in short), `cutting` and `grouping` (what is read, and becomes visible, together), `consistency` (what is loose), `apply` (crash-safe steps), `plans` (what a crash between them leaves), `fencing` (leases), `undoing` and `branches` (what is set aside), `checking` (bytes that nobody wrote), `conflicts` (their end), `pacing` (how often a database is cut), `deltas` (databases whose newest version is not visible yet), `ignoring` (what is left alone), `keeping` (history), `guarding` (mass deletion), `room` (a disk that is nearly full), `restoring` (what is put back), `reporting` (what people are told), `directing` (folders of one direction) |
//! | `driver` | `folder` (the handle), `worker` (the one thread), `disk` and `tree` (steps on a real directory), `attributes` and `sparse` (owners, extended attributes, holes), `database` and `cuts` (SQLite cuts and the lock trap), `deltas` (their logs), `hooks` (commands around a cut), `sqlite_index`, `pause` and `aftermath` (times in which nothing works, and what they leave), `history`, `state`, `watch` and `changes` (inotify), `stream`, `identity` and `tls`, `limit` (shares of a line) |
//!
//! *The life of a change.* The watcher reports a path; after the debounce `intake` compares its fingerprint with the
//! index, reads and chunks it, and puts a record under the next sequence; `exchange` sends the record to each peer
//! after the index commit. There, `transfer` brings the chunks together in a stage (from an interrupted transfer,
//! from other local files, from the peer), `apply` verifies and syncs the stage, checks that the target is what the
//! index has seen, renames over it, syncs directories, commits the index, and only then the acknowledgement goes back,
//! which the barrier on the writer waits for.
//!
//! # Invariants
//!
//! * **No silent loss.** A version that was looked at is current, beside as a conflict copy, in a branch, or was
//!   overwritten by somebody who saw it. A concurrent edit beats a deletion. A directory is never removed with entries
//!   that the deletion did not know of. A resolution of a conflict is durable only after the loser's copy.
//! * **Absence is no evidence.** A missing root, a lost marker, an unreadable directory are errors, never deletions. More than
//!   half of the files gone at once is not believed either, until somebody says that it was meant.
//! * **What is ignored is never touched**, not even by a deletion of its directory; a rule that comes or goes deletes
//!   nothing anywhere.
//! * **Durable order**: data, rename, directory, index, acknowledgement. A failed sync is never retried.
//! * **Atomic visibility.** A reader finds the old or the new file, complete. (Where a path changes its *kind*, between
//!   file and directory, it is briefly absent.)
//! * **What is cut together is seen together.** Members of a group become visible in a row of renames that a crash does not
//!   cut short. What is loose (not known to be consistent) on the writer is loose on every replica that has it, durably.
//! * **A pause is no more than a crash.** Where the disk or the index cannot be used, nothing is done until it can, and then all
//!   begins as after a crash.
//! * **Counters are unique.** A device writes each version under its folder-wide sequence, so equal vectors mean equal
//!   contents. What a replica knows of others is one counter per device, and per life of it: a device that has forgotten what it
//!   wrote goes on as another writer. It grows only when a peer has told *everything* up to it, which is what makes barriers
//!   true.
//! * **A database shows only committed prefixes**, and its application cannot notice that it is read; the module
//!   `driver::database` says how. In WAL mode a cut costs what changed; otherwise it reads the database once. Where there is no
//!   pause for that, [`Status::restless`] says since when, and [`SqliteLock`] whether it may be locked for a few milliseconds.
//!
//! # Leases
//!
//! At epoch 0 all replicas write, and conflicts keep both. [`Folder::hold`] with a number from elsewhere (an etcd, a
//! Raft store) makes a replica the one writer; the others undo local edits and keep them in a [`branch`]. Whoever was cut off and
//! wrote on under an older number finds, on return, its tail as another branch and the current versions in place; the holder can compare it
//! ([`Folder::diff`]) and bring it back ([`Folder::restore_branch`]). If a *follower's* edit overwrote a version whose content exists nowhere else any more, that edit
//! becomes the version.
//!
//! The versions of a large database cost a replica what they change: it keeps them as deltas, durably, and shows the newest one when
//! it is asked to ([`Folder::materialise`]); a follower also when it holds, or the holder lets go ([`Folder::follow`]); and a replica
//! in a folder without a lease soon after the last one came ([`engine::QUIET_MAX_MS`]).
//!
//! # Consistency
//!
//! A database is consistent in each of its versions. Other state of more than one file is so if a rule of [`Config::cuts`] makes a
//! group of it ([`cutting`]), or when `Folder::seal` says that nothing has the folder open any more. Everything else is
//! replicated continuously, file by file, and is *loose* meanwhile: [`Status::consistency`] names it, on the writer and on every
//! replica, so that whoever takes the folder over knows what to expect.
//!
//! # Threats
//!
//! * The stream is trusted to be who it is: authenticate it, by a mesh or with the `tls` of this crate. A peer may read and write the whole folder, and
//!   nothing else: paths are resolved beneath the root through real directories only, no byte enters a
//!   stage, or is found in one, without its hash being checked, every list and queue is bounded, and a compressed message is
//!   unpacked no further than a message may be long. A peer that breaks the
//!   protocol loses its session, with a named reason; folder and other sessions go on.
//! * Peers can send symlinks to anywhere (which are never followed here). Owners, set-uid and set-gid bits and program
//!   capabilities from a peer are applied where the replica runs as root, and only there: whoever may write such a folder is
//!   root on its machine. Another replica carries them on unapplied. Access control lists are left alone.
//! * A database written on two replicas at once is a conflict like any other. A program that has a database open on a
//!   replica that is *not* the writer keeps seeing the file as of its opening, and its writes are lost with it: hold a
//!   lease and open databases on the holder only. `journal_mode=OFF` and `MEMORY` give SQLite itself no way back; cuts
//!   of such databases are only sound when taken in quiet.
//! * Commands around a cut come from the settings of this replica, never from a peer. They run as the user of this process, in
//!   the folder, without a shell; but a program that they name by a relative path is one that a peer may have written.
//! * State of one replica must not be copied to another machine: two that call themselves the same make each other rejoin,
//!   over and over. One that was restored from a backup rejoins once; what it wrote between the
//!   restore and meeting a peer that knows better must not reach a third replica first.
//!
//! # Features
//!
//! * `driver` (default): [`Folder`], and with it tokio and SQLite. Without it, the pure half builds alone.
//! * `zstd` (part of `driver`): messages are compressed while the line is what everything waits for.
//! * `syncthing`: reads Syncthing's `config.xml`, for moving in.
//! * `tls`: `Identity`, a key pair whose public half is the device ID, and streams that prove it, over TLS 1.3.

pub mod branch;
pub mod check;
pub mod chunk;
mod config;
pub mod cutting;
pub mod device;
mod digest;
pub mod disk;
#[cfg(feature = "driver")]
mod driver;
pub mod engine;
mod error;
pub mod fence;
pub mod greeting;
pub mod hash;
pub mod history;
pub mod ignore;
pub mod index;
pub mod path;
pub mod reconcile;
pub mod record;
pub mod sqlite;
mod status;
#[cfg(feature = "syncthing")]
pub mod syncthing;
mod token;
pub mod wire;

pub use branch::{Branch, Cause, Change, Difference};
pub use check::{CheckReport, Finding, Repair};
pub use config::{Config, Direction, MinFree, SqliteLock};
pub use cutting::{Consistency, CutBy, CutRule, CutRuleError, Hook};
pub use device::{DeviceId, FolderId, IdError, IndexId};
pub use digest::{Digest, Digester};
#[cfg(feature = "driver")]
pub use driver::{Folder, limit};
#[cfg(feature = "tls")]
pub use driver::{Identity, KeyError, tls};
pub use error::{
    FenceError, FlushError, Lag, OpenError, QueryError, RestoreError, ScanError, StoreError, SyncError,
    Violation, WaitError,
};
pub use hash::{Blob, ContentHash};
pub use history::{At, History, Version};
pub use path::{PathError, RelPath};
pub use status::{
    Conflict, Event, Pause, PeerStatus, Problem, Resolution, Restless, Role, ScanReport, Status, Summary,
    Transfer, Unmaterialised,
};
pub use token::Token;
