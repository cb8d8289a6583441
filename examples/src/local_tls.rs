//! Certificates of a local authority for every host that a proxy routes: HTTPS before there is a real certificate.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use edgeproxy::{Certificates, LocalCa, RouteTable};
use tempfile::TempDir;

use crate::daemon::{Context, Failure};

/// The most names that are given a certificate; further hosts get none.
pub const NAMES_MAX: usize = 1000;

/// An authority that lives as long as this process, and the names that it has issued for.
pub struct LocalTls {
    authority: LocalCa,
    certificates: Certificates,
    issued: BTreeSet<String>,
    // Holds the authority's certificate for clients to read; removed at the end.
    directory: TempDir,
}

impl LocalTls {
    /// Makes an authority with a fresh key, which is never written anywhere, and writes its certificate to a
    /// temporary file.
    pub fn new(certificates: Certificates) -> Result<LocalTls, Failure> {
        let authority = LocalCa::new("edged local authority")?;
        let directory = tempfile::Builder::new().prefix("edged-").tempdir();
        let directory = directory.context("cannot make a directory for the local authority's certificate")?;
        let file = directory.path().join("ca.pem");
        std::fs::write(&file, authority.certificate_pem())
            .context(format!("cannot write {}", file.display()))?;
        Ok(LocalTls { authority, certificates, issued: BTreeSet::new(), directory })
    }

    /// The authority's certificate, PEM: what a client is told to trust (`curl --cacert`).
    pub fn authority_file(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// Issues a certificate for every host of the table that has none yet.
    pub fn cover(&mut self, table: &RouteTable) {
        for host in table.routes().filter_map(|route| route.rule.hosts()).flatten() {
            if self.issued.len() >= NAMES_MAX || self.issued.contains(host) {
                continue;
            }
            match self.authority.issue(&[host]) {
                Ok(certificate) => self.certificates.add(&certificate),
                Err(error) => tracing::warn!(host, %error, "no certificate"),
            }
            self.issued.insert(host.to_owned());
        }
    }
}

/// Reads a certificate chain and its key for every client, whatever name it asks for.
pub fn load(certificates: &Certificates, chain: &Path, key: &Path) -> Result<(), Failure> {
    let certificate = edgeproxy::CertifiedKey::from_pem_files(chain, key)?;
    certificates.add(&certificate);
    certificates.set_default(&certificate);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use edgeproxy::{Container, Snapshot};

    #[test]
    fn every_host_gets_one_certificate_and_the_limit_holds() {
        let hosts: Vec<String> = (0..NAMES_MAX + 1).map(|n| format!("h{n}.example")).collect();
        let container = |host: &String| {
            Container::new(host.as_str())
                .with_label("traefik.frontend.rule", format!("Host:{host}"))
                .with_port(80)
        };
        let table =
            |hosts: &[String]| RouteTable::compile(&hosts.iter().map(container).collect::<Snapshot>()).0;
        let certificates = Certificates::new();
        let mut tls = LocalTls::new(certificates.clone()).unwrap();
        tls.cover(&table(&hosts[..2]));
        assert_eq!(certificates.names(), ["h0.example", "h1.example"]);
        tls.cover(&table(&hosts));
        assert_eq!(certificates.names().len(), NAMES_MAX);
        let pem = std::fs::read_to_string(tls.authority_file()).unwrap();
        assert!(pem.starts_with("-----BEGIN CERTIFICATE-----"));
    }
}
