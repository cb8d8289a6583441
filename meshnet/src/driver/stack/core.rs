//! Owns TCP itself: smoltcp's interface and sockets, which connection is whose, and what becomes of
//! sockets that nobody holds any more.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use smoltcp::iface::{Config, Interface, PollIngressSingleResult, PollResult, SocketHandle, SocketSet};
use smoltcp::socket::tcp;
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IpCidr};
use tokio::sync::Notify;

use crate::driver::stack::StackConfig;
use crate::driver::stack::liveness::{Liveness, Verdict};
use crate::driver::stack::queues::Queues;
use crate::driver::system::SystemEntropy;
use crate::entropy::draw;
use crate::packet::Addresses;

/// Sockets of all kinds.
pub(super) const SOCKETS_MAX: usize = 1024;
/// Connections of one listener that are not accepted yet, half-open ones included; more are refused.
pub(super) const BACKLOG_MAX: usize = 128;
/// Closed connections that still answer a repeated last segment.
const TIME_WAIT_MAX: usize = 64;
/// How long a connection that its program dropped may take to deliver what was written.
const LINGER: Duration = Duration::from_secs(10);
/// Ports given to outgoing connections (RFC 6335).
const EPHEMERAL_PORTS: std::ops::RangeInclusive<u16> = 49152..=65535;

/// Everything behind the stack's lock.
pub(super) struct Core {
    interface: Interface,
    pub(super) sockets: SocketSet<'static>,
    pub(super) queues: Queues,
    pub(super) connections: BTreeMap<SocketHandle, Connection>,
    pub(super) listeners: BTreeMap<u16, Listening>,
    liveness: Liveness,
    next_port: u16,
    buffer_bytes: usize,
}

/// A socket that is or was connected.
pub(super) struct Connection {
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
    /// The host behind it fell silent.
    pub(super) is_lost: bool,
    is_watched: bool,
    /// When its program dropped it.
    dropped_at: Option<Duration>,
}

/// A port on which somebody listens. smoltcp's sockets take one connection each: the moment the
/// listening one is hit another takes its place.
pub(super) struct Listening {
    socket: Option<SocketHandle>,
    half_open: Vec<SocketHandle>,
    pub(super) ready: Vec<SocketHandle>,
    pub(super) arrived: Arc<Notify>,
}

/// What a turn leaves behind.
pub(super) struct Turn {
    pub(super) has_outgoing: bool,
    pub(super) deadline: Option<Duration>,
}

impl Core {
    pub(super) fn new(config: &StackConfig) -> Self {
        let mut queues = Queues::new(config.mtu);
        let mut interface_config = Config::new(HardwareAddress::Ip);
        interface_config.random_seed = u64::from_le_bytes(draw(&mut SystemEntropy));
        let mut interface = Interface::new(interface_config, &mut queues, Instant::ZERO);
        let address = config.address.into();
        interface.update_ip_addrs(|addresses| {
            addresses.push(IpCidr::new(address, config.prefix_len)).expect("the first address fits");
        });
        // On a medium without link addresses the gateway itself does not matter: all goes to the mesh.
        let routed = match config.address {
            IpAddr::V4(own) => interface.routes_mut().add_default_ipv4_route(own).is_ok(),
            IpAddr::V6(own) => interface.routes_mut().add_default_ipv6_route(own).is_ok(),
        };
        assert!(routed, "the first route fits");
        let offset = u16::from_le_bytes(draw(&mut SystemEntropy)) % EPHEMERAL_PORTS.len() as u16;
        Core {
            interface,
            sockets: SocketSet::new(Vec::new()),
            queues,
            connections: BTreeMap::new(),
            listeners: BTreeMap::new(),
            liveness: Liveness::new(config.address, config.user_timeout),
            next_port: EPHEMERAL_PORTS.start() + offset,
            buffer_bytes: config.buffer_bytes,
        }
    }

    /// Lets TCP take what arrived, do what is due and send what it can.
    pub(super) fn turn(&mut self, now: Duration) -> Turn {
        let at = instant(now);
        self.interface.poll_maintenance(at);
        loop {
            if let Some(addresses) = self.queues.next_incoming().and_then(Addresses::of) {
                self.liveness.heard(addresses.source, now);
            }
            match self.interface.poll_ingress_single(at, &mut self.queues, &mut self.sockets) {
                PollIngressSingleResult::None => break,
                PollIngressSingleResult::PacketProcessed => {}
                PollIngressSingleResult::SocketStateChanged => self.tend_listeners(now),
            }
        }
        self.judge_hosts(now);
        self.reap(now);
        while self.queues.has_room()
            && self.interface.poll_egress(at, &mut self.queues, &mut self.sockets)
                == PollResult::SocketStateChanged
        {}
        let tcp = if self.queues.has_room() {
            let next = self.interface.poll_at(at, &self.sockets);
            // What could not be sent just now is tried again in a moment, not in a spin.
            next.map(|next| duration(next).max(now + Duration::from_millis(1)))
        } else {
            None
        };
        let lingering = self.connections.values().filter_map(|connection| connection.dropped_at);
        let deadline = lingering.map(|at| at + LINGER).chain(self.liveness.deadline()).chain(tcp).min();
        Turn { has_outgoing: self.queues.has_outgoing(), deadline }
    }

