//! What the tests of the binaries share: programs that are started, watched and ended, and conditions with a
//! deadline.
#![allow(dead_code)]

pub(crate) mod cluster;
pub(crate) mod device;
pub(crate) mod engine;
pub(crate) mod ledger;
pub(crate) mod netns;
pub(crate) mod replica;
pub(crate) mod site;

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How long anything may take on a machine that is busy with other tests. A Swarm whose managers' votes are split, which happens
/// where two are left of three, needs several elections of 10 to 20 s until it is led again.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// Runs a binary of this package to its end.
pub(crate) fn run(binary: &str, arguments: &[&str]) -> Output {
    command(binary, arguments).stdin(Stdio::null()).output().expect("the binary starts")
}

/// The command line of a binary of this package, free of what the caller's environment would change.
pub(crate) fn command(binary: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(path(binary));
    command.args(arguments);
    for name in ["RUST_LOG", "DOCKER_HOST", "XDG_RUNTIME_DIR"] {
        command.env_remove(name);
    }
    command
}

/// Where cargo put a binary of this package.
pub(crate) fn path(binary: &str) -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_syncd")).with_file_name(binary)
}

/// Text of an output stream.
pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Fails unless the program ended with `status`, and gives its standard output.
#[track_caller]
pub(crate) fn expect_status(output: &Output, status: i32) -> String {
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(status), "stdout: {out}\nstderr: {err}");
    out
}

/// Fails unless the program failed as a person expects: status 1, one line on stderr that begins with its name.
#[track_caller]
pub(crate) fn expect_failure(binary: &str, arguments: &[&str]) -> String {
    let output = run(binary, arguments);
    expect_status(&output, 1);
    let err = text(&output.stderr);
    assert!(err.starts_with(&format!("{binary}: ")), "{err}");
    assert_eq!(err.lines().count(), 1, "{err}");
    err
}

/// Polls until `probe` gives a value; fails with `what` after [`PATIENCE`].
#[track_caller]
pub(crate) fn until<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited {} s in vain: {what}", PATIENCE.as_secs());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A running daemon. It is killed when this is dropped.
pub(crate) struct Daemon {
    child: Child,
    ready: String,
    stderr: Arc<Mutex<String>>,
}

impl Daemon {
    /// Starts it, and waits for nothing.
    pub(crate) fn launch(mut command: Command) -> Daemon {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the daemon starts");
        let stderr = Arc::new(Mutex::new(String::new()));
        let mut pipe = child.stderr.take().expect("piped");
        let log = stderr.clone();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = pipe.read(&mut bytes) {
                log.lock().unwrap().push_str(&text(&bytes[..count]));
            }
        });
        Daemon { child, ready: String::new(), stderr }
    }

    /// Starts it and waits for its first line, `ready KEY=VALUE ..`.
    #[track_caller]
    pub(crate) fn start(command: Command) -> Daemon {
        let said = format!("{command:?}");
        let mut daemon = Daemon::launch(command);
        let mut out = BufReader::new(daemon.child.stdout.take().expect("piped"));
        out.read_line(&mut daemon.ready).expect("readable");
        daemon.ready.truncate(daemon.ready.trim_end().len());
        // What else it prints is read and dropped, so that it never blocks on a full pipe.
        std::thread::spawn(move || std::io::copy(&mut out, &mut std::io::sink()));
        if !daemon.ready.starts_with("ready ") {
            let stderr = until("the end of a daemon that did not become ready", || {
                Some(daemon.stderr()).filter(|log| !log.is_empty())
            });
            panic!("{said} said {:?} and {stderr}", daemon.ready);
        }
        daemon
    }

    /// A value of the ready line.
    #[track_caller]
    pub(crate) fn fact(&self, key: &str) -> String {
        let key = format!("{key}=");
        let found = self.ready.split_whitespace().find_map(|word| word.strip_prefix(&key));
        found.unwrap_or_else(|| panic!("no {key} in {}", self.ready)).to_owned()
    }

    /// What it logged so far.
    pub(crate) fn stderr(&self) -> String {
        self.stderr.lock().unwrap().clone()
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Power cut: SIGKILL, and gone.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("ours to kill");
        self.child.wait().expect("ours to wait for");
    }

    /// Sends SIGTERM, waits for the end, and gives its status and how long it took.
    pub(crate) fn terminate(self) -> (ExitStatus, Duration) {
        self.stop("-TERM")
    }

    /// The same with Ctrl-C.
    pub(crate) fn interrupt(self) -> (ExitStatus, Duration) {
        self.stop("-INT")
    }

    fn stop(mut self, signal: &str) -> (ExitStatus, Duration) {
        let began = Instant::now();
        let sent = Command::new("kill").args([signal, &self.pid().to_string()]).status();
        assert!(sent.expect("kill is there").success());
        let status = until("a daemon's end after a signal", || self.child.try_wait().expect("ours"));
        (status, began.elapsed())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- {} said on stderr:\n{}", self.ready, self.stderr());
        }
    }
}

/// Whether a privileged test can run. Under `CI=true` what is missing is a failure; elsewhere it is printed.
pub(crate) fn can_run(programs: &[&str], devices: &[&str]) -> bool {
    let mut missing = Vec::new();
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().nth(1));
    if effective != Some("0") {
        missing.push("root".to_owned());
    }
    let places = std::env::var_os("PATH").unwrap_or_default();
    for program in programs {
        if !std::env::split_paths(&places).any(|place| place.join(program).is_file()) {
            missing.push(format!("the program {program}"));
        }
    }
    missing.extend(devices.iter().filter(|d| !Path::new(d).exists()).map(|d| format!("the device {d}")));
    if missing.is_empty() {
        return true;
    }
    let sentence = format!("not run: {} missing", missing.join(", "));
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{sentence}");
    eprintln!("{sentence}");
    false
}
