//! `syncd serve`: the daemon.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use hybrid_examples::control::ControlSocket;
use hybrid_examples::daemon::{self, Context, Failure, SHUTDOWN_LIMIT, StopSignal};
use hybrid_examples::sync_control;
use hybrid_examples::sync_link;
use hybrid_examples::sync_metrics;
use hybrid_examples::sync_node::Node;
use hybrid_examples::sync_settings::{ServeFlags, SyncSettings};
use tokio::net::TcpListener;

#[derive(Args)]
pub struct Options {
    /// An initialised directory; or several, as `[[folder]]` tables of the TOML file
    #[arg(required_unless_present = "config")]
    dir: Option<PathBuf>,
    /// Read the settings from a TOML file; a flag wins over the file's key of the same name
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    flags: Box<ServeFlags>,
}

pub async fn run(Options { dir, config, flags }: Options) -> Result<(), Failure> {
    let settings = SyncSettings::new(dir, *flags, config.as_deref())?;
    let mut stop = StopSignal::install()?;
    let (listen, metrics, file) = (settings.listen, settings.metrics, settings.file.clone());
    let node = Arc::new(Node::new(settings).await?);
    let mut tasks = tokio::task::JoinSet::new();
    let mut facts = Vec::new();
    let mut unbound = None;
    // Before the folders are open, so that one which takes long can be asked how far it is.
    for (place, share) in node.folders().iter().enumerate() {
        match ControlSocket::bind(&sync_control::path(&share.served.config.root)) {
            Ok(control) => {
                facts.push(("control", control.path().display().to_string()));
                let node = Arc::clone(&node);
                tasks.spawn(control.serve(move |ask| sync_control::answer(Arc::clone(&node), place, ask)));
            }
            // What is wrong with the folder itself says more.
            Err(error) => unbound = Some(error),
        }
    }
    let _metrics = match metrics {
        None => None,
        Some(address) => {
            let (server, bound) = sync_metrics::serve(Arc::clone(&node), address).await?;
            facts.push(("metrics", bound.to_string()));
            Some(server)
        }
    };
    tokio::select! {
        opened = node.open() => opened?,
        // As after a crash: the next start goes on from what the index has.
        () = stop.wait() => return Ok(()),
    }
    if let Some(error) = unbound {
        return Err(error.into());
    }
    let taken = format!("cannot listen on {listen}: give another --listen, or stop what uses this one");
    let listener = TcpListener::bind(listen).await.context(taken)?;
    let address = listener.local_addr().context("the listener has no address")?;
    for (place, share) in node.folders().iter().enumerate() {
        sync_control::leave_word(&share.served.config.root, file.as_deref())?;
        let node = Arc::clone(&node);
        tasks.spawn(async move { node.follow(place).await });
    }
    facts.splice(..0, [("sync", address.to_string()), ("device", node.device().to_string())]);
    daemon::announce(&facts)?;
    let door = Arc::clone(&node);
    tasks.spawn(async move {
        let error = sync_link::accept(listener, |stream| Arc::clone(&door).admit(stream)).await;
        tracing::error!(%error, "the listener failed: nobody can dial this device any more");
    });
    tasks.spawn(Arc::clone(&node).take_rates());
    for pair in node.to_dial() {
        tasks.spawn(Arc::clone(&node).dial(pair));
    }
    stop.wait().await;
    tasks.shutdown().await;
    if tokio::time::timeout(SHUTDOWN_LIMIT, node.close()).await.is_err() {
        tracing::warn!("a folder was not closed in time; the next start goes on from what is on the disk");
    }
    Ok(())
}
