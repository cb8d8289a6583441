//! Commands around a cut ([`crate::cutting::Hook`]). A hook that runs has a thread of its own, so that the folder's goes on: it
//! runs the first command, asks for the cut, and runs the second command whatever became of that, also if the folder is
//! closed meanwhile.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::mpsc as blocking;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::cutting::{CutBy, CutRule, Hook};
use crate::path::RelPath;

/// How much is kept of what a command says on its standard error, in bytes: its end.
const SAID_BYTES_MAX: usize = 4096;
/// How often a command is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// How long the end of what a command said is waited for after its end.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// What a hook's thread says.
pub(super) enum Step {
    /// The first command was run: time for the cut. Answer how that went.
    Cut(RelPath, blocking::Sender<Result<(), String>>),
    /// All is done.
    Done(RelPath, Result<(), String>),
}

/// The hooks of a folder.
pub(super) struct Hooks {
    root: PathBuf,
    all: Vec<State>,
    sender: mpsc::UnboundedSender<Step>,
    steps: mpsc::UnboundedReceiver<Step>,
}

struct State {
    name: RelPath,
    hook: Hook,
    running: bool,
    /// Somebody wants a cut of later than when this one began.
    again: bool,
    next: Instant,
}

impl Hooks {
    pub(super) fn new(rules: &[CutRule], root: &Path) -> Self {
        let state = |rule: &CutRule| match &rule.by {
            CutBy::Hook(hook) => Some(State {
                name: rule.paths.first()?.clone(),
                hook: hook.clone(),
                running: false,
                again: false,
                next: Instant::now(),
            }),
            _ => None,
        };
        // As many steps as hooks wait at most, and two of each.
        let (sender, steps) = mpsc::unbounded_channel();
        Self { root: root.to_owned(), all: rules.iter().filter_map(state).collect(), sender, steps }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// When the next one is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.all.iter().filter(|state| !state.running).map(|state| state.next).min()
    }

    /// Begins those that are due, or only puts them off.
    pub(super) fn start_due(&mut self, wanted: bool) {
        let now = Instant::now();
        for number in 0..self.all.len() {
            let state = &mut self.all[number];
            if !state.running && state.next <= now {
                state.next = now + state.hook.every;
                if wanted {
                    self.start(number);
                }
            }
        }
    }

    /// Begins all of them, or once more when they are done.
    pub(super) fn start_all(&mut self) {
        for number in 0..self.all.len() {
            match self.all[number].running {
                true => self.all[number].again = true,
                false => self.start(number),
            }
        }
    }

    /// What the hooks have to say next.
    pub(super) async fn step(&mut self) -> Step {
        match self.steps.recv().await {
            Some(step) => step,
            None => std::future::pending().await,
        }
    }

    /// One is done. Returns whether all are.
    pub(super) fn done(&mut self, name: &RelPath) -> bool {
        if let Some(number) = self.all.iter().position(|state| state.name == *name) {
            let state = &mut self.all[number];
            (state.running, state.next) = (false, Instant::now() + state.hook.every);
            if std::mem::take(&mut state.again) {
                self.start(number);
            }
        }
        self.all.iter().all(|state| !state.running)
    }

    fn start(&mut self, number: usize) {
        let State { name, hook, running, .. } = &mut self.all[number];
        *running = true;
        let (name, hook, root, steps) = (name.clone(), hook.clone(), self.root.clone(), self.sender.clone());
        let task = {
            let (name, steps) = (name.clone(), steps.clone());
            move || {
                let result = run_hook(&name, &hook, &root, &steps);
                let _ = steps.send(Step::Done(name, result));
            }
        };
        if let Err(error) = std::thread::Builder::new().name("syncfs-hook".to_owned()).spawn(task) {
            let _ = steps.send(Step::Done(name, Err(format!("cannot start a thread for its hook: {error}"))));
        }
    }
}

fn run_hook(
    name: &RelPath,
    hook: &Hook,
    root: &Path,
    steps: &mpsc::UnboundedSender<Step>,
) -> Result<(), String> {
    let before = run_command(&hook.before, root, hook.timeout).map_err(|error| format!("not cut: {error}"));
    let cut = before.and_then(|()| {
        let (reply, answer) = blocking::channel();
        let asked = steps.send(Step::Cut(name.clone(), reply));
        let closed = "not cut: the folder was closed";
        asked.map_err(|_| closed.to_owned())?;
        answer.recv().unwrap_or_else(|_| Err(closed.to_owned()))
    });
    let after = run_command(&hook.after, root, hook.timeout);
    cut.and(after.map_err(|error| format!("after its cut: {error}")))
}

