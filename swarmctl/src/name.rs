//! Names: nodes, volumes, mount ids. Parsed once at the border, so that no other code checks them
//! again.
//!
//! All three have Docker's own form, `[A-Za-z0-9][A-Za-z0-9_.-]*`, and a bounded length. The form
//! makes a list of names joined by commas unambiguous, and keeps control characters out of logs.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

/// Longest node name in bytes: the longest host name in DNS.
pub const NODE_NAME_MAX_BYTES: usize = 253;
/// Longest volume name in bytes: the longest file name of common file systems.
pub const VOLUME_NAME_MAX_BYTES: usize = 255;
/// Longest mount id in bytes. Docker sends 64 hexadecimal digits.
pub const MOUNT_ID_MAX_BYTES: usize = 128;

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} {text:?} is not valid: {rule}")]
pub struct NameError {
    /// What the text was to be: "node name", "volume name" or "mount id".
    pub kind: &'static str,
    /// The text, cut after 64 characters.
    pub text: String,
    /// The rule that it breaks, in words.
    pub rule: &'static str,
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $max:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                check($kind, text, $max)?;
                Ok(Self(text.to_owned()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                check($kind, &text, $max)?;
                Ok(Self(text))
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", self.0)
            }
        }
    };
}

name!(
    /// A Swarm node, by the host name that `docker node ls` shows.
    NodeName, "node name", NODE_NAME_MAX_BYTES
);
name!(
    /// A volume, by the name that `docker volume ls` shows.
    VolumeName, "volume name", VOLUME_NAME_MAX_BYTES
);
name!(
    /// One use of a volume by one container. Docker draws a new id for each.
    MountId, "mount id", MOUNT_ID_MAX_BYTES
);

fn check(kind: &'static str, text: &str, max_bytes: usize) -> Result<(), NameError> {
    let error = |rule| NameError { kind, text: text.chars().take(64).collect(), rule };
    let Some(first) = text.bytes().next() else {
        return Err(error("it is empty"));
    };
    if text.len() > max_bytes {
        return Err(error("it is too long"));
    }
    if !first.is_ascii_alphanumeric() {
        return Err(error("it must begin with a letter or a digit"));
    }
    if !text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-')) {
        return Err(error("only letters, digits, '_', '.' and '-' may occur in it"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_names_and_ids_are_accepted() {
        for text in ["home-1", "a", "git_data.v2", "0af3", &"f".repeat(64)] {
            assert_eq!(text.parse::<VolumeName>().unwrap().as_str(), text);
        }
    }

    #[test]
    fn texts_that_would_confuse_a_list_a_path_or_a_log_are_refused() {
        for text in ["", "-a", ".", "..", "a,b", "a/b", "a b", "a\n", "ä", "\0"] {
            assert!(text.parse::<NodeName>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn the_length_limit_is_exact() {
        assert!("a".repeat(MOUNT_ID_MAX_BYTES).parse::<MountId>().is_ok());
        let error = "a".repeat(MOUNT_ID_MAX_BYTES + 1).parse::<MountId>().unwrap_err();
        assert_eq!(error.rule, "it is too long");
        assert_eq!(error.text.len(), 64);
    }
}
