//! Owns the primitives of every format in this crate: bounds-checked reading, plain writing,
//! addresses and prefixes. Integers are little-endian. No input makes the reader panic.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::key::PeerId;

/// Why bytes are not the value that they claim to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The bytes end before the value does.
    #[error("the data ends too early")]
    Truncated,
    /// Bytes are left after the value.
    #[error("there is data after the end")]
    TrailingBytes,
    /// A format version that this release does not know.
    #[error("format version {0} is not supported by this release")]
    UnsupportedVersion(u8),
    /// A kind byte without meaning.
    #[error("kind {0} is unknown")]
    UnknownKind(u8),
    /// A field holds what it must not; the field is named.
    #[error("the field \"{0}\" is invalid")]
    Invalid(&'static str),
}

/// Takes values off the front of a byte slice.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Reader { rest: bytes }
    }

    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn u16(&mut self) -> Result<u16, DecodeError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, DecodeError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, DecodeError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(crate) fn peer_id(&mut self) -> Result<PeerId, DecodeError> {
        PeerId::from_bytes(self.array()?).map_err(|_| DecodeError::Invalid("peer id"))
    }

    pub(crate) fn ip(&mut self) -> Result<IpAddr, DecodeError> {
        match self.u8()? {
            4 => Ok(IpAddr::from(self.array::<4>()?)),
            6 => Ok(IpAddr::from(self.array::<16>()?)),
            _ => Err(DecodeError::Invalid("address family")),
        }
    }

    pub(crate) fn endpoint(&mut self) -> Result<SocketAddr, DecodeError> {
        let ip = self.ip()?;
        Ok(SocketAddr::new(ip, self.u16()?))
    }

    pub(crate) fn net(&mut self) -> Result<IpNet, DecodeError> {
        let ip = self.ip()?;
        IpNet::new(ip, self.u8()?).map_err(|_| DecodeError::Invalid("prefix length"))
    }

    /// What is left, all of it.
    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    /// Succeeds if everything was read.
    pub(crate) fn finish(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(DecodeError::TrailingBytes) }
    }
}

pub(crate) fn put_ip(out: &mut Vec<u8>, ip: IpAddr) {
    match ip {
        IpAddr::V4(ip) => {
            out.push(4);
            out.extend_from_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            out.push(6);
            out.extend_from_slice(&ip.octets());
        }
    }
}

pub(crate) fn put_endpoint(out: &mut Vec<u8>, endpoint: SocketAddr) {
    put_ip(out, endpoint.ip());
    out.extend_from_slice(&endpoint.port().to_le_bytes());
}

pub(crate) fn put_net(out: &mut Vec<u8>, net: IpNet) {
    put_ip(out, net.addr());
    out.push(net.prefix_len());
}
