//! A plan as a person reads it.

use std::collections::BTreeSet;
use std::fmt;

use super::{Plan, Step, facts};

impl fmt::Display for Plan {
    /// One line a step, `+` for what comes, `~` for what changes, `-` for what goes; below a change what it is about.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for warning in &self.warnings {
            writeln!(f, "! {}", shown(warning))?;
        }
        self.steps.iter().try_for_each(|step| write!(f, "{step}"))
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateNetwork(it) => writeln!(f, "+ network {} ({})", shown(&it.name), shown(&it.driver)),
            Self::CreateSecret(it) => writeln!(f, "+ secret {} ({} bytes)", shown(&it.name), it.data.len()),
            Self::CreateConfig(it) => writeln!(f, "+ config {} ({} bytes)", shown(&it.name), it.data.len()),
            Self::CreateService(it) => {
                writeln!(f, "+ service {}", shown(&it.name))?;
                facts::of_service(it).iter().try_for_each(|(key, value)| line(f, key, None, Some(value)))
            }
            Self::UpdateService { before, after } => {
                writeln!(f, "~ service {}", shown(&after.name))?;
                let (before, after) = (facts::of_service(before), facts::of_service(after));
                let keys: BTreeSet<_> = before.keys().chain(after.keys()).collect();
                keys.into_iter().filter(|key| before.get(*key) != after.get(*key)).try_for_each(|key| {
                    line(f, key, before.get(key).map(String::as_str), after.get(key).map(String::as_str))
                })
            }
            Self::RemoveService(name) => writeln!(f, "- service {}", shown(name)),
            Self::RemoveNetwork(name) => writeln!(f, "- network {}", shown(name)),
            Self::RemoveSecret(name) => writeln!(f, "- secret {}", shown(name)),
            Self::RemoveConfig(name) => writeln!(f, "- config {}", shown(name)),
        }
    }
}

fn line(f: &mut fmt::Formatter<'_>, key: &str, before: Option<&str>, after: Option<&str>) -> fmt::Result {
    let hidden = |_: &str| "(hidden)".to_owned();
    let (key, shown) = (shown(key), if facts::is_secret(key) { hidden } else { shown });
    match (before, after) {
        (Some(before), Some(after)) => writeln!(f, "    ~ {key}: {} -> {}", shown(before), shown(after)),
        (None, Some("")) => writeln!(f, "    + {key}"),
        (None, Some(after)) => writeln!(f, "    + {key}: {}", shown(after)),
        (Some(""), None) => writeln!(f, "    - {key}"),
        (Some(before), None) => writeln!(f, "    - {key}: {}", shown(before)),
        (None, None) => Ok(()),
    }
}

/// On one line, whatever is in it.
fn shown(text: &str) -> String {
    if text.chars().any(char::is_control) { format!("{text:?}") } else { text.to_owned() }
}
