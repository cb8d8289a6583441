//! How the index writes down fingerprints and other numbers, so that most of them take few bytes.

use super::sqlite_index::damaged;
use crate::disk::{FileKind, Stat};
use crate::index::IndexError;
use crate::record::Owner;

/// Seven bits in each byte, the lowest first; all bytes but the last have their highest bit set.
pub(super) fn put_word(out: &mut Vec<u8>, mut word: u64) {
    while word >= 0x80 {
        out.push(word as u8 | 0x80);
        word >>= 7;
    }
    out.push(word as u8);
}

pub(super) fn take_word(bytes: &mut &[u8]) -> Result<u64, IndexError> {
    let mut word = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first().ok_or_else(|| damaged("number"))?;
        *bytes = rest;
        word |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(word);
        }
    }
    Err(damaged("number"))
}

pub(super) fn encode_stat(stat: &Stat) -> Vec<u8> {
    let kind = match stat.kind {
        FileKind::File => 0,
        FileKind::Dir => 1,
        FileKind::Symlink => 2,
        FileKind::Special => 3,
    };
    // The change time is most often a little later than the modification time: a short number.
    let since = stat.ctime_ns.wrapping_sub(stat.mtime_ns);
    let times = [stat.mtime_ns.cast_unsigned(), (since << 1 ^ since >> 63).cast_unsigned()];
    let mut out = Vec::with_capacity(40);
    let halves = [stat.mode, stat.nlink, stat.owner.uid, stat.owner.gid].map(u64::from);
    let words = [stat.size, times[0], times[1], stat.dev, stat.ino, stat.side];
    for word in [kind].into_iter().chain(halves).chain(words) {
        put_word(&mut out, word);
    }
    out
}

pub(super) fn decode_stat(mut bytes: &[u8]) -> Result<Stat, IndexError> {
    let mut word = || take_word(&mut bytes);
    let kind = match word()? {
        0 => FileKind::File,
        1 => FileKind::Dir,
        2 => FileKind::Symlink,
        _ => FileKind::Special,
    };
    let mut half = || u32::try_from(word()?).map_err(damaged);
    let (mode, nlink, owner) = (half()?, half()?, Owner { uid: half()?, gid: half()? });
    let (size, mtime_ns, since) = (word()?, word()?.cast_signed(), word()?);
    let since = (since >> 1).cast_signed() ^ -(since & 1).cast_signed();
    let ctime_ns = mtime_ns.wrapping_add(since);
    let (dev, ino, side) = (word()?, word()?, word()?);
    Ok(Stat { kind, size, mode, mtime_ns, ctime_ns, dev, ino, nlink, owner, side })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_come_back_whatever_their_times() {
        for (mtime_ns, ctime_ns) in [(0, 0), (1_700_000_000_000_000_000, 0), (i64::MAX, i64::MIN), (-5, 7)] {
            let stat = Stat {
                kind: FileKind::Symlink,
                size: u64::MAX,
                mode: 0o7777,
                mtime_ns,
                ctime_ns,
                dev: 66,
                ino: 1 << 40,
                nlink: 2,
                owner: Owner { uid: u32::MAX, gid: 100 },
                side: 0,
            };
            assert_eq!(decode_stat(&encode_stat(&stat)), Ok(stat));
        }
        assert!(decode_stat(&[0, 1]).is_err());
        assert!(decode_stat(&[0xff; 40]).is_err());
    }
}
