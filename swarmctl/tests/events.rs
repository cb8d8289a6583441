//! What happens in a Swarm, told by a real Docker Engine that is killed in the middle.
#![cfg(all(feature = "driver", target_os = "linux"))]
#![allow(clippy::disallowed_methods, clippy::disallowed_types, clippy::unwrap_used)]

mod support;

use std::time::Duration;

use support::{Engine, can_run};
use swarmctl::Swarm;
use swarmctl::cluster::TaskState;
use swarmctl::driver::{InitOptions, LogOptions, SwarmChange, Update, Watch, WatchOptions};
use swarmctl::error::{Kind, SwarmError};
use swarmctl::events::{Change, Difference, Snapshot};
use swarmctl::spec::{NetworkSpec, ServiceSpec};

fn service(name: &str, script: &str) -> ServiceSpec {
    let mut service = ServiceSpec::new(name, "busybox:test");
    service.container.command = ["/bin/busybox", "sh", "-c", script].map(str::to_owned).to_vec();
    service.container.stop_grace = Some(Duration::from_secs(1));
    service
}

/// What a listener knows who is told of changes only.
struct Told {
    watch: Watch,
    known: Snapshot,
    losses: u32,
}

impl Told {
    async fn from(swarm: &Swarm) -> Self {
        let watch = swarm.watch(WatchOptions::default()).await.unwrap();
        Self { known: watch.snapshot().clone(), watch, losses: 0 }
    }

    /// Listens until the engine is lost. Before that its containers may have been.
    async fn until_lost(&mut self) {
        loop {
            match self.watch.next().await {
                Update::Changes(changes) => changes.iter().for_each(|change| apply(&mut self.known, change)),
                Update::Lost(SwarmError::Unreachable { .. }) => return,
                Update::Lost(error) => panic!("{error}"),
            }
        }
    }

    /// Listens until what is known is as wanted. Returns what was told.
    async fn until(&mut self, what: &str, wanted: impl Fn(&Snapshot) -> bool) -> Vec<Change> {
        let mut all = Vec::new();
        let listening = async {
            while !wanted(&self.known) {
                match self.watch.next().await {
                    Update::Changes(changes) => {
                        for change in &changes {
                            apply(&mut self.known, change);
                        }
                        all.extend(changes);
                        assert_eq!(&self.known, self.watch.snapshot(), "{what}");
                    }
                    Update::Lost(_) => self.losses += 1,
                }
            }
        };
        let listened = tokio::time::timeout(Duration::from_secs(60), listening).await;
        assert!(listened.is_ok(), "{what}: not told, known is {:?}", self.known);
        all
    }
}

fn apply(known: &mut Snapshot, change: &Change) {
    fn to<T: Clone>(map: &mut std::collections::BTreeMap<String, T>, id: &str, difference: &Difference<T>) {
        match difference {
            Difference::Removed(_) => drop(map.remove(id)),
            _ => drop(map.insert(id.to_owned(), difference.newest().clone())),
        }
    }
    let (_, id) = change.subject();
    match change {
        Change::Node(it) => to(&mut known.nodes, id, it),
        Change::Service(it) => to(&mut known.services, id, it),
        Change::Task(it) => to(&mut known.tasks, id, it),
        Change::Network(it) => to(&mut known.networks, id, it),
        _ => panic!("{change:?}"),
    }
}

fn runs(snapshot: &Snapshot, name: &str) -> bool {
    let service = snapshot.services.values().find(|service| service.name == name);
    service.is_some_and(|service| {
        let of_it = |task: &&swarmctl::cluster::Task| task.service == service.id;
        snapshot.tasks.values().filter(of_it).any(|task| task.state == TaskState::Running)
    })
}

