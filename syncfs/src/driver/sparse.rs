//! Holes: parts of a file that were never written, read as zeros and take no space. They are found without being read, and
//! zeros become holes where a version comes together. On a filesystem without holes everything is written out.

use std::fs::File;
use std::io::{Error, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt};

use rustix::fs::{FallocateFlags, SeekFrom as Sought, fallocate, seek};
use rustix::io::Errno;

/// Zeros become a hole from this length on, in bytes: a hole costs a system call.
const HOLE_BYTES_MIN: usize = 32 << 10;
/// What may be a hole begins and ends at a multiple of this, in bytes.
const BLOCK_BYTES: usize = 4096;

/// Whether a file takes less space than it has bytes.
pub(super) fn has_holes(file: &File) -> bool {
    file.metadata().is_ok_and(|metadata| metadata.blocks() * 512 < metadata.len())
}

/// The first piece of a file at or after an offset that is not a hole: where it begins and ends. Nothing at its end.
pub(super) fn next_data(file: &File, from: u64, size: u64) -> (u64, u64) {
    match seek(file, Sought::Data(from)) {
        Ok(start) => (start, seek(file, Sought::Hole(start)).unwrap_or(size)),
        Err(Errno::NXIO) => (size, size),
        // A filesystem that does not tell.
        Err(_) => (from, size),
    }
}

/// Copies a file into an empty one, holes as holes.
pub(super) fn copy(source: &File, mut target: &File) -> Result<(), Error> {
    let size = source.metadata()?.len();
    let mut offset = 0;
    while offset < size {
        let (start, end) = next_data(source, offset, size);
        let mut from = source;
        from.seek(SeekFrom::Start(start))?;
        target.seek(SeekFrom::Start(start))?;
        std::io::copy(&mut from.take(end - start), &mut target)?;
        offset = end;
    }
    target.flush()?;
    target.set_len(size)
}

/// Writes bytes; long runs of zeros among them become holes.
pub(super) fn write(file: &File, offset: u64, bytes: &[u8]) -> Result<(), Error> {
    let mut written = 0;
    while written < bytes.len() {
        let (start, end) = zeros(&bytes[written..])
            .map_or((bytes.len(), bytes.len()), |(start, end)| (written + start, written + end));
        file.write_all_at(&bytes[written..start], offset + written as u64)?;
        if start < end {
            clear(file, offset + start as u64, (end - start) as u64)?;
        }
        written = end;
    }
    Ok(())
}

/// Whether a part of these bytes would become a hole.
pub(super) fn has_zeros(bytes: &[u8]) -> bool {
    zeros(bytes).is_some()
}

/// Makes a part of a file zeros. Behind its end there is nothing to do.
pub(super) fn clear(file: &File, offset: u64, length: u64) -> Result<(), Error> {
    let size = file.metadata()?.len();
    if offset >= size {
        return Ok(());
    }
    match fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, length) {
        Ok(()) => Ok(()),
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
            let zeros = [0; BLOCK_BYTES];
            let end = size.min(offset + length);
            let mut at = offset;
            while at < end {
                let piece = (end - at).min(BLOCK_BYTES as u64) as usize;
                file.write_all_at(&zeros[..piece], at)?;
                at += piece as u64;
            }
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

/// The first long run of blocks that are zeros.
fn zeros(bytes: &[u8]) -> Option<(usize, usize)> {
    let is_zero = |block: &[u8]| block[0] == 0 && block.iter().all(|&byte| byte == 0);
    let mut start = None;
    for (number, block) in bytes.chunks(BLOCK_BYTES).enumerate() {
        let at = number * BLOCK_BYTES;
        match start {
            None if is_zero(block) => start = Some(at),
            Some(begin) if !is_zero(block) => {
                if at - begin >= HOLE_BYTES_MIN {
                    return Some((begin, at));
                }
                start = None;
            }
            _ => {}
        }
    }
    start.filter(|start| bytes.len() - start >= HOLE_BYTES_MIN).map(|start| (start, bytes.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_runs_of_zeros_are_found_and_short_ones_are_not() {
        let mut bytes = vec![0; 200 << 10];
        bytes[5000] = 1;
        bytes[100 << 10] = 1;
        assert_eq!(zeros(&bytes), Some((8192, 100 << 10)));
        assert_eq!(zeros(&bytes[8192..]), Some((0, (100 << 10) - 8192)));
        assert_eq!(zeros(&bytes[(100 << 10) - 8192..(100 << 10) + 20_000]), None);
        assert_eq!(zeros(&bytes[100 << 10..]), Some((4096, 100 << 10)));
        assert_eq!(zeros(&[]), None);
    }

    #[test]
    fn what_is_written_over_reads_the_same_with_holes_as_without() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&vec![7; 300 << 10], 0).unwrap();
        let mut bytes = vec![0; 200 << 10];
        bytes[0] = 1;
        bytes[150 << 10] = 2;
        write(&file, 50 << 10, &bytes).unwrap();
        let mut expected = vec![7; 300 << 10];
        expected[50 << 10..250 << 10].copy_from_slice(&bytes);
        let mut found = vec![0; 300 << 10];
        file.read_exact_at(&mut found, 0).unwrap();
        assert!(found == expected);
        let copied = tempfile::tempfile().unwrap();
        copy(&file, &copied).unwrap();
        copied.read_exact_at(&mut found, 0).unwrap();
        assert!(found == expected);
        assert!(copied.metadata().unwrap().blocks() <= file.metadata().unwrap().blocks());
    }
}
