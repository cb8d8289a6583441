//! Volumes that follow their container through a real Swarm of three engines, while it is written to.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

use hybrid_examples::sync_time;
use rusqlite::Connection;

use support::ledger::{self, Ack, Found};
use support::site::{HOMES, PROGRAMS, Site, bind, now, other_home, volume_mount};
use support::{can_run, expect_status, run, until};

/// Not a test: what the service runs in its container.
#[test]
#[ignore = "needs the container that the data drill starts: does nothing elsewhere"]
fn writer() {
    if let Ok(node) = std::env::var(ledger::WRITER) {
        ledger::write(&node);
    }
}

/// Within one tick of the filesystem's clock, at most, all that is written bears one time.
const TICK: Duration = Duration::from_millis(10);

impl Site {
    /// Fails unless what is missing after a takeover from `from` is what was announced, neither more nor less, now that it is back:
    /// nothing from before the moment that the driver of `by` named, after its first `logged` bytes, and everything since in the
    /// branches that the driver of `from` named and that were not `there` before, with the one write that nobody was told of. What
    /// is missing from before `known` is accounted for.
    fn account_for(&self, from: &str, by: &str, logged: usize, there: &[PathBuf], known: Duration) {
        self.stop();
        let acks = self.acks();
        let found = self.settled(acks.last().expect("there are some"));
        let lost: Vec<&Ack> = found.lacks(&acks).into_iter().filter(|ack| ack.at > known).collect();
        assert!(lost.iter().all(|ack| ack.node == from), "{lost:?}");
        let up_to = announced(&self.log(by)[logged..], from);
        let early: Vec<_> = lost.iter().filter(|ack| ack.at < up_to).collect();
        assert!(early.is_empty(), "announced was everything up to {up_to:?}: {early:?}");
        let end = up_to.max(known) + TICK;
        let late = acks.iter().filter(|ack| ack.node == from && ack.at > end && !lost.contains(ack));
        // An acknowledgement comes a moment after its write.
        assert!(
            late.clone().count() <= 1,
            "announced was nothing after {up_to:?}: {:?}",
            late.collect::<Vec<_>>()
        );
        let kept = until("the tail to be kept, and named", || {
            let named = branches(&self.log(from));
            let named = named.iter().filter(|branch| !there.contains(branch));
            let kept: BTreeMap<i64, String> = named.flat_map(|branch| ledger::tail(branch).rows).collect();
            let tail = Found { rows: kept };
            lost.iter().all(|ack| tail.lacks(&[(*ack).clone()]).is_empty()).then_some(tail)
        });
        let kept: Vec<_> =
            kept.rows.into_iter().filter(|(number, commit)| found.rows.get(number) != Some(commit)).collect();
        assert!(kept.len() <= lost.len() + 1, "{} lost, {} kept", lost.len(), kept.len());
        let last = acks.iter().rfind(|ack| ack.node == from).expect("it wrote");
        println!(
            "  announced: everything up to {} ms before the last write of {from}; {} acknowledged writes are missing, and kept there \
             with {} that was not acknowledged",
            last.at.saturating_sub(up_to).as_millis(),
            lost.len(),
            kept.len() - lost.len()
        );
    }

    /// Starts the service that writes.
    fn serve(&self, options: &[&str]) {
        fs::write(self.acks.path().join("log"), "").unwrap();
        let program = std::env::current_exe().unwrap();
        let environment = format!("{}={{{{.Node.Hostname}}}}", ledger::WRITER);
        let mounts = [volume_mount("ledger", options), bind(&program, "/writer", ",readonly")];
        let [volume, program] = &mounts;
        let command = ["/writer", "--exact", "writer", "--ignored", "--nocapture"];
        self.create("ledger", &["-e", &environment, "--mount", volume, "--mount", program], &command);
    }

