//! A service whose loss would be noticed: it commits a row of a SQLite database and an object of a git repository together, again
//! and again, and says so where its volume does not reach.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::Connection;

use super::netns::must;
use super::text;

/// Set in the container that writes, to the name of its node.
pub(crate) const WRITER: &str = "LEDGER_WRITER";
/// The options of a volume whose database and repository are cut together.
pub(crate) const CUT: &str = "group=git,app.db";

const BRANCHES: i64 = 4;
static ENDING: AtomicBool = AtomicBool::new(false);

/// One acknowledged write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ack {
    pub(crate) number: i64,
    pub(crate) commit: String,
    /// Since 1970.
    pub(crate) at: Duration,
    pub(crate) node: String,
}

/// What a copy of the volume holds.
#[derive(Debug)]
pub(crate) struct Found {
    /// Number and commit of each row.
    pub(crate) rows: BTreeMap<i64, String>,
}

/// Writes for ever. Runs in a container, with the volume at `/data`, and acknowledges in `/acks/log`; why it ended stands in
/// `/acks/trouble`.
pub(crate) fn write(node: &str) -> ! {
    let node_of_trouble = node.to_owned();
    std::panic::set_hook(Box::new(move |panic| {
        let trouble = OpenOptions::new().create(true).append(true).open("/acks/trouble");
        let _ = trouble.and_then(|mut file| writeln!(file, "{node_of_trouble}: {panic}"));
    }));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.spawn(async {
        let mut end = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).unwrap();
        end.recv().await;
        ENDING.store(true, Ordering::SeqCst);
    });
    let repository = Path::new("/data/git");
    // A git that was killed leaves its lock. Nobody else writes here.
    let locks = (0..BRANCHES).map(|branch| format!("refs/heads/{branch}.lock"));
    for lock in locks.chain(["config.lock".into(), "HEAD.lock".into()]) {
        let _ = fs::remove_file(repository.join(lock));
    }
    // Changes nothing once it is whole; the node may have been killed in the middle of it.
    git(Path::new("/"), &["init", "-q", "--bare", "--template=", "/data/git"]);
    let tree = git(repository, &["hash-object", "-t", "tree", "-w", "/dev/null"]);
    let database = Connection::open("/data/app.db").unwrap();
    database.pragma_update(None, "journal_mode", "WAL").unwrap();
    database
        .execute("CREATE TABLE IF NOT EXISTS ledger (number INTEGER PRIMARY KEY, hash TEXT)", [])
        .unwrap();
    let last = "SELECT coalesce(max(number), 0) FROM ledger";
    let mut number: i64 = database.query_row(last, [], |row| row.get(0)).unwrap();
    let mut acks = OpenOptions::new().append(true).open("/acks/log").unwrap();
    // A write is finished before the end, so that an orderly stop leaves no lock.
    while !ENDING.load(Ordering::SeqCst) {
        number += 1;
        let commit = git(repository, &["commit-tree", "-m", &number.to_string(), &tree]);
        git(repository, &["update-ref", &format!("refs/heads/{}", number % BRANCHES), &commit]);
        database.execute("INSERT INTO ledger VALUES (?1, ?2)", (number, &commit)).unwrap();
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
        acks.write_all(format!("{number} {commit} {at} {node}\n").as_bytes()).unwrap();
    }
    std::process::exit(0);
}

fn git(directory: &Path, arguments: &[&str]) -> String {
    try_git(directory, arguments).unwrap_or_else(|error| panic!("{error}"))
}

fn try_git(directory: &Path, arguments: &[&str]) -> Result<String, String> {
    let mut git = Command::new("/usr/bin/git");
    git.current_dir(directory).args(["-c", "safe.directory=*", "-c", "gc.auto=0"]).args(arguments);
    for (key, value) in [("HOME", "/tmp"), ("GIT_AUTHOR_NAME", "a"), ("GIT_AUTHOR_EMAIL", "a@b.c")] {
        git.env(key, value);
    }
    let output = git.env("GIT_COMMITTER_NAME", "a").env("GIT_COMMITTER_EMAIL", "a@b.c").output().unwrap();
    match output.status.success() {
        true => Ok(text(&output.stdout).trim().to_owned()),
        false => Err(format!("git {arguments:?}: {}", text(&output.stderr))),
    }
}

/// The acknowledgements so far. A line that is being written is not one yet.
pub(crate) fn acks(log: &Path) -> Vec<Ack> {
    let text = fs::read_to_string(log).unwrap();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let ack = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let [number, commit, at, node] = words[..] else { panic!("{line}") };
        let at = Duration::from_millis(at.parse().unwrap());
        Ack { number: number.parse().unwrap(), commit: commit.to_owned(), at, node: node.to_owned() }
    };
    whole.lines().map(ack).collect()
}

/// The longest time without an acknowledgement between these two.
pub(crate) fn downtime(acks: &[Ack], since: Duration, until: Duration) -> Duration {
    let gaps = acks.windows(2).filter(|pair| pair[1].at >= since && pair[0].at <= until);
    gaps.map(|pair| pair[1].at.saturating_sub(pair[0].at)).max().unwrap_or_default()
}

/// Looks at a copy of a volume, which has to be sound: the database, the repository, and each row's object in it. A replica that
/// something still comes to may not be.
pub(crate) fn check(data: &Path) -> Result<Found, String> {
    let place = tempfile::tempdir().unwrap();
    let copy: PathBuf = place.path().join("copy");
    let copied = Command::new("cp").arg("-a").args([data, &copy]).output().unwrap();
    if !copied.status.success() {
        return Err(text(&copied.stderr));
    }
    let database = Connection::open(copy.join("app.db")).map_err(|error| error.to_string())?;
    let integrity = database.query_row("PRAGMA integrity_check", [], |row| row.get(0));
    let integrity: String = integrity.map_err(|error| error.to_string())?;
    if integrity != "ok" {
        return Err(integrity);
    }
    let repository = copy.join("git");
    let fsck = try_git(&repository, &["fsck", "--full", "--strict", "--no-dangling"])?;
    if !fsck.is_empty() {
        return Err(fsck);
    }
    let rows = rows(&database);
    let all = try_git(&repository, &["cat-file", "--batch-check=%(objectname)", "--batch-all-objects"])?;
    let objects: std::collections::BTreeSet<&str> = all.lines().collect();
    match rows.iter().find(|(_, commit)| !objects.contains(commit.as_str())) {
        Some((number, commit)) => Err(format!("row {number} has no object {commit}")),
        None => Ok(Found { rows }),
    }
}

/// Number and commit of each row that a branch keeps; none if it has no database.
pub(crate) fn tail(branch: &Path) -> Found {
    if !branch.join("app.db").exists() {
        return Found { rows: BTreeMap::new() };
    }
    let place = tempfile::tempdir().unwrap();
    let copy = place.path().join("copy");
    must("cp", &["-a", &branch.display().to_string(), &copy.display().to_string()]);
    Found { rows: rows(&Connection::open(copy.join("app.db")).unwrap()) }
}

fn rows(database: &Connection) -> BTreeMap<i64, String> {
    let mut query = database.prepare("SELECT number, hash FROM ledger").unwrap();
    let rows = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    rows.map(Result::unwrap).collect()
}

impl Found {
    /// The acknowledged writes that are not in it.
    pub(crate) fn lacks<'a>(&self, acks: &'a [Ack]) -> Vec<&'a Ack> {
        acks.iter().filter(|ack| self.rows.get(&ack.number) != Some(&ack.commit)).collect()
    }
}
