//! Groups: whatever fails, a replica shows all of a cut or all of the one before, also right after a power cut.

use std::collections::BTreeMap;

use syncfs::disk::{Act, Disk, Fault};
use syncfs::engine::Input;
use syncfs::index::Index;
use syncfs::{Consistency, CutBy, CutRule, RelPath};

use crate::invariants;
use crate::ledger::{Text, name_of};
use crate::rng::Rng;
use crate::world::{Climate, World};

const DIRS: [&str; 2] = ["g", "g/d"];
const MEMBERS: [&str; 5] = ["g/a", "g/b", "g/d/c", "g/d/e", "h"];

/// Of which version each file of the group is that stands.
type State = BTreeMap<&'static str, u64>;

fn path(text: &str) -> RelPath {
    RelPath::new(text).unwrap()
}

fn rules() -> [CutRule; 1] {
    [CutRule::new(vec![path("g"), path("h")], CutBy::Live)]
}

/// What the writer's program does: one thing after the other, also while its replica looks.
struct Program {
    version: u64,
    texts: BTreeMap<&'static str, Text>,
    /// All that ever stood there.
    states: Vec<State>,
    /// Members that have a name elsewhere, of which the replica knows.
    linked: Vec<&'static str>,
}

impl Program {
    fn state(&self) -> &State {
        self.states.last().unwrap()
    }

    /// The next version of the group: each file is of it, or not there. At once, or while the replica looks.
    fn write(&mut self, world: &mut World) {
        self.version += 1;
        let version = self.version;
        let disk = world.replicas[0].disk.clone();
        let is_slow = world.rng.chance(75);
        let gap = [2, 4, 10, 60][world.rng.below(4) as usize];
        let mut acts: Vec<_> = DIRS.iter().map(|dir| Act::Make { path: path(dir) }).collect();
        if version % 5 == 4 {
            acts.insert(0, Act::Remove { path: path("g/d") });
            let mut state = self.state().clone();
            state.retain(|member, _| !member.starts_with("g/d/"));
            self.reach(state);
        }
        for (number, member) in MEMBERS.into_iter().enumerate() {
            let (path, mut state) = (path(member), self.state().clone());
            let old = self.texts.remove(member);
            world.ledger.superseded.extend(old);
            // All but the first come and go from one version to the next.
            if number > 0 && (version >> number) % 4 == 3 {
                acts.push(Act::Remove { path });
                state.remove(member);
                self.reach(state);
                continue;
            }
            let mut text = format!("{version}:{member}:").into_bytes();
            // Together more than one message holds.
            if version.is_multiple_of(4) {
                text.resize(100_000, 0);
                let mut hash = blake3::Hasher::new().update(&text).finalize_xof();
                hash.fill(&mut text[100..]);
            }
            world.ledger.wrote(text.clone());
            self.texts.insert(member, text.clone());
            let is_linked = self.state().contains_key(member) && self.linked.contains(&member);
            acts.push(match is_linked && world.rng.chance(70) {
                true => Act::Elsewhere { path, data: text },
                false => {
                    let in_place = is_linked && world.rng.chance(50) || version.is_multiple_of(2);
                    self.linked.retain(|other| *other != member || in_place);
                    Act::Edit { path, data: text, in_place }
                }
            });
            state.insert(member, version);
            self.reach(state);
        }
        for act in acts {
            disk.meanwhile(world.rng.below(gap), act);
        }
        if !is_slow {
            disk.end_programs();
        }
    }

    /// Members that do not stand have no names.
    fn reach(&mut self, state: State) {
        self.linked.retain(|member| state.contains_key(member));
        if self.state() != &state {
            self.states.push(state);
        }
    }

    /// A file gets a name elsewhere. No notification tells of it, but the next look at everything does.
    fn link(&mut self, world: &mut World) {
        let disk = world.replicas[0].disk.clone();
        disk.end_programs();
        let member = MEMBERS[world.rng.below(5) as usize];
        if disk.user_link_elsewhere(&path(member)) {
            self.linked.push(member);
        }
        look(world, false);
    }

    /// Which of the states a replica shows.
    fn shown(&self, world: &World, replica: usize) -> usize {
        let files = world.replicas[replica].disk.files();
        self.find(|member| files.get(&path(member)), replica)
    }

    /// Which of them the writer cut last.
    fn cut(&self, world: &World) -> usize {
        let text = |member: &str| {
            let entry = world.replicas[0].engine().index().entry(&path(member)).unwrap()?;
            world.ledger.written.get(&name_of(&entry.record.kind)?)
        };
        self.find(text, 0)
    }

