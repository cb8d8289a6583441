//! The frame that every binary stands in: logging, the runtime, signals, output, and one line for a failure.
//!
//! Owns what a person and a script see of a program: exit status 0, 1 (it failed: one line on stderr says what,
//! where and what to do) or 2 (usage, said by clap); the first line of a daemon, which names what it really bound.
//! It must never know what a program does.

use std::error::Error;
use std::fmt::{self, Display};
use std::future::Future;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};
use tokio::runtime::Builder;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// How long an orderly end may take; what is not closed by then is left to the kernel.
pub const SHUTDOWN_LIMIT: Duration = Duration::from_millis(1200);

/// How long the runtime waits for blocking work (a disk write) after the program's own end.
const LINGER: Duration = Duration::from_millis(500);

/// Why a program gives up: one sentence for the person who started it.
///
/// Every error type converts into it with its whole chain of causes, so `?` works throughout a binary. It is no
/// [`Error`] itself: it is only printed.
pub struct Failure(String);

impl Failure {
    /// A failure in the caller's own words.
    pub fn new(sentence: impl Into<String>) -> Failure {
        Failure(sentence.into())
    }
}

impl<E: Error> From<E> for Failure {
    fn from(error: E) -> Failure {
        let mut sentence = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            let text = error.to_string();
            if !sentence.contains(&text) {
                sentence = format!("{sentence}: {text}");
            }
            cause = error.source();
        }
        Failure(sentence)
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut before: Option<&str> = None;
        for line in self.0.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let between = before.map_or("", |before| if before.ends_with([':', '.']) { " " } else { "; " });
            write!(f, "{between}{line}")?;
            before = Some(line);
        }
        Ok(())
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Display::fmt(self, f)
    }
}

/// Says where an error happened.
pub trait Context<T> {
    /// Puts `place: ` before the error's own words.
    fn context(self, place: impl Display) -> Result<T, Failure>;
}

impl<T, E: Into<Failure>> Context<T> for Result<T, E> {
    fn context(self, place: impl Display) -> Result<T, Failure> {
        self.map_err(|error| Failure(format!("{place}: {}", error.into())))
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For a person.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// The logging flags that every binary takes; log lines go to stderr.
#[derive(Args, Clone, Debug, Default)]
pub struct Logging {
    /// Log more: -v informs, -vv debugs, -vvv traces (RUST_LOG, if set, wins)
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// How log lines look
    #[arg(long, global = true, value_enum, default_value = "text", value_name = "FORMAT")]
    pub log_format: LogFormat,
}

impl Logging {
    fn start(&self) -> Result<(), Failure> {
        let level = match self.verbose {
            0 => LevelFilter::WARN,
            1 => LevelFilter::INFO,
            2 => LevelFilter::DEBUG,
            _ => LevelFilter::TRACE,
        };
        let filter = match std::env::var("RUST_LOG") {
            Ok(text) if !text.is_empty() => text
                .parse::<Targets>()
                .context(format!("RUST_LOG={text} is not a log filter (try RUST_LOG=info)"))?,
            _ => Targets::new().with_default(level),
        };
        let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr).with_ansi(colour);
        let log = tracing_subscriber::registry().with(filter);
        // An error means that a logger is already there: the first one stays.
        let _ = match self.log_format {
            LogFormat::Text => log.with(lines).try_init(),
            LogFormat::Json => log.with(lines.json()).try_init(),
        };
        Ok(())
    }
}

/// Runs a program's work on a runtime of its own and turns the outcome into an exit status.
pub fn run(program: &str, logging: &Logging, work: impl Future<Output = Result<(), Failure>>) -> ExitCode {
    run_on(Builder::new_multi_thread(), program, logging, work)
}

/// The same on this thread alone, for a program that leaves what takes long to threads of its own: each thread of a runtime keeps
/// some MiB of what passed through it.
pub fn run_on_one(
    program: &str,
    logging: &Logging,
    work: impl Future<Output = Result<(), Failure>>,
) -> ExitCode {
    run_on(Builder::new_current_thread(), program, logging, work)
}

fn run_on(
    mut threads: Builder,
    program: &str,
    logging: &Logging,
    work: impl Future<Output = Result<(), Failure>>,
) -> ExitCode {
    let outcome = logging.start().and_then(|()| {
        let runtime = threads.enable_all().build().context("cannot start the async runtime")?;
        let outcome = runtime.block_on(work);
        runtime.shutdown_timeout(LINGER);
        outcome
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Nobody left to tell if stderr is gone.
            let _ = writeln!(io::stderr(), "{program}: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// SIGINT and SIGTERM, caught from the moment this exists.
pub struct StopSignal {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignal {
    /// Takes both signals over. Install it before the line that says "ready": from then on somebody may stop us.
    pub fn install() -> Result<StopSignal, Failure> {
        let catch = |kind| signal(kind).context("cannot catch SIGINT and SIGTERM");
        Ok(StopSignal {
            interrupt: catch(SignalKind::interrupt())?,
            terminate: catch(SignalKind::terminate())?,
        })
    }

    /// Returns when the first of them arrives.
    pub async fn wait(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Prints text and flushes it. A reader that has gone away (`| head`) is not a failure.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        outcome => outcome.context("cannot write to standard output"),
    }
}

/// Prints a value as JSON, indented, on standard output.
pub fn print_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).context("cannot write this as JSON")?;
    print(&format!("{text}\n"))
}

/// This host's name, for a program that was given none.
pub fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => "localhost".to_owned(),
        name => name.to_owned(),
    }
}

/// Prints a daemon's first line: `ready KEY=VALUE ..`, what it really bound. Values with a blank are JSON strings.
pub fn announce(facts: &[(&str, String)]) -> Result<(), Failure> {
    print(&format!("{}\n", ready_line(facts)))
}

fn ready_line(facts: &[(&str, String)]) -> String {
    let mut line = String::from("ready");
    for (key, value) in facts {
        let plain = !value.is_empty() && !value.contains(|c: char| c.is_whitespace() || c == '"');
        let value = if plain { value.clone() } else { serde_json::Value::from(value.as_str()).to_string() };
        line.push_str(&format!(" {key}={value}"));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot open the door")]
    struct Outer(#[source] Inner);

    #[derive(Debug, thiserror::Error)]
    #[error("the key is\n  bent")]
    struct Inner;

    #[test]
    fn a_failure_is_one_line_with_every_cause() {
        let failure = Err::<(), _>(Outer(Inner)).context("house 7").unwrap_err();
        assert_eq!(failure.to_string(), "house 7: cannot open the door: the key is; bent");
    }

    #[test]
    fn a_cause_that_was_already_said_is_not_said_twice() {
        #[derive(Debug, thiserror::Error)]
        #[error("no: {0}")]
        struct Repeats(#[source] std::num::ParseIntError);
        let cause = "x".parse::<u8>().unwrap_err();
        assert_eq!(Failure::from(Repeats(cause)).to_string(), "no: invalid digit found in string");
        assert_eq!(Failure::new("one\n two\n\nleft:\n  three").to_string(), "one; two; left: three");
    }

    #[test]
    fn the_ready_line_quotes_only_what_would_not_parse() {
        let facts = [("udp", "127.0.0.1:1".to_owned()), ("dir", "/a b".to_owned()), ("none", String::new())];
        assert_eq!(ready_line(&facts), r#"ready udp=127.0.0.1:1 dir="/a b" none="""#);
    }
}
