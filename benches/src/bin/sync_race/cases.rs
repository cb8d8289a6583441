//! The cases, each a measurement of one tool on a fresh ground; and the goals that ours are held to.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::database;
use crate::ground;
use crate::machine;
use crate::tools::{Ground, Tool};

/// How often the replica is looked at while a change is waited for.
const LOOK: Duration = Duration::from_micros(200);
/// The longest that a small edit is waited for.
const EDIT_PATIENCE: Duration = Duration::from_secs(60);
/// How long a replica may calm down before it counts as idle, and how long it is watched then.
const IDLE_BEFORE: Duration = Duration::from_secs(5);
const IDLE_MEASURED: Duration = Duration::from_secs(15);

/// The sizes of all cases.
#[derive(Clone, Copy)]
pub(crate) struct Sizes {
    pub(crate) files: usize,
    pub(crate) file_bytes: usize,
    pub(crate) large_bytes: u64,
    pub(crate) middle_bytes: usize,
    pub(crate) renamed: usize,
    pub(crate) edits: usize,
    pub(crate) database_seconds: u64,
    pub(crate) many_files: usize,
}

impl Sizes {
    pub(crate) const FULL: Sizes = Sizes {
        files: 10_000,
        file_bytes: 4096,
        large_bytes: 1 << 30,
        middle_bytes: 1 << 20,
        renamed: 1000,
        edits: 100,
        database_seconds: 60,
        many_files: 1_000_000,
    };
    /// Enough to see that everything still runs; says nothing about speed.
    pub(crate) const SMOKE: Sizes = Sizes {
        files: 200,
        large_bytes: 16 << 20,
        middle_bytes: 64 << 10,
        renamed: 100,
        edits: 5,
        database_seconds: 3,
        many_files: 2000,
        ..Sizes::FULL
    };
}

/// Figures of one run by name, in the order of measurement.
pub(crate) type Figures = Vec<(String, f64)>;

pub(crate) struct Race {
    pub(crate) syncd: PathBuf,
    pub(crate) dir: PathBuf,
    pub(crate) sizes: Sizes,
}

/// The name of a case, the tools that take part, and how it is run.
type Case = (&'static str, &'static [Tool], fn(&Race, Tool, &Ground) -> Figures);

pub(crate) const CASES: [Case; 8] = [
    ("small", &Tool::ALL, Race::small),
    ("large", &Tool::ALL, Race::large),
    ("database", &[Tool::Ours, Tool::Rsync], Race::database),
    ("unleased", &[Tool::Ours], Race::unleased),
    ("edit", &[Tool::Ours, Tool::Syncthing], Race::edit),
    ("rename", &Tool::ALL, Race::rename),
    ("rescan", &Tool::ALL, Race::rescan),
    ("idle", &[Tool::Ours, Tool::Syncthing], Race::idle),
];

impl Race {
    /// A fresh pair of directories.
    pub(crate) fn ground(&self, case: &str, tool: Tool, round: usize) -> Ground {
        Ground::below(&self.dir.join(format!("{case}-{}-{round}", tool.name())))
    }

    /// Makes room, where a round needs it. Small files stay to the end: ext4 does not use an inode again for a minute or more
    /// after its file was deleted, and passes over all of those for each new file, so a race would pay for the one before it.
    pub(crate) fn clear(case: &str, ground: &Ground) {
        if matches!(case, "large" | "database" | "unleased" | "idle")
            && let Some(base) = ground.left.parent()
        {
            let _ = fs::remove_dir_all(base);
        }
    }

    fn small(&self, tool: Tool, ground: &Ground) -> Figures {
        ground::small_files(&ground.left, self.sizes.files, self.sizes.file_bytes);
        let mut pair = tool.ready(&self.syncd, ground, self.sizes.files as u64, false);
        let mut figures = Figures::new();
        timed(&mut figures, "small", || pair.connect());
        ground::assert_equal(&ground.left, &ground.right);
        figures
    }

