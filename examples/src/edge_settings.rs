//! What `edged run` is told: by flags, by a TOML file, or both.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use edgeproxy::Config;
use serde::Deserialize;

use crate::daemon::Failure;
use crate::settings;

/// Where plain HTTP is served unless told otherwise.
const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);

/// What the proxy is told: each flag is also a key of the config file.
#[derive(Args, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct EdgeSettings {
    /// A JSON list of {"name", "address", "labels"}; read again when it changes
    #[arg(long, value_name = "FILE")]
    pub labels: Option<PathBuf>,
    /// The socket of a Docker Engine whose containers are served
    #[arg(long, value_name = "SOCKET")]
    pub docker: Option<PathBuf>,
    /// The address for plain HTTP; port 0 takes a free one [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR")]
    #[serde(deserialize_with = "settings::from_text")]
    pub listen: Option<SocketAddr>,
    /// The address for HTTPS
    #[arg(long, value_name = "ADDR")]
    #[serde(deserialize_with = "settings::from_text")]
    pub tls_listen: Option<SocketAddr>,
    /// The certificate chain, PEM [default: a local authority, made at every start]
    #[arg(long, value_name = "FILE", requires = "tls_key", requires = "tls_listen")]
    pub tls_cert: Option<PathBuf>,
    /// The certificate's private key, PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Send plain HTTP requests for what HTTPS serves to HTTPS
    #[arg(long)]
    pub redirect_to_https: bool,
    /// How long a connection to a container may take [default: 3s]
    #[arg(long, value_parser = settings::duration, value_name = "TIME")]
    #[serde(deserialize_with = "settings::from_duration")]
    pub dial_timeout: Option<Duration>,
    /// How long a container may think before it begins its answer [default: 60s]
    #[arg(long, value_parser = settings::duration, value_name = "TIME")]
    #[serde(deserialize_with = "settings::from_duration")]
    pub response_header_timeout: Option<Duration>,
    /// How long a request waits for a container of its route before it gets a 503 [default: 0s]
    #[arg(long, value_parser = settings::duration, value_name = "TIME")]
    #[serde(deserialize_with = "settings::from_duration")]
    pub hold_unavailable: Option<Duration>,
    /// How long requests in flight may take to finish after Ctrl-C, at most 1s [default: 1s]
    #[arg(long, value_parser = settings::duration, value_name = "TIME")]
    #[serde(deserialize_with = "settings::from_duration")]
    pub grace: Option<Duration>,
}

impl EdgeSettings {
    /// Reads a config file; what it names stands beside it.
    pub fn load(config: &Path) -> Result<EdgeSettings, Failure> {
        let mut edge: EdgeSettings = settings::load(config)?;
        let folder = config.parent().unwrap_or(Path::new(""));
        for path in
            [&mut edge.labels, &mut edge.docker, &mut edge.tls_cert, &mut edge.tls_key].into_iter().flatten()
        {
            *path = folder.join(&*path);
        }
        if edge.tls_cert.is_some() != edge.tls_key.is_some() {
            let config = config.display();
            return Err(Failure::new(format!(
                "{config}: tls-cert and tls-key belong together: give both or none"
            )));
        }
        if edge.labels.is_none() && edge.docker.is_none() {
            let config = config.display();
            return Err(Failure::new(format!("{config}: nothing to serve: give labels, docker or both")));
        }
        Ok(edge)
    }

    /// Completes the flags with a config file.
    pub fn over(self, config: Option<&Path>) -> Result<EdgeSettings, Failure> {
        let Some(config) = config else { return Ok(self) };
        let file = EdgeSettings::load(config)?;
        Ok(EdgeSettings {
            labels: self.labels.or(file.labels),
            docker: self.docker.or(file.docker),
            listen: self.listen.or(file.listen),
            tls_listen: self.tls_listen.or(file.tls_listen),
            tls_cert: self.tls_cert.or(file.tls_cert),
            tls_key: self.tls_key.or(file.tls_key),
            redirect_to_https: self.redirect_to_https || file.redirect_to_https,
            dial_timeout: self.dial_timeout.or(file.dial_timeout),
            response_header_timeout: self.response_header_timeout.or(file.response_header_timeout),
            hold_unavailable: self.hold_unavailable.or(file.hold_unavailable),
            grace: self.grace.or(file.grace),
        })
    }

    /// What the library needs.
    pub fn config(&self) -> Config {
        let mut config = Config::default();
        config.http = Some(self.listen.unwrap_or(LISTEN));
        config.https = self.tls_listen;
        config.redirect_to_https = self.redirect_to_https;
        config.dial_timeout = self.dial_timeout.unwrap_or(config.dial_timeout);
        config.response_header_timeout =
            self.response_header_timeout.unwrap_or(config.response_header_timeout);
        config.hold_unavailable = self.hold_unavailable.unwrap_or(config.hold_unavailable);
        config
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("config/edged.toml")
    }

    #[test]
    fn the_sample_is_read_whole_and_a_flag_wins_over_it() {
        let listen = Some("127.0.0.1:0".parse().unwrap());
        let settings = EdgeSettings { listen, ..EdgeSettings::default() }.over(Some(&sample())).unwrap();
        let config = settings.config();
        assert_eq!((config.http, config.redirect_to_https), (listen, true));
        assert_eq!(config.https, Some("0.0.0.0:443".parse().unwrap()));
        assert_eq!(config.dial_timeout, Duration::from_secs(3));
        assert_eq!(settings.labels, Some(sample().with_file_name("labels.json")));
        assert_eq!(settings.docker, Some(PathBuf::from("/var/run/docker.sock")));
    }

    #[test]
    fn half_a_certificate_and_nothing_to_serve_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("edged.toml");
        for (text, word) in [("labels = \"a\"\ntls-cert = \"b\"", "tls-key"), ("", "nothing to serve")] {
            std::fs::write(&file, text).unwrap();
            assert!(EdgeSettings::load(&file).unwrap_err().to_string().contains(word));
        }
    }
}
