//! What a volume is told when it is created: `docker volume create --opt KEY=VALUE`, `driver_opts` of a Compose file, or
//! `volume-opt=` of a mount.
//!
//! A hook is a program of the host, run as the driver is (as root), in the volume's directory. It can reach into the container
//! that uses the volume, for instance with `docker exec $(docker ps -q -f volume=NAME) pg_dump -f /data/dump.sql`, in a script.

use std::collections::BTreeMap;
use std::time::Duration;

use swarmctl::Takeover;
use syncfs::{CutBy, CutRule, Hook, RelPath, cutting};

use crate::settings;
use crate::sync_cuts::{HOOK_EVERY, HOOK_TIMEOUT};

/// How many nodes must hold everything before a volume moves on, this one included, if nothing is said.
const REPLICAS: usize = 2;
/// The most that can be asked for.
const REPLICAS_MAX: usize = 64;
/// How long a node must have been down before its volumes are taken over, if nothing is said.
const TAKEOVER_AFTER: Duration = Duration::from_secs(30);
/// The least of it. The argument of [`crate::volume_takeover`] is about halves, and would hold for less; but a holder that has not
/// heard of a manager for half of this ends its containers, and of the rest it needs a part to do so. A Swarm whose heart beats once
/// a second takes three and a half seconds to start anything elsewhere, so that less would gain half a second at most, and cost
/// containers whenever a manager is busy for a second and a half.
const TAKEOVER_AFTER_MIN: Duration = Duration::from_secs(4);

const KEYS: [&str; 11] = [
    "access",
    "takeover",
    "takeover-after",
    "replicas",
    "group",
    "stopped",
    "hook",
    "hook-before",
    "hook-after",
    "hook-every",
    "hook-timeout",
];

/// The options of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Several nodes may write at once: there is no lease, and conflicts keep both versions.
    pub shared: bool,
    /// What to do about a holder that is down.
    pub takeover: Takeover,
    /// How many nodes, with the one that has written, must hold everything before another may go on.
    pub replicas: usize,
    /// How state of more than one file is cut.
    pub cuts: Vec<CutRule>,
}

impl Options {
    /// Reads them.
    ///
    /// # Errors
    /// In words, with what is possible.
    pub fn parse(given: &BTreeMap<String, String>) -> Result<Self, String> {
        if let Some(key) = given.keys().find(|key| !KEYS.contains(&key.as_str())) {
            let key: String = key.chars().take(64).collect();
            return Err(format!("there is no volume option {key:?}; there are {}", KEYS.join(", ")));
        }
        let said = |key: &str| given.get(key).map(String::as_str);
        let shared = match said("access") {
            None | Some("single") => false,
            Some("shared") => true,
            Some(_) => return Err("access is single (one node at a time) or shared".to_owned()),
        };
        let after = said("takeover-after").map(settings::duration).transpose()?;
        let takeover = match (said("takeover"), after) {
            (None | Some("wait"), None) => Takeover::Wait,
            (None | Some("wait"), Some(_)) => {
                return Err("takeover-after belongs to takeover=newest-replica".to_owned());
            }
            (Some("newest-replica"), after) => {
                let after = after.unwrap_or(TAKEOVER_AFTER);
                if after < TAKEOVER_AFTER_MIN {
                    return Err(format!("takeover-after is at least {} s", TAKEOVER_AFTER_MIN.as_secs()));
                }
                Takeover::NewestReplica { after }
            }
            (Some(_), _) => return Err("takeover is wait or newest-replica".to_owned()),
        };
        let replicas = said("replicas").map_or(Ok(REPLICAS), str::parse).ok();
        let replicas = replicas.filter(|count| (1..=REPLICAS_MAX).contains(count));
        let replicas = replicas.ok_or(format!("replicas is a number from 1 to {REPLICAS_MAX}"))?;
        if shared && KEYS[1..4].iter().any(|key| given.contains_key(*key)) {
            return Err(
                "takeover and replicas are about one writer at a time, not about access=shared".to_owned()
            );
        }
        Ok(Self { shared, takeover, replicas, cuts: cuts(given)? })
    }
}

