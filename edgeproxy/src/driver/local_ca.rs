//! Owns a certificate authority of one's own: for a LAN, a demonstration, a test. Its key lives in memory only and ends with it.

use super::tls::CertifiedKey;
use crate::error::CertError;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::{
    fmt,
    time::{Duration, SystemTime},
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// How long the authority and what it issues are valid. Browsers refuse leaves of more than 825 days.
const VALID_DAYS: u32 = 397;

/// A local certificate authority: P-256 keys, one level, valid from yesterday for 397 days.
pub struct LocalCa {
    pem: String,
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl LocalCa {
    /// Makes an authority with a fresh key.
    ///
    /// # Errors
    /// If the name cannot stand in a certificate.
    pub fn new(common_name: &str) -> Result<Self, CertError> {
        let failed =
            |error: rcgen::Error| CertError::Issue { names: common_name.into(), message: error.to_string() };
        let mut params = params(common_name, Vec::new()).map_err(failed)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = params.self_signed(&key).map_err(failed)?;
        Ok(Self {
            pem: certificate.pem(),
            certificate: certificate.der().clone(),
            issuer: Issuer::new(params, key),
        })
    }

    /// The authority's certificate as PEM: what clients are told to trust.
    pub fn certificate_pem(&self) -> &str {
        &self.pem
    }

    /// The authority's certificate as DER.
    pub fn certificate_der(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Issues a certificate with a fresh key for host names and IP addresses.
    ///
    /// # Errors
    /// If there is no name, or one is neither a host name nor an address.
    pub fn issue<S: AsRef<str>>(&self, names: &[S]) -> Result<CertifiedKey, CertError> {
        let names: Vec<String> = names.iter().map(|name| name.as_ref().to_ascii_lowercase()).collect();
        let failed = |message: String| CertError::Issue { names: names.join(", "), message };
        let [first, ..] = names.as_slice() else { return Err(failed("there is no name".into())) };
        let mut params = params(first, names.clone()).map_err(|error| failed(error.to_string()))?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().map_err(|error| failed(error.to_string()))?;
        let leaf = params.signed_by(&key, &self.issuer).map_err(|error| failed(error.to_string()))?;
        let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(|error| failed(error.to_owned()))?;
        CertifiedKey::from_der(
            vec![leaf.der().clone(), self.certificate.clone()],
            key,
            ["certificate", "key"],
        )
    }
}

impl fmt::Debug for LocalCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalCa").finish_non_exhaustive()
    }
}

fn params(common_name: &str, names: Vec<String>) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    let now = SystemTime::now();
    params.not_before = (now - DAY).into();
    params.not_after = (now + DAY * VALID_DAYS).into();
    Ok(params)
}
