//! What the demo proved: a line for a person, an object for a script.

use std::time::{Duration, Instant};

use hybrid_examples::daemon;
use serde::Serialize;
use serde_json::{Map, Value};

/// The outcome of the whole story.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Whether every step held.
    pub ok: bool,
    /// Where the edge answers.
    pub https: String,
    /// The steps that ran, in order.
    pub steps: Vec<Step>,
}

/// One step.
#[derive(Debug, Serialize)]
pub struct Step {
    pub name: &'static str,
    pub ok: bool,
    pub ms: u64,
    /// Numbers, by name.
    pub proved: Map<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What a step hands over: a sentence, the numbers behind it, and whether they are what they must be.
pub struct Proof {
    sentence: String,
    numbers: Map<String, Value>,
    broken: Vec<String>,
}

impl Proof {
    pub fn new() -> Self {
        Self { sentence: String::new(), numbers: Map::new(), broken: Vec::new() }
    }

    /// A figure that is reported.
    pub fn number(mut self, name: &str, value: u64) -> Self {
        self.numbers.insert(name.to_owned(), value.into());
        self
    }

    /// A figure that must satisfy `holds`, or the step failed.
    pub fn must(mut self, name: &str, value: u64, expected: &str, holds: bool) -> Self {
        if !holds {
            self.broken.push(format!("{name} is {value}, must be {expected}"));
        }
        self.number(name, value)
    }

    /// What was proved, for a person.
    pub fn sentence(mut self, sentence: String) -> Self {
        self.sentence = sentence;
        self
    }
}

/// Why a step could not be played.
pub type StepError = Box<dyn std::error::Error + Send + Sync>;

/// Collects the steps as they are played and prints each.
pub struct Scribe {
    quiet: bool,
    steps: Vec<Step>,
}

impl Scribe {
    pub fn new(quiet: bool) -> Self {
        Self { quiet, steps: Vec::new() }
    }

    /// Plays one step. Returns what it made, or nothing when it could not be played.
    pub async fn play<T>(
        &mut self,
        name: &'static str,
        step: impl Future<Output = Result<(T, Proof), StepError>>,
    ) -> Option<T> {
        let began = Instant::now();
        let played = step.await;
        let took = began.elapsed();
        let (made, step, sentence) = match played {
            Ok((made, proof)) => {
                let error = (!proof.broken.is_empty()).then(|| proof.broken.join("; "));
                let step = Step { name, ok: error.is_none(), ms: millis(took), proved: proof.numbers, error };
                (Some(made), step, proof.sentence)
            }
            Err(failure) => {
                let step = Step {
                    name,
                    ok: false,
                    ms: millis(took),
                    proved: Map::new(),
                    error: Some(failure.to_string()),
                };
                (None, step, String::new())
            }
        };
        let what = step.error.as_ref().map_or(sentence, |error| format!("FAILED: {error}"));
        if !self.quiet {
            let mark = if step.ok { "ok  " } else { "FAIL" };
            // Who closed the output does not want to read on; the story is played all the same.
            let _ = daemon::print(&format!("{mark} {name:<9}{:>6} ms  {what}\n", step.ms));
        }
        self.steps.push(step);
        made
    }

    /// The report so far.
    pub fn report(self, https: String) -> Report {
        let whole = self.steps.len() == super::STEPS.len();
        Report { ok: whole && self.steps.iter().all(|step| step.ok), https, steps: self.steps }
    }
}

/// `time` in whole milliseconds.
pub fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