    /// With the driver of the other home stopped, nothing is drained, and the service goes on where it is.
    fn stays_while_its_volume_lags(&mut self, node: &str) {
        let other = other_home(node);
        self.kill_driver(other);
        let host = format!("unix://{}", self.cluster.nodes()[0].socket().display());
        let drain = ["--host", &host, "drain", node, "--gate-timeout", "2s", "--plugins", &self.plugins()];
        let output = run("swarmctl", &drain);
        let said = support::text(&output.stderr);
        println!("swarmctl drain {node}, with a replica that lags:\n{said}");
        assert_eq!(output.status.code(), Some(1), "{said}");
        let lag = format!("for {other}, which is not connected");
        assert!(said.contains(&lag) && said.contains("not moved: ledger"), "{said}");
        self.writes_on(|it| it == node, now());
        assert!(self.acks().iter().all(|ack| ack.node == node), "it moved");
        self.start_driver(other);
    }

    fn acks(&self) -> Vec<Ack> {
        ledger::acks(&self.acks.path().join("log"))
    }

    /// Waits until a node writes, and says which.
    fn writes_on(&self, which: impl Fn(&str) -> bool, since: Duration) -> Ack {
        until("a write", || self.acks().pop().filter(|ack| ack.at >= since && which(&ack.node)))
    }

    /// Ends the service, and waits until its volume is released.
    fn stop(&self) {
        self.cluster.docker(&["service", "scale", "-d", "ledger=0"]);
        self.until_free("ledger");
    }

    /// What both homes hold once they have this write, and the same.
    fn settled(&self, last: &Ack) -> Found {
        let mut said = String::new();
        until("sound replicas that are equal and have the last write", || {
            match HOMES.map(|home| ledger::check(&self.data(home, "ledger"))) {
                [Ok(one), Ok(other)] if one.rows == other.rows => {
                    (one.rows.get(&last.number) == Some(&last.commit)).then_some(one)
                }
                [Ok(_), Ok(_)] => None,
                [Err(error), _] | [_, Err(error)] => {
                    if error != said {
                        println!("not settled yet: {error}");
                        said = error;
                    }
                    None
                }
            }
        })
    }
}

/// Up to when, as its log says, a driver has what `from` wrote, which it took over last.
fn announced(log: &str, from: &str) -> Duration {
    let line = log.lines().rfind(|line| line.contains(&format!("taken over from {from} ")));
    let line = line.unwrap_or_else(|| panic!("no takeover from {from} in\n{log}"));
    let (moment, _) = line.split_once(" up to ").and_then(|it| it.1.split_once(" UTC")).expect(line);
    let (second, millis) = moment.rsplit_once('.').expect(moment);
    let second = u64::try_from(sync_time::parse(second, 0).unwrap()).unwrap();
    Duration::from_nanos(second) + Duration::from_millis(millis.parse().unwrap())
}

/// The branches that a log names.
fn branches(log: &str) -> Vec<PathBuf> {
    let named = log.lines().filter(|line| line.contains("kept as the branch"));
    named.filter_map(|line| Some(PathBuf::from(line.rsplit_once(", in ")?.1.split(' ').next()?))).collect()
}

/// Between a fifth of a second and two. `SEED` repeats the times of a run.
fn a_while() {
    static STATE: LazyLock<Mutex<u64>> = LazyLock::new(|| {
        let given = std::env::var("SEED").ok().map(|seed| seed.parse().expect("SEED is a number"));
        let seed = given.unwrap_or_else(|| RandomState::new().hash_one(()));
        println!("SEED={seed}");
        Mutex::new(seed)
    });
    let mut state = STATE.lock().unwrap();
    // Knuth's MMIX generator; its high bits are the good ones.
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    std::thread::sleep(Duration::from_millis(200 + (*state >> 33) % 1800));
}

/// How often each misfortune happens: `ROUNDS`.
fn rounds() -> usize {
    std::env::var("ROUNDS").map_or(3, |rounds| rounds.parse().expect("ROUNDS is a number"))
}

