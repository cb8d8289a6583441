//! The volume driver as a real Docker Engine uses it.
#![cfg(all(feature = "driver", target_os = "linux"))]
#![allow(clippy::disallowed_methods, clippy::disallowed_types, clippy::unwrap_used)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use support::{Engine, can_run, until};
use swarmctl::cluster::TaskState;
use swarmctl::driver::{DriverGate, Gate as _, InitOptions, PluginSocket};
use swarmctl::lease::Grant;
use swarmctl::maintenance::Handover;
use swarmctl::plugin::{Access, Kept, PluginError, VolumeKeeper};
use swarmctl::{
    BackendError, Barrier, Endpoint, Lease as _, MemoryLease, NodeName, Swarm, Takeover, VolumeBackend,
    VolumeName, VolumeOptions, VolumePlugin,
};
use tokio::task::JoinHandle;

/// Directories, which need no replication: there is one node.
#[derive(Clone)]
struct Directories {
    root: PathBuf,
    /// What keeps volumes from being mounted, if anything does.
    trouble: Arc<Mutex<Option<String>>>,
}

struct Directory {
    path: PathBuf,
    trouble: Arc<Mutex<Option<String>>>,
}

impl Directories {
    fn keep(&self, volume: &VolumeName) -> Kept<Directory> {
        let backend = Directory { path: self.root.join(volume.as_str()), trouble: self.trouble.clone() };
        Kept { volume: volume.clone(), access: Access::Single { backend, takeover: Takeover::Wait } }
    }
}

impl VolumeKeeper for Directories {
    type Backend = Directory;

    async fn volumes(&self) -> Result<Vec<Kept<Directory>>, BackendError> {
        let entries = std::fs::read_dir(&self.root).map_err(BackendError::failed)?;
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap().parse().unwrap());
        Ok(names.map(|volume| self.keep(&volume)).collect())
    }

    async fn create(
        &self,
        volume: &VolumeName,
        options: &BTreeMap<String, String>,
    ) -> Result<Kept<Directory>, BackendError> {
        if let Some(option) = options.keys().find(|key| *key != "colour") {
            return Err(BackendError::failed(format!(
                "there is no option {option:?}: colour is the only one"
            )));
        }
        std::fs::create_dir_all(self.root.join(volume.as_str())).map_err(BackendError::failed)?;
        Ok(self.keep(volume))
    }

    async fn remove(&self, volume: &VolumeName) -> Result<(), BackendError> {
        std::fs::remove_dir_all(self.root.join(volume.as_str())).map_err(BackendError::failed)
    }

    async fn lag(
        &self,
        _: &VolumeName,
        _: &[NodeName],
        to: &[NodeName],
    ) -> Result<Option<String>, BackendError> {
        let trouble = self.trouble.lock().unwrap().clone();
        Ok(trouble.map(|detail| format!("{}, which {detail}", to[0])))
    }

    fn describe(&self, _: &VolumeName) -> BTreeMap<String, String> {
        BTreeMap::from([("kind".to_owned(), "directory".to_owned())])
    }
}

impl VolumeBackend for Directory {
    async fn seen_epoch(&self) -> Result<u64, BackendError> {
        Ok(0)
    }

    async fn catch_up(&self, _: &Barrier, _: Duration) -> Result<(), BackendError> {
        match &*self.trouble.lock().unwrap() {
            Some(detail) => Err(BackendError::behind(detail.clone())),
            None => Ok(()),
        }
    }

    async fn open(&self, _: &Grant) -> Result<PathBuf, BackendError> {
        Ok(self.path.clone())
    }

    async fn flush(&self) -> Result<Barrier, BackendError> {
        Ok("all".parse().unwrap())
    }

    async fn replicated(&self, _: &Barrier, _: Duration) -> Result<BTreeSet<NodeName>, BackendError> {
        Ok(BTreeSet::new())
    }

    async fn close(&self) -> Result<(), BackendError> {
        Ok(())
    }
}

/// The driver of the engine's node, while it runs.
struct Running {
    plugin: VolumePlugin<MemoryLease, Directories>,
    serving: JoinHandle<Infallible>,
}

impl Running {
    async fn start(engine: &Engine, lease: &MemoryLease, keeper: &Directories) -> Running {
        let options = VolumeOptions::default();
        let mounts = keeper.root.with_file_name("mounts.json");
        let node = "home-1".parse().unwrap();
        let plugin = VolumePlugin::open("kept", node, lease.clone(), options, keeper.clone(), &mounts).await;
        let plugin = plugin.unwrap();
        let (server, engine_at) = (plugin.clone(), Endpoint::Unix(engine.socket()));
        let socket = PluginSocket::bind(&engine.plugins(), "kept").await.unwrap();
        let serving = tokio::spawn(async move { server.serve(socket, engine_at).await });
        Running { plugin, serving }
    }

    /// Ends as a crash does: no lease is released, nothing is written.
    async fn crash(self) {
        self.serving.abort();
        let _ = self.serving.await;
        drop(self.plugin);
    }
}

