//! The case of a live database: what a minute of small commits costs on the wire and on the replica's disk.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use crate::machine::{self, Running};
use crate::tools::{Ground, Pair, Rsync, Tool};

/// SQLite's default page.
const PAGE_BYTES: u64 = 4096;
/// One row fills most of a page, so that an update of it changes that page and no other.
const ROW_BYTES: u64 = 3800;
const COMMITS_PER_SECOND: u32 = 10;
const ROWS_PER_COMMIT: u64 = 10;

/// What the minute cost, and what it changed.
pub(crate) struct Cost {
    pub(crate) changed_bytes: u64,
    pub(crate) wire_bytes: u64,
    pub(crate) written_bytes: u64,
    /// Copies that the replica got meanwhile, where that is counted.
    pub(crate) passes: Option<u64>,
}

/// Makes a database of about `bytes` bytes in WAL mode.
fn prepare(path: &Path, bytes: u64) -> u64 {
    let mut connection = Connection::open(path).expect("a database can be made");
    connection.pragma_update(None, "journal_mode", "WAL").expect("WAL is there");
    connection
        .execute_batch("CREATE TABLE rows (n INTEGER PRIMARY KEY, bulk BLOB)")
        .expect("a table can be made");
    let rows = bytes / PAGE_BYTES;
    let transaction = connection.transaction().expect("nobody else writes");
    for n in 0..rows {
        let insert = "INSERT INTO rows VALUES (?1, randomblob(?2))";
        transaction.execute(insert, [n as i64, ROW_BYTES as i64]).expect("the disk takes it");
    }
    transaction.commit().expect("the disk takes it");
    connection.pragma_update(None, "wal_checkpoint", "TRUNCATE").expect("nobody reads");
    rows
}

/// Commits at a steady pace; gives how often. Pages are picked without pattern, by a seed.
fn write(path: &Path, rows: u64, seconds: u64) -> u64 {
    let mut connection = Connection::open(path).expect("it was made");
    connection.busy_timeout(Duration::ZERO).expect("SQLite takes it");
    let began = Instant::now();
    let commits = seconds * u64::from(COMMITS_PER_SECOND);
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    for commit in 0..commits {
        let transaction = connection.transaction().expect("nobody else writes");
        for _ in 0..ROWS_PER_COMMIT {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let row = (state >> 33) % rows;
            let update = "UPDATE rows SET bulk = randomblob(?2) WHERE n = ?1";
            transaction.execute(update, [row as i64, ROW_BYTES as i64]).expect("the disk takes it");
        }
        transaction.commit().expect("no lock of ours is in the way");
        let due = began + Duration::from_secs(1) / COMMITS_PER_SECOND * (commit as u32 + 1);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    commits
}

/// Lets `tool` replicate while a writer writes; ours `leased` or not.
pub(crate) fn run(tool: Tool, leased: bool, ground: &Ground, bytes: u64, seconds: u64) -> Cost {
    let database = ground.left.join("app.db");
    let rows = prepare(&database, bytes);
    let mut replicas: Box<dyn Replicas> = match tool {
        Tool::Ours => Box::new(Replication::start(ground, leased)),
        _ => Box::new(Loop::start(ground)),
    };
    machine::settle_disk();
    let receivers = replicas.receivers();
    let before = (machine::loopback_bytes(), machine::written_bytes(&receivers));
    let commits = write(&database, rows, seconds);
    let passes = replicas.finish();
    let cost = Cost {
        changed_bytes: commits * ROWS_PER_COMMIT * PAGE_BYTES,
        wire_bytes: machine::loopback_bytes() - before.0,
        written_bytes: machine::written_bytes(&receivers) - before.1,
        passes,
    };
    check(&ground.right.join("app.db"), rows);
    cost
}

/// What the replica shows is whole. (A copy by rsync may not be; that is said, not hidden.)
fn check(path: &Path, rows: u64) {
    let connection = Connection::open(path).expect("the replica has it");
    let found: rusqlite::Result<(String, i64)> = connection.query_row(
        "SELECT (SELECT * FROM pragma_integrity_check), count(*) FROM rows",
        [],
        |row| Ok((row.get(0)?, row.get(1)?)),
    );
    match found {
        Ok((text, count)) if text == "ok" && count as u64 == rows => {}
        other => println!("  {}: not whole: {other:?}", path.display()),
    }
}

trait Replicas {
    fn receivers(&self) -> Vec<u32>;
    /// Returns when the replica has the last commit, with how often it was copied, where that is counted.
    fn finish(&mut self) -> Option<u64>;
}

/// Ours: two replicas, with a barrier between them.
struct Replication {
    _writer: Running,
    receiver: Running,
    receiver_id: String,
    ask: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Replication {
    fn start(ground: &Ground, leased: bool) -> Self {
        let (mut writer, answers, at) = Self::replica(&ground.left, None, leased);
        let (receiver, _, receiver_id) = Self::replica(&ground.right, Some(&at), leased);
        let ask = writer.0.stdin.take().expect("piped");
        let mut replication = Self { _writer: writer, receiver, receiver_id, ask, answers };
        replication.barrier();
        replication
    }

    /// This program again as a replica; also what its first line says.
    fn replica(dir: &Path, dial: Option<&str>, leased: bool) -> (Running, BufReader<ChildStdout>, String) {
        let mut command = Command::new(std::env::current_exe().expect("this program has a path"));
        command.arg("--replica").arg(dir).args(dial.map(|at| format!("--dial={at}")));
        command.args(leased.then_some("--leased"));
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = piped.spawn().expect("it starts again");
        let mut out = BufReader::new(child.stdout.take().expect("piped"));
        let mut ready = String::new();
        out.read_line(&mut ready).expect("it says that it is ready");
        let fact = ready.trim().strip_prefix("ready ").expect("it became ready").to_owned();
        (Running(child), out, fact)
    }

    fn barrier(&mut self) {
        writeln!(self.ask, "{}", self.receiver_id).expect("the writer listens");
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("the writer answers");
        assert_eq!(line, "done\n");
    }
}

impl Replicas for Replication {
    fn receivers(&self) -> Vec<u32> {
        vec![self.receiver.pid()]
    }

    fn finish(&mut self) -> Option<u64> {
        self.barrier();
        None
    }
}

/// rsync, one run after the other.
struct Loop {
    rsync: Arc<Rsync>,
    stop: Arc<AtomicBool>,
    runs: Option<JoinHandle<u64>>,
}

impl Loop {
    fn start(ground: &Ground) -> Loop {
        let rsync = Arc::new(Rsync::ready(ground));
        rsync.run(&[]);
        let stop = Arc::new(AtomicBool::new(false));
        let (copier, asked) = (Arc::clone(&rsync), Arc::clone(&stop));
        let runs = std::thread::spawn(move || {
            for count in 1.. {
                let last = asked.load(Ordering::Relaxed);
                copier.run(&[]);
                if last {
                    return count;
                }
            }
            0
        });
        Loop { rsync, stop, runs: Some(runs) }
    }
}

impl Replicas for Loop {
    /// The daemon's own figures include those of the children that it has seen end.
    fn receivers(&self) -> Vec<u32> {
        self.rsync.receivers()
    }

    fn finish(&mut self) -> Option<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.runs.take().map(|runs| runs.join().expect("rsync ran"))
    }
}