#[test]
#[ignore = "needs root and Docker: run with --ignored"]
fn nothing_is_lost_when_a_volume_moves_five_times_under_writes() {
    if !can_run(&PROGRAMS, &[]) {
        return;
    }
    let mut site = Site::start();
    site.serve(&[ledger::CUT]);
    let mut node = site.writes_on(|_| true, Duration::ZERO).node;
    site.stays_while_its_volume_lags(&node);
    for turn in 1..=5 {
        a_while();
        let began = now();
        // Three times because its node is drained, twice because somebody wants it.
        if turn <= 3 {
            site.swarmctl(&["drain", &node, "--plugins", &site.plugins()]);
            site.swarmctl(&["node", "activate", &node]);
        } else {
            site.swarmctl(&["move", "ledger", "--to", other_home(&node), "--plugins", &site.plugins()]);
        }
        let after = site.writes_on(|it| it != node, began);
        let acks = site.acks();
        let downtime = ledger::downtime(&acks, began, after.at);
        println!(
            "move {turn}: {node} -> {}, {} ms without a write, {} so far",
            after.node,
            downtime.as_millis(),
            acks.len()
        );
        node = after.node;
    }
    a_while();
    site.stop();
    let acks = site.acks();
    let found = site.settled(acks.last().expect("there are some"));
    assert_eq!(found.lacks(&acks), Vec::<&Ack>::new());
    assert!(acks.len() > 50, "{} writes only", acks.len());
    println!("{} acknowledged writes, all on both homes", acks.len());
    // A start that the engine failed to make costs one, too.
    let tasks = site.cluster.docker(&["service", "ps", "ledger", "--format", "{{.CurrentState}}"]);
    let failed = tasks.lines().filter(|state| state.starts_with("Failed") || state.starts_with("Rejected"));
    let starts = (6 + failed.count()).to_string();
    assert_eq!(
        site.lease_of("ledger", "epoch"),
        starts,
        "a move, or the end of one, started the service more than once:\n{tasks}"
    );
    for (node, now, most) in site.memory() {
        println!("memory of the driver on {node}: {now:.1} MiB, at most {most:.1} MiB");
    }
}

/// Takeover when the holder's node has been down for four seconds; the holder itself stops after two.
const TAKEOVER: [&str; 3] = [ledger::CUT, "takeover=newest-replica", "takeover-after=4s"];

#[test]
#[ignore = "needs root and Docker: run with --ignored"]
fn a_node_that_is_killed_or_cut_off_is_taken_over_and_what_is_missing_is_stated() {
    if !can_run(&PROGRAMS, &[]) {
        return;
    }
    let mut site = Site::start();
    site.serve(&TAKEOVER);
    // Nobody goes on from a replica to which nothing has come, and that may take until the service pauses.
    site.writes_on(|_| true, Duration::ZERO);
    site.stop();
    site.cluster.docker(&["service", "scale", "-d", "ledger=1"]);
    let mut accounted = Duration::ZERO;
    for round in 1..=rounds() {
        println!("round {round}");
        kill_and_revive(&mut site, accounted);
        accounted = now();
        site.cluster.docker(&["service", "scale", "-d", "ledger=1"]);
        cut_off_and_mend(&site, accounted);
        accounted = now();
        site.cluster.docker(&["service", "scale", "-d", "ledger=1"]);
    }
}

fn kill_and_revive(site: &mut Site, accounted: Duration) {
    site.serve_plain();
    let node = site.writes_on(|_| true, now()).node;
    a_while();
    let other = other_home(&node);
    let (began, logged, there) = (now(), site.log(other).len(), branches(&site.log(&node)));
    site.kill(&node);
    let (_, plain) = site.moved("plain", &node);
    let after = site.writes_on(|it| it != node, began);
    let acks = site.acks();
    let first = acks.iter().find(|ack| ack.at >= began && ack.node != node).expect("it writes");
    println!(
        "  killed {node}: {} writes after {} ms, a service without a volume ran there after {} ms",
        after.node,
        (first.at - began).as_millis(),
        plain.saturating_sub(began).as_millis()
    );
    site.cluster.docker(&["service", "rm", "plain"]);
    a_while();
    site.revive(&node);
    site.cluster.until_node(&node, "Ready");
    site.account_for(&node, other, logged, &there, accounted);
}

