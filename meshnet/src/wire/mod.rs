//! Owns the frame: what one datagram looks like. Total and bounded: every byte string either decodes
//! or is refused with a reason.
//!
//! ```text
//!  0        1         4              8                     16
//! +--------+---------+--------------+---------------------+-------------------------+
//! |ver|kind|  zero   | receiver u32 |    counter u64      |  Noise message, or      |
//! | 4 | 4  |         | little-endian|    little-endian    |  AES-256-GCM ciphertext |
//! +--------+---------+--------------+---------------------+-------------------------+
//! ```
//!
//! `receiver` is the random index that the receiving side chose for this handshake or session (zero
//! in the first message, which opens one). `counter` is the nonce of a data frame and zero in a
//! handshake frame. The whole header is authenticated with a data frame. A node tells the other its
//! own index inside the encrypted handshake payload, so nobody in between can alter it.
//!
//! The plaintext of a data frame is its content followed by one type byte ([`DataKind`]), as in TLS 1.3: the packet
//! then lies at the start of the buffer, where the device wants it.

pub(crate) mod codec;
pub mod control;
pub mod hello;

pub use codec::DecodeError;

/// Version of the frame format and of everything inside; the high half of the first byte.
pub const VERSION: u8 = 1;
/// Length of the header before the body.
pub const HEADER_BYTES: usize = 16;
/// Length of the authentication tag that ends every body.
pub const TAG_BYTES: usize = 16;
/// What a data frame adds to the packet that it carries.
pub const OVERHEAD_BYTES: usize = HEADER_BYTES + 1 + TAG_BYTES;
/// Largest IP packet that a frame carries.
pub const MTU_MAX: usize = 9000;
/// Largest datagram that is looked at.
pub const FRAME_MAX: usize = MTU_MAX + OVERHEAD_BYTES;
/// Largest handshake frame: it must cross any path that IPv6 can use, headers included.
pub const HANDSHAKE_MAX: usize = 1232;

/// What a frame is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The first handshake message, from the side that opens.
    Handshake1 = 1,
    /// The answer.
    Handshake2 = 2,
    /// The opener's proof.
    Handshake3 = 3,
    /// Sealed data of a session.
    Data = 4,
}

/// The content type of a data frame, its last plaintext byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataKind {
    /// Nothing: it says that the sender is there.
    Keepalive = 0,
    /// One IP packet.
    Packet = 1,
    /// One [`control::Control`] message.
    Control = 2,
}

impl DataKind {
    /// The kind with this code.
    ///
    /// # Errors
    /// [`DecodeError::UnknownKind`].
    pub fn from_code(code: u8) -> Result<Self, DecodeError> {
        match code {
            0 => Ok(DataKind::Keepalive),
            1 => Ok(DataKind::Packet),
            2 => Ok(DataKind::Control),
            other => Err(DecodeError::UnknownKind(other)),
        }
    }
}

/// The first 16 bytes of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What the frame is for.
    pub kind: Kind,
    /// The index that the receiving side chose; zero in [`Kind::Handshake1`].
    pub receiver: u32,
    /// The nonce of a data frame; zero in a handshake frame.
    pub counter: u64,
}

impl Header {
    /// The header's bytes.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0] = VERSION << 4 | self.kind as u8;
        bytes[4..8].copy_from_slice(&self.receiver.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.counter.to_le_bytes());
        bytes
    }
}

