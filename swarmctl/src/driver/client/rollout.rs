//! Plans carried out on a real Swarm: the rollout engine's loop.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::Value;
use tokio::sync::Notify;

use super::super::convert;
use super::super::json::{count, list, text};
use super::Swarm;
use super::objects::present;
use crate::error::SwarmError;
use crate::plan::{Plan, Step};
use crate::rollout::{
    ApplyError, Input, Output, Progress, Rollout, RolloutError, RolloutOptions, Seen, SeenTask, UpdateState,
    View,
};

/// How long the engine may take for one answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

impl Swarm {
    /// Carries a plan out and waits until every service of it is as it should be. If one does not get there, what was changed is
    /// put back. So it is when `cancel` is notified; a second time, and that stops, too. A future that is dropped stops where it
    /// is.
    ///
    /// # Errors
    /// Why it did not get there, and what is left.
    pub async fn deploy(
        &self,
        plan: &Plan,
        options: RolloutOptions,
        cancel: &Notify,
        progress: impl FnMut(&Progress),
    ) -> Result<(), RolloutError> {
        self.roll(Rollout::new(Instant::now(), plan, options), cancel, progress).await
    }

    /// Waits until a service, given by name or ID, is as it should be.
    ///
    /// # Errors
    /// As [`nodes`](Self::nodes); in the result, why it does not get there.
    pub async fn converged(
        &self,
        service: &str,
        options: RolloutOptions,
        cancel: &Notify,
        progress: impl FnMut(&Progress),
    ) -> Result<Result<(), RolloutError>, SwarmError> {
        let spec = self.service_spec(service).await?;
        Ok(self.roll(Rollout::watch(Instant::now(), vec![spec], options), cancel, progress).await)
    }

    async fn roll(
        &self,
        mut rollout: Rollout,
        cancel: &Notify,
        mut progress: impl FnMut(&Progress),
    ) -> Result<(), RolloutError> {
        loop {
            let mut call = None;
            while let Some(output) = rollout.poll() {
                match output {
                    Output::Progress(it) => progress(&it),
                    Output::Done(result) => return result,
                    Output::Apply(_) | Output::Look => call = Some(output),
                }
            }
            let input = match call {
                Some(Output::Apply(steps)) => Input::Applied(self.try_steps(&steps).await),
                Some(_) => Input::Seen(self.try_look().await),
                None => {
                    let deadline =
                        rollout.deadline().expect("a rollout that waits for no answer has a deadline");
                    tokio::select! {
                        () = tokio::time::sleep_until(deadline.into()) => Input::Tick,
                        () = cancel.notified() => Input::Cancel,
                    }
                }
            };
            rollout.handle(Instant::now(), input);
        }
    }

    pub(super) async fn try_steps(&self, steps: &[Step]) -> Vec<Result<(), ApplyError>> {
        join_all(steps.iter().map(|step| self.try_step(step))).await
    }

    async fn try_step(&self, step: &Step) -> Result<(), ApplyError> {
        match in_time(self.apply(step)).await.map_err(ApplyError::Unsure)? {
            Ok(()) => Ok(()),
            Err(SwarmError::NotFound { .. }) if step.is_removal() => Ok(()),
            Err(error @ SwarmError::InUse { .. }) => Err(ApplyError::Busy(error.to_string())),
            Err(
                error @ (SwarmError::Unreachable { .. }
                | SwarmError::NoLeader
                | SwarmError::Unavailable { .. }
                | SwarmError::Contended { .. }
                | SwarmError::Engine { status: 500.., .. }),
            ) => Err(ApplyError::Unsure(error.to_string())),
            Err(error) => Err(ApplyError::Refused(error.to_string())),
        }
    }

    pub(super) async fn try_look(&self) -> Result<Box<View>, String> {
        let view = in_time(self.view()).await?;
        view.map(Box::new).map_err(|error| error.to_string())
    }

    /// Everything that there is, and how it is: what a rollout and maintenance have to know about.
    ///
    /// # Errors
    /// As [`nodes`](Self::nodes).
    pub async fn view(&self) -> Result<View, SwarmError> {
        let (services, networks, secrets, configs, tasks, nodes) = tokio::try_join!(
            self.ask("/services"),
            self.ask("/networks"),
            self.ask("/secrets"),
            self.ask("/configs"),
            self.ask("/tasks"),
            self.nodes()
        )?;
        Ok(View {
            present: present(&services, &networks, &secrets, &configs)?,
            nodes,
            services: seen(&services, &tasks)?,
        })
    }
}

async fn in_time<T>(answer: impl Future<Output = T>) -> Result<T, String> {
    let answer = tokio::time::timeout(ANSWER_LIMIT, answer).await;
    answer.map_err(|_| format!("the Docker engine has not answered for {} s", ANSWER_LIMIT.as_secs()))
}

/// How services are, by name.
fn seen(services: &Value, tasks: &Value) -> Result<BTreeMap<String, Seen>, SwarmError> {
    let mut seen = BTreeMap::new();
    let mut by_id = BTreeMap::new();
    for service in list(services) {
        let (Some(id), Some(name)) = (text(&service["ID"]), text(&service["Spec"]["Name"])) else { continue };
        let iteration = count(&service["JobStatus"]["JobIteration"]["Index"]);
        let update = update_state(&service["UpdateStatus"]);
        seen.insert(name.clone(), Seen { update, iteration, tasks: Vec::new() });
        by_id.insert(id, (name, made_from(&service["Spec"]["TaskTemplate"])));
    }
    for task in list(tasks) {
        let read = convert::task(task)?;
        let Some((name, template)) = by_id.get(&read.service) else { continue };
        let it = SeenTask {
            task: read,
            is_current: made_from(&task["Spec"]) == *template,
            iteration: count(&task["JobIteration"]["Index"]),
        };
        seen.entry(name.clone()).or_default().tasks.push(it);
    }
    Ok(seen)
}

/// What a task is made from, without what can change and leave it as it is.
fn made_from(template: &Value) -> Value {
    let mut template = template.clone();
    if let Some(template) = template.as_object_mut() {
        // A service says `container`, and its tasks leave it out.
        template.remove("Runtime");
        template.remove("Placement");
    }
    template
}

fn update_state(status: &Value) -> Option<UpdateState> {
    let said = text(&status["Message"]).unwrap_or_default();
    Some(match status["State"].as_str()? {
        "updating" => UpdateState::Updating,
        "completed" => UpdateState::Completed,
        "paused" | "rollback_paused" => UpdateState::Paused(said),
        "rollback_started" => UpdateState::RollingBack(said),
        "rollback_completed" => UpdateState::RolledBack(said),
        _ => return None,
    })
}
