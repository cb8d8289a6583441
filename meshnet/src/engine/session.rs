//! Owns one session's transport: AES-256-GCM in place, the nonce counter, the replay window, and when
//! the session must be renewed or end. A nonce is never used twice: the counter only grows and sealing
//! fails at its limit.

use std::time::Duration;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use crate::engine::handshake::Keys;
use crate::engine::replay::ReplayWindow;
use crate::wire::{DataKind, HEADER_BYTES, Header, Kind, TAG_BYTES};

/// Messages after which keys are renewed, and after which no more are sealed. AES-GCM's own bound for
/// random-looking traffic of this size lies far above (NIST SP 800-38D).
const REKEY_AFTER_MESSAGES: u64 = 1 << 32;
const REJECT_AFTER_MESSAGES: u64 = 1 << 33;

/// One session of one peer.
pub(super) struct Session {
    /// The index that frames to us carry.
    pub(super) local: u32,
    /// The index that frames to the peer carry.
    pub(super) remote: u32,
    /// When it was agreed.
    pub(super) since: Duration,
    /// When it should be renewed.
    pub(super) rekey_at: Duration,
    /// When it ends.
    pub(super) ends_at: Duration,
    send_key: LessSafeKey,
    receive_key: LessSafeKey,
    next_counter: u64,
    window: ReplayWindow,
}

/// Why a frame is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OpenError {
    /// It does not authenticate.
    Forged,
    /// It was seen before or is too old to tell.
    Replayed,
    /// It authenticates, but its content type is unknown.
    Malformed,
}

/// What was in a frame.
pub(super) struct Content {
    pub(super) kind: DataKind,
    /// Whether the frame is the newest of its session.
    pub(super) is_newest: bool,
}

/// When a session is agreed and for how long it holds.
#[derive(Clone, Copy)]
pub(super) struct Lifetime {
    pub(super) since: Duration,
    pub(super) rekey_after: Duration,
    /// A random part of a tenth: not all peers renew at once.
    pub(super) jitter: u8,
}

impl Session {
    pub(super) fn new(keys: &Keys, local: u32, remote: u32, opened_here: bool, lifetime: Lifetime) -> Self {
        let Lifetime { since, rekey_after, jitter } = lifetime;
        let early = rekey_after / 10 * u32::from(jitter) / 256;
        // The other side renews only if the opener fails to.
        let late = if opened_here { Duration::ZERO } else { rekey_after / 5 };
        Session {
            local,
            remote,

            since,
            rekey_at: since + rekey_after - early + late,
            ends_at: since + rekey_after + rekey_after / 2,
            send_key: aead(&keys.send),
            receive_key: aead(&keys.receive),
            next_counter: 0,
            window: ReplayWindow::default(),
        }
    }

    /// Whether keys should be renewed.
    pub(super) fn wants_rekey(&self, now: Duration) -> bool {
        now >= self.rekey_at || self.next_counter >= REKEY_AFTER_MESSAGES
    }

    /// Whether nothing may be sent or accepted any more.
    pub(super) fn is_over(&self, now: Duration) -> bool {
        now >= self.ends_at || self.next_counter >= REJECT_AFTER_MESSAGES
    }

    /// Writes the frame that carries `content` into `out`, replacing what is there.
    ///
    /// # Panics
    /// If the session is over by its message count: the caller asks [`Session::is_over`] first.
    pub(super) fn seal(&mut self, kind: DataKind, content: &[u8], out: &mut Vec<u8>) {
        assert!(self.next_counter < REJECT_AFTER_MESSAGES, "no nonce is left in the session");
        let counter = self.next_counter;
        self.next_counter += 1;
        let header = Header { kind: Kind::Data, receiver: self.remote, counter }.encode();
        out.clear();
        out.extend_from_slice(&header);
        out.extend_from_slice(content);
        out.push(kind as u8);
        let tag = self
            .send_key
            .seal_in_place_separate_tag(nonce(counter), Aad::from(header), &mut out[HEADER_BYTES..])
            .expect("AES-GCM seals any message of this size");
        out.extend_from_slice(tag.as_ref());
    }

