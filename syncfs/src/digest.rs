//! [`Digest`]: one hash that two replicas compare to know that their folders are equal.
//!
//! It covers, for every live entry in path order: path, kind, permission bits, owner, extended attributes, for files
//! the modification time, the content root and the hard link, for symlinks the target. It leaves out what is private to
//! one replica (inode, change time, sequence) and how a version came about (vectors, device, epoch).

use std::fmt;

use crate::path::RelPath;
use crate::record::{Attributes, Kind, Owner, Record};

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
            Kind::File { attributes, mtime_ns, content, link } => {
                self.0.update(b"f").update(&mtime_ns.to_le_bytes()).update(content.root().as_bytes());
                self.field(link.as_ref().map_or(&b""[..], RelPath::as_bytes));
                self.attributes(attributes);
            }
            Kind::Dir { attributes } => {
                self.0.update(b"d");
                self.attributes(attributes);
            }
            Kind::Symlink { owner, target } => {
                self.0.update(b"l");
                self.owner(*owner);
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

    fn attributes(&mut self, attributes: &Attributes) {
        self.0.update(&attributes.mode.to_le_bytes());
        self.owner(attributes.owner);
        self.0.update(&(attributes.xattrs.len() as u64).to_le_bytes());
        for (name, value) in &attributes.xattrs {
            self.field(name);
            self.field(value);
        }
    }

    fn owner(&mut self, owner: Option<Owner>) {
        self.0.update(&[u8::from(owner.is_some())]);
        if let Some(Owner { uid, gid }) = owner {
            self.0.update(&uid.to_le_bytes()).update(&gid.to_le_bytes());
        }
    }

    fn field(&mut self, bytes: &[u8]) {
        self.0.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
    }
}
