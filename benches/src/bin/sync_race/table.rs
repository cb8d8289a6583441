//! Medians side by side, and what ours are held to.

use std::collections::BTreeMap;
use std::fmt;

use crate::cases::Figures;
use crate::tools::Tool;

/// What a figure of ours must not exceed: a value, a multiple of Syncthing's, a multiple of rsync's.
struct Goal {
    figure: &'static str,
    at_most: Option<f64>,
    of_syncthing: Option<f64>,
    of_rsync: Option<f64>,
}

const fn goal(
    figure: &'static str,
    at_most: Option<f64>,
    of_syncthing: Option<f64>,
    of_rsync: Option<f64>,
) -> Goal {
    Goal { figure, at_most, of_syncthing, of_rsync }
}

const GOALS: [Goal; 23] = [
    goal("small: ms", None, Some(1.0 / 5.0), Some(1.0)),
    goal("large: ms", None, Some(1.0 / 3.0), Some(1.15)),
    goal("middle: ms", None, Some(1.0 / 4.0), None),
    goal("middle: wire MB", Some(1.3), None, None),
    goal("front: ms", None, Some(1.0 / 15.0), None),
    goal("front: wire MB", Some(0.4), None, None),
    goal("database wire/changed", Some(3.0), None, None),
    goal("database written/changed", Some(3.0), None, None),
    goal("unleased wire/changed", Some(3.0), None, None),
    goal("unleased written/changed", Some(3.0), None, None),
    goal("edit: median ms", Some(50.0), None, None),
    goal("edit: p99 ms", Some(150.0), None, None),
    goal("rename: ms", Some(100.0), None, None),
    goal("rename: wire MB", Some(0.01), None, None),
    goal("rescan: ms", Some(50.0), None, None),
    goal("idle 10000: RSS MiB", Some(25.0), None, None),
    goal("idle 10000: CPU %", Some(0.1), None, None),
    goal("idle 10000: index B/file", Some(300.0), None, None),
    goal("idle 1000000: RSS MiB", Some(150.0), None, None),
    goal("idle 1000000: CPU %", Some(0.1), None, None),
    goal("idle 1000000: index B/file", Some(300.0), None, None),
    goal("small: wire MB", None, None, None),
    goal("large: wire MB", None, None, None),
];

/// All that was measured.
#[derive(Default)]
pub(crate) struct Table {
    order: Vec<String>,
    values: BTreeMap<(String, usize), Vec<f64>>,
}

impl Table {
    pub(crate) fn add(&mut self, tool: Tool, figures: Figures) {
        for (name, value) in figures {
            if !self.order.contains(&name) {
                self.order.push(name.clone());
            }
            self.values.entry((name, tool as usize)).or_default().push(value);
        }
    }

    fn median(&self, name: &str, tool: Tool) -> Option<f64> {
        let mut values = self.values.get(&(name.to_owned(), tool as usize))?.clone();
        values.sort_by(f64::total_cmp);
        Some(values[values.len() / 2])
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| case | ours | Syncthing | its ratio | rsync --fsync | its ratio | goal | met |")?;
        writeln!(f, "|---|---|---|---|---|---|---|---|")?;
        for name in &self.order {
            let [ours, syncthing, rsync] = Tool::ALL.map(|tool| self.median(name, tool));
            let figure = |value: Option<f64>| value.map_or("–".to_owned(), |value| format!("{value:.2}"));
            let ratio = |theirs: Option<f64>| {
                let ratio = ours.zip(theirs).filter(|(ours, _)| *ours > 0.0);
                ratio.map_or("–".to_owned(), |(ours, theirs)| format!("{:.2}×", theirs / ours))
            };
            let goal = GOALS.iter().find(|goal| goal.figure == name);
            let limits = goal.map_or([None; 3], |goal| {
                let of = |factor: Option<f64>, theirs: Option<f64>| Some(factor? * theirs?);
                [goal.at_most, of(goal.of_syncthing, syncthing), of(goal.of_rsync, rsync)]
            });
            let limit = limits.into_iter().flatten().reduce(f64::min);
            let met = ours.zip(limit).map_or("", |(ours, limit)| if ours <= limit { "yes" } else { "NO" });
            writeln!(
                f,
                "| {name} | {} | {} | {} | {} | {} | {} | {met} |",
                figure(ours),
                figure(syncthing),
                ratio(syncthing),
                figure(rsync),
                ratio(rsync),
                limit.map_or(String::new(), |limit| format!("≤ {limit:.2}")),
            )?;
        }
        Ok(())
    }
}
