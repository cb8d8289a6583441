//! Streams that prove who is at their other end: TLS 1.3 and nothing older, raw public keys (RFC 7250) that *are* the
//! device IDs, on both sides. No names, no authorities, no certificates that expire, no tickets that skip the proof.
//!
//! A handshake is bounded in time ([`HANDSHAKE_MAX`]) and, by the TLS engine, in size (64 KiB a message).

use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Once};
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::AlwaysResolvesServerRawPublicKeys;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, OtherError, ServerConfig,
    SignatureScheme,
};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, BufReader, ReadBuf};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::identity::{Identity, device_of};
use crate::device::DeviceId;

/// How long a handshake may take.
pub const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// How much is taken from a stream at once: by itself the TLS engine asks for a quarter of a record at a time.
const READ_BYTES: usize = 128 << 10;
/// How much is encrypted and given to a stream at once.
const WRITE_BYTES: usize = 256 << 10;

/// A stream whose other end has proved which device it is. Nobody else can read or change what it carries.
pub struct TlsStream<S>(tokio_rustls::TlsStream<BufReader<S>>);

/// Why a stream did not become a proven one.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TlsError {
    /// Nobody, or somebody very slow, is there.
    #[error("no TLS handshake within {} s", HANDSHAKE_MAX.as_secs())]
    Slow,
    /// Not who was to be there.
    #[error(
        "{found} answers there, {expected} was expected: check the address, or the ID if that device has a new key"
    )]
    WrongDevice {
        /// Who was to be there.
        expected: DeviceId,
        /// Who proved to be there.
        found: DeviceId,
    },
    /// Something else than a device of this protocol.
    #[error("no proof of a device ID: {0}")]
    Handshake(rustls::Error),
    /// The stream broke.
    #[error("the stream broke in the TLS handshake: {0}")]
    Io(io::Error),
}

impl TlsError {
    /// The reason as a short fixed word, to count by.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Slow => "slow",
            Self::WrongDevice { .. } => "wrong-device",
            Self::Handshake(_) => "handshake",
            Self::Io(_) => "io",
        }
    }
}

impl Identity {
    /// Makes `stream` one to exactly the device `expected`; the other side calls [`Identity::accept`].
    ///
    /// # Errors
    /// If somebody else is there, nobody answers in time, or it is not this protocol.
    pub async fn connect<S>(&self, stream: S, expected: DeviceId) -> Result<TlsStream<S>, TlsError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let verifier = Arc::new(Pinned { expected: Some(expected), provider: provider() });
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .expect("the provider has the suites of TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(self.certified())));
        config.resumption = Resumption::disabled();
        config.enable_sni = false;
        let name = ServerName::try_from("syncfs").expect("the name is valid; it is never sent");
        let stream = BufReader::with_capacity(READ_BYTES, stream);
        let handshake = TlsConnector::from(Arc::new(config)).connect(name, stream);
        let mut stream = bounded(handshake, HANDSHAKE_MAX).await?;
        stream.get_mut().1.set_buffer_limit(Some(WRITE_BYTES));
        Ok(TlsStream(stream.into()))
    }

    /// Makes `stream` a proven one and says which device dialled. Whether that device is *wanted* is the caller's
    /// question.
    ///
    /// # Errors
    /// If the dialler proves nothing in time, or it is not this protocol.
    pub async fn accept<S>(&self, stream: S) -> Result<(TlsStream<S>, DeviceId), TlsError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let verifier = Arc::new(Pinned { expected: None, provider: provider() });
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .expect("the provider has the suites of TLS 1.3")
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(self.certified())));
        config.send_tls13_tickets = 0;
        let stream = BufReader::with_capacity(READ_BYTES, stream);
        let mut stream = bounded(TlsAcceptor::from(Arc::new(config)).accept(stream), HANDSHAKE_MAX).await?;
        stream.get_mut().1.set_buffer_limit(Some(WRITE_BYTES));
        let (_, session) = stream.get_ref();
        let key = session.peer_certificates().and_then(<[_]>::first);
        let device = key.and_then(|key| device_of(key)).expect("the handshake fails without an Ed25519 key");
        Ok((TlsStream(stream.into()), device))
    }
}

/// Draws a first random number, beside whatever else a start takes: for its seed AWS-LC measures the jitter of the
/// processor for some 40 ms, and the first handshake of a process would wait for that.
pub(super) fn seed() {
    static DRAWN: Once = Once::new();
    DRAWN.call_once(|| {
        let draw = || drop(provider().secure_random.fill(&mut [0]));
        // Without a thread the handshake draws it.
        let _ = std::thread::Builder::new().name("syncfs-seed".to_owned()).spawn(draw);
    });
}

/// The suites of TLS 1.3, the fastest on this kind of machine first.
fn provider() -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites = vec![
        aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
        aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
    ];
    Arc::new(provider)
}

async fn bounded<T>(handshake: impl Future<Output = io::Result<T>>, limit: Duration) -> Result<T, TlsError> {
    match tokio::time::timeout(limit, handshake).await {
        Err(_) => Err(TlsError::Slow),
        Ok(Err(error)) => Err(refused(error)),
        Ok(Ok(stream)) => Ok(stream),
    }
}

fn refused(error: io::Error) -> TlsError {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()).cloned();
    match tls {
        None => TlsError::Io(error),
        Some(rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(ref other)))) => {
            match other.downcast_ref::<Unexpected>() {
                Some(&Unexpected { expected, found }) => TlsError::WrongDevice { expected, found },
                None => TlsError::Handshake(rustls::Error::InvalidCertificate(CertificateError::BadEncoding)),
            }
        }
        Some(error) => TlsError::Handshake(error),
    }
}

