//! `hybrid demo`: the hybrid-hosting story on one machine, from the real parts.
//!
//! One file a step: [`network`] (mesh), [`site`] (service), [`edge`] (route), [`moving`] (move), [`outage`]
//! (cut, roam), [`reunion`] (conflict). Each hands over a [`report::Proof`].

mod edge;
mod line;
mod moving;
mod network;
mod node;
mod outage;
mod page;
mod report;
mod reunion;
mod site;
mod state;
mod visitor;

use std::sync::Arc;

use edge::Edge;
use hybrid_examples::daemon::{self, Context, Failure, StopSignal};
use report::Scribe;
use site::Site;
use state::StateDirectory;

/// The steps of the story, in order.
pub const STEPS: [&str; 7] = ["mesh", "service", "route", "move", "cut", "roam", "conflict"];

/// What `hybrid demo` takes.
#[derive(clap::Args)]
pub struct Options {
    /// Play the story, check every step, and end: 0 if all held, 1 if not.
    #[arg(long)]
    once: bool,
    /// Print one JSON object instead of lines for a person.
    #[arg(long)]
    json: bool,
    /// Port of the edge's HTTPS on 127.0.0.1; a free one is taken when it is busy.
    #[arg(long, default_value_t = 8443)]
    https_port: u16,
    /// Port of the edge's HTTP on 127.0.0.1; a free one is taken when it is busy.
    #[arg(long, default_value_t = 8080)]
    http_port: u16,
    /// Port of the status page on 127.0.0.1; a free one is taken when it is busy.
    #[arg(long, default_value_t = 8081)]
    page_port: u16,
}

/// Runs the demo until it is done or told to stop.
pub async fn run(options: &Options) -> Result<(), Failure> {
    let mut stop = StopSignal::install()?;
    let state = StateDirectory::create()
        .context("demo: cannot make a state directory; set TMPDIR to a directory that can be written")?;
    tokio::select! {
        played = play(options, &state) => played,
        () = stop.wait() => match options.once {
            true => Err(Failure::new("demo: stopped before the story was told")),
            false => Ok(()),
        },
    }
}

async fn play(options: &Options, state: &StateDirectory) -> Result<(), Failure> {
    let mut scribe = Scribe::new(options.json);
    let world = story(options, state, &mut scribe).await;
    let https = world.as_ref().map_or_else(String::new, |world| world.edge.url());
    let report = scribe.report(https);
    if options.json {
        daemon::print_json(&report)?;
    }
    match world {
        _ if !report.ok => Err(Failure::new("demo: the story did not hold: see the step that failed")),
        Some(world) if !options.once => {
            if !options.json {
                daemon::print(&addresses(&world.edge))?;
            }
            std::future::pending().await
        }
        _ => Ok(()),
    }
}

/// What the story leaves running.
struct World {
    edge: Arc<Edge>,
    _site: Site,
}

async fn story(options: &Options, state: &StateDirectory, scribe: &mut Scribe) -> Option<World> {
    let root = state.path();
    let network = scribe.play("mesh", network::play()).await?;
    let mut site = scribe.play("service", site::play(&network, root)).await?;
    let edge = Arc::new(scribe.play("route", edge::play(&network, &site, root, options)).await?);
    scribe.play("move", moving::play(&network, &mut site, &edge)).await?;
    scribe.play("cut", outage::cut(&network, &edge)).await?;
    scribe.play("roam", outage::roam(&network, &edge)).await?;
    scribe.play("conflict", reunion::play(&network, &site, &edge)).await?;
    Some(World { edge, _site: site })
}

fn addresses(edge: &Edge) -> String {
    let (host, port, url) = (edge::NOTES_HOST, edge.https.port(), edge.url());
    format!(
        "\nnotes    {url}   (the certificate is from the demo's own authority)\n\
         status   http://{}/\n\
         try      curl --cacert {} --resolve {host}:{port}:127.0.0.1 {url}notes\n\n\
         Ctrl-C ends it\n",
        edge.page,
        edge.authority.display()
    )
}
