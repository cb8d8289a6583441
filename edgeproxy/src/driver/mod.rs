//! Owns everything that touches the world: sockets, clock, files, Docker, tasks. The handle to a running proxy is [`Proxy`].
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

mod body;
mod connection;
pub mod counters;
pub mod dial;
#[cfg(feature = "docker")]
pub mod docker;
mod exchange;
mod forward;
mod gate;
pub mod labels_file;
mod listen;
pub mod local_ca;
pub mod memory;
mod pool;
pub mod provider;
mod publish;
pub mod tls;
mod upgrade;

use crate::{
    config::Config,
    diagnostic::Diagnostic,
    error::{ProviderError, ShutdownError, StartError},
    route::{EntryPoint, RouteTable},
};
use arc_swap::ArcSwap;
use counters::{Counters, Counting};
use dial::{BoxFuture, Dial, TcpDialer};
use pool::Pool;
use provider::{Provider, SnapshotSink};
use std::{
    collections::BTreeSet,
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicUsize},
    time::Duration,
};
use tls::Certificates;
use tokio::{
    sync::{Semaphore, mpsc, watch},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

/// How often idle server connections are looked through.
const SWEEP_PERIOD: Duration = Duration::from_secs(5);
/// Snapshots on their way to the publisher; providers wait beyond that.
const UPDATES_MAX: usize = 16;

/// What a proxy is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Accepts and serves.
    Run,
    /// Accepts nothing, finishes what runs.
    Drain,
    /// Ends what still runs.
    Cut,
}

/// What every connection of one proxy shares.
struct Shared {
    config: Config,
    table: ArcSwap<RouteTable>,
    diagnostics: ArcSwap<Vec<Diagnostic>>,
    /// Grows with each published table.
    generation: watch::Receiver<u64>,
    phase: watch::Receiver<Phase>,
    dialer: Box<dyn Dial>,
    pool: Arc<Pool>,
    counting: Counting,
    /// Whose turn it is among the servers of a service.
    turn: AtomicUsize,
    hold_slots: Semaphore,
    /// The port that redirects name; `None` if there are none.
    redirect_port: Option<u16>,
}

type ProviderTask = Box<dyn FnOnce(SnapshotSink) -> BoxFuture<'static, Result<(), ProviderError>> + Send>;

/// Plugs a proxy together; made by [`Proxy::builder`].
pub struct ProxyBuilder {
    config: Config,
    providers: Vec<(String, ProviderTask)>,
    dialer: Box<dyn Dial>,
    certificates: Certificates,
}

impl ProxyBuilder {
    /// Adds a provider. A second one of the same name gets a number behind its name.
    pub fn provider(mut self, provider: impl Provider) -> Self {
        let taken: BTreeSet<&str> = self.providers.iter().map(|(name, _)| name.as_str()).collect();
        let mut names = (2..).map(|n| format!("{}-{n}", provider.name()));
        let mut name = provider.name().to_owned();
        while taken.contains(name.as_str()) {
            name = names.next().expect("numbers do not end");
        }
        self.providers.push((name, Box::new(|sink| Box::pin(provider.run(sink)))));
        self
    }

    /// Connects to servers through `dialer` instead of [`TcpDialer`].
    pub fn dialer(mut self, dialer: impl Dial) -> Self {
        self.dialer = Box::new(dialer);
        self
    }

    /// Takes the certificates of the TLS entry point from this store, which may change later.
    pub fn certificates(mut self, certificates: Certificates) -> Self {
        self.certificates = certificates;
        self
    }

    /// Binds the entry points, runs the providers, waits up to [`Config::first_snapshot_timeout`] for what they know already, and serves, on
    /// the tokio runtime of the caller.
    ///
    /// # Errors
    /// If there is no entry point, or one cannot be bound. Nothing is left running then.
    pub async fn start(self) -> Result<Proxy, StartError> {
        let Self { config, providers, dialer, certificates } = self;
        let http = match config.http {
            Some(address) => Some(listen::bind("http", address).await?),
            None => None,
        };
        let https = match config.https {
            Some(address) => Some(listen::bind("https", address).await?),
            None => None,
        };
        if http.is_none() && https.is_none() {
            return Err(StartError::NoEntryPoint);
        }
        let tls = certificates.server_config().map_err(|error| StartError::Tls(Box::new(error)))?;
        let https_addr = https.as_ref().map(|(_, address)| *address);
        let http_addr = http.as_ref().map(|(_, address)| *address);
        let (phase, phase_seen) = watch::channel(Phase::Run);
        let (generation, generation_seen) = watch::channel(0);
        let slots = Arc::new(Semaphore::new(slot_count(&config)));
        let redirect_port = https_addr
            .filter(|_| config.redirect_to_https)
            .map(|address| config.public_https_port.unwrap_or(address.port()));
        let shared = Arc::new(Shared {
            table: ArcSwap::default(),
            diagnostics: ArcSwap::default(),
            generation: generation_seen,
            phase: phase_seen,
            dialer,
            pool: Arc::new(Pool::new(config.idle_connections_per_server_max, config.server_idle_timeout)),
            counting: Counting::default(),
            turn: AtomicUsize::new(0),
            hold_slots: Semaphore::new(config.held_requests_max.min(Semaphore::MAX_PERMITS)),
            redirect_port,
            config,
        });
        let mut tasks = JoinSet::new();
        run_providers(&mut tasks, providers, shared.clone(), generation).await;
        tasks.spawn(sweep(shared.pool.clone()));
        if let Some((listener, _)) = http {
            tasks.spawn(listen::accept(listener, EntryPoint::Http, None, shared.clone(), slots.clone()));
        }
        if let Some((listener, _)) = https {
            let tls = Some(TlsAcceptor::from(Arc::new(tls)));
            tasks.spawn(listen::accept(listener, EntryPoint::Https, tls, shared.clone(), slots.clone()));
        }
        tracing::info!(http = ?http_addr, https = ?https_addr, "edge proxy started");
        Ok(Proxy { shared, phase, slots, tasks: Mutex::new(tasks), http_addr, https_addr })
    }
}

