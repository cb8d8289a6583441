//! A running `syncd`: one device, its folders, its peers, one listener, and a session for each folder and peer.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use syncfs::greeting::{Answer, Greeting, Refusal};
use syncfs::limit::{Metered, Pace, Traffic};
use syncfs::tls::TlsStream;
use syncfs::{DeviceId, Folder, Identity, SyncError, Violation};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::daemon::{Context, Failure};
use crate::sync_door::{self, DoorError, Offer, REASONS};
use crate::sync_journal::Journal;
use crate::sync_link::Backoff;
use crate::sync_report::{self, FirstScan, PeerReport, SyncReport};
use crate::sync_sessions::{Pair, Sessions};
use crate::sync_settings::{Peer, Served, SyncSettings};

/// Streams whose other end has not proved yet who it is; more are closed at once.
pub const UNPROVED_MAX: usize = 128;
/// How long a connection to one address may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// How often the rates of the status are taken.
const RATE_EVERY: Duration = Duration::from_secs(1);

/// The daemon.
#[derive(Debug)]
pub struct Node {
    identity: Identity,
    folders: Vec<Share>,
    peers: BTreeMap<DeviceId, Link>,
    sessions: Sessions,
    unproved: Semaphore,
    refused: BTreeMap<&'static str, AtomicU64>,
}

/// A folder and what its daemon knows of it.
#[derive(Debug)]
pub struct Share {
    folder: OnceLock<Folder>,
    /// How it was asked for.
    pub served: Served,
    /// What happened in it lately.
    pub journal: Journal,
    lines: BTreeMap<DeviceId, Line>,
}

/// A peer and what its streams share.
#[derive(Debug)]
struct Link {
    peer: Peer,
    send: Option<Arc<Pace>>,
    receive: Option<Arc<Pace>>,
}

/// What passes between a folder and a peer, and what is wrong with that.
#[derive(Debug, Default)]
struct Line {
    traffic: Arc<Traffic>,
    rates: Mutex<Rates>,
    sessions: AtomicU64,
    trouble: Mutex<Option<String>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Rates {
    taken: (u64, u64),
    done: u64,
    done_per_second: f64,
    received_per_second: f64,
    sent_per_second: f64,
}

impl Node {
    /// Reads the key. Until [`Node::open`] no folder can be asked for more than its status.
    ///
    /// # Errors
    /// If the key cannot be read.
    pub async fn new(settings: SyncSettings) -> Result<Self, Failure> {
        let identity = match Identity::load(&settings.key) {
            Ok(identity) => identity,
            Err(error) => {
                // Without a replica there is no key in it either, and that is the better answer.
                for served in settings.folders {
                    Folder::open(served.config).await?;
                }
                return Err(Failure::new(format!("{error} (`syncd init` makes the key of a replica)")));
            }
        };
        let device = identity.device();
        if settings.peers.iter().any(|peer| peer.id == device) {
            return Err(Failure::new(format!(
                "{device} is this device itself: name its peers, each by what `syncd id` prints there"
            )));
        }
        let folders = settings.folders.into_iter().map(|mut served| {
            served.config.device = Some(device);
            let lines = served.peers.iter().map(|&peer| (peer, Line::default())).collect();
            Share { folder: OnceLock::new(), served, journal: Journal::default(), lines }
        });
        let pace = |limit: Option<u64>| limit.map(|limit| Arc::new(Pace::new(limit)));
        let peers = settings.peers.into_iter().map(|peer| {
            let (send, receive) = (pace(peer.send_limit), pace(peer.receive_limit));
            (peer.id, Link { peer, send, receive })
        });
        let reasons = REASONS.into_iter().chain(Violation::REASONS);
        Ok(Self {
            identity,
            folders: folders.collect(),
            peers: peers.collect(),
            sessions: Sessions::default(),
            unproved: Semaphore::new(UNPROVED_MAX),
            refused: reasons.map(|reason| (reason, AtomicU64::new(0))).collect(),
        })
    }

    /// Opens every folder, one after the other: each is looked through once.
    ///
    /// # Errors
    /// If one cannot be opened.
    pub async fn open(&self) -> Result<(), Failure> {
        for share in &self.folders {
            let folder = Folder::open(share.served.config.clone()).await?;
            share.folder.set(folder).expect("it is opened once");
        }
        Ok(())
    }

    /// This device.
    pub fn device(&self) -> DeviceId {
        self.identity.device()
    }

    /// The folders, each at its place.
    pub fn folders(&self) -> &[Share] {
        &self.folders
    }

