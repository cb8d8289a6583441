//! Services moved on a real Swarm: the maintenance engine's loop.

use std::future::Future;
use std::path::PathBuf;
use std::time::Instant;

use serde_json::json;
use tokio::sync::Notify;

use super::super::http::{Http, HttpError};
use super::super::json::text;
use super::{NodeChange, Swarm};
use crate::cluster::Availability;
use crate::error::SwarmError;
use crate::maintenance::{
    Handover, Input, Maintenance, MaintenanceError, MaintenanceOptions, Output, Progress, Work, broken_off,
};
use crate::rollout;

/// Knows whether a volume can move.
pub trait Gate: Sync {
    /// Whether the replicas of a volume have everything that its next node needs. If not, who lags and by how much, in words
    /// that follow "waits for".
    fn holds(&self, handover: &Handover) -> impl Future<Output = Result<(), String>> + Send;
}

/// For volumes that wait by themselves when they are mounted.
#[derive(Debug, Clone, Copy)]
pub struct NoGate;

impl Gate for NoGate {
    async fn holds(&self, _: &Handover) -> Result<(), String> {
        Ok(())
    }
}

/// Asks the volume driver of this machine, which asks the one of the node that has the volume.
#[derive(Debug, Clone)]
pub struct DriverGate {
    directory: PathBuf,
}

impl DriverGate {
    /// Whose socket is in `directory`, which is where engines look for plugins ([`PLUGIN_DIRECTORY`](super::super::PLUGIN_DIRECTORY)).
    #[must_use]
    pub fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// Whether a driver of this name has a socket here.
    #[must_use]
    pub fn knows(&self, driver: &str) -> bool {
        self.socket(driver).exists()
    }

    fn socket(&self, driver: &str) -> PathBuf {
        self.directory.join(format!("{driver}.sock"))
    }
}

impl Gate for DriverGate {
    async fn holds(&self, handover: &Handover) -> Result<(), String> {
        let Handover { volume, driver, from, to } = handover;
        let question = json!({"Name": volume, "From": from, "To": to});
        let answer = match Http::to_plugin(self.socket(driver)).post("/VolumeDriver.Lag", &question).await {
            Ok(answer) => answer,
            Err(HttpError::Refused { message, .. }) => return Err(format!("its driver: {message}")),
            Err(HttpError::Broken(error)) => return Err(format!("its driver {driver}: {error}")),
        };
        match ["Err", "Lag"].map(|key| text(&answer[key]).unwrap_or_default()) {
            [error, _] if !error.is_empty() => Err(format!("its driver: {error}")),
            [_, lag] if !lag.is_empty() => Err(lag),
            _ => Ok(()),
        }
    }
}

/// What is told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MaintenanceProgress {
    /// Of the work.
    Work(Progress),
    /// Of the service that moves.
    Service(rollout::Progress),
}

impl std::fmt::Display for MaintenanceProgress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Work(progress) => progress.fmt(f),
            Self::Service(progress) => progress.fmt(f),
        }
    }
}

impl Swarm {
    /// Does work that [`drain`](crate::maintenance::drain), [`relocate`](crate::maintenance::relocate) or
    /// [`rebalance`](crate::maintenance::rebalance) has found. When `cancel` is notified, the service on its way and the node are
    /// made what they were. A future that is dropped stops where it is.
    ///
    /// # Errors
    /// Why it ended early, what has moved and what has not.
    pub async fn maintain(
        &self,
        work: Work,
        options: MaintenanceOptions,
        gate: &impl Gate,
        cancel: &Notify,
        mut progress: impl FnMut(&MaintenanceProgress),
    ) -> Result<(), MaintenanceError> {
        let mut maintenance = Maintenance::new(Instant::now(), work, options);
        loop {
            let mut call = None;
            while let Some(output) = maintenance.poll() {
                match output {
                    Output::Progress(it) => progress(&MaintenanceProgress::Work(it)),
                    Output::Rollout(rollout::Output::Progress(it)) => {
                        progress(&MaintenanceProgress::Service(it));
                    }
                    Output::Done(result) => return result,
                    output => call = Some(output),
                }
            }
            let input = match call {
                Some(Output::Rollout(rollout::Output::Apply(steps))) => {
                    Input::Rollout(rollout::Input::Applied(self.try_steps(&steps).await))
                }
                Some(Output::Rollout(_)) => Input::Rollout(rollout::Input::Seen(self.try_look().await)),
                Some(Output::Availability(node, availability)) => {
                    let change = NodeChange { availability: Some(availability), ..Default::default() };
                    let changed = self.change_node(&node, &change).await;
                    Input::Changed(changed.map_err(|error| error.to_string()))
                }
                Some(Output::Gate(handover)) => tokio::select! {
                    held = gate.holds(&handover) => Input::Gate(held),
                    () = cancel.notified() => {
                        maintenance.handle(Instant::now(), Input::Cancel);
                        Input::Gate(Err("nothing any more".to_owned()))
                    }
                },
                Some(Output::Progress(_) | Output::Done(_)) | None => {
                    let deadline =
                        maintenance.deadline().expect("work that waits for no answer has a deadline");
                    tokio::select! {
                        () = tokio::time::sleep_until(deadline.into()) => Input::Tick,
                        () = cancel.notified() => Input::Cancel,
                    }
                }
            };
            maintenance.handle(Instant::now(), input);
        }
    }

    /// Gives a node tasks again. Those that it had before stay where they are: [`rebalance`](crate::maintenance::rebalance)
    /// brings some back. Moves that were broken off are brought to their end, so that nothing keeps a service from any node.
    ///
    /// # Errors
    /// As [`change_node`](Self::change_node); in the result, why a move does not get to its end.
    pub async fn activate(
        &self,
        node: &str,
        options: MaintenanceOptions,
        cancel: &Notify,
        progress: impl FnMut(&MaintenanceProgress),
    ) -> Result<Result<(), MaintenanceError>, SwarmError> {
        let change = NodeChange { availability: Some(Availability::Active), ..Default::default() };
        self.change_node(node, &change).await?;
        let work = Work { moves: broken_off(&self.view().await?), ..Work::default() };
        Ok(self.maintain(work, options, &NoGate, cancel, progress).await)
    }
}
