//! Owns the certificates that the TLS entry point shows, chosen by the name that the client asks for. Never formats a key.

use crate::{error::CertError, host::normalise_host};
use arc_swap::ArcSwap;
use rustls::{
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign,
};
use std::{collections::BTreeMap, fmt, path::Path, sync::Arc};

/// A certificate chain with its private key, and the names that it is for.
#[derive(Clone)]
pub struct CertifiedKey {
    names: Vec<String>,
    key: Arc<sign::CertifiedKey>,
}

impl CertifiedKey {
    /// Reads a PEM certificate chain (leaf first) and a PEM key from two files.
    ///
    /// # Errors
    /// Names the file and what is wrong with it.
    pub fn from_pem_files(certificate: impl AsRef<Path>, key: impl AsRef<Path>) -> Result<Self, CertError> {
        let read =
            |path: &Path| std::fs::read(path).map_err(|source| CertError::Read { path: path.into(), source });
        let (certificate, key) = (certificate.as_ref(), key.as_ref());
        let names = [certificate.display().to_string(), key.display().to_string()];
        Self::from_pem_named(&read(certificate)?, &read(key)?, &names)
    }

    /// Parses a PEM certificate chain (leaf first) and a PEM key.
    ///
    /// # Errors
    /// Says what is wrong with which of the two.
    pub fn from_pem(certificate: &[u8], key: &[u8]) -> Result<Self, CertError> {
        Self::from_pem_named(certificate, key, &["certificate".into(), "key".into()])
    }

    fn from_pem_named(
        certificate: &[u8],
        key: &[u8],
        [certificate_origin, key_origin]: &[String; 2],
    ) -> Result<Self, CertError> {
        let bad_certificate =
            |message: String| CertError::Certificate { origin: certificate_origin.clone(), message };
        let chain: Vec<_> = CertificateDer::pem_slice_iter(certificate)
            .collect::<Result<_, _>>()
            .map_err(|error| bad_certificate(error.to_string()))?;
        if chain.is_empty() {
            return Err(bad_certificate("there is none in it".into()));
        }
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|error| CertError::Key { origin: key_origin.clone(), message: error.to_string() })?;
        Self::from_der(chain, key, [certificate_origin, key_origin])
    }

    pub(super) fn from_der(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        [certificate_origin, key_origin]: [&str; 2],
    ) -> Result<Self, CertError> {
        let names = dns_names(&chain[0])
            .map_err(|message| CertError::Certificate { origin: certificate_origin.to_owned(), message })?;
        let key = sign::CertifiedKey::from_der(chain, key, &provider()).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                CertError::Mismatch { origin: certificate_origin.to_owned() }
            }
            error => CertError::Key { origin: key_origin.to_owned(), message: error.to_string() },
        })?;
        Ok(Self { names, key: Arc::new(key) })
    }

    /// The DNS names that the certificate is for, in lower case; wildcards as `*.example.org`.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The chain as DER, leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.key.cert
    }
}

impl fmt::Debug for CertifiedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertifiedKey").field("names", &self.names).finish_non_exhaustive()
    }
}

/// The certificates of a proxy. A handle: clones share one store, and a change holds for the next handshake.
///
/// A handshake for a name gets the certificate of exactly that name, else that of the wildcard above it, else the default, else an alert.
#[derive(Clone, Default)]
pub struct Certificates {
    store: Arc<ArcSwap<Store>>,
}

#[derive(Default, Clone)]
struct Store {
    by_name: BTreeMap<String, Arc<sign::CertifiedKey>>,
    default: Option<Arc<sign::CertifiedKey>>,
}

impl Certificates {
    /// A store without certificates: every handshake fails until one is added.
    pub fn new() -> Self {
        Self::default()
    }

    /// Shows `certificate` for each of its names from now on; what was shown for them before is replaced.
    pub fn add(&self, certificate: &CertifiedKey) {
        self.store.rcu(|store| {
            let mut store = Store::clone(store);
            for name in &certificate.names {
                store.by_name.insert(name.clone(), certificate.key.clone());
            }
            store
        });
    }

    /// Shows `certificate` to clients that ask for a name that no other certificate is for, or for none.
    pub fn set_default(&self, certificate: &CertifiedKey) {
        self.store.rcu(|store| Store { default: Some(certificate.key.clone()), ..Store::clone(store) });
    }

    /// Every name that has a certificate, in order.
    pub fn names(&self) -> Vec<String> {
        self.store.load().by_name.keys().cloned().collect()
    }

    fn find(&self, name: Option<&str>) -> Option<Arc<sign::CertifiedKey>> {
        let store = self.store.load();
        let named = name.and_then(normalise_host).and_then(|name| {
            let wildcard = || store.by_name.get(&format!("*.{}", name.split_once('.')?.1));
            store.by_name.get(&*name).or_else(wildcard)
        });
        named.or(store.default.as_ref()).cloned()
    }

    /// Settings for TLS 1.2 and 1.3 with these certificates.
    pub(super) fn server_config(&self) -> Result<rustls::ServerConfig, rustls::Error> {
        let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(provider()))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(self.clone()));
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates").field("names", &self.names()).finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<sign::CertifiedKey>> {
        self.find(hello.server_name())
    }
}

/// The one cryptographic provider; nothing is installed process-wide.
pub(super) fn provider() -> CryptoProvider {
    aws_lc_rs::default_provider()
}

fn dns_names(leaf: &CertificateDer<'_>) -> Result<Vec<String>, String> {
    let parsed = webpki::EndEntityCert::try_from(leaf).map_err(|error| error.to_string())?;
    Ok(parsed.valid_dns_names().map(str::to_ascii_lowercase).collect())
}
