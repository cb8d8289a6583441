//! Steps: what undoes one, whether one was done, what it is called.

use crate::plan::{Present, Step};
use crate::spec::ServiceSpec;

/// How what a step is about is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// The step was not done.
    Before,
    /// The step was done.
    After,
    /// Somebody else did something.
    Neither,
}

/// What undoes a step. A removal is not undone: what a secret held, nobody tells.
pub(super) fn reverse(step: &Step) -> Option<Step> {
    Some(match step {
        Step::CreateNetwork(it) => Step::RemoveNetwork(it.name.clone()),
        Step::CreateSecret(it) => Step::RemoveSecret(it.name.clone()),
        Step::CreateConfig(it) => Step::RemoveConfig(it.name.clone()),
        Step::CreateService(it) => Step::RemoveService(it.name.clone()),
        Step::UpdateService { before, after } => {
            Step::UpdateService { before: after.clone(), after: before.clone() }
        }
        Step::RemoveService(_) | Step::RemoveNetwork(_) | Step::RemoveSecret(_) | Step::RemoveConfig(_) => {
            return None;
        }
    })
}

/// Whether a step was done.
pub(super) fn found(step: &Step, present: &Present) -> Found {
    let made = |is_there: bool| if is_there { Found::After } else { Found::Before };
    let service = |name: &str| present.services.get(name);
    match step {
        Step::CreateNetwork(it) => made(present.networks.contains_key(&it.name)),
        Step::CreateSecret(it) => made(present.secrets.contains_key(&it.name)),
        Step::CreateConfig(it) => made(present.configs.contains_key(&it.name)),
        Step::CreateService(it) => match service(&it.name) {
            None => Found::Before,
            Some(there) => told_apart(there, None, it),
        },
        Step::UpdateService { before, after } => match service(&after.name) {
            None => Found::Neither,
            Some(there) => told_apart(there, Some(before), after),
        },
        Step::RemoveService(name) => made(service(name).is_none()),
        Step::RemoveNetwork(name) => made(!present.networks.contains_key(name)),
        Step::RemoveSecret(name) => made(!present.secrets.contains_key(name)),
        Step::RemoveConfig(name) => made(!present.configs.contains_key(name)),
    }
}

fn told_apart(there: &ServiceSpec, before: Option<&ServiceSpec>, after: &ServiceSpec) -> Found {
    if there == after {
        Found::After
    } else if before == Some(there) {
        Found::Before
    } else {
        Found::Neither
    }
}

/// What a step is, in a few words.
pub(super) fn title(step: &Step) -> String {
    let text = step.to_string();
    let line = text.lines().next().unwrap_or_default();
    line.split(" (").next().unwrap_or_default().to_owned()
}
