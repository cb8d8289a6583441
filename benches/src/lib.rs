//! Inputs that several benches share: the same bytes, containers and records on every run and every machine.

use edgeproxy::snapshot::{Container, Snapshot};
use edgeproxy::upstream::Address;
use syncfs::record::{Attributes, Chunk, Content, Kind, Record};
use syncfs::{ContentHash, DeviceId, RelPath};

/// Bytes without pattern, from `seed` (xorshift64*).
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.max(1);
    let words = std::iter::repeat_with(|| {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes()
    });
    words.flatten().take(len).collect()
}

/// `count` containers, each with one host of its own; half of them labelled in the first form, half in the third.
pub fn containers(count: usize) -> Snapshot {
    let container = |n: usize| {
        let address = Address::from(std::net::IpAddr::from([10, (n >> 16) as u8, (n >> 8) as u8, n as u8]));
        let container = Container::new(format!("app-{n}")).with_address(address).with_port(8080);
        if n.is_multiple_of(2) {
            container.with_label("traefik.frontend.rule", format!("Host:{}", host(n)))
        } else {
            container
                .with_label(format!("traefik.http.routers.app-{n}.rule"), format!("Host(`{}`)", host(n)))
                .with_label(format!("traefik.http.services.app-{n}.loadbalancer.server.port"), "8080")
        }
    };
    (0..count).map(container).collect()
}

/// The host of the container numbered `n`.
pub fn host(n: usize) -> String {
    format!("app-{n}.example.org")
}

/// The record of a small file, the `n`-th of a folder, written by `device` as its `counter`-th write.
pub fn record(n: usize, device: u8, counter: u64) -> Record {
    let by = DeviceId::from_bytes([device; 32]);
    let text = format!("content {n} {counter} of {device}");
    let content = Content::new(vec![Chunk {
        hash: ContentHash::of(text.as_bytes()),
        length: u32::try_from(text.len()).expect("a short text"),
    }]);
    Record {
        path: RelPath::new(format!("dir-{}/file-{n}.txt", n % 100)).expect("a plain path"),
        kind: Kind::File {
            attributes: Attributes::of_mode(0o644),
            mtime_ns: 1_700_000_000_000_000_000,
            content,
            link: None,
        },
        version: [(by, counter)].into_iter().collect(),
        by,
        epoch: 0,
    }
}
