//! Changes that are waited for: with progress on stderr, and put back when they do not get there.

use std::time::Duration;

use clap::Args;
use hybrid_examples::daemon::{Failure, StopSignal};
use hybrid_examples::settings;
use swarmctl::plan::Plan;
use swarmctl::rollout::{Progress, RolloutOptions};
use tokio::sync::Notify;

use crate::{Session, tell};

/// How a change is waited for.
#[derive(Args)]
pub struct Waiting {
    /// Come back once everything was asked for, without a look at what becomes of services
    #[arg(long, short)]
    detach: bool,
    /// How long it may take [default: 10m]
    #[arg(long, value_parser = settings::duration, value_name = "TIME")]
    timeout: Option<Duration>,
    /// Leave what does not get there as it is, rather than put it back
    #[arg(long)]
    keep_failed: bool,
}

impl Waiting {
    fn options(&self) -> RolloutOptions {
        let mut options = RolloutOptions::default();
        options.limit = self.timeout.unwrap_or(options.limit);
        options.undo = !self.keep_failed;
        options.detach = self.detach;
        options
    }
}

/// Carries a plan out. Ctrl-C puts back what it changed; a second one stops that, too.
pub async fn deploy(session: &Session, plan: &Plan, waiting: &Waiting) -> Result<(), Failure> {
    let cancel = Notify::new();
    until_stopped(session.swarm.deploy(plan, waiting.options(), &cancel, told()), &cancel).await??;
    Ok(())
}

/// Waits until a service is as it should be.
pub async fn converge(session: &Session, service: &str, waiting: &Waiting) -> Result<(), Failure> {
    if waiting.detach {
        return Ok(());
    }
    let cancel = Notify::new();
    let converged = session.swarm.converged(service, waiting.options(), &cancel, told());
    until_stopped(converged, &cancel).await???;
    Ok(())
}

fn told() -> impl FnMut(&Progress) {
    |progress| tell(progress.to_string().trim_end())
}

/// Ctrl-C cancels the work, which goes on until it has ended.
pub async fn until_stopped<T>(work: impl Future<Output = T>, cancel: &Notify) -> Result<T, Failure> {
    let mut stop = StopSignal::install()?;
    tokio::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return Ok(done),
            () = stop.wait() => cancel.notify_one(),
        }
    }
}
