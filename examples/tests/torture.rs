//! Real `syncd` processes on real directories that are changed without pause, and killed at random moments.
//! `TORTURE_ROUNDS=100` kills more often, `TORTURE_SECONDS=60` writes longer, `TORTURE_SEED=` repeats a script (not the moments).
#![allow(clippy::disallowed_methods, clippy::disallowed_types, clippy::unwrap_used)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use support::replica::{Replica, assert_converged, assert_same, peers_of, serve_all};
use support::{can_run, expect_status, until};

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

fn seed() -> u64 {
    let seed = number("TORTURE_SEED", u64::from(std::process::id()));
    println!("TORTURE_SEED={seed}");
    seed
}

/// xorshift64*.
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) % limit
    }
}

/// A user of one replica: works in a directory that nobody else writes, so that it is known exactly what must be there,
/// and now and then makes a file that the users of other replicas make, too.
struct User {
    name: String,
    dice: Dice,
    /// Files of the own directory by their path in the folder.
    files: BTreeMap<String, Vec<u8>>,
    /// What was put into `both/` and found the name free.
    claims: BTreeSet<Vec<u8>>,
    written: u64,
}

impl User {
    fn new(name: &str, seed: u64) -> User {
        let (dice, files) = (Dice::new(seed), BTreeMap::new());
        User { name: name.to_owned(), dice, files, claims: BTreeSet::new(), written: 0 }
    }

    fn text(&mut self) -> Vec<u8> {
        self.written += 1;
        let mut text = format!("{} {} ", self.name, self.written).into_bytes();
        let bulk = match self.dice.below(30) {
            0 => 2_000_000,
            1..6 => 150_000,
            _ => 200,
        };
        let fill = self.dice.below(256) as u8;
        text.resize(text.len() + self.dice.below(bulk) as usize, fill);
        text
    }

    fn any_path(&mut self) -> String {
        let (dir, file) = (self.dice.below(4), self.dice.below(12));
        if dir == 0 { format!("{}/{file}", self.name) } else { format!("{}/d{dir}/{file}", self.name) }
    }

    fn act(&mut self, root: &Path) {
        let path = self.any_path();
        let place = root.join(&path);
        match self.dice.below(100) {
            0..35 => {
                let text = self.text();
                fs::create_dir_all(place.parent().unwrap()).unwrap();
                fs::write(&place, &text).unwrap();
                self.files.insert(path, text);
            }
            35..55 => {
                let text = self.text();
                fs::create_dir_all(place.parent().unwrap()).unwrap();
                let beside = place.with_extension("new");
                fs::write(&beside, &text).unwrap();
                fs::rename(&beside, &place).unwrap();
                self.files.insert(path, text);
            }
            55..65 => {
                if let Some(text) = self.files.get_mut(&path) {
                    fs::OpenOptions::new().append(true).open(&place).unwrap().write_all(b"more").unwrap();
                    text.extend_from_slice(b"more");
                }
            }
            65..75 => {
                if self.files.remove(&path).is_some() {
                    fs::remove_file(&place).unwrap();
                }
            }
            75..85 => {
                let to = self.any_path();
                if to != path && self.files.contains_key(&path) {
                    fs::create_dir_all(root.join(&to).parent().unwrap()).unwrap();
                    fs::rename(&place, root.join(&to)).unwrap();
                    let text = self.files.remove(&path).unwrap();
                    self.files.insert(to, text);
                }
            }
            85..90 => self.move_directory(root),
            90..92 => {
                let dir = format!("{}/d{}/", self.name, self.dice.below(4));
                let _ = fs::remove_dir_all(root.join(&dir));
                self.files.retain(|path, _| !path.starts_with(&dir));
            }
            _ => {
                fs::create_dir_all(root.join("both")).unwrap();
                let name = root.join(format!("both/{}", self.written));
                let text = self.text();
                if let Ok(mut file) = fs::File::create_new(name) {
                    file.write_all(&text).unwrap();
                    self.claims.insert(text);
                }
            }
        }
    }

    fn move_directory(&mut self, root: &Path) {
        let [from, to] =
            [self.dice.below(3) + 1, self.dice.below(3) + 1].map(|n| format!("{}/d{n}/", self.name));
        if from != to && root.join(&from).exists() {
            let _ = fs::remove_dir_all(root.join(&to));
            fs::rename(root.join(&from), root.join(&to)).unwrap();
            self.files.retain(|path, _| !path.starts_with(&to));
            let moved: Vec<_> = self.files.keys().filter(|path| path.starts_with(&from)).cloned().collect();
            for path in moved {
                let text = self.files.remove(&path).unwrap();
                self.files.insert(format!("{to}{}", &path[from.len()..]), text);
            }
        }
    }
}