fn cut_off_and_mend(site: &Site, accounted: Duration) {
    let node = site.writes_on(|_| true, now()).node;
    a_while();
    let other = other_home(&node);
    let (began, logged, there) = (now(), site.log(other).len(), branches(&site.log(&node)));
    site.cluster.cut(&node);
    let after = site.writes_on(|it| it != node, began);
    let acks = site.acks();
    let last = acks.iter().rfind(|ack| ack.node == node).expect("it wrote");
    let first = acks.iter().find(|ack| ack.at >= began && ack.node != node).expect("it writes");
    println!(
        "  cut {node} off: it wrote for {} ms more, {} writes after {} ms",
        last.at.saturating_sub(began).as_millis(),
        after.node,
        (first.at - began).as_millis()
    );
    assert!(last.at < first.at, "two wrote at once: {last:?} {first:?}");
    a_while();
    site.cluster.mend(&node);
    site.cluster.until_node(&node, "Ready");
    site.account_for(&node, other, logged, &there, accounted);
}

#[test]
#[ignore = "needs root and Docker: run with --ignored"]
fn a_volume_is_replicated_shared_and_forced_as_its_options_say() {
    if !can_run(&PROGRAMS, &[]) {
        return;
    }
    let mut site = Site::start();
    three_replicas_are_waited_for(&mut site);
    a_shared_volume_is_written_on_two_nodes(&site);
    a_doubtful_replica_is_taken_over_by_force_only(&mut site);
}

/// Files that change one by one are in no state that is known to be consistent, nor is a database of which it was said that it is
/// only once it is stopped; and from a volume of which nothing has come nobody starts either.
fn a_doubtful_replica_is_taken_over_by_force_only(site: &mut Site) {
    let database = Connection::open(site.acks.path().join("seed.db")).unwrap();
    database.execute_batch("CREATE TABLE one (number INTEGER)").unwrap();
    drop(database);
    let loose = volume_mount("loose", &[&TAKEOVER[1..], &["stopped=app.db"]].concat());
    let blank = volume_mount("blank", &TAKEOVER[1..]).replace("/data", "/blank");
    let beat = "cat /acks/seed.db > /data/app.db; while :; do echo $NODE >> /data/log; echo $NODE > /acks/loose; sleep 0.02; done";
    let environment = ["-e", "NODE={{.Node.Hostname}}", "-e", "PATH=/usr/bin", "--stop-grace-period", "0s"];
    let options = [&environment[..], &["--mount", &loose, "--mount", &blank]].concat();
    site.create("loose", &options, &["/bin/sh", "-c", beat]);
    let at = site.acks.path().join("loose");
    let writer = |wanted: &dyn Fn(&str) -> bool| {
        until("a node to write", || {
            let node = fs::read_to_string(&at).ok()?.trim().to_owned();
            (!node.is_empty() && wanted(&node)).then_some(node)
        })
    };
    let node = writer(&|_| true);
    let other = other_home(&node);
    until("a replica", || {
        let has = |file| site.data(other, "loose").join(file).exists();
        (has("app.db") && has("log")).then_some(())
    });
    site.kill(&node);
    let root = site.root(other).display().to_string();
    let mut doubted = BTreeMap::from([("loose", "app.db"), ("blank", "nothing of it has come here")]);
    until("the refusals, with their remedy", || {
        let errors = site.cluster.docker(&["service", "ps", "loose", "--no-trunc", "--format", "{{.Error}}"]);
        doubted.retain(|volume, doubt| {
            let force = format!("volumed force ROOT {volume}` on {other}");
            let Some(refusal) = errors.lines().find(|line| line.contains(&force)) else { return true };
            assert!(refusal.contains(*doubt), "{refusal}");
            expect_status(&run("volumed", &["force", &root, volume]), 0);
            false
        });
        doubted.is_empty().then_some(())
    });
    writer(&|it| it == other);
    assert_eq!(site.log(other).matches("taken over by force").count(), 2);
    assert!(!site.root(other).join("volumes/loose/force").exists(), "the force was for one takeover");
    println!("doubtful replicas were refused until they were forced");
    site.revive(&node);
    site.cluster.until_node(&node, "Ready");
    site.cluster.docker(&["service", "rm", "loose"]);
    site.until_free("loose");
}

