//! A directory that `syncd` keeps in sync: started, killed and started again at the same address, asked, and compared.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::{Daemon, command, expect_status, run, until};

/// Where nothing else on the machine listens and no outgoing connection takes its port: an address in 127/8 for each.
pub(crate) fn own_address() -> SocketAddr {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let pid = std::process::id();
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let byte = |value: u32| (value % 250 + 1) as u8;
    SocketAddr::from(([127, byte(number), byte(pid / 250), byte(pid)], 22_000))
}

/// A replica and its daemon, if that runs.
pub(crate) struct Replica {
    pub(crate) dir: PathBuf,
    pub(crate) id: String,
    at: SocketAddr,
    daemon: Option<Daemon>,
    /// Gone with the replica; none if somebody else owns the directory.
    _own: Option<tempfile::TempDir>,
}

impl Replica {
    pub(crate) fn new() -> Replica {
        let own = tempfile::tempdir().unwrap();
        let replica = Replica::at(own.path());
        Replica { _own: Some(own), ..replica }
    }

    /// A replica in a directory of the caller's.
    pub(crate) fn at(dir: &Path) -> Replica {
        let id = expect_status(&run("syncd", &["init", dir.to_str().unwrap()]), 0).trim().to_owned();
        Replica { dir: dir.to_owned(), id, at: own_address(), daemon: None, _own: None }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn root(&self) -> &str {
        self.dir.to_str().unwrap()
    }

    /// How another dials this one.
    pub(crate) fn dialled(&self) -> String {
        format!("{}@{}", self.id, self.at)
    }

    /// Starts its daemon with these `--peer` settings.
    pub(crate) fn serve(&mut self, peers: &[String]) {
        let at = self.at.to_string();
        let mut arguments = vec!["serve", self.root(), "--listen", &at, "-v"];
        peers.iter().for_each(|peer| arguments.extend(["--peer", peer]));
        let daemon = Daemon::start(command("syncd", &arguments));
        self.daemon = Some(daemon);
    }

    pub(crate) fn is_served(&self) -> bool {
        self.daemon.is_some()
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.daemon.take().expect("it was served").kill();
    }

    /// Returns when all peers have everything.
    #[track_caller]
    pub(crate) fn wait(&self) {
        expect_status(&run("syncd", &["wait", self.root(), "--peers", "all", "--timeout", "120s"]), 0);
    }

    /// What vanished was meant.
    #[track_caller]
    pub(crate) fn confirm_deletions(&self) {
        expect_status(&run("syncd", &["confirm-deletions", self.root()]), 0);
    }

    pub(crate) fn digest(&self) -> String {
        expect_status(&run("syncd", &["digest", self.root()]), 0)
    }

    pub(crate) fn status(&self) -> serde_json::Value {
        serde_json::from_str(&expect_status(&run("syncd", &["status", self.root(), "--json"]), 0)).unwrap()
    }

    /// Everything below `name`: for a file its mode and bytes, for a symlink its target, for a directory nothing.
    pub(crate) fn tree(&self, name: &str) -> BTreeMap<String, Vec<u8>> {
        let mut found = BTreeMap::new();
        let mut left = vec![self.path(name)];
        while let Some(dir) = left.pop() {
            for entry in fs::read_dir(&dir).into_iter().flatten() {
                let path = entry.unwrap().path();
                let shown = path.strip_prefix(&self.dir).unwrap().to_str().unwrap().to_owned();
                let meta = fs::symlink_metadata(&path).unwrap();
                if shown == ".syncfs" {
                    continue;
                }
                let what = if meta.is_dir() {
                    left.push(path);
                    Vec::new()
                } else if meta.is_symlink() {
                    fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()
                } else {
                    let mut what = format!("{:o}:", meta.permissions().mode() & 0o7777).into_bytes();
                    what.extend(fs::read(&path).unwrap());
                    what
                };
                found.insert(shown, what);
            }
        }
        found
    }
}

/// Serves all of them, each connected to each: the later one dials.
pub(crate) fn serve_all(replicas: &mut [Replica]) {
    for number in 0..replicas.len() {
        let peers = peers_of(replicas, number);
        replicas[number].serve(&peers);
    }
}

/// The `--peer` settings of one of them.
pub(crate) fn peers_of(replicas: &[Replica], number: usize) -> Vec<String> {
    let others = replicas.iter().enumerate().filter(|(other, _)| *other != number);
    others.map(|(other, it)| if other < number { it.dialled() } else { it.id.clone() }).collect()
}

/// Waits until nobody lacks anything and fails unless they are equal, by their digests and on the disk.
#[track_caller]
pub(crate) fn assert_converged(replicas: &[Replica]) {
    until("equal digests", || {
        replicas.iter().for_each(Replica::wait);
        let digests: Vec<_> = replicas.iter().map(Replica::digest).collect();
        digests.iter().all(|digest| *digest == digests[0]).then_some(())
    });
    let first = replicas[0].tree("");
    for (number, replica) in replicas.iter().enumerate() {
        let problems = replica.status()["problems"].clone();
        assert_eq!(problems, serde_json::json!([]), "replica {number}");
        assert_same(&first, &replica.tree(""), &format!("replica {number} against replica 0"));
    }
}

/// Fails with the names that differ, not with their megabytes.
#[track_caller]
pub(crate) fn assert_same(left: &BTreeMap<String, Vec<u8>>, right: &BTreeMap<String, Vec<u8>>, who: &str) {
    let one_way = |a: &BTreeMap<String, Vec<u8>>, b: &BTreeMap<String, Vec<u8>>| -> Vec<String> {
        a.iter().filter(|(name, what)| b.get(*name) != Some(what)).map(|(name, _)| name.clone()).collect()
    };
    let (only_left, only_right) = (one_way(left, right), one_way(right, left));
    assert!(
        only_left.is_empty() && only_right.is_empty(),
        "{who}: differ, or are on one side only: {only_left:?} and {only_right:?}"
    );
}
