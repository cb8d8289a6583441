//! `sync_race`: `syncd` against Syncthing and rsync on this machine, in one run, over the same trees. Prints ours, theirs,
//! the ratio and the goal. `benches/README.md` says how it measures.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, clippy::unwrap_used)]

mod cases;
mod database;
mod ground;
mod machine;
mod replica;
mod table;
mod tools;

use std::path::PathBuf;

use cases::{CASES, Race, Sizes};
use clap::Parser;
use table::Table;

/// syncd against Syncthing and rsync
#[derive(Parser)]
struct Options {
    /// Where the folders are made; the filesystem that is measured
    #[arg(long, default_value = "/var/tmp", value_name = "DIR")]
    dir: PathBuf,
    /// Run only these cases: small, large, database, unleased, edit, rename, rescan, idle
    #[arg(long, value_delimiter = ',', value_name = "CASE,..")]
    case: Vec<String>,
    /// Run only these tools: ours, syncthing, rsync
    #[arg(long, value_delimiter = ',', value_name = "TOOL,..")]
    tool: Vec<String>,
    /// How often each case is run; medians are printed
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Small sizes: does everything still run?
    #[arg(long)]
    smoke: bool,
    /// How many files the large folder of `idle` has [default: 1000000]
    #[arg(long)]
    many: Option<usize>,
    /// The daemon [default: beside this program]
    #[arg(long, value_name = "PATH")]
    syncd: Option<PathBuf>,
    /// Be one replica of a live database
    #[arg(long, hide = true, value_name = "DIR")]
    replica: Option<PathBuf>,
    #[arg(long, hide = true)]
    dial: Option<String>,
    #[arg(long, hide = true)]
    leased: bool,
}

fn main() {
    let options = Options::parse();
    if let Some(dir) = &options.replica {
        return replica::run(dir, options.dial.as_deref(), options.leased);
    }
    machine::install(&["syncthing", "rsync"]);
    if !machine::own_loopback() {
        println!("not root: loopback is shared, so bytes on the wire include what others send");
    }
    let beside = std::env::current_exe().expect("this program has a path").with_file_name("syncd");
    let syncd = options.syncd.unwrap_or(beside);
    assert!(syncd.is_file(), "no {}: build it with the same profile first", syncd.display());
    let place = tempfile::Builder::new().prefix("sync-race-").tempdir_in(&options.dir);
    let place = place.expect("--dir is a directory that can be written to");
    let mut sizes = if options.smoke { Sizes::SMOKE } else { Sizes::FULL };
    sizes.many_files = options.many.unwrap_or(sizes.many_files);
    let race = Race { syncd, dir: place.path().to_owned(), sizes };
    let chosen = |names: &[String], name: &str| names.is_empty() || names.iter().any(|one| one == name);
    let mut table = Table::default();
    for (name, tools, run) in CASES.iter().filter(|case| chosen(&options.case, case.0)) {
        // Interleaved, so that what disturbs the machine for a while disturbs all of them.
        for round in 0..options.rounds {
            for tool in tools.iter().filter(|tool| chosen(&options.tool, tool.name())) {
                let ground = race.ground(name, *tool, round);
                let figures = run(&race, *tool, &ground);
                Race::clear(name, &ground);
                let said: Vec<_> = figures.iter().map(|(what, value)| format!("{what} {value:.2}")).collect();
                println!("{name} {round} {}: {}", tool.name(), said.join(", "));
                table.add(*tool, figures);
            }
        }
    }
    println!("\n{table}");
}
