//! Which nodes are meant: by name, or by what they are.

use std::fmt;
use std::str::FromStr;

use crate::cluster::Node;

/// The most terms of a selector.
const TERMS_MAX: usize = 16;

/// Nodes by name, ID, pattern or property. Terms that are separated by commas must all hold:
///
/// - `home-1`: a host name or an ID; `home-*`: any host name that fits, `*` being any text.
/// - `location=home`, `location!=home`: a node label. `node.labels.location==home`, as a placement constraint says it, is the same.
/// - `role=manager`, `availability=drain`, `status=ready`: what the node is.
///
/// ```
/// use swarmctl::selector::NodeSelector;
/// let selector: NodeSelector = "location=home,role!=manager".parse()?;
/// assert!("location=".parse::<NodeSelector>().is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeSelector {
    text: String,
    terms: Vec<Term>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Term {
    Name(String),
    Property { key: String, value: String, is: bool },
}

/// What is written selects nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} does not select nodes: write a name (home-1), a pattern (home-*) or properties (location=home,role=worker)"
)]
pub struct SelectorError {
    text: String,
}

impl NodeSelector {
    /// Whether a node is meant.
    #[must_use]
    pub fn matches(&self, node: &Node) -> bool {
        self.terms.iter().all(|term| match term {
            Term::Name(name) => *name == node.id || fits(name, &node.name),
            Term::Property { key, value, is } => {
                let holds = match key.as_str() {
                    "role" => node.role.to_string() == *value,
                    "availability" => node.availability.to_string() == *value,
                    "status" => node.status.to_string() == *value,
                    label => node.labels.get(label) == Some(value),
                };
                holds == *is
            }
        })
    }
}

impl FromStr for NodeSelector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        let wrong = || SelectorError { text: text.chars().take(256).collect() };
        let parts: Vec<&str> = text.split(',').map(str::trim).collect();
        if parts.len() > TERMS_MAX {
            return Err(wrong());
        }
        let terms = parts.into_iter().map(|part| term(part).ok_or_else(wrong)).collect::<Result<_, _>>()?;
        Ok(Self { text: text.to_owned(), terms })
    }
}

fn term(part: &str) -> Option<Term> {
    let Some((key, value)) = part.split_once('=') else {
        return (!part.is_empty()).then(|| Term::Name(part.to_owned()));
    };
    let (key, is) = key.strip_suffix('!').map_or((key, true), |key| (key, false));
    let value = value.strip_prefix('=').unwrap_or(value).trim();
    let key = key.trim();
    let key = key.strip_prefix("node.").unwrap_or(key);
    let key = key.strip_prefix("labels.").unwrap_or(key);
    (!key.is_empty() && !value.is_empty()).then(|| Term::Property {
        key: key.to_owned(),
        value: value.to_owned(),
        is,
    })
}

/// Whether a text is what a pattern says, whose `*` are any text.
fn fits(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        // The first place is the best one: it leaves the most for the parts that follow.
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

impl fmt::Display for NodeSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_as_a_person_expects() {
        for (pattern, text, is) in [
            ("home-*", "home-1", true),
            ("home-*", "vm", false),
            ("*", "", true),
            ("*-1", "home-1", true),
            ("h*e*1", "home-1", true),
            ("h*e*2", "home-1", false),
            ("ab*ba", "aba", false),
            ("home-1", "home-1", true),
            ("home", "home-1", false),
        ] {
            assert_eq!(fits(pattern, text), is, "{pattern} {text}");
        }
    }

    #[test]
    fn what_selects_nothing_is_refused() {
        for text in ["", ",", "a,,b", "=home", "location=", "!=x", "node.labels.=x"] {
            assert!(text.parse::<NodeSelector>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn properties_are_those_of_a_placement_constraint() {
        for text in ["node.labels.location==home", "node.labels.location == home", "location=home"] {
            let selector: NodeSelector = text.parse().unwrap();
            let home = Term::Property { key: "location".into(), value: "home".into(), is: true };
            assert_eq!(selector.terms, [home], "{text}");
        }
        let selector: NodeSelector = "node.role != manager".parse().unwrap();
        let worker = Term::Property { key: "role".into(), value: "manager".into(), is: false };
        assert_eq!(selector.terms, [worker]);
    }
}
