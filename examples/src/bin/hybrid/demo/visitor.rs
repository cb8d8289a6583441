//! Somebody who uses the notes: an HTTP client over any stream, with TLS when it comes from outside.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{HOST, RETRY_AFTER};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use meshnet::stack::Stack;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::report::StepError;

const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Trusts the demo's own certificate authority and no other.
pub fn trust(authority_pem: &str) -> Result<Arc<ClientConfig>, StepError> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority_pem.as_bytes())?)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// One client with one connection.
pub struct Visitor {
    host: String,
    sender: SendRequest<Full<Bytes>>,
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: hyper::HeaderMap,
    pub body: Bytes,
}

impl Answer {
    /// The seconds of `Retry-After`, when there is one.
    pub fn retry_after(&self) -> Option<Duration> {
        self.headers.get(RETRY_AFTER)?.to_str().ok()?.parse().ok().map(Duration::from_secs)
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Visitor {
    /// From outside: HTTPS to the edge, for `host`.
    pub async fn https(edge: SocketAddr, host: &str, tls: &Arc<ClientConfig>) -> Result<Self, StepError> {
        let stream = TcpStream::connect(edge).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from(host.to_owned())?;
        let stream = TlsConnector::from(tls.clone()).connect(name, stream).await?;
        Self::on(stream, host.to_owned()).await
    }

    /// From outside: plain HTTP to the edge, for `host`.
    pub async fn http(edge: SocketAddr, host: &str) -> Result<Self, StepError> {
        Self::on(TcpStream::connect(edge).await?, host.to_owned()).await
    }

    /// From inside: straight to the service over the mesh.
    pub async fn through_mesh(stack: &Stack, to: SocketAddr) -> Result<Self, StepError> {
        Self::on(stack.connect(to).await?, to.to_string()).await
    }

    async fn on<S>(stream: S, host: String) -> Result<Self, StepError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "visitor's connection ended");
            }
        });
        Ok(Self { host, sender })
    }

    /// `GET path`.
    pub async fn get(&mut self, path: &str) -> Result<Answer, StepError> {
        let request = Request::get(path).header(HOST, &self.host).body(Full::default())?;
        self.send(request).await
    }

    /// Posts a note; the key makes a repetition harmless.
    pub async fn post(&mut self, key: &str, text: &str) -> Result<Answer, StepError> {
        let request = Request::post("/notes")
            .header(HOST, &self.host)
            .header("idempotency-key", key)
            .body(Full::from(text.to_owned()))?;
        self.send(request).await
    }

    async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Answer, StepError> {
        let exchange = async {
            self.sender.ready().await?;
            let response: Response<hyper::body::Incoming> = self.sender.send_request(request).await?;
            let (head, body) = response.into_parts();
            let body = body.collect().await?.to_bytes();
            Ok::<_, StepError>(Answer { status: head.status, headers: head.headers, body })
        };
        tokio::time::timeout(REQUEST_TIMEOUT, exchange).await?
    }
}
