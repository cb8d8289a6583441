//! Peers that lie to a real `syncd`: each is refused with a reason that is counted, and what is honest goes on.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, clippy::unwrap_used)]

mod support;

use std::fs;
use std::path::Path;

use hybrid_examples::sync_door;
use support::device::{Device, scrape};
use support::{Daemon, until};
use syncfs::fence::Tenure;
use syncfs::greeting::Greeting;
use syncfs::record::{Attributes, Chunk, Content, FILE_CHUNKS_MAX, Kind, Record};
use syncfs::tls::TlsStream;
use syncfs::wire::{FRAME_BYTES_MAX, Message, Numbered, RECORDS_MAX, VERSION, decode, encode};
use syncfs::{Blob, ContentHash, FolderId, Identity, IndexId, RelPath};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A peer that is nothing but what it says.
struct Liar {
    identity: Identity,
    stream: TlsStream<TcpStream>,
    round: u64,
}

impl Liar {
    /// Proves the key in a file, greets, and behaves until records may be sent.
    async fn new(key: &Path, to: &Device) -> Self {
        let identity = Identity::load_or_create(key).unwrap();
        let stream = TcpStream::connect(&to.at).await.unwrap();
        let mut stream = identity.connect(stream, to.id.parse().unwrap()).await.unwrap();
        let folder: FolderId = to.json("status", "f", &[])["folder"].as_str().unwrap().parse().unwrap();
        sync_door::greet(&mut stream, &Greeting { folder: Some(folder), label: None }).await.unwrap();
        let mut liar = Self { identity, stream, round: 0 };
        liar.say(&liar.hello(folder)).await;
        while liar.round == 0 {
            if let Message::Have { round, .. } = liar.hear().await {
                liar.round = round;
            }
        }
        liar
    }

    fn hello(&self, folder: FolderId) -> Message {
        let (device, index, fences) = (self.identity.device(), IndexId(1), Vec::new());
        let (version, folder, tenure) = (VERSION, Some(folder), Tenure::default());
        Message::Hello { version, folder, device, index, fences, tenure }
    }

    /// Whether the other end still takes it.
    async fn raw(&mut self, bytes: &[u8]) -> bool {
        let length = u32::try_from(bytes.len()).unwrap().to_le_bytes();
        self.stream.write_all(&[&length, bytes].concat()).await.is_ok() && self.stream.flush().await.is_ok()
    }

    async fn say(&mut self, message: &Message) -> bool {
        self.raw(&encode(message)).await
    }

    async fn hear(&mut self) -> Message {
        let mut bytes = vec![0; self.stream.read_u32_le().await.unwrap() as usize];
        self.stream.read_exact(&mut bytes).await.unwrap();
        decode(&bytes).unwrap()
    }

    fn record(&self, sequence: u64, path: &str, kind: Kind) -> Numbered {
        let (path, by) = (RelPath::new(path).unwrap(), self.identity.device());
        let record = Record { path, kind, version: [(by, sequence)].into_iter().collect(), by, epoch: 0 };
        Numbered { sequence, record }
    }

    fn offer(&self, records: Vec<Numbered>) -> Message {
        let (round, through) = (self.round, records.last().unwrap().sequence);
        let (knowledge, mark) = Default::default();
        Message::Records { round, records, through, knowledge, mark, complete: false }
    }
}

fn file(chunks: Vec<Chunk>) -> Kind {
    let (attributes, content) = (Attributes::of_mode(0o644), Content::new(chunks));
    Kind::File { attributes, mtime_ns: 0, content, link: None }
}

fn chunk(text: &[u8], length: u32) -> Chunk {
    Chunk { hash: ContentHash::of(text), length }
}

fn refused(daemon: &Daemon, reason: &str) -> u64 {
    let (metrics, name) = (scrape(daemon), format!("syncd_refused_total{{reason=\"{reason}\"}} "));
    let line = metrics.lines().find_map(|line| line.strip_prefix(&name));
    line.unwrap_or_else(|| panic!("no counter for {reason}: {metrics}")).parse().unwrap()
}

#[track_caller]
fn is_counted(daemon: &Daemon, reason: &str) {
    until(reason, || (refused(daemon, reason) > 0).then_some(()));
}