impl fmt::Debug for ProxyBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let providers: Vec<&str> = self.providers.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("ProxyBuilder")
            .field("config", &self.config)
            .field("providers", &providers)
            .finish_non_exhaustive()
    }
}

/// A running proxy. Dropping it cuts every connection; [`Proxy::shutdown`] lets them finish.
pub struct Proxy {
    shared: Arc<Shared>,
    phase: watch::Sender<Phase>,
    slots: Arc<Semaphore>,
    /// Listeners, providers, publisher: they end with the proxy.
    tasks: Mutex<JoinSet<()>>,
    http_addr: Option<SocketAddr>,
    https_addr: Option<SocketAddr>,
}

impl Proxy {
    /// Begins a proxy with these settings.
    pub fn builder(config: Config) -> ProxyBuilder {
        let certificates = Certificates::new();
        ProxyBuilder { config, providers: Vec::new(), dialer: Box::new(TcpDialer), certificates }
    }

    /// Where the plain entry point listens.
    pub fn http_addr(&self) -> Option<SocketAddr> {
        self.http_addr
    }

    /// Where the TLS entry point listens.
    pub fn https_addr(&self) -> Option<SocketAddr> {
        self.https_addr
    }

    /// The routes that requests use now.
    pub fn routes(&self) -> Arc<RouteTable> {
        self.shared.table.load_full()
    }

    /// What there is to say about the labels of the containers that exist now.
    pub fn diagnostics(&self) -> Vec<Diagnostic> {
        self.shared.diagnostics.load().to_vec()
    }

    /// What was counted since the start.
    pub fn counters(&self) -> Counters {
        self.shared.counting.read()
    }

    /// Accepts nothing more, lets requests and tunnels finish for up to `grace`, then cuts the rest.
    ///
    /// # Errors
    /// [`ShutdownError::Cut`] says how many connections were cut.
    pub async fn shutdown(&self, grace: Duration) -> Result<(), ShutdownError> {
        self.phase.send_replace(Phase::Drain);
        let all = slot_count(&self.shared.config);
        let all_ended = self.slots.acquire_many(u32::try_from(all).expect("slot_count fits"));
        let cut = match tokio::time::timeout(grace, all_ended).await {
            Ok(_) => 0,
            Err(_) => all - self.slots.available_permits(),
        };
        self.phase.send_replace(Phase::Cut);
        let mut tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        tasks.shutdown().await;
        if cut > 0 { Err(ShutdownError::Cut(cut)) } else { Ok(()) }
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy")
            .field("http", &self.http_addr)
            .field("https", &self.https_addr)
            .finish_non_exhaustive()
    }
}

/// How many connections may be open: at least one, and what a semaphore can count.
fn slot_count(config: &Config) -> usize {
    config.connections_max.clamp(1, (u32::MAX >> 4) as usize)
}

/// Starts the publisher and the providers, and waits for the first snapshot of each.
async fn run_providers(
    tasks: &mut JoinSet<()>,
    providers: Vec<(String, ProviderTask)>,
    shared: Arc<Shared>,
    generation: watch::Sender<u64>,
) {
    let (updates, updates_seen) = mpsc::channel(UPDATES_MAX);
    let mut first_snapshots = Vec::new();
    for (name, run) in providers {
        let (first, first_seen) = watch::channel(());
        first_snapshots.push(first_seen);
        let sink = SnapshotSink::new(&name, updates.clone(), first);
        tasks.spawn(async move {
            if let Err(error) = run(sink).await {
                tracing::error!(provider = name, %error, "provider ended");
            }
        });
    }
    let wait = shared.config.first_snapshot_timeout;
    tasks.spawn(publish::publish(updates_seen, shared, generation));
    let all_told = async {
        for mut first in first_snapshots {
            // An error means that the provider ended: nothing more will come.
            let _ = first.changed().await;
        }
    };
    let _ = tokio::time::timeout(wait, all_told).await;
}

async fn sweep(pool: Arc<Pool>) {
    loop {
        tokio::time::sleep(SWEEP_PERIOD).await;
        pool.sweep();
    }
}
