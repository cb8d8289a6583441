//! Owns what a node knows of one peer: what it stands for, where it is, its sessions and its timers.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use crate::claims::Claims;
use crate::engine::PeerState;
use crate::engine::session::Session;
use crate::membership::Membership;

/// Sessions kept for one peer. Two would do for renewals; simultaneous opening by both sides, together
/// with a late renewal, makes up to four for a moment, and whichever the other side sends on must open.
pub(super) const SESSIONS_MAX: usize = 4;
/// Packets that wait while keys are agreed.
pub(super) const QUEUE_MAX: usize = 64;
/// Data without any answer for this long is followed by a ping.
pub(super) const PROBE_AFTER: Duration = Duration::from_secs(2);
/// Pause between pings while nothing is heard.
pub(super) const PROBE_EVERY: Duration = Duration::from_millis(500);
/// Pause between two full lists of peers to the same peer.
pub(super) const EXCHANGE_EVERY: Duration = Duration::from_secs(30);
/// Least pause between two lists of peers to the same peer, however much changes.
pub(super) const EXCHANGE_PAUSE: Duration = Duration::from_millis(250);
/// Lists of peers that one peer may send in a row, and how many more each second.
pub(super) const EXCHANGE_BURST: u32 = 64;

/// One peer that was connected at least once.
pub(super) struct Peer {
    pub(super) claims: Claims,
    /// The signed form of `claims`, where an authority rules.
    pub(super) membership: Option<Membership>,
    /// Where it was last heard, authenticated.
    pub(super) endpoint: SocketAddr,
    /// Newest first, at most [`SESSIONS_MAX`].
    pub(super) sessions: Vec<Session>,
    /// Since when it has been up; `None` while it is down.
    pub(super) up_since: Option<Duration>,
    pub(super) last_heard: Duration,
    pub(super) last_sent: Duration,
    /// When the first thing was sent that nothing was heard after.
    pub(super) unanswered_since: Option<Duration>,
    /// When to ping while something is unanswered.
    pub(super) probe_at: Duration,
    /// The ping that waits for its answer, and when it left.
    pub(super) ping: Option<(u64, Duration)>,
    pub(super) rtt: Option<Duration>,
    pub(super) exchange_at: Duration,
    pub(super) exchanged_at: Duration,
    exchange_budget: u32,
    exchange_filled_at: Duration,
    /// When to ask again for a membership, on a node that joins.
    pub(super) enrol_at: Duration,
    pub(super) queue: VecDeque<Vec<u8>>,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
}

impl Peer {
    pub(super) fn new(claims: Claims, endpoint: SocketAddr, now: Duration) -> Self {
        Peer {
            claims,
            membership: None,
            endpoint,
            sessions: Vec::new(),
            up_since: None,
            last_heard: now,
            last_sent: now,
            unanswered_since: None,
            probe_at: now,
            ping: None,
            rtt: None,
            exchange_at: now,
            exchanged_at: Duration::ZERO,
            exchange_budget: EXCHANGE_BURST,
            exchange_filled_at: now,
            enrol_at: now,
            queue: VecDeque::new(),
            bytes_in: 0,
            bytes_out: 0,
        }
    }

    pub(super) fn is_up(&self) -> bool {
        self.up_since.is_some()
    }

    pub(super) fn state(&self, now: Duration) -> PeerState {
        match (self.is_up(), self.sessions.first()) {
            (false, _) => PeerState::Down,
            (true, Some(session)) if !session.is_over(now) => PeerState::Up,
            (true, _) => PeerState::Connecting,
        }
    }

    /// The session to send on.
    pub(super) fn sender(&mut self, now: Duration) -> Option<&mut Session> {
        self.sessions.iter_mut().find(|session| !session.is_over(now))
    }

    /// Whether a new session should be agreed.
    pub(super) fn wants_session(&self, now: Duration) -> bool {
        self.sessions.first().is_none_or(|session| session.wants_rekey(now))
    }

    /// Notes that something was sent which the peer should answer in time.
    pub(super) fn note_asked(&mut self, now: Duration) {
        if self.unanswered_since.is_none() {
            self.unanswered_since = Some(now);
            self.probe_at = now + PROBE_AFTER;
        }
    }

    /// Notes that the peer was heard.
    pub(super) fn note_heard(&mut self, now: Duration) {
        self.last_heard = now;
        self.unanswered_since = None;
    }

    /// Lets the peers' list go out soon, but not more often than is reasonable.
    pub(super) fn hurry_exchange(&mut self, now: Duration) {
        self.exchange_at = self.exchange_at.min(now.max(self.exchanged_at + EXCHANGE_PAUSE));
    }

    /// Whether one more list of peers from this peer is looked at.
    pub(super) fn may_exchange(&mut self, now: Duration) -> bool {
        let earned = now.saturating_sub(self.exchange_filled_at).as_secs();
        if earned > 0 {
            let earned = u32::try_from(earned.saturating_mul(4)).unwrap_or(EXCHANGE_BURST);
            self.exchange_budget = self.exchange_budget.saturating_add(earned).min(EXCHANGE_BURST);
            self.exchange_filled_at = now;
        }
        let allowed = self.exchange_budget > 0;
        self.exchange_budget = self.exchange_budget.saturating_sub(1);
        allowed
    }

    /// Keeps a session, the latest agreed first. Gives those that there is no room for.
    pub(super) fn keep(&mut self, session: Session) -> impl Iterator<Item = Session> + '_ {
        let at = self.sessions.partition_point(|other| other.since > session.since);
        self.sessions.insert(at, session);
        self.sessions.drain(SESSIONS_MAX.min(self.sessions.len())..)
    }

    /// When this peer next needs attention after `now`, if it is up. Keys that should be renewed by now
    /// are no matter of this table: the dialling has its own.
    pub(super) fn deadline(
        &self,
        now: Duration,
        keepalive: Duration,
        timeout: Duration,
        enrols: bool,
    ) -> Option<Duration> {
        self.up_since?;
        let mut at = (self.last_heard + timeout).min(self.exchange_at);
        if let Some(session) = self.sessions.first() {
            at = at.min(self.last_sent + keepalive);
            if session.rekey_at > now {
                at = at.min(session.rekey_at);
            }
        }
        if let Some(oldest) = self.sessions.iter().map(|session| session.ends_at).min() {
            at = at.min(oldest);
        }
        if self.unanswered_since.is_some() {
            at = at.min(self.probe_at);
        }
        if enrols {
            at = at.min(self.enrol_at);
        }
        Some(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_peers_are_limited_and_the_limit_recovers() {
        let claims = Claims::new("n", "10.7.0.1/24".parse().unwrap(), &[]).unwrap();
        let now = Duration::from_secs(5);
        let mut peer = Peer::new(claims, "192.0.2.1:1".parse().unwrap(), now);
        assert_eq!((0..200).filter(|_| peer.may_exchange(now)).count(), EXCHANGE_BURST as usize);
        let later = now + Duration::from_secs(2);
        assert_eq!((0..200).filter(|_| peer.may_exchange(later)).count(), 8);
    }
}