    /// Every folder with every peer that it is shared with and that has an address to dial.
    pub fn to_dial(&self) -> Vec<Pair> {
        let shares = self.folders.iter().enumerate();
        let pairs =
            shares.flat_map(|(place, share)| share.served.peers.iter().map(move |&peer| (place, peer)));
        pairs.filter(|(_, peer)| !self.peers[peer].peer.addresses.is_empty()).collect()
    }

    /// How often a stream did not become a session or a session failed, by reason.
    pub fn refusals(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.refused.iter().map(|(reason, count)| (*reason, count.load(Ordering::Relaxed)))
    }

    /// Serves a stream that came in, to its end.
    pub async fn admit(self: Arc<Self>, stream: TcpStream) {
        let from = stream.peer_addr().map_or_else(|_| "somewhere".to_owned(), |from| from.to_string());
        if let Err(error) = self.admitted(stream).await {
            self.count(error.reason());
            tracing::info!(%from, %error, "not let in");
        }
    }

    async fn admitted(&self, stream: TcpStream) -> Result<(), DoorError> {
        let unproved = self.unproved.try_acquire().map_err(|_| DoorError::Slow)?;
        let (mut stream, device) = self.identity.accept(stream).await?;
        let greeting = match sync_door::greeted(&mut stream).await {
            Err(error @ DoorError::Greeting(_)) => {
                sync_door::answer(&mut stream, Answer::Refused(Refusal::Version)).await?;
                return Err(error);
            }
            other => other?,
        };
        drop(unproved);
        let place = match self.wanted(device, &greeting) {
            Ok(place) => place,
            Err(told) => {
                sync_door::answer(&mut stream, Answer::Refused(told)).await?;
                let why = match told {
                    Refusal::UnknownDevice => "it is not among the peers of this device",
                    Refusal::Ambiguous => "it names none of the folders that it shares with this device",
                    _ => "the folder that it names is not shared with it here",
                };
                return Err(DoorError::TurnedAway { device, why, told });
            }
        };
        let pair = (place, device);
        let Some(mut turn) = self.sessions.enter(pair, false, self.device() < device) else {
            sync_door::answer(&mut stream, Answer::Refused(Refusal::Connected)).await?;
            return Ok(());
        };
        sync_door::answer(&mut stream, Answer::Welcome).await?;
        tokio::select! {
            () = self.session(pair, stream) => {}
            () = turn.replaced() => tracing::debug!(peer = %device, "a newer stream replaces this one"),
        }
        Ok(())
    }

    fn wanted(&self, device: DeviceId, greeting: &Greeting) -> Result<usize, Refusal> {
        if !self.peers.contains_key(&device) {
            return Err(Refusal::UnknownDevice);
        }
        let shared =
            self.folders.iter().enumerate().filter(|(_, share)| share.served.peers.contains(&device));
        let offers: Vec<Offer<'_>> = shared
            .map(|(place, share)| Offer {
                place,
                folder: share.open_folder().status().folder,
                label: share.served.label.as_ref(),
            })
            .collect();
        sync_door::choose(&offers, greeting)
    }

    /// Dials a peer for a folder whenever the two are not connected, for ever.
    pub async fn dial(self: Arc<Self>, pair: Pair) {
        let mut backoff = Backoff::default();
        loop {
            self.sessions.vacant(pair).await;
            let began = Instant::now();
            match self.dialled(pair).await {
                Ok(()) | Err(DoorError::Refused(Refusal::Connected)) => {}
                Err(error) => self.trouble(pair, error.reason(), error.to_string()),
            }
            backoff.lasted(began.elapsed());
            tokio::time::sleep(backoff.next_pause()).await;
        }
    }

    async fn dialled(&self, pair: Pair) -> Result<(), DoorError> {
        let (place, peer) = pair;
        let share = &self.folders[place];
        let mut stream = self.connect(peer).await?;
        let (folder, label) = (share.open_folder().status().folder, share.served.label.clone());
        sync_door::greet(&mut stream, &Greeting { folder, label }).await?;
        let Some(mut turn) = self.sessions.enter(pair, true, self.device() < peer) else { return Ok(()) };
        tokio::select! {
            () = self.session(pair, stream) => {}
            () = turn.replaced() => tracing::debug!(%peer, "a newer stream replaces this one"),
        }
        Ok(())
    }