/// Needs no engine: whoever is about to move a service asks the driver itself.
#[tokio::test]
async fn a_gate_is_told_who_lags() {
    let place = std::env::temp_dir().join(format!("swarmctl-gate-{}", std::process::id()));
    let keeper = Directories { root: place.join("volumes"), trouble: Arc::default() };
    std::fs::create_dir_all(&keeper.root).unwrap();
    let (node, mounts) = ("home-1".parse().unwrap(), place.join("mounts.json"));
    let options = VolumeOptions::default();
    let plugin =
        VolumePlugin::open("kept", node, MemoryLease::default(), options, keeper.clone(), &mounts).await;
    let nowhere = Endpoint::Unix(place.join("docker.sock"));
    let socket = PluginSocket::bind(&place, "kept").await.unwrap();
    tokio::spawn(async move { plugin.unwrap().serve(socket, nowhere).await });

    let gate = DriverGate::new(place.clone());
    let handover = |driver: &str| Handover {
        volume: "data".to_owned(),
        driver: driver.to_owned(),
        from: vec!["home-1".to_owned()],
        to: vec!["home-2".to_owned()],
    };
    assert!(gate.knows("kept") && !gate.knows("other"));
    assert_eq!(gate.holds(&handover("kept")).await, Ok(()));
    *keeper.trouble.lock().unwrap() = Some("lacks 12 changes".to_owned());
    assert_eq!(gate.holds(&handover("kept")).await, Err("home-2, which lacks 12 changes".to_owned()));
    let silent = gate.holds(&handover("other")).await.unwrap_err();
    assert!(silent.starts_with("its driver other: "), "{silent}");
    std::fs::remove_dir_all(place).unwrap();
}

async fn holder(lease: &MemoryLease, volume: &str) -> (Option<String>, u64) {
    let state = lease.observe(&volume.parse().unwrap()).await.unwrap();
    (state.holder.map(|holder| holder.to_string()), state.epoch)
}

async fn released(lease: &MemoryLease, volume: &str, epoch: u64) {
    until("the release", async || holder(lease, volume).await, |is| *is == (None, epoch)).await;
}

