//! The client against a real Docker Engine, which the test starts in a network, mount and PID namespace of
//! its own, so that nothing of the host's network or its own Docker is touched.
#![cfg(all(feature = "driver", target_os = "linux"))]
#![allow(clippy::disallowed_methods, clippy::disallowed_types, clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use swarmctl::cluster::{
    Availability, Mode, NodeStatus, Protocol, Publish, Replicas, Role, SwarmState, TaskState,
};
use swarmctl::error::ListError;
use swarmctl::{Endpoint, Swarm};

const READY_DEADLINE: Duration = Duration::from_secs(60);

/// A Docker Engine in its own namespaces. Ends with everything that it started.
struct Engine {
    process: Child,
    netns: String,
    dir: PathBuf,
}

impl Engine {
    fn start() -> Self {
        let netns = format!("swarmctl-{}", std::process::id());
        let dir = std::env::temp_dir().join(&netns);
        std::fs::create_dir_all(dir.join("data")).expect("the temporary directory is writable");
        run("ip", &["netns", "add", &netns]);
        run("ip", &["-n", &netns, "link", "set", "lo", "up"]);
        let script = format!(
            "hostname {netns} && mount -t tmpfs tmpfs /run && exec dockerd --data-root {dir}/data \
             --exec-root /run/docker --pidfile /run/docker.pid -H unix://{dir}/docker.sock --shutdown-timeout 2",
            dir = dir.display()
        );
        let log = std::fs::File::create(dir.join("log")).expect("the temporary directory is writable");
        let process = Command::new("nsenter")
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
            .expect("nsenter is there: it was checked");
        Self { process, netns, dir }
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("docker.sock")
    }

    fn docker(&self, args: &[&str]) {
        let host = format!("unix://{}", self.socket().display());
        run("docker", &[&["-H", &host], args].concat());
    }

    /// An image of busybox alone, made from nothing: no registry is needed.
    fn import_busybox(&self) {
        let root = self.dir.join("image/bin");
        std::fs::create_dir_all(&root).expect("the temporary directory is writable");
        std::fs::copy("/bin/busybox", root.join("busybox")).expect("busybox is there: it was checked");
        let tar = self.dir.join("image.tar");
        let image = self.dir.join("image");
        run("tar", &["-C", text(&image), "-cf", text(&tar), "."]);
        self.docker(&["import", text(&tar), "busybox:test"]);
    }