/// A datagram, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Its header.
    pub header: Header,
    /// What follows the header: the Noise message or the ciphertext with its tag.
    pub body: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Takes a datagram apart. Nothing is authenticated yet.
    ///
    /// # Errors
    /// See [`DecodeError`]; of a handshake frame and of a data frame only what could be genuine passes.
    pub fn decode(datagram: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = codec::Reader::new(datagram);
        let first = reader.u8()?;
        if first >> 4 != VERSION {
            return Err(DecodeError::UnsupportedVersion(first >> 4));
        }
        let kind = match first & 0x0f {
            1 => Kind::Handshake1,
            2 => Kind::Handshake2,
            3 => Kind::Handshake3,
            4 => Kind::Data,
            other => return Err(DecodeError::UnknownKind(other)),
        };
        if reader.array::<3>()? != [0; 3] {
            return Err(DecodeError::Invalid("reserved"));
        }
        let header = Header { kind, receiver: reader.u32()?, counter: reader.u64()? };
        let body = reader.rest();
        let is_handshake = kind != Kind::Data;
        if is_handshake && header.counter != 0 {
            return Err(DecodeError::Invalid("counter"));
        }
        if (kind == Kind::Handshake1) != (header.receiver == 0) {
            return Err(DecodeError::Invalid("receiver"));
        }
        let (min, max) = if is_handshake {
            (TAG_BYTES, HANDSHAKE_MAX - HEADER_BYTES)
        } else {
            (1 + TAG_BYTES, FRAME_MAX - HEADER_BYTES)
        };
        if body.len() < min {
            return Err(DecodeError::Truncated);
        }
        if body.len() > max {
            return Err(DecodeError::TrailingBytes);
        }
        Ok(Frame { header, body })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: Kind, receiver: u32, counter: u64, body: usize) -> Vec<u8> {
        let mut bytes = Header { kind, receiver, counter }.encode().to_vec();
        bytes.resize(HEADER_BYTES + body, 0xaa);
        bytes
    }

    #[test]
    fn headers_round_trip() {
        for kind in [Kind::Handshake2, Kind::Handshake3, Kind::Data] {
            let counter = if kind == Kind::Data { u64::MAX - 5 } else { 0 };
            let bytes = frame(kind, 0x0102_0304, counter, 40);
            let decoded = Frame::decode(&bytes).unwrap();
            assert_eq!(decoded.header, Header { kind, receiver: 0x0102_0304, counter });
            assert_eq!(decoded.body.len(), 40);
        }
        assert!(Frame::decode(&frame(Kind::Handshake1, 0, 0, 40)).is_ok());
    }

    #[test]
    fn what_cannot_be_genuine_is_refused() {
        assert_eq!(Frame::decode(&[]), Err(DecodeError::Truncated));
        assert_eq!(Frame::decode(&[0x24; 40]), Err(DecodeError::UnsupportedVersion(2)));
        assert_eq!(Frame::decode(&[0x1f; 40]), Err(DecodeError::UnknownKind(15)));
        let mut reserved = frame(Kind::Data, 1, 0, 40);
        reserved[2] = 1;
        assert_eq!(Frame::decode(&reserved), Err(DecodeError::Invalid("reserved")));
        assert_eq!(Frame::decode(&frame(Kind::Handshake1, 1, 0, 40)), Err(DecodeError::Invalid("receiver")));
        assert_eq!(Frame::decode(&frame(Kind::Data, 0, 0, 40)), Err(DecodeError::Invalid("receiver")));
        assert_eq!(Frame::decode(&frame(Kind::Handshake2, 1, 1, 40)), Err(DecodeError::Invalid("counter")));
    }

    #[test]
    fn sizes_are_bounded_on_both_ends() {
        assert!(Frame::decode(&frame(Kind::Data, 1, 0, 17)).is_ok());
        assert_eq!(Frame::decode(&frame(Kind::Data, 1, 0, 16)), Err(DecodeError::Truncated));
        assert!(Frame::decode(&frame(Kind::Data, 1, 0, FRAME_MAX - HEADER_BYTES)).is_ok());
        let oversized = frame(Kind::Data, 1, 0, FRAME_MAX - HEADER_BYTES + 1);
        assert_eq!(Frame::decode(&oversized), Err(DecodeError::TrailingBytes));
        let oversized = frame(Kind::Handshake2, 1, 0, HANDSHAKE_MAX - HEADER_BYTES + 1);
        assert_eq!(Frame::decode(&oversized), Err(DecodeError::TrailingBytes));
    }
}