    /// Opens a frame into `out`, replacing what is there; the content is all that is left in it.
    pub(super) fn open(
        &mut self,
        header: &Header,
        body: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Content, OpenError> {
        let (ciphertext, tag) =
            body.split_at_checked(body.len().wrapping_sub(TAG_BYTES)).ok_or(OpenError::Forged)?;
        out.clear();
        out.resize(ciphertext.len(), 0);
        self.receive_key
            .open_separate_gather(nonce(header.counter), Aad::from(header.encode()), ciphertext, tag, out)
            .map_err(|_| OpenError::Forged)?;
        if !self.window.accept(header.counter) {
            return Err(OpenError::Replayed);
        }
        let kind = out.pop().and_then(|code| DataKind::from_code(code).ok()).ok_or(OpenError::Malformed)?;
        Ok(Content { kind, is_newest: self.window.is_newest(header.counter) })
    }

    #[cfg(test)]
    pub(super) fn skip_to_counter(&mut self, counter: u64) {
        self.next_counter = counter;
    }
}

fn aead(key: &[u8; 32]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).expect("an AES-256 key has 32 bytes"))
}

fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&counter.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Frame;
    use zeroize::Zeroizing;

    fn pair() -> (Session, Session) {
        let keys =
            |send, receive| Keys { send: Zeroizing::new([send; 32]), receive: Zeroizing::new([receive; 32]) };
        let lifetime =
            Lifetime { since: Duration::from_secs(10), rekey_after: Duration::from_secs(120), jitter: 128 };
        let a = Session::new(&keys(1, 2), 100, 200, true, lifetime);
        let b = Session::new(&keys(2, 1), 200, 100, false, lifetime);
        (a, b)
    }

    fn open(session: &mut Session, bytes: &[u8]) -> Result<(DataKind, Vec<u8>), OpenError> {
        let frame = Frame::decode(bytes).map_err(|_| OpenError::Malformed)?;
        let mut out = Vec::new();
        let content = session.open(&frame.header, frame.body, &mut out)?;
        Ok((content.kind, out))
    }

    #[test]
    fn what_one_side_seals_the_other_opens_once() {
        let (mut a, mut b) = pair();
        let mut frame = Vec::new();
        a.seal(DataKind::Packet, b"content", &mut frame);
        assert_eq!(open(&mut b, &frame), Ok((DataKind::Packet, b"content".to_vec())));
        assert_eq!(open(&mut b, &frame), Err(OpenError::Replayed));
        assert!(!frame.windows(7).any(|part| part == b"content"));
    }

    #[test]
    fn every_altered_byte_is_noticed() {
        let (mut a, mut b) = pair();
        let mut frame = Vec::new();
        a.seal(DataKind::Control, b"content", &mut frame);
        for at in 4..frame.len() {
            let mut altered = frame.clone();
            altered[at] ^= 1;
            assert_eq!(open(&mut b, &altered), Err(OpenError::Forged), "byte {at}");
        }
        assert!(open(&mut b, &frame).is_ok());
    }

    #[test]
    fn time_and_count_renew_and_end_a_session() {
        let (mut a, b) = pair();
        let at = Duration::from_secs;
        assert!(
            !a.wants_rekey(at(123)) && a.wants_rekey(at(130)),
            "the opener renews between 108 s and 120 s"
        );
        assert!(!b.wants_rekey(at(140)) && b.wants_rekey(at(154)), "the other side waits longer");
        assert!(!a.is_over(at(189)) && a.is_over(at(190)));
        a.skip_to_counter(REKEY_AFTER_MESSAGES);
        assert!(a.wants_rekey(at(11)) && !a.is_over(at(11)));
        a.skip_to_counter(REJECT_AFTER_MESSAGES);
        assert!(a.is_over(at(11)));
    }

    #[test]
    #[should_panic(expected = "no nonce is left")]
    fn no_nonce_is_used_beyond_the_limit() {
        let (mut a, _) = pair();
        a.skip_to_counter(REJECT_AFTER_MESSAGES);
        a.seal(DataKind::Keepalive, b"", &mut Vec::new());
    }
}
