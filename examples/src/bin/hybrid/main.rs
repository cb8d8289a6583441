//! `hybrid`: hybrid self-hosting in one program. It reads the command line and calls the four crates.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]
// A binary exports nothing: `pub` says what a module offers to its siblings.
#![allow(unreachable_pub)]

mod demo;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use hybrid_examples::daemon::{self, Logging};

#[derive(Parser)]
#[command(
    name = "hybrid",
    version,
    about = "Your data and services at home, a small rented VM in front",
    after_help = "Examples:\n  hybrid demo           play the whole story on this machine and stay up to look around\n  \
                  hybrid demo --once    play it, check every step, exit 0 if all held, 1 if not"
)]
struct Cli {
    #[command(flatten)]
    logging: Logging,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Play the hybrid-hosting story on this machine: no root, no Docker, nothing but loopback
    Demo(demo::Options),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    daemon::run("hybrid", &cli.logging, async {
        match cli.verb {
            Verb::Demo(options) => demo::run(&options).await,
        }
    })
}
