//! What is measured about the machine and its processes: bytes on loopback, bytes written, memory, CPU; and the
//! programs that the race needs. Nothing here knows what a folder is.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long anything may take before the race is called off.
pub(crate) const PATIENCE: Duration = Duration::from_secs(900);

/// Clock ticks a second in `/proc/PID/stat`; the kernel's constant for user space on Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// Set once the process runs in a network namespace of its own.
const INSIDE: &str = "SYNC_RACE_IN_NAMESPACE";

/// Starts this program again in a network namespace of its own, so that what passes loopback is the race and
/// nothing else. Returns only if that is already so, or cannot be: then whether it is.
pub(crate) fn own_loopback() -> bool {
    if std::env::var_os(INSIDE).is_some() {
        let up = Command::new("ip").args(["link", "set", "lo", "up"]).status();
        return up.is_ok_and(|status| status.success());
    }
    let program = std::env::current_exe().expect("this program has a path");
    let mut again = Command::new("unshare");
    again.arg("--net").arg(program).args(std::env::args_os().skip(1)).env(INSIDE, "1");
    let can = Command::new("unshare").args(["--net", "true"]).stderr(Stdio::null()).status();
    if can.is_ok_and(|status| status.success()) {
        let error = again.exec();
        eprintln!("sync_race: cannot start again under unshare: {error}");
    }
    false
}

/// Installs Debian packages that bring a missing program. Says so.
pub(crate) fn install(programs: &[&str]) {
    let places = std::env::var_os("PATH").unwrap_or_default();
    let has = |program: &&&str| std::env::split_paths(&places).any(|place| place.join(program).is_file());
    let missing: Vec<_> = programs.iter().filter(|program| !has(program)).collect();
    if missing.is_empty() {
        return;
    }
    println!("installing with apt-get: {missing:?}");
    let apt = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
        assert!(command.status().is_ok_and(|status| status.success()), "apt-get {arguments:?} failed");
    };
    apt(&["-qq", "update"]);
    let mut arguments = vec!["-qq", "install", "-y", "--no-install-recommends"];
    arguments.extend(missing);
    apt(&arguments);
}

/// All bytes that passed loopback, in both directions, headers included.
pub(crate) fn loopback_bytes() -> u64 {
    let text = fs::read_to_string("/proc/self/net/dev").unwrap_or_default();
    let line = text.lines().find_map(|line| line.trim_start().strip_prefix("lo:"));
    line.and_then(|fields| fields.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Bytes of pages that a process and those of its children that it outlived dirtied on a real disk; 0 on tmpfs.
pub(crate) fn written_bytes(pids: &[u32]) -> u64 {
    let one = |pid: &u32| {
        let text = fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
        let value = text.lines().find_map(|line| line.strip_prefix("write_bytes: ")?.parse::<u64>().ok());
        value.unwrap_or(0)
    };
    pids.iter().map(one).sum()
}

/// Resident memory in KiB.
pub(crate) fn resident_kib(pids: &[u32]) -> u64 {
    let one = |pid: &u32| {
        let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|fields| fields.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0)
    };
    pids.iter().map(one).sum()
}

/// Seconds of CPU that processes have used so far.
pub(crate) fn cpu_seconds(pids: &[u32]) -> f64 {
    let one = |pid: &u32| {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let after_name = text.rsplit_once(") ").map_or("", |(_, rest)| rest);
        let fields: Vec<f64> =
            after_name.split_whitespace().skip(11).take(2).filter_map(|field| field.parse().ok()).collect();
        fields.iter().sum::<f64>() / TICKS_PER_SECOND
    };
    pids.iter().map(one).sum()
}

/// A process and its direct children.
pub(crate) fn family(pid: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    std::iter::once(pid).chain(text.split_whitespace().filter_map(|child| child.parse().ok())).collect()
}

/// What was written so far is on the disk before the next measurement begins.
pub(crate) fn settle_disk() {
    let done = Command::new("sync").status();
    assert!(done.is_ok_and(|status| status.success()), "sync failed");
}

/// Asks until there is an answer, every `pause`.
pub(crate) fn until<T>(what: &str, pause: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited {} s in vain: {what}", PATIENCE.as_secs());
        std::thread::sleep(pause);
    }
}

/// A program that runs in the background and ends with this value.
pub(crate) struct Running(pub(crate) Child);

impl Running {
    pub(crate) fn start(command: &mut Command, log: &Path) -> io::Result<Running> {
        let errors = fs::OpenOptions::new().create(true).append(true).open(log)?;
        command.stdin(Stdio::null()).stderr(errors);
        command.spawn().map(Running)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // SIGTERM first, so that a supervisor takes its worker with it.
        let _ = Command::new("kill").args(["-TERM", &self.pid().to_string()]).status();
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.0.try_wait().is_ok_and(|status| status.is_none()) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