/// The most memory that a process ever had, in KiB.
fn peak_kib(daemon: &Daemon) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[tokio::test]
async fn every_lie_is_counted_by_its_name_and_an_honest_peer_goes_on() {
    let [a, b, liar] = ["a", "b", "liar"].map(|name| Device::new(name, &["f"]));
    a.configure(&[&b, &liar], &[("f", "")]);
    b.configure(&[&a], &[("f", "")]);
    a.write("f/precious", "mine");
    let (da, _db) = (a.serve(), b.serve());
    until("the first file", || b.read("f/precious"));
    let key = liar.home.path().join("key");

    // Before there is a session.
    let mut stream = TcpStream::connect(&a.at).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    is_counted(&da, "handshake");
    let stranger = Identity::generate().unwrap();
    let stream = TcpStream::connect(&a.at).await.unwrap();
    let mut stream = stranger.connect(stream, a.id.parse().unwrap()).await.unwrap();
    sync_door::greet(&mut stream, &Greeting::default()).await.unwrap_err();
    is_counted(&da, "unknown-device");

    let mut wrong = Liar::new(&key, &a).await;
    wrong.say(&wrong.offer(vec![wrong.record(1, "precious", file(vec![chunk(b"true bytes", 10)]))])).await;
    while !matches!(wrong.hear().await, Message::Want(_)) {}
    wrong.say(&Message::Chunks(vec![Blob::new(b"evil bytes".to_vec())])).await;
    is_counted(&da, "bad-chunk");

    let mut escaping = Liar::new(&key, &a).await;
    let mut bytes = encode(&escaping.offer(vec![escaping.record(1, "xx/evil", Kind::Deleted)]));
    let at = bytes.windows(7).position(|part| part == b"xx/evil").unwrap();
    bytes[at..at + 2].copy_from_slice(b"..");
    escaping.raw(&bytes).await;
    is_counted(&da, "undecodable");

    let mut twice = Liar::new(&key, &a).await;
    twice.say(&twice.hello(FolderId::from_bytes([1; 16]))).await;
    is_counted(&da, "out-of-order");

    let mut acks = Liar::new(&key, &a).await;
    acks.say(&Message::Ack { round: 0, durable: 1 << 40, taken: 1 << 40 }).await;
    is_counted(&da, "impossible-record");

    // Nothing can stand in a file, so each waits for what is still to be told.
    let mut endless = Liar::new(&key, &a).await;
    let dir = Kind::Dir { attributes: Attributes::of_mode(0o755) };
    for batch in 0_u64.. {
        let sequences = batch * RECORDS_MAX as u64 + 1..(batch + 1) * RECORDS_MAX as u64 + 1;
        let records =
            sequences.map(|number| endless.record(number, &format!("precious/{number}"), dir.clone()));
        let message = endless.offer(records.collect());
        if !endless.say(&message).await {
            break;
        }
        assert!(batch < 10_000, "an index without end is taken");
    }
    is_counted(&da, "excess");

    // Terabytes that are announced, and a frame that never ends; the session stays open while others go on.
    let mut huge = Liar::new(&key, &a).await;
    let hash = |number: u32| ContentHash::of(&number.to_le_bytes());
    let chunks = (0..FILE_CHUNKS_MAX as u32).map(|number| Chunk { hash: hash(number), length: 4 << 20 });
    huge.say(&huge.offer(vec![huge.record(1, "huge", file(chunks.collect()))])).await;
    while !matches!(huge.hear().await, Message::Want(_)) {}
    huge.stream.write_all(&(FRAME_BYTES_MAX as u32).to_le_bytes()).await.unwrap();
    b.write("f/honest", "from b");
    b.wait("f");
    assert_eq!(a.read("f/honest").as_deref(), Some("from b"));
    assert_eq!(b.read("f/precious").as_deref(), Some("mine"));
    assert!(!a.home.path().join("evil").exists());
    assert!(peak_kib(&da) < 400 << 10, "{} KiB", peak_kib(&da));
    drop(huge);
    let names: Vec<_> = fs::read_dir(a.path("f")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 3, "the state, what is precious, and what is honest: {names:?}");
}