    pub(super) fn socket(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    /// Begins a connection to `remote`.
    pub(super) fn connect(&mut self, own: IpAddr, remote: SocketAddr) -> io::Result<SocketHandle> {
        let port = self.free_port().ok_or_else(|| no_room("no local port is free"))?;
        let handle = self.add_socket().ok_or_else(|| no_room("the stack has no more sockets"))?;
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(handle);
        if let Err(error) = socket.connect(self.interface.context(), remote, port) {
            self.sockets.remove(handle);
            let message = format!("cannot connect to {remote}: {error}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        let local = SocketAddr::new(own, port);
        self.connections.insert(handle, Connection::new(local, remote));
        Ok(handle)
    }

    /// Begins to listen; gives the port.
    pub(super) fn listen(&mut self, port: u16) -> io::Result<(u16, Arc<Notify>)> {
        let port = match port {
            0 => self.free_port().ok_or_else(|| no_room("no local port is free"))?,
            port => port,
        };
        if self.listeners.contains_key(&port) {
            let message = format!("mesh port {port} is in use by another listener");
            return Err(io::Error::new(io::ErrorKind::AddrInUse, message));
        }
        let socket = self.add_listening(port).ok_or_else(|| no_room("the stack has no more sockets"))?;
        let arrived = Arc::new(Notify::new());
        let listening = Listening {
            socket: Some(socket),
            half_open: Vec::new(),
            ready: Vec::new(),
            arrived: Arc::clone(&arrived),
        };
        self.listeners.insert(port, listening);
        Ok((port, arrived))
    }

    /// Closes a port; connections that nobody accepted are reset.
    pub(super) fn close_port(&mut self, port: u16, now: Duration) {
        let Some(listening) = self.listeners.remove(&port) else { return };
        for handle in listening.socket.into_iter().chain(listening.half_open) {
            self.sockets.remove(handle);
        }
        for handle in listening.ready {
            self.socket(handle).abort();
            self.drop_connection(handle, now);
        }
    }

    /// The connection is established: from now on its host is watched.
    pub(super) fn watch(&mut self, handle: SocketHandle, now: Duration) {
        let keep_alive = self.liveness.ask_every();
        self.socket(handle).set_keep_alive(Some(keep_alive.into()));
        if let Some(connection) = self.connections.get_mut(&handle)
            && !connection.is_watched
        {
            connection.is_watched = true;
            self.liveness.watch(connection.remote.ip(), now);
        }
    }

    /// Its program dropped the connection: what was written is still sent.
    pub(super) fn drop_connection(&mut self, handle: SocketHandle, now: Duration) {
        self.socket(handle).close();
        if let Some(connection) = self.connections.get_mut(&handle) {
            connection.dropped_at = Some(now);
        }
    }

    /// Moves listening sockets that were hit on, and puts others in their place.
    fn tend_listeners(&mut self, now: Duration) {
        for port in self.listeners.keys().copied().collect::<Vec<_>>() {
            self.tend_listener(port, now);
        }
    }

    fn tend_listener(&mut self, port: u16, now: Duration) {
        let Some(mut listening) = self.listeners.remove(&port) else { return };
        if let Some(hit) = listening.socket.take_if(|handle| self.state(*handle) != tcp::State::Listen) {
            listening.half_open.push(hit);
        }
        for handle in std::mem::take(&mut listening.half_open) {
            match self.state(handle) {
                tcp::State::SynReceived => listening.half_open.push(handle),
                tcp::State::Established | tcp::State::CloseWait => {
                    if self.adopt(handle, now) {
                        listening.ready.push(handle);
                        listening.arrived.notify_one();
                    }
                }
                // The other side gave up before it was established.
                _ => drop(self.sockets.remove(handle)),
            }
        }
        let is_full = listening.half_open.len() + listening.ready.len() >= BACKLOG_MAX;
        if listening.socket.is_none() && !is_full {
            listening.socket = self.add_listening(port);
        }
        self.listeners.insert(port, listening);
    }

    /// Takes a connection that came in.
    fn adopt(&mut self, handle: SocketHandle, now: Duration) -> bool {
        let socket = self.socket(handle);
        let (Some(local), Some(remote)) = (socket.local_endpoint(), socket.remote_endpoint()) else {
            self.sockets.remove(handle);
            return false;
        };
        self.connections.insert(handle, Connection::new(local.into(), remote.into()));
        self.watch(handle, now);
        true
    }

    /// Asks silent hosts and ends connections to lost ones.
    fn judge_hosts(&mut self, now: Duration) {
        for verdict in self.liveness.verdicts(now) {
            match verdict {
                Verdict::Ask(packet) => self.queues.put_outgoing(packet),
                Verdict::Lost(host) => self.lose(host),
            }
        }
    }

    fn lose(&mut self, host: IpAddr) {
        for (handle, connection) in &mut self.connections {
            if connection.is_watched && connection.remote.ip() == host {
                connection.is_lost = true;
                connection.is_watched = false;
                self.liveness.release(host);
                self.sockets.get_mut::<tcp::Socket<'_>>(*handle).abort();
            }
        }
    }

    /// Removes sockets that nobody holds and that have nothing left to do.
    fn reap(&mut self, now: Duration) {
        let mut waiting = 0;
        let mut done = Vec::new();
        for (handle, connection) in &mut self.connections {
            let Some(dropped_at) = connection.dropped_at else { continue };
            let socket = self.sockets.get_mut::<tcp::Socket<'_>>(*handle);
            // Nobody will read it: it must not close the window on what the other side still sends.
            while socket.recv(|bytes| (bytes.len(), bytes.len())).is_ok_and(|len| len > 0) {}
            match socket.state() {
                // An aborted socket first sends its reset; then it has no remote end any more.
                tcp::State::Closed if socket.remote_endpoint().is_none() => done.push(*handle),
                tcp::State::TimeWait => {
                    // Both sides have said all: nobody waits for the host any more.
                    if std::mem::take(&mut connection.is_watched) {
                        self.liveness.release(connection.remote.ip());
                    }
                    waiting += 1;
                    if waiting > TIME_WAIT_MAX {
                        done.push(*handle);
                    }
                }
                tcp::State::Closed if now >= dropped_at + LINGER => done.push(*handle),
                _ if now >= dropped_at + LINGER => socket.abort(),
                _ => {}
            }
        }
        for handle in done {
            self.sockets.remove(handle);
            if let Some(connection) = self.connections.remove(&handle)
                && connection.is_watched
            {
                self.liveness.release(connection.remote.ip());
            }
        }
        // Room that has become free goes to listeners that had none.
        if self.listeners.values().any(|listening| listening.socket.is_none()) {
            self.tend_listeners(now);
        }
    }

    fn state(&self, handle: SocketHandle) -> tcp::State {
        self.sockets.get::<tcp::Socket<'_>>(handle).state()
    }

    fn add_listening(&mut self, port: u16) -> Option<SocketHandle> {
        let handle = self.add_socket()?;
        self.socket(handle).listen(port).expect("a fresh socket can listen on a port that is not zero");
        Some(handle)
    }

    fn add_socket(&mut self) -> Option<SocketHandle> {
        if self.sockets.iter().count() >= SOCKETS_MAX {
            return None;
        }
        let buffer = || tcp::SocketBuffer::new(vec![0; self.buffer_bytes]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket.set_nagle_enabled(false);
        Some(self.sockets.add(socket))
    }

    /// A port that neither a connection nor a listener uses.
    fn free_port(&mut self) -> Option<u16> {
        for _ in 0..EPHEMERAL_PORTS.len() {
            let port = self.next_port;
            self.next_port = if port == *EPHEMERAL_PORTS.end() { *EPHEMERAL_PORTS.start() } else { port + 1 };
            let is_used = self.listeners.contains_key(&port)
                || self.connections.values().any(|connection| connection.local.port() == port);
            if !is_used {
                return Some(port);
            }
        }
        None
    }
}

impl Connection {
    fn new(local: SocketAddr, remote: SocketAddr) -> Self {
        Connection { local, remote, is_lost: false, is_watched: false, dropped_at: None }
    }
}

fn no_room(message: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::AddrNotAvailable, message)
}

fn instant(at: Duration) -> Instant {
    Instant::from_micros(i64::try_from(at.as_micros()).unwrap_or(i64::MAX))
}

fn duration(at: Instant) -> Duration {
    Duration::from_micros(u64::try_from(at.total_micros()).unwrap_or(0))
}
