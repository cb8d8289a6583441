//! Text that people write: TOML files, secret files, durations.
//!
//! Owns the way from a file to a typed value, with errors that name file, line and key. A file larger than
//! [`MAX_FILE_BYTES`] is refused unread.

use std::fmt::Display;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{Deserialize, DeserializeOwned, Deserializer, Error as _};

use crate::daemon::{Context, Failure};
use crate::durable_file;

/// The largest file that is read as settings or as a secret.
pub const MAX_FILE_BYTES: u64 = 1 << 20;

/// Reads a TOML file into `T`.
pub fn load<T: DeserializeOwned>(path: &Path) -> Result<T, Failure> {
    parse(&path.display(), &read_text(path)?)
}

/// Reads TOML text into `T`; `name` says whose text it is in an error: `name:LINE:COLUMN: what`.
pub fn parse<T: DeserializeOwned>(name: &dyn Display, text: &str) -> Result<T, Failure> {
    toml::from_str(text).map_err(|error| {
        let place = match error.span() {
            Some(span) => {
                let before = text.get(..span.start).unwrap_or(text);
                let line = before.matches('\n').count() + 1;
                let column = before.chars().rev().take_while(|&c| c != '\n').count() + 1;
                format!("{name}:{line}:{column}")
            }
            None => name.to_string(),
        };
        Failure::new(format!("{place}: {}{}", error.message(), nearest(error.message())))
    })
}

/// What was probably meant by a key that is not known, if one of those that are is near to it.
fn nearest(message: &str) -> String {
    let mut words = message.split('`').skip(1).step_by(2);
    let unknown = words.next().filter(|_| message.starts_with("unknown field"));
    let distance = |word: &str| unknown.map_or(usize::MAX, |unknown| edits(unknown, word));
    let nearest = words.min_by_key(|word| distance(word)).filter(|word| distance(word) <= 3);
    nearest.map_or_else(String::new, |word| format!(" (did you mean `{word}`?)"))
}

/// How many letters must be changed, added or removed (Levenshtein's distance).
fn edits(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (number, letter) in from.chars().take(64).enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], number + 1);
        for (column, other) in to.iter().enumerate() {
            let changed = diagonal + usize::from(letter != *other);
            diagonal = row[column + 1];
            row[column + 1] = changed.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[to.len()]
}

/// Reads a file as UTF-8 text, bounded.
pub fn read_text(path: &Path) -> Result<String, Failure> {
    let place = || format!("cannot read {}", path.display());
    read_bounded(File::open(path).context(place())?, &path.display())
}

/// Reads a text to its end, bounded; `name` says whose it is in an error.
pub fn read_bounded(source: impl Read, name: &dyn Display) -> Result<String, Failure> {
    let mut text = String::new();
    source.take(MAX_FILE_BYTES + 1).read_to_string(&mut text).context(format!("cannot read {name}"))?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(Failure::new(format!("cannot read {name}: it is larger than {MAX_FILE_BYTES} bytes")));
    }
    Ok(text)
}

/// Reads a file that holds one secret in text form. A file that others can read is refused.
pub fn read_secret<T>(path: &Path) -> Result<T, Failure>
where
    T: FromStr,
    T::Err: std::error::Error,
{
    let place = || format!("cannot read {}", path.display());
    let file = File::open(path).context(place())?;
    if file.metadata().context(place())?.mode() & 0o077 != 0 {
        let path = path.display();
        return Err(Failure::new(format!(
            "{path} holds a secret and others can read it: run `chmod 600 {path}`"
        )));
    }
    read_bounded(file, &path.display())?.trim().parse::<T>().context(path.display())
}

/// Writes a secret with mode 0600. An existing file is never overwritten: it may be the only copy of a key.
pub fn write_secret(path: &Path, text: &str) -> Result<(), Failure> {
    match durable_file::create(path, format!("{text}\n").as_bytes()) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            let path = path.display();
            Err(Failure::new(format!(
                "{path} exists and is left as it is: remove it first or choose another name"
            )))
        }
        written => written.context(format!("cannot write {}", path.display())),
    }
}

