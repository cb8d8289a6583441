//! `[[folder.cut]]`: how state is cut that is more than one file, as [`syncfs::cutting`] says.

use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use syncfs::{CutBy, CutRule, Hook, RelPath, cutting};

use crate::settings;

/// How long each command of a hook may take, and how often one is run besides at each flush, if nothing is said.
pub const HOOK_TIMEOUT: Duration = Duration::from_secs(60);
/// See [`HOOK_TIMEOUT`].
pub const HOOK_EVERY: Duration = Duration::from_secs(3600);

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
struct CutTable {
    #[serde(deserialize_with = "from_paths")]
    paths: Vec<RelPath>,
    kind: Option<Kind>,
    before: Vec<String>,
    after: Vec<String>,
    #[serde(deserialize_with = "settings::from_duration")]
    timeout: Option<Duration>,
    #[serde(deserialize_with = "settings::from_duration")]
    every: Option<Duration>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    Live,
    Hook,
    Stopped,
}

/// For `#[serde(deserialize_with)]`: the rules of a folder, which make sense together.
pub fn from_tables<'de, D: Deserializer<'de>>(source: D) -> Result<Vec<CutRule>, D::Error> {
    let tables = Vec::<CutTable>::deserialize(source)?;
    let rules: Vec<_> = tables.into_iter().map(rule).collect::<Result<_, _>>().map_err(D::Error::custom)?;
    cutting::check_rules(&rules).map_err(D::Error::custom)?;
    Ok(rules)
}

fn from_paths<'de, D: Deserializer<'de>>(source: D) -> Result<Vec<RelPath>, D::Error> {
    let texts = Vec::<String>::deserialize(source)?;
    let path = |text: &String| {
        RelPath::new(text)
            .map_err(|error| D::Error::custom(format!("`{text}`: {error}; paths are relative to the folder")))
    };
    texts.iter().map(path).collect()
}

fn rule(table: CutTable) -> Result<CutRule, String> {
    let CutTable { paths, kind, before, after, timeout, every } = table;
    let kind = kind.ok_or("a [[folder.cut]] has no `kind`: write \"live\", \"hook\" or \"stopped\"")?;
    let commands = !before.is_empty() || !after.is_empty() || timeout.is_some() || every.is_some();
    let by = match kind {
        Kind::Hook => CutBy::Hook(Hook {
            before,
            after,
            timeout: timeout.unwrap_or(HOOK_TIMEOUT),
            every: every.unwrap_or(HOOK_EVERY),
        }),
        _ if commands => {
            return Err("`before`, `after`, `timeout` and `every` belong to kind = \"hook\"".into());
        }
        Kind::Live => CutBy::Live,
        Kind::Stopped => CutBy::Stopped,
    };
    Ok(CutRule::new(paths, by))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, Deserialize)]
    #[serde(default)]
    struct Sample {
        #[serde(deserialize_with = "from_tables")]
        cut: Vec<CutRule>,
    }

    fn read(text: &str) -> Result<Vec<CutRule>, String> {
        settings::parse::<Sample>(&"a.toml", text).map(|sample| sample.cut).map_err(|error| error.to_string())
    }

    #[test]
    fn each_kind_becomes_a_rule() {
        let text = "[[cut]]\nkind = \"live\"\npaths = [\"repo\", \"app.db\"]\n\
                    [[cut]]\nkind = \"hook\"\npaths = [\"dump\"]\nbefore = [\"pg_dump\", \"-f\", \"dump\"]\nevery = \"5m\"\n\
                    [[cut]]\nkind = \"stopped\"\npaths = [\"mail\"]\n";
        let path = |text: &str| RelPath::new(text).unwrap();
        let hook = Hook {
            before: ["pg_dump", "-f", "dump"].map(str::to_owned).into(),
            after: Vec::new(),
            timeout: HOOK_TIMEOUT,
            every: Duration::from_secs(300),
        };
        let rules = [
            CutRule::new(vec![path("repo"), path("app.db")], CutBy::Live),
            CutRule::new(vec![path("dump")], CutBy::Hook(hook)),
            CutRule::new(vec![path("mail")], CutBy::Stopped),
        ];
        assert_eq!(read(text).unwrap(), rules);
    }

    #[test]
    fn what_makes_no_sense_is_named_with_its_place() {
        for (text, says) in [
            ("[[cut]]\npaths = [\"a\"]\n", "no `kind`"),
            ("[[cut]]\nkind = \"live\"\n", "names no path"),
            ("\n[[cut]]\nkind = \"life\"\npaths = [\"a\"]\n", "a.toml:3:8: "),
            ("[[cut]]\nkind = \"live\"\npath = [\"a\"]\n", "a.toml:3:1: unknown field `path`"),
            ("[[cut]]\nkind = \"live\"\npaths = [\"../a\"]\n", "a.toml:3:9: `../a`"),
            ("[[cut]]\nkind = \"hook\"\npaths = [\"a\"]\n", "no command"),
            ("[[cut]]\nkind = \"live\"\npaths = [\"a\"]\nbefore = [\"true\"]\n", "belong to kind"),
            ("[[cut]]\nkind = \"live\"\npaths = [\"a\", \"a/b\"]\n", "two cut rules are about a/b"),
        ] {
            let said = read(text).unwrap_err();
            assert!(said.starts_with("a.toml:") && said.contains(says), "{text} -> {said}");
        }
    }
}