    fn find<'a>(&self, text: impl Fn(&str) -> Option<&'a Text>, replica: usize) -> usize {
        let version = |text: &Text| {
            let text = String::from_utf8_lossy(text);
            text.split(':').next().unwrap().parse().unwrap()
        };
        let stands = |member: &'static str| Some((member, version(text(member)?)));
        let found: State = MEMBERS.into_iter().filter_map(stands).collect();
        let state = self.states.iter().position(|state| *state == found);
        state.unwrap_or_else(|| panic!("replica {replica} has parts of two cuts: {found:?}"))
    }

    /// Whether a version was being written.
    fn is_between(&self, state: usize) -> bool {
        let versions = self.states[state].values();
        versions.clone().min() != versions.max()
    }
}

/// The writer's replica looks at everything, or where it was told of changes.
fn look(world: &mut World, told: bool) {
    // Whatever it finds gone, the program took away.
    world.replicas[0].taken.gone.extend(DIRS.into_iter().chain(MEMBERS).map(path));
    let Some(noticed) = world.replicas[0].disk.take_noticed().filter(|_| told) else {
        return world.scan(0);
    };
    let now_ms = world.now_ms;
    world.run(0, |engine| {
        let paths = noticed.into_iter().chain(engine.unsettled()).collect();
        engine.handle(now_ms, Input::Touched(paths))
    });
    world.drive(0);
}

/// The writer's process ends, and another one begins.
fn begin_again(world: &mut World) {
    world.stop(0);
    world.replicas[0].disk.unwatch();
    world.start(0);
    world.replicas[0].engine.as_mut().unwrap().cut_by(&rules());
    look(world, false);
}

/// How often the power failed, how often a replica showed a newer state while the writer went on, and how many cuts are of a
/// moment in the middle of a version.
fn run(seed: u64) -> [u64; 3] {
    let mut world = World::of(
        Rng::new(seed),
        Climate { replicas: 3, faults: true, leases: true, moves: false, databases: false },
    );
    let notices = [0, 1, 3, 1000][world.rng.below(4) as usize];
    world.replicas[0].disk.set_notices(notices);
    let has_links = world.rng.chance(40);
    let writer = world.replicas[0].engine.as_mut().unwrap();
    writer.cut_by(&rules());
    writer.hold(1).unwrap();
    world.epoch = 1;
    let mut program =
        Program { version: 0, texts: BTreeMap::new(), states: vec![State::new()], linked: Vec::new() };
    let (mut seen, mut shown, mut between) = ([0; 3], 0, 0);
    for _ in 0..400 {
        world.now_ms += world.rng.below(20);
        // The program goes on while nobody else looks, too.
        let _ = world.replicas[0].disk.clone().stat(&path("h"));
        match world.rng.below(100) {
            0..4 => {
                program.write(&mut world);
                let told = world.rng.chance(50);
                look(&mut world, told);
            }
            4..8 => look(&mut world, true),
            8..12 => look(&mut world, false),
            12 if has_links => program.link(&mut world),
            12..14 => look(&mut world, true),
            14 => begin_again(&mut world),
            15..30 => (1..3).for_each(|replica| world.drive(replica)),
            30..82 => (0..15).for_each(|_| world.move_message()),
            82..92 => world.connect(),
            // Also streams of which one end is gone.
            92..98 => world.cut_a_link(),
            _ => {
                let victim = 1 + world.rng.below(2) as usize;
                world.replicas[victim].disk.fail(1 + world.rng.below(20), Fault::Power);
            }
        }
        let state = program.cut(&world);
        between += u64::from(state > seen[0] && program.is_between(state));
        seen[0] = state;
        for (replica, seen) in seen.iter_mut().enumerate().skip(1) {
            let state = program.shown(&world, replica);
            assert!(state >= *seen, "replica {replica} goes back from {seen} to {state}");
            shown += u64::from(state > *seen);
            *seen = state;
        }
    }
    world.replicas[0].disk.end_programs();
    look(&mut world, true);
    world.calm();
    for replica in 0..3 {
        assert_eq!(program.shown(&world, replica), program.states.len() - 1, "replica {replica}");
        let engine = world.replicas[replica].engine.as_ref().unwrap();
        assert_eq!(engine.consistency(), Consistency::Known, "replica {replica}");
    }
    invariants::at_rest(&mut world);
    [world.crashes, shown, between]
}

#[test]
fn a_replica_shows_all_of_a_cut_or_all_of_the_one_before() {
    let number = |name| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let only = number("SEED");
    let (first, count) = (only.unwrap_or(0), number("SEEDS").unwrap_or(only.map_or(60, |_| 1)));
    let seeds = first..first + count;
    let mut sums = [0; 3];
    for seed in seeds {
        let result = std::panic::catch_unwind(|| run(seed));
        let counts = result.unwrap_or_else(|_| panic!("groups: replay with SEED={seed}"));
        sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
    }
    let [crashes, shown, between] = sums;
    println!("groups: {crashes} crashes, {shown} states shown, {between} cuts in the middle of a version");
    let enough = crashes > 100 && shown > 40 && between > 20;
    assert!(only.is_some() || enough, "the simulation exercises too little");
}