    fn large(&self, tool: Tool, ground: &Ground) -> Figures {
        let (file, bytes) = (ground.left.join("large"), self.sizes.large_bytes);
        ground::large_file(&file, bytes, 1, b"");
        let mut pair = tool.ready(&self.syncd, ground, 1, false);
        let mut figures = Figures::new();
        timed(&mut figures, "large", || pair.connect());
        ground::assert_equal(&ground.left, &ground.right);
        timed(&mut figures, "middle", || {
            let began = Instant::now();
            ground::change_middle(&file, self.sizes.middle_bytes);
            pair.catch_up("large");
            began
        });
        ground::assert_equal(&ground.left, &ground.right);
        let next = ground.state.join("next");
        let bytes = fs::read(&file).expect("it is there");
        fs::write(&next, [b"x", bytes.as_slice()].concat()).expect("the disk takes it");
        drop(bytes);
        timed(&mut figures, "front", || {
            let began = Instant::now();
            fs::rename(&next, &file).expect("one filesystem");
            pair.catch_up("large");
            began
        });
        ground::assert_equal(&ground.left, &ground.right);
        figures
    }

    fn database(&self, tool: Tool, ground: &Ground) -> Figures {
        self.live_database("database", tool, true, ground)
    }

    /// The same in a folder without a lease.
    fn unleased(&self, tool: Tool, ground: &Ground) -> Figures {
        self.live_database("unleased", tool, false, ground)
    }

    fn live_database(&self, name: &str, tool: Tool, leased: bool, ground: &Ground) -> Figures {
        let cost = database::run(tool, leased, ground, self.sizes.large_bytes, self.sizes.database_seconds);
        let over = |bytes: u64| bytes as f64 / cost.changed_bytes as f64;
        let mut figures = vec![(format!("{name} wire/changed"), over(cost.wire_bytes))];
        if cost.written_bytes > 0 {
            figures.push((format!("{name} written/changed"), over(cost.written_bytes)));
        }
        if let Some(passes) = cost.passes {
            figures.push((format!("{name} copies"), passes as f64));
        }
        figures
    }

    /// A small file is replaced in a folder of many, default settings; Syncthing's default takes so long that it is
    /// asked less often, and once more with its watcher at the shortest delay that it takes.
    fn edit(&self, tool: Tool, ground: &Ground) -> Figures {
        ground::small_files(&ground.left, self.sizes.files, self.sizes.file_bytes);
        let mut figures = Figures::new();
        let ways: &[(bool, usize)] =
            if tool == Tool::Ours { &[(false, 1)] } else { &[(false, 20), (true, 10)] };
        for (tuned, seldom) in ways {
            let mut pair = tool.ready(&self.syncd, ground, self.sizes.files as u64, *tuned);
            pair.connect();
            let edits = (self.sizes.edits / seldom).max(2);
            let mut taken: Vec<f64> = (0..edits).map(|n| edit(ground, n, *tuned)).collect();
            taken.sort_by(f64::total_cmp);
            let name = if *tuned { "edit, 1 s watcher" } else { "edit" };
            figures.push((format!("{name}: median ms"), taken[taken.len() / 2]));
            figures.push((format!("{name}: p99 ms"), taken[(taken.len() * 99 / 100).min(taken.len() - 1)]));
        }
        figures
    }

    fn rename(&self, tool: Tool, ground: &Ground) -> Figures {
        let count = self.sizes.renamed;
        let (old, new) = (ground.left.join("old"), ground.left.join("new"));
        fs::create_dir(&old).expect("a directory can be made");
        for n in 0..count {
            let bytes = hybrid_benches::noise(self.sizes.file_bytes, n as u64 + 7);
            fs::write(old.join(format!("file-{n:06}")), bytes).expect("the disk takes it");
        }
        let mut pair = tool.ready(&self.syncd, ground, count as u64, false);
        pair.connect();
        let mut figures = Figures::new();
        timed(&mut figures, "rename", || {
            let began = Instant::now();
            fs::rename(&old, &new).expect("it is there");
            pair.catch_up("");
            began
        });
        ground::assert_equal(&ground.left, &ground.right);
        figures
    }