/// A lease is not released before as many nodes as were asked for have everything. What a hook dumps into the volume gets to all of
/// them, as it was between its two commands.
fn three_replicas_are_waited_for(site: &mut Site) {
    let dump = hook(site);
    let before = format!("hook-before={dump} thrice");
    let options = ["replicas=3", "hook=dump", &before, "hook-after=/bin/rm dump", "hook-every=1s"];
    let volume = volume_mount("thrice", &options);
    let beat = "echo kept > /data/note; echo $NODE > /acks/thrice; exec /usr/bin/sleep 600";
    let options = ["-e", "NODE={{.Node.Hostname}}", "--stop-grace-period", "0s", "--mount", &volume];
    site.create("thrice", &options, &["/bin/sh", "-c", beat]);
    let at = site.acks.path().join("thrice");
    let node = until("the note", || {
        Some(fs::read_to_string(&at).ok()?.trim().to_owned()).filter(|it| !it.is_empty())
    });
    let other = other_home(&node);
    let dump = |node: &str| fs::read_to_string(site.data(node, "thrice").join("dump")).ok();
    until("the dump on both others", || {
        ["vm", other].iter().all(|it| dump(it).is_some_and(|it| it == "kept\n")).then_some(())
    });
    until("the end of the dump where it was made", || dump(&node).is_none().then_some(()));
    println!("a dump, made in the container, was cut between two commands");
    site.kill_driver(other);
    site.cluster.docker(&["service", "scale", "-d", "thrice=0"]);
    until("who is waited for", || {
        let status = site.cluster.named(&node).engine.try_docker(&[
            "volume",
            "inspect",
            "-f",
            "{{.Status.state}}",
            "thrice",
        ])?;
        (status.contains("replicating") && status.contains(other)).then_some(())
    });
    assert_eq!(site.lease_of("thrice", "holder"), node);
    site.start_driver(other);
    site.until_free("thrice");
    assert_eq!(site.lease_of("thrice", "replicas"), "home-1,home-2,vm");
    println!("three replicas were waited for");
    site.cluster.docker(&["service", "rm", "thrice"]);
}

/// A program of the host that makes a dump inside the container that uses a volume. It runs in the volume's directory, from which
/// the way to the socket of the node's engine is the same on all of them.
fn hook(site: &Site) -> String {
    let path = site.acks.path().join("dump");
    let script = "#!/bin/sh -e\n\
                  docker=\"docker -H unix://$PWD/../../../../docker.sock\"\n\
                  exec $docker exec \"$($docker ps -q -f volume=$1)\" /usr/bin/cp /data/note /data/dump\n";
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path.display().to_string()
}

