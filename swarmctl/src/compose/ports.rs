//! Published ports, short (`8080:80/udp`, with ranges) and long.

use std::ops::RangeInclusive;

use crate::cluster::{Port, Protocol, Publish};

use super::Reader;
use super::section::Field;

/// The most ports of one service.
const PORTS_MAX: usize = 4096;

const PROTOCOLS: [(&str, Protocol); 3] =
    [("tcp", Protocol::Tcp), ("udp", Protocol::Udp), ("sctp", Protocol::Sctp)];

impl Reader<'_> {
    pub(super) fn ports(&mut self, field: &Field<'_>) -> Option<Vec<Port>> {
        let mut ports = Vec::new();
        for item in self.list(field) {
            let more = if item.is_map() { self.long_port(&item) } else { self.short_port(&item) };
            ports.extend(more.unwrap_or_default());
            if ports.len() > PORTS_MAX {
                self.error(&item, format!("more than {PORTS_MAX} ports"));
                return None;
            }
        }
        ports.sort_unstable();
        ports.dedup();
        Some(ports)
    }

    fn short_port(&mut self, field: &Field<'_>) -> Option<Vec<Port>> {
        let text = self.text(field)?;
        let (addresses, protocol) = text.split_once('/').unwrap_or((&text, "tcp"));
        let protocol = PROTOCOLS.iter().find(|(name, _)| *name == protocol).map(|(_, protocol)| *protocol);
        let (outside, target) = match addresses.rsplit_once(':') {
            Some((outside, target)) => (Some(outside), target),
            None => (None, addresses),
        };
        let published = outside.map(|outside| match outside.rsplit_once(':') {
            Some((address, published)) => {
                let what = format!("Swarm publishes on all addresses of a node, not just on {address}");
                self.warn(field, what, "Leave the address out, and let a firewall decide");
                published
            }
            None => outside,
        });
        let parsed =
            (|| Some((protocol?, range(target)?, published.filter(|it| !it.is_empty()).map(range))))();
        let Some((protocol, targets, published)) = parsed else {
            self.error(field, format!("must be like 8080:80, 8080-8090:80-90 or 53:53/udp, not {text:?}"));
            return None;
        };
        self.paired(field, targets, published, protocol, Publish::Ingress)
    }

    fn long_port(&mut self, field: &Field<'_>) -> Option<Vec<Port>> {
        let mut section = self.section(field)?;
        let target = section.take("target");
        let published = section.read(self, "published", |reader, field| {
            reader.parsed(field, "a port or a range of ports", range)
        });
        let protocol = section.read(self, "protocol", |reader, field| reader.word(field, &PROTOCOLS));
        let modes = [("ingress", Publish::Ingress), ("host", Publish::Host)];
        let publish = section.read(self, "mode", |reader, field| reader.word(field, &modes));
        section.finish(
            self,
            &[
                (
                    "host_ip",
                    "Swarm publishes on all addresses of a node; leave it out, and let a firewall decide",
                ),
                ("name", "it is only a comment; leave it out"),
                ("app_protocol", "it is only a comment; leave it out"),
            ],
        );
        let Some(target) = target else {
            self.error(field, "needs `target`, the port in the container");
            return None;
        };
        let targets = self.parsed(&target, "a port from 1 to 65535", |text| {
            range(text).filter(|it| it.clone().count() == 1)
        })?;
        let (protocol, publish) = (protocol.unwrap_or(Protocol::Tcp), publish.unwrap_or(Publish::Ingress));
        self.paired(field, targets, published.map(Some), protocol, publish)
    }

    /// `published` is `Some(None)` where it was no range.
    fn paired(
        &mut self,
        field: &Field<'_>,
        targets: RangeInclusive<u16>,
        published: Option<Option<RangeInclusive<u16>>>,
        protocol: Protocol,
        publish: Publish,
    ) -> Option<Vec<Port>> {
        let port = |target, published| Port { target, published, protocol, publish };
        match published {
            None => Some(targets.map(|target| port(target, None)).collect()),
            Some(Some(published)) if published.clone().count() == targets.clone().count() => Some(
                targets.zip(published).map(|(target, published)| port(target, Some(published))).collect(),
            ),
            Some(Some(_)) => {
                self.error(field, "as many ports must be published as there are in the container");
                None
            }
            Some(None) => {
                self.error(field, "the published port must be from 1 to 65535");
                None
            }
        }
    }
}

/// `80` or `80-89`.
fn range(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first > 0 && first <= last).then_some(first..=last)
}
