//! Compose files as `docker stack deploy` takes them: text in, a [`Stack`] and diagnostics with line and remedy out.
//!
//! The format is the [Compose specification](https://github.com/compose-spec/compose-spec/blob/main/spec.md) in the part that
//! Swarm has a meaning for. Nothing is passed over in silence: a key that Swarm cannot follow is a warning that says what to
//! write instead, and one that does not exist is an error. What belongs to a stack is named and labelled as the `docker` client
//! does it, so that both can look after the same stack.
//!
//! Reading touches nothing: variables and the files that a Compose file names are asked from [`Surroundings`].

mod deploy;
mod interpolate;
mod mounts;
mod ports;
mod scalar;
mod section;
mod service;
mod top;
mod tree;
mod words;

use std::fmt::{self, Write};

use crate::stack::Stack;

use section::Field;

pub use tree::{DEPTH_MAX, FILE_MAX_BYTES, NODES_MAX};

/// The most diagnostics that are kept.
pub const DIAGNOSTICS_MAX: usize = 100;

/// A place in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
}

/// What is to be said about a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// Whether the file can be used all the same.
    pub severity: Severity,
    /// Where.
    pub at: Position,
    /// The key, such as `services.web.ports`; empty for the file as a whole.
    pub key: String,
    /// What is wrong.
    pub what: String,
    /// What to do, if that is known.
    pub remedy: Option<String>,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// It is used, without this.
    Warning,
    /// It is not used.
    Error,
}

/// What a Compose file refers to.
pub trait Surroundings {
    /// The value of a variable, if it is set.
    fn variable(&self, name: &str) -> Option<String>;

    /// A path that a person wrote, as an absolute one: relative to the directory of the Compose file, `~` being home.
    ///
    /// # Errors
    /// Why it cannot be, in words.
    fn absolute(&self, path: &str) -> Result<String, String>;

    /// The content of a file, by a path as [`absolute`](Self::absolute) takes it.
    ///
    /// # Errors
    /// Why it cannot be read, in words.
    fn file(&self, path: &str) -> Result<Vec<u8>, String>;
}

/// Reads a Compose file. There is a stack unless a diagnostic is an error.
pub fn read(text: &str, stack: &str, surroundings: &dyn Surroundings) -> (Option<Stack>, Vec<Diagnostic>) {
    let mut reader = Reader { surroundings, diagnostics: Vec::new(), errors: 0 };
    let stack = match tree::parse(text) {
        Ok(mut tree) => {
            reader.interpolate(&mut tree, "");
            top::read(&mut reader, &Field { key: String::new(), node: &tree }, stack)
        }
        Err(error) => {
            reader.say(error);
            None
        }
    };
    let stack = stack.filter(|_| reader.errors == 0);
    reader.diagnostics.sort_by_key(|diagnostic| diagnostic.at);
    (stack, reader.diagnostics)
}

/// What is gathered on the way through a file.
struct Reader<'a> {
    surroundings: &'a dyn Surroundings,
    diagnostics: Vec<Diagnostic>,
    errors: usize,
}

impl Reader<'_> {
    fn say(&mut self, diagnostic: Diagnostic) {
        self.errors += usize::from(diagnostic.severity == Severity::Error);
        if self.diagnostics.len() < DIAGNOSTICS_MAX {
            self.diagnostics.push(diagnostic);
        }
    }

    fn error(&mut self, field: &Field<'_>, what: impl Into<String>) {
        self.say(Diagnostic::error(field.node.at, &field.key, what));
    }

    fn error_with(&mut self, field: &Field<'_>, what: impl Into<String>, remedy: impl Into<String>) {
        self.say(Diagnostic::error(field.node.at, &field.key, what).remedy(remedy));
    }

    fn warn(&mut self, field: &Field<'_>, what: impl Into<String>, remedy: impl Into<String>) {
        let warning = Diagnostic::error(field.node.at, &field.key, what).remedy(remedy);
        self.say(Diagnostic { severity: Severity::Warning, ..warning });
    }
}

impl Diagnostic {
    fn error(at: Position, key: &str, what: impl Into<String>) -> Self {
        let (key, what) = (key.to_owned(), what.into());
        Self { severity: Severity::Error, at, key, what, remedy: None }
    }

    fn remedy(self, remedy: impl Into<String>) -> Self {
        Self { remedy: Some(remedy.into()), ..self }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

impl fmt::Display for Diagnostic {
    /// On one line: what a file says is not let loose on a terminal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        let mut line = format!("{}: {severity}: ", self.at);
        if !self.key.is_empty() {
            line.extend([&self.key, ": "]);
        }
        line += &self.what;
        if let Some(remedy) = &self.remedy {
            line.extend([". ", remedy]);
        }
        line.chars().try_for_each(|c| f.write_char(if c.is_control() { '?' } else { c }))
    }
}
