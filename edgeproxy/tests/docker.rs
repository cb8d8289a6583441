//! The Docker provider against a scripted engine: it speaks API 1.41 and refuses every newer path, as Debian's does.
#![cfg(feature = "docker")]
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod support;

use edgeproxy::{DockerProvider, EntryPoint, MemoryProvider, Proxy, route::RequestView};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex},
};
use support::{Edge, Server, config, eventually};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    sync::broadcast,
    task::JoinSet,
};

/// What the engine runs, and who listens to its events.
#[derive(Clone)]
struct Engine {
    containers: Arc<Mutex<BTreeMap<String, Value>>>,
    events: broadcast::Sender<String>,
}

/// The engine's process: dropping it closes every connection.
struct Running(tokio::task::JoinHandle<()>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Engine {
    fn new() -> Self {
        Self { containers: Arc::default(), events: broadcast::channel(64).0 }
    }

    fn start(&self, socket: &PathBuf) -> Running {
        let _ = std::fs::remove_file(socket);
        let (listener, engine) = (UnixListener::bind(socket).unwrap(), self.clone());
        Running(tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.spawn(engine.clone().serve(stream));
            }
        }))
    }

    async fn serve(self, stream: UnixStream) {
        let mut stream = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if stream.read_line(&mut head).await.unwrap_or(0) == 0 {
                return;
            }
        }
        let path = head.split(' ').nth(1).unwrap();
        // Without a version the engine answers in its own.
        let path = path.strip_prefix("/v1.41").unwrap_or(path);
        let (status, body) = if path == "/_ping" {
            ("200 OK", "OK".to_owned())
        } else if path.starts_with("/containers/json") {
            ("200 OK", Value::from_iter(self.containers.lock().unwrap().values().cloned()).to_string())
        } else if path.starts_with("/events") {
            return self.stream_events(stream).await;
        } else {
            ("400 Bad Request", json!({"message": "client version is too new"}).to_string())
        };
        let answer = format!(
            "HTTP/1.1 {status}\r\nApi-Version: 1.41\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        let _ = stream.write_all(answer.as_bytes()).await;
    }

    async fn stream_events(self, mut stream: BufReader<UnixStream>) {
        let mut events = self.events.subscribe();
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
        let _ = stream.write_all(head.as_bytes()).await;
        while let Ok(event) = events.recv().await {
            let chunk = format!("{:x}\r\n{event}\n\r\n", event.len() + 1);
            if stream.write_all(chunk.as_bytes()).await.is_err() {
                return;
            }
        }
    }

    /// Runs a container that is `server`.
    fn run(&self, id: &str, server: &Server, host: &str) {
        let container = json!({
            "Id": id, "Names": [format!("/{id}")], "State": "running", "Status": "Up 1 second",
            "Labels": {"traefik.frontend.rule": format!("Host:{host}"), "traefik.port": server.address.port().to_string()},
            "NetworkSettings": {"Networks": {"bridge": {"IPAddress": "127.0.0.1"}}},
        });
        self.containers.lock().unwrap().insert(id.into(), container);
        self.tell("start", id, json!({}));
    }

    fn tell(&self, action: &str, id: &str, attributes: Value) {
        let event =
            json!({"Type": "container", "Action": action, "Actor": {"ID": id, "Attributes": attributes}});
        // Nobody may be listening.
        let _ = self.events.send(event.to_string());
    }

    /// How many listen to the events.
    fn listeners(&self) -> usize {
        self.events.receiver_count()
    }
}

async fn edge(socket: &PathBuf) -> Edge {
    let docker = DockerProvider::connect(socket).await.unwrap();
    let proxy = Proxy::builder(config()).provider(docker).start().await.unwrap();
    Edge { proxy, containers: MemoryProvider::new("unused").1 }
}

/// Whether the host has a route, and whether it has a live server.
fn routed(edge: &Edge, host: &str) -> Option<bool> {
    let table = edge.proxy.routes();
    table.lookup(&RequestView::new(EntryPoint::Http, host, "/")).map(|route| !route.service.live().is_empty())
}

#[tokio::test]
async fn containers_are_served_from_start_to_stop() {
    let (dir, engine, server) = (tempfile::tempdir().unwrap(), Engine::new(), Server::echo().await);
    let socket = dir.path().join("docker.sock");
    let _running = engine.start(&socket);
    engine.run("first", &server, "first.example");
    let edge = edge(&socket).await;
    assert_eq!(edge.get("first.example", "/").await.status, 200, "known at the start");
    eventually("the provider listens", || engine.listeners() == 1).await;

    engine.run("second", &server, "second.example");
    eventually("the new container is routed", || routed(&edge, "second.example") == Some(true)).await;
    assert_eq!(edge.get("second.example", "/").await.status, 200);

    // Told to stop: still in the list as running, and out of service all the same.
    engine.tell("kill", "second", json!({"signal": "15"}));
    eventually("the stopping container is out", || routed(&edge, "second.example") == Some(false)).await;
    assert_eq!(edge.get("second.example", "/").await.status, 503);
    assert_eq!(edge.get("first.example", "/").await.status, 200);

    engine.tell("start", "second", json!({}));
    eventually("the started container is back", || routed(&edge, "second.example") == Some(true)).await;

    engine.containers.lock().unwrap().remove("second");
    engine.tell("destroy", "second", json!({}));
    eventually("the removed container is gone", || routed(&edge, "second.example").is_none()).await;
}

#[tokio::test]
async fn an_engine_that_restarts_is_found_again_and_its_containers_stay_meanwhile() {
    let (dir, engine, server) = (tempfile::tempdir().unwrap(), Engine::new(), Server::echo().await);
    let socket = dir.path().join("docker.sock");
    let running = engine.start(&socket);
    engine.run("first", &server, "first.example");
    let edge = edge(&socket).await;
    eventually("the provider listens", || engine.listeners() == 1).await;
    drop(running);
    eventually("the connection is gone", || engine.listeners() == 0).await;
    assert_eq!(edge.get("first.example", "/").await.status, 200);
    engine.run("second", &server, "second.example");
    let _running = engine.start(&socket);
    eventually("what happened meanwhile is known", || routed(&edge, "second.example") == Some(true)).await;
}