fn a_shared_volume_is_written_on_two_nodes(site: &Site) {
    let volume = volume_mount("shared", &["access=shared"]);
    let options = ["--mode", "global", "--stop-grace-period", "0s", "--mount", &volume];
    site.create("shared", &options, &["/bin/sh", "-c", "exec /usr/bin/sleep 600"]);
    let container = |home: &str| {
        until("a container", || {
            let ids = site.cluster.named(home).docker(&[
                "ps",
                "-q",
                "-f",
                "label=com.docker.swarm.service.name=shared",
            ]);
            (!ids.is_empty()).then_some(ids)
        })
    };
    let write = |home: &str, file: &str| {
        let line = format!("echo {home} > /data/{file}");
        site.cluster.named(home).docker(&["exec", &container(home), "/bin/sh", "-c", &line]);
    };
    let files = |home: &str| -> BTreeMap<String, String> {
        let entries = fs::read_dir(site.data(home, "shared")).into_iter().flatten().flatten();
        entries
            .filter_map(|it| Some((it.file_name().into_string().ok()?, fs::read_to_string(it.path()).ok()?)))
            .collect()
    };
    for home in HOMES {
        write(home, home);
    }
    until("what each wrote on both", || {
        HOMES.iter().all(|home| HOMES.iter().all(|it| files(home).contains_key(*it))).then_some(())
    });
    site.cluster.cut("home-1");
    for home in HOMES {
        write(home, "same");
    }
    site.cluster.mend("home-1");
    let settled = until("both versions on both", || {
        let [one, two] = HOMES.map(files);
        let versions: Vec<&String> =
            one.iter().filter(|(name, _)| name.starts_with("same")).map(|it| it.1).collect();
        let both = HOMES.iter().all(|home| versions.iter().any(|it| it.trim() == *home));
        (one == two && both).then_some(one)
    });
    println!("a shared volume, written on two nodes at once: {:?}", settled.keys().collect::<Vec<_>>());
    site.cluster.docker(&["service", "rm", "shared"]);
}

/// The managers, and whether each leads, once a majority says so.
fn managers(site: &Site, from: &str) -> Vec<(String, bool)> {
    let template = "{{.Hostname}} {{.ManagerStatus}}";
    until("three managers that reach each other", || {
        let said = site.cluster.named(from).engine.try_docker(&["node", "ls", "--format", template])?;
        let managers: Vec<(String, bool)> = said
            .lines()
            .filter_map(|line| line.split_once(' '))
            .filter(|(_, status)| matches!(*status, "Leader" | "Reachable"))
            .map(|(name, status)| (name.to_owned(), status == "Leader"))
            .collect();
        (managers.len() == 3).then_some(managers)
    })
}

#[test]
#[ignore = "needs root and Docker: run with --ignored"]
fn nothing_is_lost_when_the_leading_manager_dies_during_a_move() {
    if !can_run(&PROGRAMS, &[]) {
        return;
    }
    let mut site = Site::start();
    site.cluster.docker(&["node", "promote", "home-1", "home-2"]);
    site.serve(&[ledger::CUT]);
    for round in 1..=rounds() {
        let leader = managers(&site, "vm").into_iter().find(|it| it.1).expect("one leads").0;
        let node = site.writes_on(|_| true, now()).node;
        a_while();
        let mut began = now();
        site.cluster.docker(&["node", "update", "--availability", "drain", &node]);
        a_while();
        site.kill(&leader);
        if leader != "vm" {
            // It has the volume, or is to have it, which waits for it.
            a_while();
            site.revive(&leader);
            managers(&site, "vm");
            began = now();
        }
        let after = site.writes_on(|it| leader != "vm" || it != node, began);
        let downtime = ledger::downtime(&site.acks(), began, after.at);
        println!(
            "round {round}: moved {node} -> {} while {leader} died, which led: {} ms without a write",
            after.node,
            downtime.as_millis()
        );
        a_while();
        if leader == "vm" {
            site.revive("vm");
        }
        managers(&site, "vm");
        site.cluster.docker(&["node", "update", "--availability", "active", &node]);
    }
    site.stop();
    let acks = site.acks();
    let found = site.settled(acks.last().expect("there are some"));
    assert_eq!(found.lacks(&acks), Vec::<&Ack>::new());
    println!("{} acknowledged writes, all on both homes", acks.len());
}