/// Runs a command to its end, or to that of its time. Its arguments may be secret, and are not told.
fn run_command(command: &[String], root: &Path, timeout: Duration) -> Result<(), String> {
    let Some((program, arguments)) = command.split_first() else { return Ok(()) };
    let spawned = Command::new(program)
        .args(arguments)
        .current_dir(root)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn();
    let mut child = spawned.map_err(|error| format!("cannot run {program}: {error}"))?;
    let said = child.stderr.take().map(last_words);
    let deadline = std::time::Instant::now() + timeout;
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => {
                let said = said.and_then(|said| said.recv_timeout(LAST_WORDS).ok()).unwrap_or_default();
                let what =
                    status.code().map_or_else(|| status.to_string(), |code| format!("exit code {code}"));
                let said = if said.is_empty() { "nothing on its standard error".to_owned() } else { said };
                return Err(format!("{program} ended with {what}: {said}"));
            }
            Ok(None) if std::time::Instant::now() < deadline => std::thread::sleep(LOOK_EVERY),
            Ok(None) => {
                end(&mut child);
                return Err(format!("{program} took longer than {} s and was ended", timeout.as_secs_f32()));
            }
            Err(error) => {
                end(&mut child);
                return Err(format!("cannot wait for {program}: {error}"));
            }
        }
    }
}

/// Ends a command and all that it started.
fn end(child: &mut Child) {
    if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        let _ = kill_process_group(group, Signal::KILL);
    }
    let _ = child.wait();
}

/// The last line that somebody says. Everything is read, so that nobody has to wait for it to be.
fn last_words(mut from: ChildStderr) -> blocking::Receiver<String> {
    let (sender, receiver) = blocking::channel();
    let read = move || {
        let (mut said, mut buffer) = (Vec::new(), [0; 1024]);
        while let Ok(read @ 1..) = from.read(&mut buffer) {
            said.extend_from_slice(&buffer[..read]);
            let excess = said.len().saturating_sub(SAID_BYTES_MAX);
            said.drain(..excess);
        }
        let said = String::from_utf8_lossy(&said);
        let last = said.lines().rev().map(str::trim).find(|line| !line.is_empty());
        let _ = sender.send(last.unwrap_or_default().to_owned());
    };
    let _ = std::thread::Builder::new().name("syncfs-hook".to_owned()).spawn(read);
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(script: &str, timeout: Duration) -> Result<(), String> {
        let command = ["sh", "-c", script].map(str::to_owned);
        run_command(&command, Path::new("/"), timeout)
    }

    #[test]
    fn a_command_that_fails_is_named_with_its_exit_code_and_last_words() {
        let long = Duration::from_secs(30);
        assert_eq!(run("exit 0", long), Ok(()));
        let told = run("echo first >&2; echo the disk is away >&2; echo; exit 3", long).unwrap_err();
        assert_eq!(told, "sh ended with exit code 3: the disk is away");
        assert!(run("kill -9 $$", long).unwrap_err().contains("signal: 9"));
        let missing = run_command(&["/nonexistent/program".to_owned()], Path::new("/"), long);
        assert!(missing.unwrap_err().starts_with("cannot run /nonexistent/program: "));
    }

    #[test]
    fn a_command_that_takes_too_long_ends_with_all_that_it_started_and_a_flood_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let mark = dir.path().join("mark");
        let script = format!("(sleep 1; touch {}) & sleep 30", mark.display());
        let told = run(&script, Duration::from_millis(100)).unwrap_err();
        assert!(told.contains("took longer than 0.1 s"), "{told}");
        std::thread::sleep(Duration::from_millis(1500));
        assert!(!mark.exists(), "what the command started went on");
        let told =
            run("yes | head -c 3000000 >&2; echo over >&2; exit 1", Duration::from_secs(30)).unwrap_err();
        assert!(told.ends_with(": over"), "{told}");
    }
}
