//! `syncd`: one replica of a folder. Opens [`syncfs::Folder`], keeps it in sync over TCP, answers questions. Each
//! command has a file of its own.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]
// A binary exports nothing: `pub` says what a module offers to its siblings.
#![allow(unreachable_pub)]

mod branch;
mod check;
mod conflicts;
mod events;
mod history;
mod import;
mod init;
mod lease;
mod look;
mod serve;
mod status;
mod wait;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use hybrid_examples::daemon::{self, Logging};

const EXAMPLES: &str = "\
Examples:
  syncd init /srv/notes                        # once on each device; prints its ID
  syncd serve /srv/notes --listen 0.0.0.0:22000 --peer ID@home-2.example.org:22000
  syncd wait /srv/notes --peers all --timeout 30s    # everything written so far is on every peer's disk
  syncd status /srv/notes --watch              # peers, what is to come, rates, time left
  syncd history /srv/notes/letters             # what peers replaced or deleted there, if the folder keeps a history
  syncd restore /srv/notes/letters --at 2h     # as it stood two hours ago
  syncd serve --config /etc/syncd.toml         # several folders, several peers
  syncd import ~/.config/syncthing/config.xml --out syncd.toml    # what becomes of Syncthing's settings

Devices prove their IDs by their keys, and streams are encrypted (TLS 1.3): any network will do.";

/// A replica of a folder
#[derive(Parser)]
#[command(name = "syncd", version, after_help = EXAMPLES)]
struct Cli {
    #[command(flatten)]
    logging: Logging,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make a directory a replica and print its device ID; a second time only prints it
    Init(init::Options),
    /// Print a replica's device ID
    Id(init::Id),
    /// Keep replicas in sync until Ctrl-C or SIGTERM
    Serve(serve::Options),
    /// Show a replica, its peers and its problems
    Status(status::Options),
    /// Wait until peers have everything written so far, durably
    Wait(wait::Options),
    /// Take up what stands in a directory now, and print the barrier's token
    Flush(look::Options),
    /// Say that nothing has a directory open any more, and print the barrier's token
    ///
    /// What stands there then is known to be consistent, and so it is on every peer that has it.
    Seal(look::Options),
    /// Look through a whole directory now
    Scan(look::Options),
    /// Read every file anew, and find what changed although nothing wrote it
    Check(check::Options),
    /// Say that the files which vanished at once were meant to be deleted
    ConfirmDeletions(look::Options),
    /// Say that no other replica remembers more than this one, which waits for one that does
    ///
    /// For a replica whose index was lost or is older than what its peers know, when all of them are so, or none is left. What
    /// stands here becomes its own then. What a replica that does remember has deleted may come back.
    RejoinAlone(look::Options),
    /// Print the folder's digest: equal on two replicas exactly when their folders are
    Digest(look::Options),
    /// List what differs at the peers of a folder that only sends
    Differing(look::Options),
    /// Replace what differs at the peers of a folder that only sends by what stands here
    Override(look::Options),
    /// Make a replica the one writer of its folder, under the number of a lease
    Hold(lease::Hold),
    /// Say that a replica is not the writer any more: what is edited there from now on is set aside and undone
    Follow(look::Options),
    /// Show the newest version of databases that a replica keeps as deltas while it follows a writer
    Materialise(lease::Materialise),
    /// List what is kept of files that peers replaced or deleted here
    History(history::Options),
    /// Bring kept versions back
    Restore(history::Restore),
    /// Print what happens in a replica, one JSON object a line, until Ctrl-C
    Events(events::Options),
    /// Make settings of Syncthing's config.xml, and say what becomes of each of its keys
    Import(import::Options),
    /// List versions that left the folder when their writer had no lease; compare, restore or drop them
    Branch(branch::Options),
    /// List the files that were changed on two sides at once, or say which version stays
    Conflicts(conflicts::Options),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    daemon::run_on_one("syncd", &cli.logging, async {
        match cli.command {
            Command::Init(options) => init::run(options).await,
            Command::Id(options) => init::id(options).await,
            Command::Serve(options) => serve::run(options).await,
            Command::Status(options) => status::run(options).await,
            Command::Wait(options) => wait::run(options).await,
            Command::Flush(options) => look::flush(options).await,
            Command::Seal(options) => look::seal(options).await,
            Command::Scan(options) => look::scan(options).await,
            Command::Check(options) => check::run(options).await,
            Command::ConfirmDeletions(options) => look::confirm_deletions(options).await,
            Command::RejoinAlone(options) => look::rejoin_alone(options).await,
            Command::Digest(options) => look::digest(options).await,
            Command::Differing(options) => look::differing(options).await,
            Command::Override(options) => look::override_peers(options).await,
            Command::Hold(options) => lease::hold(options).await,
            Command::Follow(options) => lease::follow(options).await,
            Command::Materialise(options) => lease::materialise(options).await,
            Command::History(options) => history::run(options).await,
            Command::Restore(options) => history::restore(options).await,
            Command::Events(options) => events::run(options).await,
            Command::Import(options) => import::run(options).await,
            Command::Branch(options) => branch::run(options).await,
            Command::Conflicts(options) => conflicts::run(options).await,
        }
    })
}