fn held(epoch: u64) -> (Option<String>, u64) {
    (Some("home-1".to_owned()), epoch)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and Docker: run with --ignored"]
async fn an_engine_makes_uses_and_removes_volumes_whatever_is_restarted() {
    if !can_run() {
        return;
    }
    let mut engine = Engine::start();
    let swarm = engine.connect().await;
    engine.import_busybox();
    let root = engine.plugins().with_file_name("volumes");
    std::fs::create_dir_all(&root).unwrap();
    let (lease, keeper) = (MemoryLease::default(), Directories { root, trouble: Arc::default() });
    let running = Running::start(&engine, &lease, &keeper).await;

    a_volume_lives_and_goes(&engine, &lease, &keeper).await;
    a_container_goes_on_while_its_driver_is_restarted(&engine, &lease, &keeper, running).await;
    a_task_runs_and_says_what_it_waits_for(&swarm, &engine, &lease, &keeper).await;
    engine.restart();
    engine.connect().await;
    // The task's old mount is dropped, and the new one holds the volume.
    let mounts = async || inspect(&engine, "work");
    until("one mount after the restart", mounts, |said| {
        said.contains("mounts:1") && said.contains("mounted")
    })
    .await;
    engine.docker(&["service", "rm", "worker"]);
    let last = until("the end of the service", async || holder(&lease, "work").await, |is| is.0.is_none());
    assert!(last.await.1 >= 2);
}

/// What the engine says about a volume's status, and where it is.
fn inspect(engine: &Engine, volume: &str) -> String {
    engine.ask(&["volume", "inspect", "-f", "{{.Status}} {{.Mountpoint}} {{.Scope}}", volume])
}

fn sh(script: &str) -> [&str; 5] {
    ["busybox:test", "/bin/busybox", "sh", "-c", script]
}

async fn a_volume_lives_and_goes(engine: &Engine, lease: &MemoryLease, keeper: &Directories) {
    let refused = engine.refused(&["volume", "create", "-d", "kept", "-o", "color=red", "data"]);
    assert!(refused.contains("colour is the only one"), "{refused}");
    engine.docker(&["volume", "create", "-d", "kept", "-o", "colour=red", "data"]);
    assert!(engine.ask(&["volume", "ls", "-f", "driver=kept"]).contains("data"));
    let said = inspect(engine, "data");
    assert!(said.contains("state:following") && said.contains("kind:directory"), "{said}");

    let run = ["run", "--rm", "--network", "none", "--volume-driver", "kept", "-v", "data:/data"];
    engine.docker(&[&run[..], &sh("echo kept > /data/note")].concat());
    assert_eq!(holder(lease, "data").await, (None, 1));
    assert_eq!(std::fs::read_to_string(keeper.root.join("data/note")).unwrap(), "kept\n");
    assert_eq!(engine.ask(&[&run[..], &sh("read it < /data/note; echo $it")].concat()), "kept");
    assert_eq!(holder(lease, "data").await, (None, 2));
    engine.docker(&["volume", "rm", "data"]);
    assert!(!keeper.root.join("data").exists());
    assert!(!engine.ask(&["volume", "ls"]).contains("data"));
}

async fn a_container_goes_on_while_its_driver_is_restarted(
    engine: &Engine,
    lease: &MemoryLease,
    keeper: &Directories,
    running: Running,
) {
    let again = PluginSocket::bind(&engine.plugins(), "kept").await.unwrap_err();
    assert!(matches!(again, PluginError::Served(_)), "{again}");
    for (name, volume) in [("stays", "long"), ("ends", "short")] {
        let volume = format!("{volume}:/data");
        let run =
            ["run", "-d", "--name", name, "--network", "none", "--volume-driver", "kept", "-v", &volume];
        engine.docker(&[&run[..], &["--stop-timeout", "0"], &sh("exec /bin/busybox sleep 600")].concat());
    }
    let used = engine.refused(&["volume", "rm", "long"]);
    assert!(used.contains("in use"), "{used}");
    running.crash().await;
    // The stop's unmount finds no driver. The engine tries for a while and gives up.
    let ends = std::process::Command::new("docker")
        .args(["-H", &format!("unix://{}", engine.socket().display()), "kill", "ends"])
        .output();
    assert!(ends.unwrap().status.success());
    assert_eq!(holder(lease, "long").await, held(1));

    let next = Running::start(engine, lease, keeper).await;
    // Both are taken up under a new epoch, and the one whose container has ended is let go of.
    until("the mount that stays", async || holder(lease, "long").await, |is| *is == held(2)).await;
    released(lease, "short", 2).await;
    let said = inspect(engine, "long");
    assert!(
        said.contains("state:mounted") && said.contains(keeper.root.join("long").to_str().unwrap()),
        "{said}"
    );
    engine.docker(&["rm", "-f", "stays"]);
    released(lease, "long", 2).await;
    // It serves on until the test's end.
    std::mem::forget(next.plugin);
}

async fn a_task_runs_and_says_what_it_waits_for(
    swarm: &Swarm,
    engine: &Engine,
    lease: &MemoryLease,
    keeper: &Directories,
) {
    swarm.init(&InitOptions::new("127.0.0.1")).await.unwrap();
    engine.docker(&["volume", "create", "-d", "kept", "work"]);
    let run = ["run", "--rm", "--network", "none", "-v", "work:/data"];
    engine.docker(&[&run[..], &sh("true")].concat());
    *keeper.trouble.lock().unwrap() = Some("12 changes from home-2".to_owned());
    let mount = "type=volume,source=work,target=/data,volume-driver=kept";
    let service = ["service", "create", "--no-resolve-image", "-q", "-d", "--name", "worker"];
    let options = ["--mount", mount, "--stop-grace-period", "1s"];
    engine.docker(&[&service[..], &options, &sh("exec /bin/busybox sleep 600")].concat());
    until("the reason", async || inspect(engine, "work"), |said| said.contains("12 changes from home-2"))
        .await;
    *keeper.trouble.lock().unwrap() = None;
    let tasks = async || swarm.tasks(Some("worker")).await.unwrap();
    until("the task", tasks, |tasks| tasks.iter().any(|task| task.state == TaskState::Running)).await;
    assert_eq!(holder(lease, "work").await, held(2));
}

#[tokio::test]
async fn a_socket_of_a_dead_process_is_replaced_and_something_else_is_not() {
    let place = std::env::temp_dir().join(format!("swarmctl-plugin-{}", std::process::id()));
    let (root, sockets) = (place.join("volumes"), place.join("sockets"));
    for directory in [&root, &sockets] {
        std::fs::create_dir_all(directory).unwrap();
    }
    let keeper = Directories { root, trouble: Arc::default() };
    let (lease, options, node) =
        (MemoryLease::default(), VolumeOptions::default(), "home-1".parse().unwrap());
    let plugin = VolumePlugin::open("kept", node, lease, options, keeper, &place.join("mounts.json")).await;
    let plugin = plugin.unwrap();
    let nowhere = || Endpoint::Unix("/nonexistent/docker.sock".into());
    let socket = sockets.join("kept.sock");

    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let bound = PluginSocket::bind(&sockets, "kept").await.unwrap();
    let server = plugin.clone();
    let serving = tokio::spawn(async move { server.serve(bound, nowhere()).await });
    assert_eq!(mode(&socket), 0o600);
    let live = PluginSocket::bind(&sockets, "kept").await.unwrap_err();
    assert!(matches!(live, PluginError::Served(_)), "{live}");
    serving.abort();
    assert!(serving.await.unwrap_err().is_cancelled());
    assert!(!socket.exists());

    std::fs::write(&socket, "something else").unwrap();
    let other = PluginSocket::bind(&sockets, "kept").await.unwrap_err();
    assert!(matches!(other, PluginError::Socket { .. }), "{other}");
    std::fs::remove_dir_all(&place).unwrap();
}

fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}
