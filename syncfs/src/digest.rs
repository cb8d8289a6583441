//! [`Digest`]: one hash that two replicas compare to know that their folders are equal.
//!
//! It covers, for every live entry in path order: path, kind, permission bits, and for files the modification time
//! and the content root, for symlinks the target. It leaves out what is private to one replica (inode, change
//! time, sequence) and how a version came about (vectors, device, epoch).

use std::fmt;

use crate::record::{Kind, Record};

/// Equal digests prove equal folders.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Builds a [`Digest`] from records given in path order.
pub struct Digester(blake3::Hasher);

impl Default for Digester {
    fn default() -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"syncfs digest 1");
        Self(hasher)
    }
}

impl Digester {
    /// Takes in the next record; a tombstone changes nothing.
    pub fn add(&mut self, record: &Record) {
        if !record.kind.is_live() {
            return;
        }
        self.field(record.path.as_bytes());
        match &record.kind {
            Kind::File { mode, mtime_ns, content } => {
                self.0.update(b"f").update(&mode.to_le_bytes()).update(&mtime_ns.to_le_bytes());
                self.0.update(content.root().as_bytes());
            }
            Kind::Dir { mode } => {
                self.0.update(b"d").update(&mode.to_le_bytes());
            }
            Kind::Symlink { target } => {
                self.0.update(b"l");
                self.field(target);
            }
            Kind::Deleted => {}
        }
    }

    /// The digest of everything added.
    #[must_use]
    pub fn finish(&self) -> Digest {
        Digest(*self.0.finalize().as_bytes())
    }

    fn field(&mut self, bytes: &[u8]) {
        self.0.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
    }
}
