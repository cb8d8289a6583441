//! Requests to an engine. What it says is JSON that this crate reads and changes as such: a client that knows the engine's
//! types by heart forgets, when it writes a service back, what a newer engine has or its own list gets wrong.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::time::timeout;

use super::client::Endpoint;
use super::client::connect::{Route, Stream};
use crate::cluster::{API_VERSION_MAX, API_VERSION_MIN, ApiVersion};
use crate::error::{ConnectError, Source};

/// How long an answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest answer that is read, in bytes: some 10,000 services.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// An engine did not do what it was asked to.
#[derive(Debug)]
pub(super) enum HttpError {
    /// It refused.
    Refused {
        /// The HTTP status.
        status: u16,
        /// Its words.
        message: String,
    },
    /// It did not answer, or not so that it can be understood.
    Broken(Source),
}

/// The way to an engine. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Http {
    route: Arc<Route>,
    /// What every path begins with, such as `/v1.41`.
    prefix: String,
}

impl Http {
    /// Finds an engine, and the newest version that both know.
    pub(super) async fn connect(endpoint: &Endpoint) -> Result<(Self, ApiVersion), ConnectError> {
        let http = Self { route: Arc::new(Route::find(endpoint).await?), prefix: String::new() };
        let place = endpoint.to_string();
        let not_an_engine = |source: Source| ConnectError::NotAnEngine { place: place.clone(), source };
        let answer = http.ask(Method::GET, "/_ping", None).await.map_err(|error| match error {
            HttpError::Refused { status, message } => not_an_engine(format!("{status}: {message}").into()),
            HttpError::Broken(source) => not_an_engine(source),
        })?;
        let said =
            answer.headers().get("api-version").and_then(|value| value.to_str().ok()).unwrap_or_default();
        let theirs = ApiVersion::parse(said);
        match theirs.filter(|theirs| *theirs >= API_VERSION_MIN) {
            Some(theirs) => {
                let version = theirs.min(API_VERSION_MAX);
                Ok((Self { prefix: format!("/v{version}"), ..http }, version))
            }
            None if said.is_empty() => Err(not_an_engine("it does not say its API version".into())),
            None => Err(ConnectError::TooOld { place, api: said.chars().take(64).collect() }),
        }
    }

    /// The way to a volume plugin, which may listen or not.
    pub(super) fn to_plugin(socket: PathBuf) -> Self {
        Self { route: Arc::new(Route::Unix(socket)), prefix: String::new() }
    }

    /// Asks for something.
    pub(super) async fn get(&self, path: &str) -> Result<Value, HttpError> {
        self.call(Method::GET, path, None).await
    }

    /// Changes something.
    pub(super) async fn post(&self, path: &str, body: &Value) -> Result<Value, HttpError> {
        self.call(Method::POST, path, Some(body)).await
    }

    /// Removes something.
    pub(super) async fn delete(&self, path: &str) -> Result<(), HttpError> {
        self.call(Method::DELETE, path, None).await.map(drop)
    }

    /// An answer that does not end.
    pub(super) async fn stream(&self, path: &str) -> Result<Incoming, HttpError> {
        self.ask(Method::GET, path, None).await.map(Response::into_body)
    }

    async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, HttpError> {
        let answer = self.ask(method, path, body).await?;
        let bytes = all(answer.into_body()).await?;
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&bytes).map_err(|error| HttpError::Broken(error.into()))
    }

    /// One request on a connection of its own: an engine is asked seldom, and some of its answers never end.
    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Response<Incoming>, HttpError> {
        let broken = |error: hyper::Error| HttpError::Broken(error.into());
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.prefix))
            .header(HOST, self.route.host())
            .header(ACCEPT, "application/json");
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let body = Full::new(Bytes::from(body.map(Value::to_string).unwrap_or_default()));
        let request = request.body(body).map_err(|error| HttpError::Broken(error.into()))?;
        let answering = async {
            let stream: Stream = self.route.open().await.map_err(|error| HttpError::Broken(error.into()))?;
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
            tokio::spawn(connection);
            sender.send_request(request).await.map_err(broken)
        };
        let answer = match timeout(ANSWER_TIMEOUT, answering).await {
            Ok(answer) => answer?,
            Err(_) => return Err(HttpError::Broken(io::Error::from(io::ErrorKind::TimedOut).into())),
        };
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let bytes = all(answer.into_body()).await.unwrap_or_default();
        let said: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let message = said["message"].as_str().map(str::to_owned);
        let message = message.unwrap_or_else(|| String::from_utf8_lossy(&bytes).into_owned());
        Err(HttpError::Refused {
            status: status.as_u16(),
            message: message.trim().chars().take(4096).collect(),
        })
    }
}

async fn all(body: Incoming) -> Result<Bytes, HttpError> {
    match timeout(ANSWER_TIMEOUT, Limited::new(body, ANSWER_BYTES_MAX).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) => Err(HttpError::Broken(error)),
        Err(_) => Err(HttpError::Broken(io::Error::from(io::ErrorKind::TimedOut).into())),
    }
}
