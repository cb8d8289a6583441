//! What of live databases with a rollback journal is served without a lock: for sizes and rates of commits, how many states of
//! the database its folder took in a while, and the longest time between two of them. Prints a table.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "a measurement touches the world")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use rusqlite::Connection;
use syncfs::{Config, Event, Folder, SqliteLock};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Rows of a page each.
const ROW_BYTES: u64 = 3900;

#[derive(Parser)]
struct Options {
    /// Where the folders are made
    #[arg(long, default_value_os_t = std::env::temp_dir())]
    dir: PathBuf,
    /// Sizes in MiB
    #[arg(long, value_delimiter = ',', default_value = "1,8,64,256,1024")]
    sizes: Vec<u64>,
    /// Commits a second; 0: without a pause
    #[arg(long, value_delimiter = ',', default_value = "1,10,50,0")]
    rates: Vec<u64>,
    /// Seconds for each
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Allow brief locks
    #[arg(long)]
    brief: bool,
}

fn main() -> Result<()> {
    let options = Options::parse();
    println!(
        "| size | commits/s wanted | commits/s | SQLITE_BUSY | states taken | longest time without one |"
    );
    println!("|---|---|---|---|---|---|");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for &mib in &options.sizes {
        for &rate in &options.rates {
            let measured = runtime.block_on(measure(&options, mib, rate))?;
            let wanted = if rate == 0 { "as many as it can".to_owned() } else { rate.to_string() };
            let (commits, busy) = (measured.commits / options.seconds, measured.busy);
            let gap = measured.gap.as_secs_f64();
            println!("| {mib} MiB | {wanted} | {commits} | {busy} | {} | {gap:.1} s |", measured.states);
        }
    }
    Ok(())
}

struct Measured {
    commits: u64,
    busy: u64,
    states: u64,
    gap: Duration,
}

async fn measure(options: &Options, mib: u64, rate: u64) -> Result<Measured> {
    let dir = tempfile::tempdir_in(&options.dir)?;
    let database = dir.path().join("app.db");
    let rows = fill(&database, mib)?;
    let mut config = Config::new(dir.path());
    config.sqlite_lock = if options.brief { SqliteLock::Brief } else { SqliteLock::Never };
    let folder = Folder::create(config).await?;
    folder.flush().await?;
    let mut events = folder.subscribe();
    let stop = Arc::new(AtomicBool::new(false));
    let (commits, busy) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let writer = {
        let (stop, commits, busy) = (Arc::clone(&stop), Arc::clone(&commits), Arc::clone(&busy));
        std::thread::spawn(move || {
            write(&database, rows, rate, &stop, &commits, &busy).map_err(|error| error.to_string())
        })
    };
    let began = Instant::now();
    let (end, mut last) = (began + Duration::from_secs(options.seconds), began);
    let (mut states, mut gap) = (0, Duration::ZERO);
    while let Ok(event) = tokio::time::timeout_at(end.into(), events.recv()).await {
        if matches!(event, Ok(Event::Changed(_))) {
            states += 1;
            gap = gap.max(last.elapsed());
            last = Instant::now();
        }
    }
    gap = gap.max(last.elapsed());
    stop.store(true, Ordering::Relaxed);
    writer.join().map_err(|_| "the writer panicked")??;
    folder.close().await;
    let (commits, busy) = (commits.load(Ordering::Relaxed), busy.load(Ordering::Relaxed));
    Ok(Measured { commits, busy, states, gap })
}

fn fill(database: &Path, mib: u64) -> Result<u64> {
    let connection = Connection::open(database)?;
    connection.pragma_update(None, "synchronous", "OFF")?;
    connection.execute_batch("CREATE TABLE a (n INTEGER PRIMARY KEY, bulk BLOB)")?;
    let rows = mib << 8;
    let sql = "WITH RECURSIVE t(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM t WHERE i < ?1)
               INSERT INTO a(bulk) SELECT randomblob(?2) FROM t";
    connection.execute(sql, [rows, ROW_BYTES].map(|word| word as i64))?;
    Ok(rows)
}

/// One row a commit, with SQLite's defaults and no patience.
fn write(
    database: &Path,
    rows: u64,
    rate: u64,
    stop: &AtomicBool,
    commits: &AtomicU64,
    busy: &AtomicU64,
) -> rusqlite::Result<()> {
    let connection = Connection::open(database)?;
    connection.busy_timeout(Duration::ZERO)?;
    let mut next = Instant::now();
    for n in 0_u64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let row = 1 + n.wrapping_mul(2_654_435_761) % rows;
        let written = connection.execute(
            "UPDATE a SET bulk = randomblob(?1) WHERE n = ?2",
            [ROW_BYTES, row].map(|word| word as i64),
        );
        match written {
            Ok(_) => commits.fetch_add(1, Ordering::Relaxed),
            Err(_) => busy.fetch_add(1, Ordering::Relaxed),
        };
        if let Some(pause) = Duration::from_secs(1).checked_div(u32::try_from(rate).unwrap_or(u32::MAX)) {
            next += pause;
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
        }
    }
    Ok(())
}