/// Users write on all replicas while daemons are killed and started again; then everything must be everywhere.
fn kill_while_users_write(count: usize) {
    let seed = seed();
    let names = ["anna", "bert", "cora"];
    let mut replicas: Vec<_> = (0..count).map(|_| Replica::new()).collect();
    // They meet first: two folders with files in them that never met are two folders.
    fs::write(replicas[0].path("first"), "met").unwrap();
    serve_all(&mut replicas);
    replicas[0].wait();
    let roots: Vec<_> = replicas.iter().map(|replica| replica.dir.clone()).collect();
    let stop = AtomicBool::new(false);
    let users: Vec<User> = thread::scope(|scope| {
        let users: Vec<_> = (0..count)
            .map(|n| {
                let mut user = User::new(names[n], seed + n as u64);
                let (root, stop) = (&roots[n], &stop);
                scope.spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        user.act(root);
                        thread::sleep(Duration::from_millis(user.dice.below(8)));
                    }
                    user
                })
            })
            .collect();
        let killing = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut dice = Dice::new(seed ^ 0xdead);
            for _ in 0..number("TORTURE_ROUNDS", 10) {
                thread::sleep(Duration::from_millis(100 + dice.below(600)));
                let victim = dice.below(count as u64) as usize;
                replicas[victim].kill();
                if dice.below(3) == 0 {
                    let second = (victim + 1) % count;
                    replicas[second].kill();
                }
                thread::sleep(Duration::from_millis(dice.below(200)));
                for number in 0..count {
                    if !replicas[number].is_served() {
                        let peers = peers_of(&replicas, number);
                        replicas[number].serve(&peers);
                    }
                }
            }
        }));
        stop.store(true, Ordering::Relaxed);
        let users = users.into_iter().map(|user| user.join().unwrap()).collect();
        killing.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        users
    });
    assert_converged(&replicas);
    let writes: u64 = users.iter().map(|user| user.written).sum();
    println!("{writes} writes, {} claims", users.iter().map(|user| user.claims.len()).sum::<usize>());
    for (number, replica) in replicas.iter().enumerate() {
        for user in &users {
            // A daemon that was killed between a rename and its commit takes what it finds for an edit: if its writer has
            // moved on meanwhile, a copy of an older version stands beside the right one.
            let files = |name: &&String| replica.path(name).is_file() && !name.contains(".conflict-");
            let tree = replica.tree(&user.name);
            let found =
                tree.keys().filter(files).map(|name| (name.clone(), fs::read(replica.path(name)).unwrap()));
            assert_same(
                &user.files,
                &found.collect(),
                &format!("{} as she left it, and replica {number}", user.name),
            );
        }
        let both: BTreeSet<_> = replica.tree("both").into_values().map(|what| what[4..].to_vec()).collect();
        for claim in users.iter().flat_map(|user| &user.claims) {
            let name = String::from_utf8_lossy(&claim[..claim.len().min(12)]);
            assert!(both.contains(claim), "replica {number} lost {name:?}, which was made with a free name");
        }
    }
}

#[test]
fn two_daemons_killed_at_random_moments_lose_nothing() {
    kill_while_users_write(2);
}

#[test]
fn three_daemons_killed_at_random_moments_lose_nothing() {
    kill_while_users_write(3);
}

#[test]
fn a_reader_of_a_file_that_is_replaced_all_the_time_finds_one_version_whole() {
    const BYTES: usize = 300_000;
    let mut replicas = vec![Replica::new(), Replica::new()];
    serve_all(&mut replicas);
    let (source, shown) = (replicas[0].path("page"), replicas[1].path("page"));
    let replace = |n: u64| {
        let beside = source.with_extension("new");
        fs::write(&beside, vec![n as u8; BYTES]).unwrap();
        fs::rename(&beside, &source).unwrap();
    };
    replace(0);
    until("the first version", || shown.exists().then_some(()));
    let stop = AtomicBool::new(false);
    let (versions, reads) = thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let (mut versions, mut reads) = (BTreeSet::new(), 0_u64);
            while !stop.load(Ordering::Relaxed) {
                let bytes = fs::read(&shown).expect("a file that is replaced is never absent");
                assert_eq!(bytes.len(), BYTES, "half a file");
                assert!(bytes.iter().all(|byte| *byte == bytes[0]), "a mixture of two versions");
                versions.insert(bytes[0]);
                reads += 1;
            }
            (versions, reads)
        });
        let end = Instant::now() + Duration::from_secs(number("TORTURE_SECONDS", 4));
        let mut n = 1;
        while Instant::now() < end && !reader.is_finished() {
            replace(n);
            n += 1;
            thread::sleep(Duration::from_millis(25));
        }
        stop.store(true, Ordering::Relaxed);
        reader.join().unwrap()
    });
    println!("{reads} reads saw {} versions", versions.len());
    assert!(versions.len() > 5, "the reader saw only {} versions", versions.len());
    assert_converged(&replicas);
}

