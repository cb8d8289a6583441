//! What stands at a path, as bytes: on the wire and in the index.

use super::{DecodeError, Reader, Writer};
use crate::chunk::CHUNK_BYTES_MAX;
use crate::record::{
    Attributes, Chunk, Content, FILE_CHUNKS_MAX, Kind, Owner, TARGET_BYTES_MAX, XATTR_NAME_BYTES_MAX,
    XATTRS_BYTES_MAX, XATTRS_MAX, Xattrs, is_replicated_xattr,
};

impl Writer {
    pub(super) fn kind(&mut self, kind: &Kind) {
        match kind {
            Kind::Deleted => self.byte(0),
            Kind::File { attributes, mtime_ns, content, link } => {
                self.byte(1);
                self.attributes(attributes);
                self.0.extend_from_slice(&mtime_ns.to_le_bytes());
                self.byte(u8::from(link.is_some()));
                link.iter().for_each(|link| self.bytes(link.as_bytes()));
                self.count(content.chunks().len());
                for chunk in content.chunks() {
                    self.0.extend_from_slice(chunk.hash.as_bytes());
                    self.half(chunk.length);
                }
            }
            Kind::Dir { attributes } => {
                self.byte(2);
                self.attributes(attributes);
            }
            Kind::Symlink { owner, target } => {
                self.byte(3);
                self.owner(*owner);
                self.bytes(target);
            }
        }
    }

    fn owner(&mut self, owner: Option<Owner>) {
        self.byte(u8::from(owner.is_some()));
        owner.into_iter().flat_map(|owner| [owner.uid, owner.gid]).for_each(|id| self.half(id));
    }

    fn attributes(&mut self, Attributes { mode, owner, xattrs }: &Attributes) {
        self.half(*mode);
        self.owner(*owner);
        self.byte(u8::try_from(xattrs.len()).expect("XATTRS_MAX fits a byte"));
        for (name, value) in xattrs {
            self.bytes(name);
            self.bytes(value);
        }
    }
}

impl Reader<'_> {
    pub(super) fn kind(&mut self) -> Result<Kind, DecodeError> {
        Ok(match self.byte()? {
            0 => Kind::Deleted,
            1 => Kind::File {
                attributes: self.attributes()?,
                mtime_ns: i64::from_le_bytes(self.array()?),
                link: if self.flag()? { Some(self.path()?) } else { None },
                content: self.content()?,
            },
            2 => Kind::Dir { attributes: self.attributes()? },
            3 => Kind::Symlink { owner: self.owner()?, target: self.target()? },
            _ => return Err(DecodeError::Unknown("record kind")),
        })
    }

    fn owner(&mut self) -> Result<Option<Owner>, DecodeError> {
        Ok(if self.flag()? { Some(Owner { uid: self.half()?, gid: self.half()? }) } else { None })
    }

    fn attributes(&mut self) -> Result<Attributes, DecodeError> {
        Ok(Attributes { mode: self.mode()?, owner: self.owner()?, xattrs: self.xattrs()? })
    }

    fn xattrs(&mut self) -> Result<Xattrs, DecodeError> {
        let count = usize::from(self.byte()?);
        if count > XATTRS_MAX {
            return Err(DecodeError::Limit("extended attributes"));
        }
        let (mut xattrs, mut room) = (Xattrs::new(), XATTRS_BYTES_MAX);
        for _ in 0..count {
            let name = self.bytes(XATTR_NAME_BYTES_MAX.min(room), "extended attributes")?;
            let value = self.bytes(room - name.len(), "extended attributes")?;
            room -= name.len() + value.len();
            let in_order = xattrs.last_key_value().is_none_or(|(last, _)| last.as_slice() < name);
            if !in_order || !is_replicated_xattr(name) || name.contains(&0) {
                return Err(DecodeError::Invalid("extended attributes"));
            }
            xattrs.insert(name.to_vec(), value.to_vec());
        }
        Ok(xattrs)
    }

    fn mode(&mut self) -> Result<u32, DecodeError> {
        let mode = self.half()?;
        if mode & !0o7777 == 0 { Ok(mode) } else { Err(DecodeError::Invalid("permission bits")) }
    }

    fn target(&mut self) -> Result<Vec<u8>, DecodeError> {
        let target = self.bytes(TARGET_BYTES_MAX, "symlink target")?;
        if target.is_empty() || target.contains(&0) {
            return Err(DecodeError::Invalid("symlink target"));
        }
        Ok(target.to_vec())
    }

    fn content(&mut self) -> Result<Content, DecodeError> {
        let count = self.count(FILE_CHUNKS_MAX, 36, "chunk list")?;
        let mut chunks = Vec::with_capacity(count);
        for _ in 0..count {
            let chunk = Chunk { hash: self.hash()?, length: self.half()? };
            if chunk.length == 0 || chunk.length as usize > CHUNK_BYTES_MAX {
                return Err(DecodeError::Limit("chunk length"));
            }
            chunks.push(chunk);
        }
        Ok(Content::new(chunks))
    }
}
