//! A proxy on loopback, servers behind it, and clients before it.
#![allow(dead_code)] // Each test target uses its part.

use edgeproxy::{Certificates, Config, Container, MemoryProvider, MemoryProviderHandle, Proxy, Snapshot};
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use std::{convert::Infallible, future::Future, net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// Longest wait for what must happen: generous, since it is only waited out by a failing test.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

pub(crate) type Body = Full<bytes::Bytes>;

/// A server whose answers a function gives.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    accepting: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Server {
    pub(crate) async fn start<F, A>(answer: F) -> Self
    where
        F: Fn(Request<Incoming>) -> A + Clone + Send + Sync + 'static,
        A: Future<Output = Response<Body>> + Send,
    {
        Self::start_raw(move |stream| {
            let answer = answer.clone();
            async move {
                let service = service_fn(|request| {
                    let answered = answer(request);
                    async move { Ok::<_, Infallible>(answered.await) }
                });
                let http = hyper::server::conn::http1::Builder::new();
                let _ = http.serve_connection(TokioIo::new(stream), service).with_upgrades().await;
            }
        })
        .await
    }

    /// A server that is given its connections as they are.
    pub(crate) async fn start_raw<F, A>(serve: F) -> Self
    where
        F: Fn(TcpStream) -> A + Send + 'static,
        A: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepting = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.spawn(serve(stream));
            }
        });
        Self { address, accepting }
    }

    /// A server that answers what it was asked, with the headers that reached it.
    pub(crate) async fn echo() -> Self {
        Self::start(|request| async move {
            let mut told = format!("{} {}\n", request.method(), request.uri());
            for (name, value) in request.headers() {
                told.push_str(&format!("{name}: {}\n", value.to_str().unwrap()));
            }
            let body = request.into_body().collect().await.unwrap().to_bytes();
            told.push_str(&format!("\n{}", String::from_utf8_lossy(&body)));
            Response::new(told.into())
        })
        .await
    }

    /// The container that this server is, with a v1 rule.
    pub(crate) fn container(&self, name: &str, host: &str) -> Container {
        let labels = Container::new(name).with_label("traefik.frontend.rule", format!("Host:{host}"));
        labels.with_address(self.address.ip()).with_port(self.address.port())
    }
}

/// A proxy with a memory provider.
pub(crate) struct Edge {
    pub(crate) proxy: Proxy,
    pub(crate) containers: MemoryProviderHandle,
}

impl Edge {
    pub(crate) async fn start(containers: impl IntoIterator<Item = Container>) -> Self {
        Self::start_with(config(), Certificates::new(), containers).await
    }

    pub(crate) async fn start_with(
        config: Config,
        certificates: Certificates,
        containers: impl IntoIterator<Item = Container>,
    ) -> Self {
        let (provider, handle) = MemoryProvider::new("test");
        handle.set(containers.into_iter().collect()).await.unwrap();
        let builder = Proxy::builder(config).provider(provider).certificates(certificates);
        Self { proxy: builder.start().await.unwrap(), containers: handle }
    }

    pub(crate) async fn set(&self, containers: impl IntoIterator<Item = Container>) {
        self.containers.set(containers.into_iter().collect::<Snapshot>()).await.unwrap();
    }

    pub(crate) fn http(&self) -> SocketAddr {
        self.proxy.http_addr().unwrap()
    }

    pub(crate) async fn connect(&self) -> Raw {
        Raw(TcpStream::connect(self.http()).await.unwrap())
    }

    /// Sends one `GET` on a connection of its own.
    pub(crate) async fn get(&self, host: &str, path: &str) -> Answer {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await
    }

    /// Sends `request` on a connection of its own and reads one response.
    pub(crate) async fn send(&self, request: &str) -> Answer {
        let mut raw = self.connect().await;
        raw.send(request).await;
        raw.answer().await
    }
}

/// Listens on a free port of loopback, plain only.
pub(crate) fn config() -> Config {
    let mut config = Config::default();
    config.http = Some("127.0.0.1:0".parse().unwrap());
    config
}

/// A client that sends bytes as they are given.
pub(crate) struct Raw<S = TcpStream>(pub(crate) S);

/// One response, parsed just enough.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Status line and headers, names in lower case, without the last empty line.
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let prefix = format!("{name}: ");
        self.head.lines().find_map(|line| line.strip_prefix(prefix.as_str()))
    }
}

impl<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin> Raw<S> {
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).await.unwrap();
    }

    /// Reads one response with a length or in chunks.
    pub(crate) async fn answer(&mut self) -> Answer {
        in_time(self.read_answer()).await.expect("the proxy closed the connection without an answer")
    }

    async fn read_answer(&mut self) -> Option<Answer> {
        let head = self.read_until(b"\r\n\r\n").await?;
        let (status_line, headers) = head.trim_end().split_once("\r\n").unwrap_or((head.trim_end(), ""));
        let headers: Vec<String> = headers
            .lines()
            .map(|line| {
                line.split_once(": ")
                    .map_or(line.to_owned(), |(name, value)| format!("{}: {value}", name.to_lowercase()))
            })
            .collect();
        let status = status_line.split(' ').nth(1).unwrap().parse().unwrap();
        let mut answer =
            Answer { status, head: format!("{status_line}\n{}", headers.join("\n")), body: String::new() };
        if let Some(length) = answer.header("content-length") {
            let mut body = vec![0; length.parse().unwrap()];
            self.0.read_exact(&mut body).await.ok()?;
            answer.body = String::from_utf8(body).unwrap();
        } else if answer.header("transfer-encoding").is_some() {
            loop {
                let size = self.read_until(b"\r\n").await?;
                let mut chunk = vec![0; usize::from_str_radix(size.trim_end(), 16).unwrap() + 2];
                self.0.read_exact(&mut chunk).await.ok()?;
                if chunk.len() == 2 {
                    break;
                }
                answer.body.push_str(std::str::from_utf8(&chunk[..chunk.len() - 2]).unwrap());
            }
        }
        Some(answer)
    }

    async fn read_until(&mut self, end: &[u8]) -> Option<String> {
        let mut read = Vec::new();
        while !read.ends_with(end) {
            read.push(self.0.read_u8().await.ok()?);
        }
        Some(String::from_utf8(read).unwrap())
    }

    /// Whether the proxy closes the connection without another byte.
    pub(crate) async fn is_closed(&mut self) -> bool {
        in_time(async { !matches!(self.0.read(&mut [0; 1]).await, Ok(1..)) }).await
    }
}

/// The outcome of `future`, which must come before [`DEADLINE`].
pub(crate) async fn in_time<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.expect("the deadline passed")
}

/// Waits until `condition` holds.
pub(crate) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let holds = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(DEADLINE, holds).await.unwrap_or_else(|_| panic!("not in time: {what}"));
}
