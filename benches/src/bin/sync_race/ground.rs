//! Trees to race over, the same on every run, and the proof that two of them are equal.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use hybrid_benches::noise;

/// Files in one directory of a tree of many.
const FILES_PER_DIRECTORY: usize = 100;
/// How much is written or read at once.
const PIECE_BYTES: usize = 1 << 20;

/// `count` files of `bytes` bytes each, all different, a hundred in a directory.
pub(crate) fn small_files(root: &Path, count: usize, bytes: usize) {
    for n in 0..count {
        let dir = root.join(format!("dir-{:04}", n / FILES_PER_DIRECTORY));
        if n.is_multiple_of(FILES_PER_DIRECTORY) {
            fs::create_dir_all(&dir).expect("a directory can be made");
        }
        fs::write(dir.join(format!("file-{n:06}")), noise(bytes, n as u64 + 1))
            .expect("a file can be written");
    }
}

/// One file without pattern, from `seed`, with `before` in front of it.
pub(crate) fn large_file(path: &Path, bytes: u64, seed: u64, before: &[u8]) {
    let mut file = fs::File::create(path).expect("a file can be made");
    file.write_all(before).expect("the disk takes it");
    for n in 0..bytes / PIECE_BYTES as u64 {
        file.write_all(&noise(PIECE_BYTES, seed + n)).expect("the disk takes it");
    }
}

/// Overwrites `bytes` bytes in the middle.
pub(crate) fn change_middle(path: &Path, bytes: usize) {
    let file = fs::OpenOptions::new().write(true).open(path).expect("it is there");
    let middle = file.metadata().expect("it is open").len() / 2;
    file.write_all_at(&noise(bytes, 0xfeed), middle).expect("the disk takes it");
}

/// Fails unless the two directories hold the same files with the same bytes; what a tool keeps for itself aside.
pub(crate) fn assert_equal(left: &Path, right: &Path) {
    let (ours, theirs) = (files(left), files(right));
    let names = |files: &BTreeMap<PathBuf, u64>| files.keys().cloned().collect::<Vec<_>>();
    assert!(names(&ours) == names(&theirs), "{} and {} hold other files", left.display(), right.display());
    for (path, size) in &ours {
        assert_eq!(Some(size), theirs.get(path), "{}: another size", path.display());
        let same = hash(&left.join(path)) == hash(&right.join(path));
        assert!(same, "{}: other bytes", path.display());
    }
}

/// Every file below `root` and its size.
fn files(root: &Path) -> BTreeMap<PathBuf, u64> {
    let mut found = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(&dir).expect("it can be listed") {
            let path = entry.expect("it can be listed").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.starts_with(".st")
                || name == ".syncfs"
                || name.ends_with("-shm")
                || name.ends_with("-wal")
            {
                continue;
            }
            let meta = fs::symlink_metadata(&path).expect("it is there");
            if meta.is_dir() {
                left.push(path);
            } else {
                found.insert(path.strip_prefix(root).expect("below").to_owned(), meta.size());
            }
        }
    }
    found
}

fn hash(path: &Path) -> blake3::Hash {
    let mut file = fs::File::open(path).expect("it is there");
    let mut hasher = blake3::Hasher::new();
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        match file.read(&mut piece).expect("it can be read") {
            0 => return hasher.finalize(),
            count => drop(hasher.update(&piece[..count])),
        }
    }
}