#[test]
fn a_deep_tree_that_is_moved_while_it_is_copied_arrives_whole() {
    let mut replicas = vec![Replica::new(), Replica::new()];
    let mut deep = replicas[0].path("top-0");
    for level in 0..40 {
        deep = deep.join(format!("level-{level}"));
        fs::create_dir_all(&deep).unwrap();
        for file in 0..10 {
            fs::write(deep.join(format!("{file}.txt")), format!("{level} {file}").repeat(200)).unwrap();
        }
    }
    serve_all(&mut replicas);
    for n in 0..8 {
        thread::sleep(Duration::from_millis(150));
        fs::rename(replicas[0].path(&format!("top-{n}")), replicas[0].path(&format!("top-{}", n + 1)))
            .unwrap();
        fs::write(replicas[0].path(&format!("top-{}/level-0/note-{n}", n + 1)), n.to_string()).unwrap();
    }
    assert_converged(&replicas);
    let tree = replicas[1].tree("");
    assert_eq!(tree.len(), 1 + 40 * 11 + 8, "{:?}", tree.keys().collect::<Vec<_>>());
    assert!(tree.contains_key("top-8/level-0/note-0"));
}

fn git(dir: &Path, arguments: &[&str]) -> String {
    let identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "safe.directory=*"];
    let done = Command::new("git").arg("-C").arg(dir).args(identity).args(arguments).output().unwrap();
    expect_status(&done, 0)
}

#[test]
#[ignore = "needs git: run with --ignored"]
fn a_repository_and_a_build_that_are_synced_while_they_change_end_sound() {
    if !can_run(&["git"], &[]) {
        return;
    }
    let seed = seed();
    let mut replicas = vec![Replica::new(), Replica::new()];
    serve_all(&mut replicas);
    let (repository, build) = (replicas[0].path("repository"), replicas[0].path("build"));
    let end = Instant::now() + Duration::from_secs(number("TORTURE_SECONDS", 10));
    let commits = thread::scope(|scope| {
        scope.spawn(|| {
            // What a compiler leaves: objects that are renamed into place, directories that come and go.
            let mut dice = Dice::new(seed);
            while Instant::now() < end {
                let unit = build.join(format!("unit-{}", dice.below(8)));
                if dice.below(10) == 0 {
                    let _ = fs::remove_dir_all(&unit);
                    continue;
                }
                fs::create_dir_all(&unit).unwrap();
                let object = unit.join(format!("{}.o", dice.below(20)));
                fs::write(
                    object.with_extension("o.tmp"),
                    vec![dice.below(256) as u8; dice.below(90_000) as usize],
                )
                .unwrap();
                fs::rename(object.with_extension("o.tmp"), object).unwrap();
            }
        });
        fs::create_dir(&repository).unwrap();
        git(&repository, &["init", "-q"]);
        let mut dice = Dice::new(seed + 1);
        let mut commits = 0;
        while Instant::now() < end {
            for _ in 0..dice.below(10) + 1 {
                let file = repository.join(format!("src-{}.txt", dice.below(40)));
                fs::write(file, format!("{} ", dice.below(1000)).repeat(dice.below(5000) as usize + 1))
                    .unwrap();
            }
            git(&repository, &["add", "-A"]);
            git(&repository, &["commit", "-q", "--allow-empty", "-m", "change"]);
            commits += 1;
            if dice.below(8) == 0 {
                git(&repository, &["gc", "-q", "--prune=now"]);
            }
        }
        commits
    });
    // A collection of garbage may just have taken most of the files, and then somebody has to say that it was meant.
    replicas[0].confirm_deletions();
    assert_converged(&replicas);
    let copy = replicas[1].path("repository");
    git(&copy, &["fsck", "--full", "--strict"]);
    assert_eq!(git(&copy, &["rev-list", "--count", "HEAD"]).trim(), commits.to_string());
    assert_eq!(git(&copy, &["status", "--porcelain"]), "", "the work tree is what was committed");
    println!("{commits} commits");
}
