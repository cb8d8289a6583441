//! [`RelPath`]: the only way from a peer's bytes to a place on the disk. A value of this type cannot leave the
//! folder, cannot name its state directory, and has a bounded length and depth.

use std::fmt;
use std::sync::Arc;

use thiserror::Error;

/// Longest path, in bytes.
pub const PATH_BYTES_MAX: usize = 2048;
/// Longest single name, in bytes (what Linux filesystems allow).
pub const NAME_BYTES_MAX: usize = 255;
/// Most names in one path.
pub const PATH_DEPTH_MAX: usize = 128;
/// The name that is reserved for replica state at every depth.
pub const STATE_DIR: &[u8] = b".syncfs";

/// A path inside the folder: names of arbitrary bytes joined by `/`, never absolute, never with `.` or `..`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelPath(Arc<[u8]>);

/// Why some bytes are not a [`RelPath`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PathError {
    /// No bytes at all.
    #[error("the path is empty")]
    Empty,
    /// More than [`PATH_BYTES_MAX`], [`NAME_BYTES_MAX`] or [`PATH_DEPTH_MAX`].
    #[error("the path, or a name in it, is longer or deeper than this crate accepts")]
    TooLong,
    /// A NUL byte.
    #[error("the path contains a NUL byte")]
    Nul,
    /// An empty name (leading, trailing or double slash), `.` or `..`.
    #[error("the path is absolute or contains an empty name, `.` or `..`")]
    Escapes,
    /// Names the state directory.
    #[error("the path names `.syncfs`, which is never replicated")]
    Reserved,
}

impl RelPath {
    /// Parses and validates; see [`PathError`] for what is refused.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn new(bytes: impl AsRef<[u8]>) -> Result<Self, PathError> {
        let bytes = bytes.as_ref();
        if bytes.is_empty() {
            return Err(PathError::Empty);
        }
        if bytes.len() > PATH_BYTES_MAX {
            return Err(PathError::TooLong);
        }
        let mut depth = 0;
        for name in bytes.split(|&byte| byte == b'/') {
            depth += 1;
            if name.len() > NAME_BYTES_MAX || depth > PATH_DEPTH_MAX {
                return Err(PathError::TooLong);
            }
            if name.is_empty() || name == b"." || name == b".." {
                return Err(PathError::Escapes);
            }
            if name.contains(&0) {
                return Err(PathError::Nul);
            }
            if name == STATE_DIR {
                return Err(PathError::Reserved);
            }
        }
        Ok(Self(bytes.into()))
    }

    /// The bytes, names joined by `/`.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The last name.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        self.names().next_back().expect("a path has at least one name")
    }

    /// All names from the top.
    pub fn names(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.0.split(|&byte| byte == b'/')
    }

    /// How many names.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.names().count()
    }

    /// The directory that holds this entry; `None` at the top of the folder.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        let cut = self.0.iter().rposition(|&byte| byte == b'/')?;
        Some(Self(self.0[..cut].into()))
    }

    /// `dir`/`name`, or just `name` at the top of the folder.
    ///
    /// # Errors
    /// As [`RelPath::new`].
    pub fn child(dir: Option<&Self>, name: &[u8]) -> Result<Self, PathError> {
        if name.contains(&b'/') {
            return Err(PathError::Escapes);
        }
        match dir {
            None => Self::new(name),
            Some(dir) => Self::new([dir.as_bytes(), b"/", name].concat()),
        }
    }

    /// A sibling of another name.
    ///
    /// # Errors
    /// As [`RelPath::new`].
    pub fn with_name(&self, name: &[u8]) -> Result<Self, PathError> {
        Self::child(self.parent().as_ref(), name)
    }

    /// Whether this entry lies below `dir`.
    #[must_use]
    pub fn is_below(&self, dir: &Self) -> bool {
        self.0.len() > dir.0.len() && self.0.starts_with(&dir.0) && self.0[dir.0.len()] == b'/'
    }
}

impl fmt::Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn refuses_every_way_out_of_the_folder() {
        for (bytes, error) in [
            (&b""[..], PathError::Empty),
            (b"/etc/passwd", PathError::Escapes),
            (b"a/../../b", PathError::Escapes),
            (b"a//b", PathError::Escapes),
            (b"a/", PathError::Escapes),
            (b"./a", PathError::Escapes),
            (b"a\0b", PathError::Nul),
            (b".syncfs/index.db", PathError::Reserved),
            (b"sub/.syncfs", PathError::Reserved),
        ] {
            assert_eq!(RelPath::new(bytes), Err(error), "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn limits_hold_exactly_at_the_limit() {
        assert!(RelPath::new(vec![b'a'; NAME_BYTES_MAX]).is_ok());
        assert_eq!(RelPath::new(vec![b'a'; NAME_BYTES_MAX + 1]), Err(PathError::TooLong));
        assert!(RelPath::new(vec!["a"; PATH_DEPTH_MAX].join("/")).is_ok());
        assert_eq!(RelPath::new(vec!["a"; PATH_DEPTH_MAX + 1].join("/")), Err(PathError::TooLong));
        let full = vec!["a".repeat(127); PATH_BYTES_MAX / 128].join("/");
        assert!(RelPath::new(format!("{full}x")).is_ok());
        assert_eq!(RelPath::new(format!("{full}xy")), Err(PathError::TooLong));
    }

    #[test]
    fn knows_its_place_in_the_tree() {
        let path = RelPath::new("a/b/c").unwrap();
        assert_eq!(path.parent().unwrap(), RelPath::new("a/b").unwrap());
        assert_eq!(path.name(), b"c");
        assert!(path.is_below(&RelPath::new("a").unwrap()));
        assert!(!RelPath::new("ab").unwrap().is_below(&RelPath::new("a").unwrap()));
        assert_eq!(RelPath::new("a").unwrap().parent(), None);
    }

    proptest! {
        #[test]
        fn whatever_parses_is_safe_and_parses_again(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(path) = RelPath::new(&bytes) {
                prop_assert_eq!(RelPath::new(path.as_bytes()).unwrap(), path.clone());
                prop_assert!(path.names().all(|name| !name.is_empty() && name != b".." && name != b"."));
                if let Some(parent) = path.parent() {
                    prop_assert!(path.is_below(&parent));
                    prop_assert_eq!(RelPath::child(Some(&parent), path.name()).unwrap(), path);
                }
            }
        }
    }
}
