//! Owns the defence in front of the handshake: how many first messages a source may send, and which
//! were seen before. Both memories are bounded.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

/// First messages that one source may send at once, and how many more each second.
const BURST: u32 = 50;
const PER_SECOND: u32 = 50;
/// Sources that are counted one by one; all further ones share one allowance.
pub(super) const SOURCES_MAX: usize = 4096;
/// First messages that are remembered.
pub(super) const SEEN_MAX: usize = 16_384;
/// How far a first message's time may be from this node's clock.
pub(super) const CLOCK_TOLERANCE: Duration = Duration::from_secs(600);

/// Why a first message gets no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shut {
    Stale,
    Replayed,
}

/// The gate's memory.
#[derive(Default)]
pub(super) struct Gate {
    sources: BTreeMap<IpAddr, Bucket>,
    crowd: Bucket,
    swept_at: Duration,
    /// Time and ephemeral key of each first message, so the oldest is forgotten first.
    seen: BTreeSet<(u64, [u8; 32])>,
    /// Nothing at or before this time is accepted: what was forgotten cannot come back.
    floor_unix_ms: u64,
}

#[derive(Clone, Copy)]
struct Bucket {
    tokens: u32,
    filled_at: Duration,
}

impl Default for Bucket {
    fn default() -> Self {
        Bucket { tokens: BURST, filled_at: Duration::ZERO }
    }
}

impl Bucket {
    fn take(&mut self, now: Duration) -> bool {
        let elapsed = now.saturating_sub(self.filled_at);
        let earned = u32::try_from(elapsed.as_millis() * u128::from(PER_SECOND) / 1000).unwrap_or(BURST);
        if earned > 0 {
            self.tokens = self.tokens.saturating_add(earned).min(BURST);
            self.filled_at = now;
        }
        let allowed = self.tokens > 0;
        self.tokens = self.tokens.saturating_sub(1);
        allowed
    }
}

impl Gate {
    /// Whether one more first message from this source is looked at.
    pub(super) fn allow(&mut self, source: IpAddr, now: Duration) -> bool {
        let source = subscriber(source);
        if let Some(bucket) = self.sources.get_mut(&source) {
            return bucket.take(now);
        }
        if self.sources.len() >= SOURCES_MAX && now.saturating_sub(self.swept_at) >= Duration::from_secs(1) {
            // A bucket that is full again says no more than a new one.
            self.sources.retain(|_, bucket| now.saturating_sub(bucket.filled_at) < Duration::from_secs(1));
            self.swept_at = now;
        }
        if self.sources.len() >= SOURCES_MAX {
            return self.crowd.take(now);
        }
        self.sources.entry(source).or_insert(Bucket { filled_at: now, ..Bucket::default() }).take(now)
    }

    /// Remembers an authenticated first message; fails if it is old or was seen.
    pub(super) fn admit(&mut self, ephemeral: [u8; 32], unix_ms: u64, unix: Duration) -> Result<(), Shut> {
        let clock_ms = u64::try_from(unix.as_millis()).unwrap_or(u64::MAX);
        let tolerance_ms = u64::try_from(CLOCK_TOLERANCE.as_millis()).expect("ten minutes fit");
        if unix_ms.abs_diff(clock_ms) > tolerance_ms || unix_ms <= self.floor_unix_ms {
            return Err(Shut::Stale);
        }
        if !self.seen.insert((unix_ms, ephemeral)) {
            return Err(Shut::Replayed);
        }
        // What the clock check refuses anyway need not be remembered.
        while self.seen.first().is_some_and(|(oldest, _)| oldest.saturating_add(tolerance_ms) < clock_ms) {
            self.forget_oldest();
        }
        while self.seen.len() > SEEN_MAX {
            self.forget_oldest();
        }
        Ok(())
    }

    fn forget_oldest(&mut self) {
        if let Some((oldest, _)) = self.seen.pop_first() {
            self.floor_unix_ms = self.floor_unix_ms.max(oldest);
        }
    }
}

/// What one subscriber can change at will counts as one source.
fn subscriber(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const UNIX: Duration = Duration::from_secs(1_700_000_000);

    fn source(n: u32) -> IpAddr {
        Ipv4Addr::from_bits(n).into()
    }

    #[test]
    fn a_source_is_limited_and_recovers() {
        let mut gate = Gate::default();
        let now = Duration::from_secs(5);
        assert_eq!((0..200).filter(|_| gate.allow(source(1), now)).count(), BURST as usize);
        assert!(gate.allow(source(2), now));
        assert!(gate.allow(source(1), now + Duration::from_millis(20)));
        assert!(!gate.allow(source(1), now + Duration::from_millis(20)));
    }

    #[test]
    fn sources_are_bounded_and_known_ones_keep_their_own_allowance() {
        let mut gate = Gate::default();
        let now = Duration::from_secs(5);
        for n in 0..100_000 {
            gate.allow(source(n), now);
        }
        assert_eq!(gate.sources.len(), SOURCES_MAX);
        assert!(gate.allow(source(1), now));
        assert!(!gate.allow(source(200_000), now), "the crowd used its allowance up");
        assert!(gate.allow(source(200_000), now + Duration::from_secs(2)), "quiet sources made room");
        assert!(gate.sources.len() < 10);
    }

    #[test]
    fn one_ipv6_network_is_one_source() {
        let mut gate = Gate::default();
        let now = Duration::from_secs(5);
        let allowed =
            (0..200u128).filter(|n| gate.allow(Ipv6Addr::from_bits(0x2001 << 112 | n).into(), now)).count();
        assert_eq!(allowed, BURST as usize);
    }

    #[test]
    fn replays_and_other_times_are_shut_out() {
        let mut gate = Gate::default();
        let ms = u64::try_from(UNIX.as_millis()).unwrap();
        assert_eq!(gate.admit([1; 32], ms, UNIX), Ok(()));
        assert_eq!(gate.admit([1; 32], ms, UNIX), Err(Shut::Replayed));
        assert_eq!(gate.admit([2; 32], ms - 600_001, UNIX), Err(Shut::Stale));
        assert_eq!(gate.admit([2; 32], ms + 600_001, UNIX), Err(Shut::Stale));
        assert_eq!(gate.admit([2; 32], ms + 600_000, UNIX), Ok(()));
    }

    #[test]
    fn what_was_forgotten_for_lack_of_room_does_not_come_back() {
        let mut gate = Gate::default();
        let ms = u64::try_from(UNIX.as_millis()).unwrap();
        let ephemeral = |n: usize| {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&n.to_le_bytes());
            bytes
        };
        for n in 0..=SEEN_MAX {
            assert_eq!(gate.admit(ephemeral(n), ms + n as u64, UNIX), Ok(()));
        }
        assert_eq!(gate.seen.len(), SEEN_MAX);
        assert_eq!(gate.admit(ephemeral(0), ms, UNIX), Err(Shut::Stale));
    }
}
