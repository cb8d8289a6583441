//! Messages in short: a frame whose length bears [`COMPRESSED`] holds the message as one Zstandard frame, which states its
//! size. Who sends decides for each message; whoever receives is bounded by [`FRAME_BYTES_MAX`] before anything is unpacked.
//!
//! `zstd` is Facebook's own library behind a thin binding. The pure `ruzstd` compresses several times slower, and would
//! make the CPU the bottleneck of exactly the lines that this is for.

use super::{DecodeError, FRAME_BYTES_MAX};

/// The bit of a frame's length that says that it is compressed.
pub const COMPRESSED: u32 = 1 << 31;
/// The fastest of the library's ordinary levels.
const LEVEL: i32 = 1;
/// Smaller messages are sent as they are, in bytes.
const MESSAGE_BYTES_MIN: usize = 512;
/// What is tried before a whole message is compressed, in bytes from its middle.
const SAMPLE_BYTES: usize = 16 << 10;

/// A message in short, if that saves at least an eighth; cheap to find out where it does not.
#[must_use]
pub fn compress(message: &[u8]) -> Option<Vec<u8>> {
    if message.len() < MESSAGE_BYTES_MIN {
        return None;
    }
    if message.len() > 2 * SAMPLE_BYTES {
        let at = (message.len() - SAMPLE_BYTES) / 2;
        shorter(&message[at..at + SAMPLE_BYTES])?;
    }
    shorter(message)
}

fn shorter(bytes: &[u8]) -> Option<Vec<u8>> {
    let short = zstd::bulk::compress(bytes, LEVEL).ok()?;
    (short.len() <= bytes.len() / 8 * 7).then_some(short)
}

/// The message of a compressed frame.
///
/// # Errors
/// If it does not state its size, states one beyond [`FRAME_BYTES_MAX`], or is not what it states.
pub fn decompress(body: &[u8]) -> Result<Vec<u8>, DecodeError> {
    let invalid = DecodeError::Invalid("compressed frame");
    let stated = zstd::zstd_safe::get_frame_content_size(body).ok().flatten().ok_or(invalid)?;
    let size = usize::try_from(stated).ok().filter(|size| *size <= FRAME_BYTES_MAX);
    let size = size.ok_or(DecodeError::Limit("compressed frame"))?;
    let message = zstd::bulk::decompress(body, size).map_err(|_| invalid)?;
    if message.len() == size { Ok(message) } else { Err(invalid) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::noise;

    #[test]
    fn what_has_a_pattern_becomes_shorter_and_what_has_none_stays() {
        let text = b"every line of a log begins with the same date. ".repeat(5000);
        let short = compress(&text).unwrap();
        assert!(short.len() < text.len() / 20);
        assert_eq!(decompress(&short).unwrap(), text);
        assert_eq!(compress(&noise(1 << 20)), None);
        assert_eq!(compress(&text[..100]), None);
        // Only the middle has none: not worth it, by the sample.
        let mixed = [&text[..100_000], &noise(1 << 20), &text[..100_000]].concat();
        assert_eq!(compress(&mixed), None);
    }

    #[test]
    fn a_bomb_is_refused_by_what_it_states_and_by_what_it_is() {
        let exact = zstd::bulk::compress(&vec![0; FRAME_BYTES_MAX], LEVEL).unwrap();
        assert_eq!(decompress(&exact).unwrap().len(), FRAME_BYTES_MAX);
        let bomb = zstd::bulk::compress(&vec![0; FRAME_BYTES_MAX + 1], LEVEL).unwrap();
        assert!(bomb.len() < 1000, "{} bytes", bomb.len());
        assert_eq!(decompress(&bomb), Err(DecodeError::Limit("compressed frame")));
        // A second frame behind the first is beyond what the first states.
        let two = [zstd::bulk::compress(b"one", LEVEL).unwrap(), bomb.clone()].concat();
        assert_eq!(decompress(&two), Err(DecodeError::Invalid("compressed frame")));
        // A stream that states no size.
        let silent = zstd::stream::encode_all(&[0; 5000][..], LEVEL).unwrap();
        assert_eq!(decompress(&silent), Err(DecodeError::Invalid("compressed frame")));
        for length in 0..exact.len() {
            assert!(decompress(&exact[..length]).is_err(), "cut at {length}");
        }
        for bytes in [&b""[..], b"hello", &noise(300)] {
            assert!(decompress(bytes).is_err());
        }
    }
}
