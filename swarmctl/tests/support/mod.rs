//! A real Docker Engine, which a test starts in a network, mount and PID namespace of its own, so that nothing of the
//! host's network or its own Docker is touched.
#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use swarmctl::{Endpoint, Swarm};

static ENGINES: AtomicU32 = AtomicU32::new(0);

const READY_DEADLINE: Duration = Duration::from_secs(60);

/// A Docker Engine in its own namespaces. Ends with everything that it started.
pub(crate) struct Engine {
    process: Child,
    pub(crate) netns: String,
    dir: PathBuf,
}

impl Engine {
    pub(crate) fn start() -> Self {
        let netns = format!("swarmctl-{}-{}", std::process::id(), ENGINES.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(&netns);
        for name in ["data", "plugins"] {
            std::fs::create_dir_all(dir.join(name)).expect("the temporary directory is writable");
        }
        run("ip", &["netns", "add", &netns]);
        run("ip", &["-n", &netns, "link", "set", "lo", "up"]);
        Self { process: Self::spawn(&netns, &dir), netns, dir }
    }

    /// Where this engine looks for plugins.
    pub(crate) fn plugins(&self) -> PathBuf {
        self.dir.join("plugins")
    }

    /// Ends engine and containers as a power cut does, and starts the engine anew with what is on the disk.
    pub(crate) fn restart(&mut self) {
        self.kill();
        self.process = Self::spawn(&self.netns, &self.dir);
    }

    /// Ends engine and containers as a power cut does.
    pub(crate) fn kill(&mut self) {
        self.process.kill().expect("it is our child");
        self.process.wait().expect("it is our child");
    }

    fn spawn(netns: &str, dir: &Path) -> Child {
        let script = format!(
            "hostname {netns} && mount -t tmpfs tmpfs /run && mkdir -p /run/docker/plugins && \
             mount --bind {dir}/plugins /run/docker/plugins && exec dockerd --data-root {dir}/data \
             --exec-root /run/docker --pidfile /run/docker.pid -H unix://{dir}/docker.sock --shutdown-timeout 2",
            dir = dir.display()
        );
        let log = std::fs::OpenOptions::new().create(true).append(true).open(dir.join("log"));
        let log = log.expect("the temporary directory is writable");
        Command::new("nsenter")
            .arg(format!("--net=/run/netns/{netns}"))
            .args([
                "unshare",
                "-m",
                "-u",
                "-p",
                "--fork",
                "--mount-proc",
                "--kill-child",
                "sh",
                "-c",
                &script,
            ])
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file handle can be duplicated"))
            .stderr(log)
            .spawn()
            .expect("nsenter is there: it was checked")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.join("docker.sock")
    }

    pub(crate) fn docker(&self, args: &[&str]) {
        let host = format!("unix://{}", self.socket().display());
        run("docker", &[&["-H", &host], args].concat());
    }

    /// What the engine's own client says, trimmed.
    pub(crate) fn ask(&self, args: &[&str]) -> String {
        let output = self.client(args);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "docker {args:?}: {err}");
        out.trim().to_owned()
    }

    /// Why the engine does not do it.
    pub(crate) fn refused(&self, args: &[&str]) -> String {
        let output = self.client(args);
        assert!(!output.status.success(), "docker {args:?} was done");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    fn client(&self, args: &[&str]) -> Output {
        let host = format!("unix://{}", self.socket().display());
        let mut docker = Command::new("docker");
        docker
            .args(["-H", &host])
            .args(args)
            .stdin(Stdio::null())
            .output()
            .expect("docker is there: it was checked")
    }

    /// An image of busybox alone, made from nothing: no registry is needed.
    pub(crate) fn import_busybox(&self) {
        let root = self.dir.join("image/bin");
        std::fs::create_dir_all(&root).expect("the temporary directory is writable");
        std::fs::copy("/bin/busybox", root.join("busybox")).expect("busybox is there: it was checked");
        let tar = self.dir.join("image.tar");
        let image = self.dir.join("image");
        run("tar", &["-C", text(&image), "-cf", text(&tar), "."]);
        self.docker(&["import", text(&tar), "busybox:test"]);
    }

    /// Waits until the engine answers.
    pub(crate) async fn connect(&mut self) -> Swarm {
        let start = Instant::now();
        loop {
            match Swarm::connect(Endpoint::Unix(self.socket())).await {
                Ok(swarm) => return swarm,
                Err(error) => {
                    let exited = self.process.try_wait().expect("it is our child");
                    let log = || std::fs::read_to_string(self.dir.join("log")).unwrap_or_default();
                    assert_eq!(exited, None, "dockerd ended: {}", log());
                    assert!(start.elapsed() < READY_DEADLINE, "{error}: {}", log());
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // The child is `unshare`, and takes the whole PID namespace with it.
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = Command::new("ip").args(["netns", "del", &self.netns]).status();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn run(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {stderr}");
}

fn text(path: &Path) -> &str {
    path.to_str().expect("the temporary directory has a UTF-8 name")
}

/// What the test needs and does not have.
fn missing() -> Vec<&'static str> {
    let mut missing: Vec<&'static str> = Vec::new();
    let id = Command::new("id").arg("-u").output().expect("id is on every system");
    if id.stdout != b"0\n" {
        missing.push("root");
    }
    let path = std::env::var("PATH").unwrap_or_default();
    for program in ["dockerd", "docker", "ip", "nsenter", "unshare", "tar", "iptables"] {
        if !path.split(':').any(|dir| Path::new(dir).join(program).exists()) {
            missing.push(program);
        }
    }
    if !Path::new("/bin/busybox").exists() {
        missing.push("/bin/busybox (busybox-static)");
    }
    missing
}

/// Asks until the answer is as wanted.
pub(crate) async fn until<T: std::fmt::Debug>(
    what: &str,
    mut ask: impl AsyncFnMut() -> T,
    wanted: impl Fn(&T) -> bool,
) -> T {
    let start = Instant::now();
    loop {
        let answer = ask().await;
        if wanted(&answer) {
            return answer;
        }
        assert!(start.elapsed() < READY_DEADLINE, "{what}: still {answer:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Whether this test can run here. Says why not; in CI that is a failure.
pub(crate) fn can_run() -> bool {
    let missing = missing();
    if !missing.is_empty() {
        assert!(std::env::var_os("CI").is_none(), "CI must have what this test needs; missing: {missing:?}");
        eprintln!(
            "not run: missing {missing:?} (apt-get install docker.io iptables busybox-static iproute2)"
        );
    }
    missing.is_empty()
}