fn cuts(given: &BTreeMap<String, String>) -> Result<Vec<CutRule>, String> {
    let said = |key: &str| given.get(key).map(String::as_str);
    let words = |key: &str| said(key).unwrap_or_default().split_whitespace().map(str::to_owned).collect();
    let time = |key: &str, plain| said(key).map_or(Ok(plain), settings::duration);
    let hook = Hook {
        before: words("hook-before"),
        after: words("hook-after"),
        timeout: time("hook-timeout", HOOK_TIMEOUT)?,
        every: time("hook-every", HOOK_EVERY)?,
    };
    if let (None, Some(key)) = (said("hook"), given.keys().find(|key| key.starts_with("hook-"))) {
        return Err(format!("{key} belongs to hook, which names the paths that are cut: hook=dump.sql"));
    }
    let mut cuts = Vec::new();
    for (key, by) in [("group", CutBy::Live), ("stopped", CutBy::Stopped), ("hook", CutBy::Hook(hook))] {
        if let Some(paths) = said(key) {
            let path = |text: &str| RelPath::new(text).map_err(|error| format!("{key}: {text:?}: {error}"));
            cuts.push(CutRule::new(paths.split(',').map(path).collect::<Result<_, _>>()?, by));
        }
    }
    cutting::check_rules(&cuts).map_err(|error| error.to_string())?;
    Ok(cuts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(given: &[(&str, &str)]) -> Result<Options, String> {
        Options::parse(&given.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn what_is_not_said_is_safe() {
        let plain = parse(&[]).unwrap();
        assert_eq!((plain.shared, plain.takeover, plain.replicas), (false, Takeover::Wait, 2));
        assert!(plain.cuts.is_empty());
        let after = |options: &[(&str, &str)]| parse(options).unwrap().takeover;
        let newest = Takeover::NewestReplica { after: Duration::from_secs(30) };
        assert_eq!(after(&[("takeover", "newest-replica")]), newest);
        let soon = Takeover::NewestReplica { after: Duration::from_secs(5) };
        assert_eq!(after(&[("takeover", "newest-replica"), ("takeover-after", "5s")]), soon);
        assert_eq!(parse(&[("group", "git,app.db"), ("replicas", "3")]).unwrap().cuts.len(), 1);
        assert!(parse(&[("access", "shared")]).unwrap().shared);
    }

    #[test]
    fn a_hook_has_its_commands_and_its_times() {
        let given = [("hook", "dump.sql"), ("hook-before", "/usr/local/bin/dump git"), ("hook-every", "5m")];
        let CutBy::Hook(hook) = &parse(&given).unwrap().cuts[0].by else { panic!("no hook") };
        assert_eq!(
            (&hook.before[..], &hook.after[..]),
            (&["/usr/local/bin/dump".into(), "git".into()][..], &[][..])
        );
        assert_eq!((hook.every, hook.timeout), (Duration::from_secs(300), HOOK_TIMEOUT));
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_what_does() {
        for (given, remedy) in [
            (&[("acces", "single")][..], "there are access"),
            (&[("access", "both")], "single"),
            (&[("takeover", "now")], "newest-replica"),
            (&[("takeover-after", "5s")], "takeover=newest-replica"),
            (&[("takeover", "newest-replica"), ("takeover-after", "1s")], "at least 4 s"),
            (&[("takeover", "newest-replica"), ("takeover-after", "soon")], "30s"),
            (&[("replicas", "0")], "from 1"),
            (&[("replicas", "65")], "to 64"),
            (&[("access", "shared"), ("replicas", "2")], "access=shared"),
            (&[("group", "../etc")], "../etc"),
            (&[("group", "a"), ("stopped", "a")], "a"),
            (&[("hook", "a")], "no command"),
            (&[("hook-before", "true")], "hook=dump.sql"),
            (&[("hook", "a"), ("hook-before", "true"), ("hook-every", "often")], "30s"),
        ] {
            let error = parse(given).unwrap_err();
            assert!(error.contains(remedy), "{given:?}: {error}");
        }
    }
}
