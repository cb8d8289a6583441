//! Why a task does not run, in words for a person: what is wrong, on which node, and what helps.

use crate::cluster::{Node, Task, TaskState};
use crate::placement;
use crate::spec::ServiceSpec;

/// What keeps a task from running.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// In words.
    pub words: String,
    /// How it may end.
    pub kind: TroubleKind,
}

/// How what keeps a task from running may end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TroubleKind {
    /// No node takes it. This ends by itself if another task is about to free its place.
    Unplaced,
    /// It ended, and may not if it is started again, such as when it waits for another service in this way.
    Ended,
    /// It cannot run on that node until somebody does something.
    Definite,
}

/// Why a task does not run; `None` while nothing is known to be wrong.
#[must_use]
pub fn trouble(task: &Task, service: &ServiceSpec, nodes: &[Node]) -> Option<Trouble> {
    let error = task.error.as_deref().unwrap_or_default();
    if task.state < TaskState::Running {
        let words = unplaced(error, service, nodes)?;
        return Some(Trouble { words, kind: TroubleKind::Unplaced });
    }
    if !matches!(task.state, TaskState::Failed | TaskState::Rejected | TaskState::Complete) {
        return None;
    }
    let name = task.node.as_ref().map(|id| nodes.iter().find(|it| it.id == *id).map_or(id, |it| &it.name));
    let on = name.map_or(String::new(), |node| format!(" on {node}"));
    let (words, kind) = ended(error, &on, service);
    Some(Trouble { words, kind })
}

/// The scheduler's reason, with what each node lacks.
fn unplaced(error: &str, service: &ServiceSpec, nodes: &[Node]) -> Option<String> {
    let scheduler = error.strip_prefix("no suitable node")?;
    let scheduler = scheduler.trim().trim_start_matches('(').trim_end_matches(')');
    let mut words = match scheduler {
        "" => "no node takes it".to_owned(),
        said => format!("no node takes it: {said}"),
    };
    let lacking = placement::lacking(service, nodes);
    if !lacking.is_empty() {
        words = format!("{words} ({lacking})");
    }
    let remedies = [
        ("missing plugin", "Start the volume driver there, and use it once (docker volume ls)"),
        ("port already in use", "Another task has that port: choose another one, or remove that service"),
        ("insufficient resources", "Reserve less, or free what other services reserve"),
        ("scheduling constraints", placement::LABEL_REMEDY),
    ];
    for (_, remedy) in remedies.iter().filter(|(said, _)| scheduler.contains(said)) {
        words = format!("{words}. {remedy}");
    }
    Some(words)
}

/// Why a task ended.
fn ended(error: &str, on: &str, service: &ServiceSpec) -> (String, TroubleKind) {
    let name = &service.name;
    if error.starts_with("No such image")
        || error.contains("pull access denied")
        || error.contains("manifest unknown")
    {
        let image = &service.container.image;
        let words = format!(
            "no such image: {image}{on}. Is its name right? Push it to a registry that the node reaches, or load it there \
             (docker load)"
        );
        (words, TroubleKind::Definite)
    } else if let Some((_, path)) = error.split_once("bind source path does not exist: ") {
        (
            format!("there is no {path}{on}, which it binds: make it there (mkdir -p {path})"),
            TroubleKind::Definite,
        )
    } else if error.contains("executable file not found") || error.contains("exec: ") {
        let command = error.split_once("exec: ").map_or(error, |(_, rest)| rest);
        (format!("its command is not in the image{on}: {command}"), TroubleKind::Definite)
    } else if error.contains("port is already allocated") || error.contains("address already in use") {
        (format!("the port is taken{on}: {error}"), TroubleKind::Ended)
    } else if error.contains("unhealthy container") {
        (format!("its health check fails{on} (docker service logs {name} may say why)"), TroubleKind::Ended)
    } else if error.is_empty() {
        (
            format!(
                "it ended by itself{on}, and is to run for ever (docker service logs {name} may say why)"
            ),
            TroubleKind::Ended,
        )
    } else if error.starts_with("task: non-zero exit") {
        let code = error.trim_start_matches("task: non-zero exit ");
        (
            format!("it ended{on} with exit code {code} (docker service logs {name} may say why)"),
            TroubleKind::Ended,
        )
    } else {
        (format!("{error}{on}"), TroubleKind::Ended)
    }
}