/// Reads `500ms`, `30s`, `5m`, `1h` or `30d`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let milliseconds = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(format!("`{text}` is not a duration: write 500ms, 30s, 5m, 1h or 30d")),
    };
    let number = number.parse::<u32>().map_err(|_| format!("`{text}` is not a duration: write 30s"))?;
    Ok(Duration::from_millis(u64::from(number) * milliseconds))
}

/// For `#[serde(deserialize_with)]`: a value in its own text form.
pub fn from_text<'de, T, D>(source: D) -> Result<Option<T>, D::Error>
where
    T: FromStr,
    T::Err: Display,
    D: Deserializer<'de>,
{
    String::deserialize(source)?.parse().map(Some).map_err(D::Error::custom)
}

/// For `#[serde(deserialize_with)]`: a list of values in their own text form.
pub fn from_texts<'de, T, D>(source: D) -> Result<Vec<T>, D::Error>
where
    T: FromStr,
    T::Err: Display,
    D: Deserializer<'de>,
{
    let texts = Vec::<String>::deserialize(source)?;
    texts.iter().map(|text| text.parse().map_err(|e| D::Error::custom(format!("`{text}`: {e}")))).collect()
}

/// For `#[serde(deserialize_with)]`: a duration as [`duration`] reads it.
pub fn from_duration<'de, D: Deserializer<'de>>(source: D) -> Result<Option<Duration>, D::Error> {
    duration(&String::deserialize(source)?).map(Some).map_err(D::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;

    #[derive(Debug, Default, serde::Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Sample {
        #[serde(deserialize_with = "from_text")]
        listen: Option<SocketAddr>,
        #[serde(deserialize_with = "from_duration")]
        every: Option<Duration>,
    }

    #[test]
    fn an_error_names_file_line_and_key() {
        let failure =
            parse::<Sample>(&"a.toml", "listen = \"1.2.3.4:5\"\n lisen = 3\n").unwrap_err().to_string();
        assert!(failure.starts_with("a.toml:2:2: ") && failure.contains("`lisen`"), "{failure}");
        assert!(failure.ends_with("(did you mean `listen`?)"), "{failure}");
        let far = parse::<Sample>(&"a", "colour = 3").unwrap_err().to_string();
        assert!(!far.contains("did you mean"), "{far}");
        let failure = parse::<Sample>(&"a.toml", "\n\nlisten = \"here\"\n").unwrap_err().to_string();
        assert!(failure.starts_with("a.toml:3:10: "), "{failure}");
    }

    #[test]
    fn values_arrive_typed() {
        let sample: Sample = parse(&"a", "listen = \"1.2.3.4:5\"\nevery = \"2m\"").unwrap();
        assert_eq!(sample.listen.unwrap().port(), 5);
        assert_eq!(sample.every, Some(Duration::from_secs(120)));
        assert!(parse::<Sample>(&"a", "every = \"2 weeks\"").is_err());
    }

    #[test]
    fn durations_need_a_unit_and_fit() {
        assert_eq!(duration("1500ms"), Ok(Duration::from_millis(1500)));
        for wrong in ["", "30", "s", "-1s", "1.5s", "99999999999s", "3 s"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_secret_is_private_and_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        write_secret(&path, "one").unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(read_secret::<String>(&path).unwrap(), "one");
        assert!(write_secret(&path, "two").is_err());
        assert_eq!(read_text(&path).unwrap(), "one\n");
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o640);
        std::fs::set_permissions(&path, open).unwrap();
        assert!(read_secret::<String>(&path).unwrap_err().to_string().contains("chmod 600"));
    }

    #[test]
    fn a_file_beyond_the_limit_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("big");
        std::fs::write(&path, vec![b'#'; MAX_FILE_BYTES as usize]).unwrap();
        assert!(read_text(&path).is_ok());
        std::fs::write(&path, vec![b'#'; MAX_FILE_BYTES as usize + 1]).unwrap();
        assert!(read_text(&path).unwrap_err().to_string().contains("larger than"));
    }
}
