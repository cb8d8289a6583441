//! A real Docker Engine in namespaces of its own: nothing of it is left on the host when it is dropped.
//!
//! Network: a given [`Netns`]. Mounts: private, with an own `/run`. Processes: an own PID namespace, so that
//! killing its first process ends engine, containerd, shims and containers at once.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::netns::{Netns, must};
use super::until;

/// The image that [`Engine::start`] imports: busybox, `/www/index.html`, nothing else.
pub(crate) const IMAGE: &str = "busybox-test:1";

const SCRIPT: &str = r#"
hostname "$2"
mount -t tmpfs tmpfs /run
mkdir -p /run/docker/plugins
mount --bind "$1/plugins" /run/docker/plugins
exec dockerd --data-root "$1/data" --exec-root /run/docker --pidfile /run/docker.pid \
    -H "unix://$1/docker.sock" --shutdown-timeout 2"#;

/// A running engine.
pub(crate) struct Engine {
    child: Child,
    netns: String,
    hostname: String,
    // Removed last, when nothing uses it any more.
    directory: tempfile::TempDir,
}

impl Engine {
    /// Starts an engine in `netns`, waits until it answers, and imports [`IMAGE`].
    pub(crate) fn start(netns: &Netns) -> Engine {
        let mut engine = Engine::launch(netns, netns.name());
        engine.ready();
        engine.import();
        engine
    }

    /// Starts an engine as the host `hostname`; see [`ready`](Self::ready).
    pub(crate) fn launch(netns: &Netns, hostname: &str) -> Engine {
        let directory = tempfile::Builder::new().prefix("engine-").tempdir().expect("a directory");
        for name in ["data", "plugins"] {
            std::fs::create_dir(directory.path().join(name)).expect("created");
        }
        let child = spawn(netns.name(), hostname, directory.path());
        Engine { child, netns: netns.name().to_owned(), hostname: hostname.to_owned(), directory }
    }

    /// Ends the engine and all that it started, as a power cut does. What is on its disk stays.
    pub(crate) fn kill(&mut self) {
        // The first process of its PID namespace goes, the kernel ends all others with it, and `unshare` reaps it.
        let pid = self.child.id();
        let inside = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        for first in inside.split_whitespace() {
            let _ = Command::new("kill").args(["-KILL", first]).status();
        }
        if inside.is_empty() {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }

    /// Starts it again after [`kill`](Self::kill).
    pub(crate) fn relaunch(&mut self) {
        self.child = spawn(&self.netns, &self.hostname, self.directory.path());
    }

    /// Waits until it answers.
    pub(crate) fn ready(&mut self) {
        until("an engine that answers", || {
            if let Some(status) = self.child.try_wait().expect("ours") {
                panic!("dockerd ended with {status}: {}", self.log());
            }
            self.try_docker(&["version"]).map(drop)
        });
    }

    /// Where it looks for plugins.
    pub(crate) fn plugins(&self) -> PathBuf {
        self.directory.path().join("plugins")
    }

    /// A directory on the disk of its host.
    pub(crate) fn disk(&self) -> &Path {
        self.directory.path()
    }

    /// Its API socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("docker.sock")
    }

    /// Runs the `docker` client against it; fails the test with what it said.
    #[track_caller]
    pub(crate) fn docker(&self, arguments: &[&str]) -> String {
        must("docker", &[&["-H", &self.host()], arguments].concat()).trim().to_owned()
    }

    /// Runs the `docker` client against it; `None` if it fails, as one does that has lost its leader.
    pub(crate) fn try_docker(&self, arguments: &[&str]) -> Option<String> {
        let docker = Command::new("docker").args(["-H", &self.host()]).args(arguments).output();
        let output = docker.expect("docker is there");
        output.status.success().then(|| super::text(&output.stdout).trim().to_owned())
    }

    fn host(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// Imports [`IMAGE`].
    pub(crate) fn import(&self) {
        let root = self.directory.path().join("image");
        for name in ["bin", "www", "tmp", "etc", "usr"] {
            std::fs::create_dir_all(root.join(name)).expect("created");
        }
        std::fs::copy(busybox(), root.join("bin/busybox")).expect("copied");
        for name in ["sh", "httpd", "sleep"] {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(name)).expect("linked");
        }
        // With the host's /usr mounted, the host's own programs run in it, too.
        for name in ["lib", "lib64"] {
            std::os::unix::fs::symlink(format!("usr/{name}"), root.join(name)).expect("linked");
        }
        std::fs::write(root.join("www/index.html"), "served by a container\n").expect("written");
        let archive = self.directory.path().join("image.tar");
        let (archive, root) = (archive.display().to_string(), root.display().to_string());
        must("tar", &["-C", &root, "-cf", &archive, "."]);
        self.docker(&["import", "-c", "ENV PATH=/bin", &archive, IMAGE]);
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(20).collect();
            eprintln!("--- the engine's last lines, newest first:\n{}", tail.join("\n"));
        }
        self.kill();
    }
}

fn spawn(netns: &str, hostname: &str, directory: &Path) -> Child {
    let log = OpenOptions::new().create(true).append(true).open(directory.join("log")).expect("created");
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
            SCRIPT,
            "sh",
        ])
        .args([directory, Path::new(hostname)])
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("cloned"))
        .stderr(log)
        .spawn()
        .expect("nsenter is there")
}

fn busybox() -> PathBuf {
    ["/bin/busybox", "/usr/bin/busybox"]
        .iter()
        .map(Path::new)
        .find(|p| p.is_file())
        .expect("busybox")
        .to_owned()
}
