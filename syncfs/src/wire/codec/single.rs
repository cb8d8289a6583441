//! A message of one chunk, which is most of what passes a stream: the chunk is not copied between the message and its bytes.

use super::{DecodeError, Writer, decode, encode};
use crate::chunk::CHUNK_BYTES_MAX;
use crate::hash::Blob;
use crate::wire::Message;

/// What stands before the chunk: the message's type, how many chunks there are, how long this one is.
const HEAD_BYTES: usize = 9;

/// The bytes of [`encode`] in two parts, the second of which may be the message's own.
pub(crate) fn encode_parts(message: &Message) -> (Vec<u8>, &[u8]) {
    match message {
        Message::Chunks(blobs) if blobs.len() == 1 => {
            let bytes = blobs[0].bytes();
            (head(bytes.len()), bytes)
        }
        _ => (encode(message), &[]),
    }
}

/// [`decode`] of bytes that the message may keep.
pub(crate) fn decode_frame(bytes: Vec<u8>) -> Result<Message, DecodeError> {
    let length = bytes.len().saturating_sub(HEAD_BYTES);
    // Everything else, and everything that is wrong, goes the long way.
    match (1..=CHUNK_BYTES_MAX).contains(&length) && bytes.starts_with(&head(length)) {
        true => Ok(Message::Chunks(vec![Blob::behind(bytes, HEAD_BYTES)])),
        false => decode(&bytes),
    }
}

fn head(length: usize) -> Vec<u8> {
    let mut out = Writer(Vec::with_capacity(HEAD_BYTES));
    out.byte(7);
    out.count(1);
    out.count(length);
    out.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_say_the_same_whatever_the_bytes_are() {
        let blob = |length: usize| Blob::new((0..length).map(|n| n as u8).collect());
        let chunks = |lengths: &[usize]| Message::Chunks(lengths.iter().copied().map(blob).collect());
        for message in [chunks(&[1]), chunks(&[70_000]), chunks(&[3, 4]), chunks(&[]), Message::Ping] {
            let (head, body) = encode_parts(&message);
            let bytes = [&head, body].concat();
            assert_eq!(bytes, encode(&message));
            assert_eq!(decode_frame(bytes.clone()), Ok(message));
            // One byte is wrong, missing, or too much.
            for at in 0..bytes.len().min(12) {
                let mut bad = bytes.clone();
                bad[at] ^= 0x41;
                assert_eq!(decode_frame(bad.clone()), decode(&bad), "{at}");
            }
            for bad in [&bytes[..bytes.len() - 1], &[&bytes[..], b"x"].concat()] {
                assert_eq!(decode_frame(bad.to_vec()), decode(bad));
            }
        }
        for length in [0, CHUNK_BYTES_MAX, CHUNK_BYTES_MAX + 1] {
            let bytes = [head(length), vec![0; length]].concat();
            assert_eq!(decode_frame(bytes.clone()), decode(&bytes), "{length}");
        }
    }
}