/// Takes an Ed25519 key, and if a device is expected, only its.
#[derive(Debug)]
struct Pinned {
    expected: Option<DeviceId>,
    provider: Arc<CryptoProvider>,
}

#[derive(Debug, Error)]
#[error("expected {expected}, found {found}")]
struct Unexpected {
    expected: DeviceId,
    found: DeviceId,
}

impl Pinned {
    fn check(&self, key: &CertificateDer<'_>, more: &[CertificateDer<'_>]) -> Result<(), rustls::Error> {
        let found = device_of(key).filter(|_| more.is_empty());
        let found = found.ok_or(rustls::Error::InvalidCertificate(CertificateError::BadEncoding))?;
        match self.expected.filter(|expected| *expected != found) {
            None => Ok(()),
            Some(expected) => {
                let other = OtherError(Arc::new(Unexpected { expected, found }));
                Err(rustls::Error::InvalidCertificate(CertificateError::Other(other)))
            }
        }
    }

    fn prove(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let key = SubjectPublicKeyInfoDer::from(key.as_ref());
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature_with_raw_key(message, &key, signature, algorithms)
    }
}

/// What both verifiers say of signatures: TLS 1.3 with Ed25519 and nothing else.
macro_rules! proofs {
    () => {
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Err(rustls::Error::PeerIncompatible(rustls::PeerIncompatible::Tls12NotOffered))
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            key: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            self.prove(message, key, signature)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            vec![SignatureScheme::ED25519]
        }

        fn requires_raw_public_keys(&self) -> bool {
            true
        }
    };
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        key: &CertificateDer<'_>,
        more: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.check(key, more).map(|()| ServerCertVerified::assertion())
    }

    proofs!();
}

impl ClientCertVerifier for Pinned {
    fn verify_client_cert(
        &self,
        key: &CertificateDer<'_>,
        more: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.check(key, more).map(|()| ClientCertVerified::assertion())
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    proofs!();
}

impl<S> fmt::Debug for TlsStream<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsStream").finish_non_exhaustive()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for TlsStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TlsStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    use super::*;

    type Accepted = Result<(TlsStream<DuplexStream>, DeviceId), TlsError>;

    async fn meet(
        dialler: &Identity,
        listener: &Identity,
        expected: DeviceId,
    ) -> (Result<TlsStream<DuplexStream>, TlsError>, Accepted) {
        let (left, right) = tokio::io::duplex(1 << 14);
        tokio::join!(dialler.connect(left, expected), listener.accept(right))
    }

    #[tokio::test]
    async fn both_ends_prove_their_device_and_bytes_pass() {
        let (a, b) = (Identity::generate().unwrap(), Identity::generate().unwrap());
        let (dialled, accepted) = meet(&a, &b, b.device()).await;
        let (mut dialled, (mut accepted, device)) = (dialled.unwrap(), accepted.unwrap());
        assert_eq!(device, a.device());
        let (_, session) = accepted.0.get_ref();
        assert_eq!(session.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
        dialled.write_all(b"hello").await.unwrap();
        dialled.shutdown().await.unwrap();
        let mut bytes = Vec::new();
        accepted.read_to_end(&mut bytes).await.unwrap();
        assert_eq!(bytes, b"hello");
    }

    #[tokio::test]
    async fn somebody_else_at_the_address_is_named() {
        let [a, b, wanted] = std::array::from_fn(|_| Identity::generate().unwrap());
        let (dialled, accepted) = meet(&a, &b, wanted.device()).await;
        let error = dialled.unwrap_err();
        assert_eq!(error.reason(), "wrong-device");
        let (TlsError::WrongDevice { expected, found }, true) = (error, accepted.is_err()) else { panic!() };
        assert_eq!((expected, found), (wanted.device(), b.device()));
    }

    /// Has the ID of `b` and not its key: the public half is `b`'s, signatures are `a`'s.
    #[tokio::test]
    async fn an_id_without_its_key_proves_nothing() {
        let [a, b, thief] = std::array::from_fn(|_| Identity::generate().unwrap());
        let forged = thief.with_public_half_of(&b);
        let (dialled, _) = meet(&a, &forged, b.device()).await;
        assert!(matches!(dialled.unwrap_err(), TlsError::Handshake(_)));
        let (_, accepted) = meet(&forged, &a, a.device()).await;
        assert!(matches!(accepted.unwrap_err(), TlsError::Handshake(_)));
    }

    #[tokio::test]
    async fn what_is_not_tls_is_refused() {
        let a = Identity::generate().unwrap();
        for noise in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"syncd/1 sd1aaaa\n", &[0x16; 4096]] {
            let (mut left, right) = tokio::io::duplex(1 << 14);
            left.write_all(noise).await.unwrap();
            assert!(matches!(a.accept(right).await.unwrap_err(), TlsError::Handshake(_)));
        }
    }

    #[tokio::test]
    async fn a_dialler_without_a_key_is_refused() {
        let a = Identity::generate().unwrap();
        let verifier = Arc::new(Pinned { expected: None, provider: provider() });
        let config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        let (left, right) = tokio::io::duplex(1 << 14);
        let name = ServerName::try_from("syncfs").unwrap();
        let dialling = TlsConnector::from(Arc::new(config)).connect(name, left);
        let (_, accepted) = tokio::join!(dialling, a.accept(right));
        assert!(matches!(accepted.unwrap_err(), TlsError::Handshake(_)));
    }

    #[tokio::test]
    async fn a_silent_dialler_is_given_up() {
        let silent = std::future::pending::<io::Result<()>>();
        assert!(matches!(bounded(silent, Duration::from_millis(1)).await.unwrap_err(), TlsError::Slow));
    }
}