    /// The first of a peer's addresses at which it proves to be there; the last failure if it is at none.
    async fn connect(&self, peer: DeviceId) -> Result<TlsStream<TcpStream>, DoorError> {
        let mut failure = DoorError::Io(io::Error::new(io::ErrorKind::NotFound, "no address to dial"));
        for address in &self.peers[&peer].peer.addresses {
            let attempt = async {
                let stream = TcpStream::connect(&address.resolve().await?[..]).await?;
                // Without it small messages wait for the peer's delayed acknowledgements.
                stream.set_nodelay(true)?;
                io::Result::Ok(stream)
            };
            let slow = || io::Error::new(io::ErrorKind::TimedOut, "no answer");
            let connected =
                tokio::time::timeout(CONNECT_LIMIT, attempt).await.unwrap_or_else(|_| Err(slow()));
            let proved = match connected {
                Ok(stream) => self.identity.connect(stream, peer).await.map_err(DoorError::from),
                Err(error) => Err(error.into()),
            };
            match proved {
                Ok(stream) => return Ok(stream),
                Err(DoorError::Io(error)) => {
                    failure = io::Error::new(error.kind(), format!("{address}: {error}")).into();
                }
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    async fn session(&self, pair: Pair, stream: TlsStream<TcpStream>) {
        let (place, peer) = pair;
        let (share, link) = (&self.folders[place], &self.peers[&peer]);
        let line = &share.lines[&peer];
        line.sessions.fetch_add(1, Ordering::Relaxed);
        let (send, receive) = (link.send.clone(), link.receive.clone());
        let stream = Metered::new(stream, Arc::clone(&line.traffic), send, receive);
        match share.open_folder().sync(stream, Some(peer)).await {
            Ok(summary) => {
                *line.trouble.lock().unwrap_or_else(PoisonError::into_inner) = None;
                tracing::info!(peer = link.peer.name, ?summary, "a session ended");
            }
            Err(SyncError::Closed) => {}
            Err(SyncError::Protocol(violation)) => {
                let reason = violation.reason();
                let what = match violation {
                    Violation::WrongFolder { ours, theirs } => {
                        let root = share.served.config.root.display();
                        format!(
                            "this replica is of folder {ours}, the peer's is of {theirs}: they were initialised apart; \
                             to make them one, stop syncd here and run `syncd init {root} --folder {theirs}`"
                        )
                    }
                    // Saying why it ends a session is no offence.
                    Violation::Bye(_) => violation.to_string(),
                    _ => SyncError::Protocol(violation).to_string(),
                };
                self.trouble(pair, reason, what);
            }
            Err(error) => self.trouble(pair, "session", error.to_string()),
        }
    }

    /// What is wrong between a folder and a peer: counted always, said once as long as it stays the same.
    fn trouble(&self, (place, peer): Pair, reason: &'static str, what: String) {
        self.count(reason);
        let (share, name) = (&self.folders[place], &self.peers[&peer].peer.name);
        let mut before = share.lines[&peer].trouble.lock().unwrap_or_else(PoisonError::into_inner);
        match before.as_ref() == Some(&what) {
            true => tracing::debug!(peer = name, error = what, "still no session"),
            false => tracing::warn!(peer = name, folder = %share.served.config.root.display(), "{what}"),
        }
        *before = Some(what);
    }

    fn count(&self, reason: &'static str) {
        let counter = self.refused.get(reason).or(self.refused.get("other"));
        counter.expect("`other` is among the reasons").fetch_add(1, Ordering::Relaxed);
    }

    /// The state of the folder at a place, with what its daemon knows: names, traffic, rates, and what keeps peers away.
    pub fn status(&self, place: usize) -> SyncReport {
        let share = &self.folders[place];
        let Some(folder) = share.folder.get() else { return share.not_yet(self.device()) };
        let mut report = sync_report::status(folder);
        report.label = share.served.label.as_ref().map(ToString::to_string);
        for (peer, line) in &share.lines {
            let id = peer.to_string();
            if !report.peers.iter().any(|known| known.device == id) {
                let behind = report.sequence;
                report.peers.push(PeerReport { device: id.clone(), behind, ..PeerReport::default() });
            }
            let known = report.peers.iter_mut().find(|known| known.device == id);
            let known = known.expect("it was added above if it was missing");
            let rates = *line.rates.lock().unwrap_or_else(PoisonError::into_inner);
            known.name = Some(self.peers[peer].peer.name.clone());
            known.sessions = line.sessions.load(Ordering::Relaxed);
            known.received_bytes = line.traffic.received();
            known.sent_bytes = line.traffic.sent();
            known.received_bytes_per_second = rates.received_per_second.round() as u64;
            known.sent_bytes_per_second = rates.sent_per_second.round() as u64;
            known.done_bytes_per_second = rates.done_per_second.round() as u64;
            let comes = known.left_bytes > 0 && known.done_bytes_per_second > 0;
            known.seconds_left = comes.then(|| known.left_bytes.div_ceil(known.done_bytes_per_second));
            if !known.connected {
                known.trouble = line.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone();
            }
        }
        report
    }

    /// Writes down what happens in the folder at a place, until it closes.
    pub async fn follow(&self, place: usize) {
        let share = &self.folders[place];
        share.journal.follow(share.open_folder()).await;
    }

    /// Takes the rates once a second, for ever.
    pub async fn take_rates(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(RATE_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut before = ticks.tick().await;
        loop {
            let now = ticks.tick().await;
            let seconds = now.duration_since(before).as_secs_f64().max(0.001);
            before = now;
            self.folders.iter().for_each(|share| share.take_rates(seconds));
        }
    }

    /// Closes every folder that is open: what is complete becomes durable.
    pub async fn close(&self) {
        for folder in self.folders.iter().filter_map(|share| share.folder.get()) {
            folder.clone().close().await;
        }
    }
}

impl Share {
    /// The replica.
    ///
    /// # Errors
    /// As long as it is looked through for the first time.
    pub fn folder(&self) -> Result<&Folder, Failure> {
        self.folder.get().ok_or_else(|| {
            let (root, first_scan) = (self.served.config.root.display(), self.first_scan());
            Failure::new(format!("{root}: {first_scan}"))
        })
    }

    fn open_folder(&self) -> &Folder {
        self.folder.get().expect("peers are let in and dialled once all folders are open")
    }

    fn first_scan(&self) -> FirstScan {
        FirstScan { files_read: self.files_read() }
    }

    /// How many of its files were read since the start.
    pub fn files_read(&self) -> u64 {
        self.served.config.files_read.load(Ordering::Relaxed)
    }

    /// The state of a replica that is looked through for the first time.
    fn not_yet(&self, device: DeviceId) -> SyncReport {
        SyncReport {
            device: device.to_string(),
            label: self.served.label.as_ref().map(ToString::to_string),
            first_scan: Some(self.first_scan()),
            ..SyncReport::default()
        }
    }

    /// Takes the rates of its lines, and writes down how far each transfer is while there is one.
    fn take_rates(&self, seconds: f64) {
        let status = self.open_folder().status();
        for (peer, line) in &self.lines {
            let transfer =
                status.peers.iter().find(|known| known.device == *peer).map(|known| known.transfer);
            let transfer = transfer.unwrap_or_default();
            let mut rates = line.rates.lock().unwrap_or_else(PoisonError::into_inner);
            rates.take(&line.traffic, transfer.done_bytes, seconds);
            if transfer.left_bytes > 0 {
                let per_second = rates.done_per_second.round() as u64;
                self.journal.note(serde_json::json!({
                    "event": "progress",
                    "peer": peer.to_string(),
                    "left_files": transfer.left_files,
                    "left_bytes": transfer.left_bytes,
                    "done_bytes": transfer.done_bytes,
                    "bytes_per_second": per_second,
                    "seconds_left": (per_second > 0).then(|| transfer.left_bytes.div_ceil(per_second)),
                }));
            }
        }
    }
}

impl Rates {
    /// Half of the latest second and half of what was before.
    fn take(&mut self, traffic: &Traffic, done: u64, seconds: f64) {
        let now = (traffic.received(), traffic.sent());
        let mean = |old: f64, before: u64, now: u64| {
            // A new session begins to count anew.
            let rate = (old + now.saturating_sub(before) as f64 / seconds) / 2.0;
            if rate < 1.0 { 0.0 } else { rate }
        };
        self.received_per_second = mean(self.received_per_second, self.taken.0, now.0);
        self.sent_per_second = mean(self.sent_per_second, self.taken.1, now.1);
        self.done_per_second = mean(self.done_per_second, self.done, done);
        (self.taken, self.done) = (now, done);
    }
}

/// Makes the directory of each of these folders a replica of the device whose key this is.
pub async fn init(settings: &SyncSettings) -> Result<DeviceId, Failure> {
    let key = &settings.key;
    for served in &settings.folders {
        // The key may be in the state directory of a replica that is still to be made: the directory itself must be there.
        let root = &served.config.root;
        std::fs::read_dir(root)
            .context(format!("{}: create the directory first, or check the path", root.display()))?;
    }
    if let Some(parent) = key.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        std::fs::create_dir_all(parent).context(format!("cannot create {}", parent.display()))?;
    }
    let identity = Identity::load_or_create(key)?;
    for served in &settings.folders {
        let mut config = served.config.clone();
        config.device = Some(identity.device());
        Folder::init(config).await?;
    }
    Ok(identity.device())
}