    fn rescan(&self, tool: Tool, ground: &Ground) -> Figures {
        ground::small_files(&ground.left, self.sizes.files, self.sizes.file_bytes);
        let mut pair = tool.ready(&self.syncd, ground, self.sizes.files as u64, false);
        pair.connect();
        let mut figures = Figures::new();
        timed(&mut figures, "rescan", || {
            let began = Instant::now();
            pair.rescan();
            began
        });
        figures.truncate(1);
        figures
    }

    fn idle(&self, tool: Tool, ground: &Ground) -> Figures {
        let mut figures = self.idle_with(tool, ground, self.sizes.files, self.sizes.file_bytes);
        if tool == Tool::Ours {
            let ground = ground.within("many");
            figures.extend(self.idle_with(tool, &ground, self.sizes.many_files, 1));
        }
        figures
    }

    fn idle_with(&self, tool: Tool, ground: &Ground, count: usize, bytes: usize) -> Figures {
        ground::small_files(&ground.left, count, bytes);
        let mut pair = tool.ready(&self.syncd, ground, count as u64, false);
        pair.connect();
        std::thread::sleep(IDLE_BEFORE);
        let pids = pair.receivers();
        let before = machine::cpu_seconds(&pids);
        std::thread::sleep(IDLE_MEASURED);
        let used = machine::cpu_seconds(&pids) - before;
        let resident = machine::resident_kib(&pids) as f64 / 1024.0;
        drop(pair);
        let index = match tool {
            Tool::Ours => ground.right.join(".syncfs"),
            _ => ground.state.join("right"),
        };
        vec![
            (format!("idle {count}: RSS MiB"), resident),
            (format!("idle {count}: CPU %"), used / IDLE_MEASURED.as_secs_f64() * 100.0),
            (format!("idle {count}: index B/file"), bytes_below(&index) as f64 / count as f64),
        ]
    }
}

/// Replaces one file in `left` and says after how many milliseconds `right` shows it. A replica that shows none at all
/// meanwhile counts as not yet.
fn edit(ground: &Ground, n: usize, tuned: bool) -> f64 {
    let name = Path::new("dir-0000").join(format!("file-{:06}", n % 10));
    let text = format!("edit {n} {tuned}");
    let (left, right) = (ground.left.join(&name), ground.right.join(&name));
    // Bursts are what a watcher's delay is for; single edits are what is measured.
    std::thread::sleep(Duration::from_millis(100));
    let began = Instant::now();
    fs::write(left, &text).expect("the disk takes it");
    while fs::read(&right).ok().as_deref() != Some(text.as_bytes()) {
        assert!(began.elapsed() < EDIT_PATIENCE, "{} does not arrive", right.display());
        std::thread::sleep(LOOK);
    }
    began.elapsed().as_secs_f64() * 1000.0
}

/// Runs `act` on a quiet disk; notes the milliseconds since the moment that it gives, and the megabytes that passed
/// loopback.
fn timed(figures: &mut Figures, name: &str, act: impl FnOnce() -> Instant) {
    machine::settle_disk();
    let bytes = machine::loopback_bytes();
    let began = act();
    let took = began.elapsed();
    figures.push((format!("{name}: ms"), took.as_secs_f64() * 1000.0));
    figures.push((format!("{name}: wire MB"), (machine::loopback_bytes() - bytes) as f64 / 1e6));
}

fn bytes_below(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let of = |entry: fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => bytes_below(&entry.path()),
        Ok(meta) => meta.len(),
        Err(_) => 0,
    };
    entries.map(of).sum()
}