#[tokio::test]
#[ignore = "needs root and Docker: run with --ignored"]
async fn no_change_is_lost_when_the_engine_is_killed_in_the_middle() {
    if !can_run() {
        return;
    }
    let mut engine = Engine::start();
    let swarm = engine.connect().await;
    engine.import_busybox();
    swarm.init(&InitOptions::new("127.0.0.1")).await.unwrap();
    let mut told = Told::from(&swarm).await;

    swarm.create_network(&NetworkSpec::new("net", "overlay")).await.unwrap();
    let mut web = service("web", "echo out; echo err >&2; exec sleep 600");
    web.networks.insert("net".to_owned(), Default::default());
    swarm.create_service(&web).await.unwrap();
    let changes = told.until("web runs", |known| runs(known, "web")).await;
    let words: Vec<String> = changes.iter().map(|change| told.known.tell(change)).collect();
    assert!(words.iter().any(|it| it == "added network net: overlay"), "{words:?}");
    assert!(
        words.iter().any(|it| it.starts_with("task web.1 on ") && it.ends_with(": running")),
        "{words:?}"
    );
    let web_id = told.known.services.values().find(|it| it.name == "web").unwrap().id.clone();
    let net_id = told.known.networks.values().find(|it| it.name == "net").unwrap().id.clone();
    assert_eq!(told.known.addresses(&web_id, &net_id).count(), 1);
    the_log_is_read(&swarm).await;

    // The loss is told at once. Then nobody listens, while one thing is removed and another one made.
    engine.kill();
    told.until_lost().await;
    engine.restart();
    let again = engine.connect().await;
    support::until("the Swarm is back", async || again.services().await.is_ok(), |is_back| *is_back).await;
    again.remove_service("web").await.unwrap();
    again.create_service(&service("api", "exec sleep 600")).await.unwrap();
    let changes = told
        .until("web is gone and api runs", |known| {
            runs(known, "api") && !known.services.contains_key(&web_id)
        })
        .await;
    let removed =
        |change: &&Change| change.verb() == "removed" && change.subject() == ("service", web_id.as_str());
    assert_eq!(changes.iter().filter(removed).count(), 1);
    assert_eq!(told.losses, 0, "a loss is told once");
}

/// The lines of a service that wrote one to each stream.
async fn the_log_is_read(swarm: &Swarm) {
    let mut logs = swarm.logs("web", &LogOptions { follow: true, ..Default::default() }).await.unwrap();
    let mut lines = Vec::new();
    while lines.len() < 2 {
        let line = tokio::time::timeout(Duration::from_secs(20), logs.next()).await.unwrap();
        let line = line.unwrap().unwrap();
        assert!(line.task.is_some() && line.node.is_some() && line.time.starts_with("20"), "{line:?}");
        lines.push((line.stream, line.text));
    }
    lines.sort_by(|a, b| a.1.cmp(&b.1));
    use swarmctl::logs::LogStream::{Stderr, Stdout};
    assert_eq!(lines, [(Stderr, "err".to_owned()), (Stdout, "out".to_owned())]);
    let last = LogOptions { tail: Some(1), ..Default::default() };
    let mut logs = swarm.logs("web", &last).await.unwrap();
    let mut count = 0;
    while logs.next().await.unwrap().is_some() {
        count += 1;
    }
    assert_eq!(count, 1);
    let unknown = swarm.logs("nobody", &last).await.unwrap_err();
    assert!(matches!(unknown, SwarmError::NotFound { kind: Kind::Service, .. }), "{unknown}");
}

#[tokio::test]
#[ignore = "needs root and Docker: run with --ignored"]
async fn a_locked_swarm_says_so_and_opens_with_its_key() {
    if !can_run() {
        return;
    }
    let mut engine = Engine::start();
    let swarm = engine.connect().await;
    let mut options = InitOptions::new("127.0.0.1");
    options.data_path_port = Some(14789);
    swarm.init(&options).await.unwrap();
    assert_eq!(swarm.unlock_key().await.unwrap(), None);
    let change =
        SwarmChange { heartbeat: Some(Duration::from_secs(7)), task_history: Some(3), autolock: Some(true) };
    swarm.change_swarm(&change).await.unwrap();
    let spec = swarm.inspect(Kind::Swarm, "").await.unwrap();
    assert_eq!(spec["Spec"]["Dispatcher"]["HeartbeatPeriod"], 7_000_000_000_u64);
    assert_eq!(spec["Spec"]["Orchestration"]["TaskHistoryRetentionLimit"], 3);
    assert_eq!(spec["DataPathPort"], 14789);
    let first = swarm.unlock_key().await.unwrap().unwrap();
    let key = swarm.rotate_unlock_key().await.unwrap().unwrap();
    assert!(first != key && key.starts_with("SWMKEY-"));

    engine.restart();
    let swarm = engine.connect().await;
    let locked = swarm.nodes().await.unwrap_err();
    assert!(matches!(locked, SwarmError::Locked), "{locked}");
    assert!(locked.to_string().contains("swarmctl unlock"));
    let no_key = format!("SWMKEY-1-{}", "A".repeat(43));
    let wrong = swarm.unlock(&no_key).await.unwrap_err();
    assert!(matches!(wrong, SwarmError::WrongKey), "{wrong}");
    // A manager that ends right after the key was changed may not have taken the new one over.
    if swarm.unlock(&key).await.is_err() {
        swarm.unlock(&first).await.unwrap();
    }
    support::until("the Swarm is open", async || swarm.nodes().await.is_ok(), |is_open| *is_open).await;
}