    /// Waits until the engine answers.
    async fn connect(&mut self) -> Swarm {
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
async fn until<T: std::fmt::Debug>(
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

#[tokio::test]
#[ignore = "needs root and Docker: run with --ignored"]
async fn nodes_services_and_tasks_of_a_real_swarm() {
    let missing = missing();
    if !missing.is_empty() {
        assert!(std::env::var_os("CI").is_none(), "CI must have what this test needs; missing: {missing:?}");
        eprintln!(
            "not run: missing {missing:?} (apt-get install docker.io iptables busybox-static iproute2)"
        );
        return;
    }
    let mut engine = Engine::start();
    let swarm = engine.connect().await;

    let info = swarm.info().await.unwrap();
    assert_eq!(info.swarm, SwarmState::Inactive);
    assert_eq!(info.name, engine.netns);
    assert!(matches!(swarm.nodes().await, Err(ListError::Inactive)));
    assert!(matches!(swarm.services().await, Err(ListError::Inactive)));
    assert!(matches!(swarm.tasks(Some("web")).await, Err(ListError::Inactive)));

    engine.import_busybox();
    engine.docker(&["swarm", "init", "--advertise-addr", "127.0.0.1"]);
    engine.docker(&["node", "update", "--label-add", "location=home", &engine.netns]);
    let common = ["service", "create", "--no-resolve-image", "-q", "-d", "--endpoint-mode", "dnsrr"];
    let web = [
        "--name",
        "web",
        "--replicas",
        "2",
        "--label",
        "team=a",
        "--constraint",
        "node.labels.location==home",
        "--publish",
        "mode=host,target=80",
        "--stop-grace-period",
        "1s",
        "busybox:test",
        "/bin/busybox",
        "sleep",
        "600",
    ];
    engine.docker(&[&common[..], &web[..]].concat());
    let nowhere =
        ["--name", "nowhere", "--constraint", "node.labels.location==mars", "busybox:test", "/bin/busybox"];
    engine.docker(&[&common[..], &nowhere[..]].concat());
    let failing = [
        "--name",
        "failing",
        "--restart-condition",
        "none",
        "busybox:test",
        "/bin/busybox",
        "sh",
        "-c",
        "exit 127",
    ];
    engine.docker(&[&common[..], &failing[..]].concat());

    a_node_is_listed_with_all_that_is_known(&swarm, &engine).await;
    services_are_listed_with_their_state(&swarm).await;
    tasks_say_why_they_do_not_run(&swarm).await;
}

async fn a_node_is_listed_with_all_that_is_known(swarm: &Swarm, engine: &Engine) {
    let info = swarm.info().await.unwrap();
    let nodes = swarm.nodes().await.unwrap();
    let [node] = &nodes[..] else { panic!("{nodes:?}") };
    assert_eq!((&node.name, node.role, node.leader), (&engine.netns, Role::Manager, true));
    assert_eq!((node.availability, node.status), (Availability::Active, NodeStatus::Ready));
    assert_eq!((node.address.as_str(), node.labels["location"].as_str()), ("127.0.0.1", "home"));
    assert!(node.engine_version.starts_with(&info.version) || info.version.starts_with(&node.engine_version));
    assert_eq!(info.swarm, SwarmState::Manager { node: node.id.clone() });
}

async fn services_are_listed_with_their_state(swarm: &Swarm) {
    let services = until(
        "web converges",
        async || swarm.services().await.unwrap(),
        |services| services.iter().any(|it| it.name == "web" && it.replicas.running == 2),
    )
    .await;
    let names: Vec<&str> = services.iter().map(|service| service.name.as_str()).collect();
    assert_eq!(names, ["failing", "nowhere", "web"]);
    let web = &services[2];
    assert_eq!((web.mode, web.replicas), (Mode::Replicated, Replicas { running: 2, desired: 2 }));
    assert_eq!((web.image.as_str(), web.labels["team"].as_str()), ("busybox:test", "a"));
    assert_eq!(web.constraints, ["node.labels.location==home"]);
    let [port] = web.ports[..] else { panic!("{:?}", web.ports) };
    assert_eq!(
        (port.target, port.published, port.protocol, port.publish),
        (80, None, Protocol::Tcp, Publish::Host)
    );
}

async fn tasks_say_why_they_do_not_run(swarm: &Swarm) {
    let web = swarm.tasks(Some("web")).await.unwrap();
    let slots: Vec<Option<u64>> = web.iter().map(|task| task.slot).collect();
    assert_eq!(slots, [Some(1), Some(2)]);
    assert!(
        web.iter()
            .all(|task| task.state == TaskState::Running && task.error.is_none() && task.node.is_some())
    );

    let unplaced = until(
        "the scheduler gives its reason",
        async || swarm.tasks(Some("nowhere")).await.unwrap(),
        |tasks| tasks.iter().any(|task| task.error.is_some()),
    )
    .await;
    let reason = unplaced[0].error.as_deref().unwrap();
    assert!(reason.contains("no suitable node"), "{reason}");
    assert_eq!((unplaced[0].state, &unplaced[0].node), (TaskState::Pending, &None));

    let failed = until(
        "the task fails",
        async || swarm.tasks(Some("failing")).await.unwrap(),
        |tasks| tasks.iter().any(|task| task.state == TaskState::Failed),
    )
    .await;
    let reason = failed[0].error.as_deref().unwrap();
    assert!(reason.contains("127") && reason.contains("not found"), "{reason}");

    let unknown = swarm.tasks(Some("no-such-service")).await.unwrap_err();
    assert!(matches!(unknown, ListError::UnknownService { .. }), "{unknown}");
    assert_eq!(swarm.tasks(None).await.unwrap().len(), 4);
}
