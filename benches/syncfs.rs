//! syncfs: cutting and hashing contents, beside BLAKE3 alone over the same bytes; deciding; encoding.

use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use hybrid_benches::{noise, record};
use syncfs::Digester;
use syncfs::chunk::{SQLITE_MAGIC, content_of};
use syncfs::cutting::Mark;
use syncfs::reconcile::reconcile;
use syncfs::record::Record;
use syncfs::wire::{Message, Numbered, decode, encode};

fn main() {
    divan::main();
}

const SIZES: [usize; 3] = [16 << 10, 1 << 20, 16 << 20];

/// The ceiling: nothing but hashing, on one thread.
#[divan::bench(args = SIZES)]
fn blake3_alone(bencher: Bencher<'_, '_>, size: usize) {
    let bytes = noise(size, 1);
    bencher.counter(BytesCount::new(size)).bench_local(|| blake3::hash(black_box(&bytes)));
}

/// Cutting by content (whole below 64 KiB) and hashing every chunk.
#[divan::bench(args = SIZES)]
fn chunk_and_hash(bencher: Bencher<'_, '_>, size: usize) {
    let bytes = noise(size, 1);
    bencher.counter(BytesCount::new(size)).bench_local(|| content_of(black_box(&bytes)));
}

/// The fixed blocks of a database.
#[divan::bench(args = SIZES)]
fn chunk_and_hash_database(bencher: Bencher<'_, '_>, size: usize) {
    let mut bytes = noise(size, 1);
    bytes[..SQLITE_MAGIC.len()].copy_from_slice(SQLITE_MAGIC);
    bencher.counter(BytesCount::new(size)).bench_local(|| content_of(black_box(&bytes)));
}

/// Ten thousand paths of two folders: the same, newer on one side, and in conflict, by thirds.
#[divan::bench]
fn reconcile_10k_paths(bencher: Bencher<'_, '_>) {
    let ours: Vec<Record> = (0..10_000).map(|n| record(n, 1, 1)).collect();
    let theirs: Vec<Record> = (0..10_000)
        .map(|n| match n % 3 {
            0 => record(n, 1, 1),
            1 => record(n, 1, 2),
            _ => record(n, 2, 1),
        })
        .collect();
    bencher.counter(ItemsCount::new(ours.len())).bench_local(|| {
        for (ours, theirs) in ours.iter().zip(&theirs) {
            black_box(reconcile(Some(ours), theirs));
        }
    });
}

/// The digest of a folder of ten thousand files, from its records.
#[divan::bench]
fn digest_10k_records(bencher: Bencher<'_, '_>) {
    let records: Vec<Record> = (0..10_000).map(|n| record(n, 1, 1)).collect();
    bencher.counter(ItemsCount::new(records.len())).bench_local(|| {
        let mut digester = Digester::default();
        records.iter().for_each(|record| digester.add(black_box(record)));
        digester.finish()
    });
}

/// A full batch of records, to bytes and back.
#[divan::bench]
fn wire_batch_of_512(bencher: Bencher<'_, '_>) {
    let records: Vec<Numbered> =
        (0..512).map(|n| Numbered { sequence: n as u64 + 1, record: record(n, 1, 1) }).collect();
    let knowledge = [(records[0].record.by, 512)].into_iter().collect();
    let message = Message::Records {
        round: 1,
        records,
        through: 512,
        knowledge,
        mark: Mark::default(),
        complete: true,
    };
    bencher
        .counter(ItemsCount::new(512_usize))
        .bench_local(|| decode(&encode(black_box(&message))).expect("it was encoded just now"));
}
