//! The socket on which an engine finds the plugin, and HTTP on it.

use std::convert::Infallible;
use std::future::Future;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::service::service_fn;
use hyper::{Method, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{UnixListener, UnixSocket, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::plugin::{self, PluginError, REQUEST_BYTES_MAX, Reply, Request, RequestError};

/// Connections that are served at once; more wait. An engine keeps two or so, and one for each call that takes long.
const CONNECTIONS_MAX: usize = 1024;
/// How long the body of a request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// The socket on which engines find a plugin. Dropping it removes it.
#[derive(Debug)]
pub struct PluginSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl PluginSocket {
    /// Listens on `NAME.sock` in `directory`, which is where engines look for plugins
    /// ([`PLUGIN_DIRECTORY`](crate::driver::PLUGIN_DIRECTORY)). A socket on which nobody listens any more is replaced. An engine
    /// that connects waits until the socket is served.
    ///
    /// # Errors
    /// When the socket cannot be made, or another process serves it.
    pub async fn bind(directory: &Path, name: &str) -> Result<Self, PluginError> {
        let path = directory.join(format!("{name}.sock"));
        let failed = |source| PluginError::Socket { path: path.clone(), source };
        std::fs::create_dir_all(directory).map_err(failed)?;
        match std::fs::symlink_metadata(&path) {
            Ok(found) if !found.file_type().is_socket() => {
                return Err(failed(io::Error::new(ErrorKind::AlreadyExists, "something else has this name")));
            }
            Ok(_) if UnixStream::connect(&path).await.is_ok() => return Err(PluginError::Served(path)),
            Ok(_) => std::fs::remove_file(&path).map_err(failed)?,
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        let socket = UnixSocket::new_stream().map_err(failed)?;
        socket.bind(&path).map_err(failed)?;
        // Nobody can connect before `listen`, so nobody ever meets the socket with a wider mode.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
        let listener = socket.listen(128).map_err(failed)?;
        Ok(Self { listener, path })
    }

    /// Answers, for ever.
    pub(super) async fn serve<F>(
        self,
        answer: impl Fn(Request) -> F + Clone + Send + Sync + 'static,
    ) -> Infallible
    where
        F: Future<Output = Reply> + Send + 'static,
    {
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut connections = JoinSet::new();
        loop {
            let place = Arc::clone(&places).acquire_owned().await.expect("the semaphore is never closed");
            while connections.try_join_next().is_some() {}
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                // Out of descriptors, say: others may end first.
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection of the engine");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let answer = answer.clone();
            connections.spawn(async move {
                let service = service_fn(|request| respond(request, answer.clone()));
                let server = hyper::server::conn::http1::Builder::new();
                // A connection that breaks is the engine's to open again; one that idles is its to close.
                let _ = server.serve_connection(TokioIo::new(stream), service).await;
                drop(place);
            });
        }
    }
}

impl Drop for PluginSocket {
    fn drop(&mut self) {
        // Gone already, perhaps with its directory.
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn respond<F: Future<Output = Reply>>(
    request: hyper::Request<Incoming>,
    answer: impl Fn(Request) -> F,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (status, reply) = match read(request).await {
        Ok(request) => (StatusCode::OK, answer(request).await),
        Err(error) => {
            let status = match error {
                RequestError::Unknown(_) => StatusCode::NOT_FOUND,
                _ => StatusCode::BAD_REQUEST,
            };
            (status, Reply::Failed(error.to_string()))
        }
    };
    let body = Full::new(Bytes::from(reply.to_json().to_string()));
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, plugin::CONTENT_TYPE.parse().expect("it is plain text"));
    Ok(response)
}

async fn read(request: hyper::Request<Incoming>) -> Result<Request, RequestError> {
    let path = request.uri().path().to_owned();
    if request.method() != Method::POST {
        return Err(RequestError::Unknown(format!("{} {path}", request.method()).chars().take(64).collect()));
    }
    let malformed = |reason: String| RequestError::Malformed(reason);
    let body = Limited::new(request.into_body(), REQUEST_BYTES_MAX).collect();
    let body = match timeout(REQUEST_TIMEOUT, body).await {
        Ok(body) => body.map_err(|error| malformed(error.to_string()))?.to_bytes(),
        Err(_) => return Err(malformed(format!("no body within {} s", REQUEST_TIMEOUT.as_secs()))),
    };
    Request::parse(&path, &body)
}
