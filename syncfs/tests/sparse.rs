//! Files with holes between two real folders.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test touches the world"
)]

mod pair;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};

use pair::Pair;
use rusqlite::{Connection, OpenFlags};

const MIB: u64 = 1 << 20;

impl Pair {
    /// Space taken, in bytes.
    fn space(&self, side: usize, name: &str) -> u64 {
        self.meta(side, name).blocks() * 512
    }

    fn assert_same(&self, name: &str, pieces: &[(u64, usize)]) {
        let files = [0, 1].map(|side| File::open(self.path(side, name)).unwrap());
        assert_eq!(self.meta(1, name).len(), self.meta(0, name).len());
        for &(offset, length) in pieces {
            let read = |file: &File| {
                let mut bytes = vec![0; length];
                file.read_exact_at(&mut bytes, offset).unwrap();
                bytes
            };
            assert!(read(&files[0]) == read(&files[1]), "{length} bytes at {offset} differ");
        }
    }
}

#[tokio::test]
async fn ten_gibibytes_with_a_mebibyte_of_data_take_little_space_and_no_reading() {
    let pair = Pair::new().await;
    let file = File::create(pair.path(0, "image")).unwrap();
    file.set_len(10 << 30).unwrap();
    let data: Vec<u8> =
        (0..MIB as u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    file.write_all_at(&data, (5 << 30) + 12_345).unwrap();
    pair.settle().await;
    let around = [((5 << 30) - 4096, 2 * MIB as usize), (0, 4096), ((10 << 30) - 4096, 4096)];
    pair.assert_same("image", &around);
    assert!(pair.space(1, "image") < 2 * MIB, "{} bytes at the replica", pair.space(1, "image"));
    // Moved data, a longer and a shorter file.
    file.write_all_at(&data, 3 << 30).unwrap();
    file.set_len(11 << 30).unwrap();
    pair.settle().await;
    pair.assert_same("image", &around);
    pair.assert_same("image", &[((3 << 30) - 4096, 2 * MIB as usize), ((11 << 30) - 4096, 4096)]);
    assert!(pair.space(1, "image") < 4 * MIB, "{} bytes at the replica", pair.space(1, "image"));
    file.set_len((5 << 30) + 20_000).unwrap();
    pair.settle().await;
    pair.assert_same("image", &[((5 << 30) - 4096, 20_000), (3 << 30, MIB as usize)]);
}

#[tokio::test]
async fn zeros_that_were_written_may_become_holes_and_data_may_become_zeros() {
    let pair = Pair::new().await;
    let mut bytes = vec![7; 3 << 20];
    bytes[MIB as usize..2 * MIB as usize].fill(0);
    fs::write(pair.path(0, "file"), &bytes).unwrap();
    fs::write(pair.path(0, "zeros"), vec![0; 2 << 20]).unwrap();
    File::create(pair.path(0, "hole")).unwrap().set_len(100_000).unwrap();
    pair.settle().await;
    assert!(fs::read(pair.path(1, "file")).unwrap() == bytes);
    assert!(fs::read(pair.path(1, "zeros")).unwrap() == vec![0; 2 << 20]);
    assert!(fs::read(pair.path(1, "hole")).unwrap() == vec![0; 100_000]);
    // Parts become zeros, and zeros become data, in place.
    bytes[100_000..900_000].fill(0);
    bytes[MIB as usize + 5000..2 * MIB as usize].fill(9);
    let file = File::options().write(true).open(pair.path(0, "file")).unwrap();
    file.write_all_at(&bytes, 0).unwrap();
    pair.settle().await;
    assert!(fs::read(pair.path(1, "file")).unwrap() == bytes);
}

#[tokio::test]
async fn a_database_with_long_runs_of_zeros_that_grows_and_shrinks_stays_one() {
    let pair = Pair::new().await;
    let writer = Connection::open(pair.path(0, "a.db")).unwrap();
    writer.execute_batch("CREATE TABLE t (n INTEGER PRIMARY KEY, b BLOB)").unwrap();
    for act in [
        "INSERT INTO t VALUES (1, zeroblob(6000000)), (2, randomblob(100000)), (3, zeroblob(3000000))",
        "UPDATE t SET b = randomblob(50000) WHERE n = 3",
        "DELETE FROM t WHERE n < 3; VACUUM",
    ] {
        writer.execute_batch(act).unwrap();
        pair.settle().await;
        pair.folders[1].materialise(None).await.unwrap();
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
        let reader = Connection::open_with_flags(pair.path(1, "a.db"), flags).unwrap();
        let check: String = reader.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(check, "ok", "after {act}");
        let same = fs::read(pair.path(0, "a.db")).unwrap() == fs::read(pair.path(1, "a.db")).unwrap();
        assert!(same, "after {act}");
    }
}
