//! Replays the committed corpus on stable: every file through the body of its target, and every generated seed
//! still there, byte for byte.
#![allow(clippy::disallowed_methods)]

use std::fs;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};

use hybrid_fuzz::TARGETS;

#[test]
fn every_corpus_file_keeps_the_properties_of_its_target() {
    let mut failed = Vec::new();
    for target in TARGETS {
        let files = corpus_files(target.name);
        assert!(!files.is_empty(), "{} has no corpus; {REMEDY}", target.name);
        for file in files {
            let input = fs::read(&file).unwrap();
            if panic::catch_unwind(AssertUnwindSafe(|| (target.body)(&input))).is_err() {
                failed.push(file);
            }
        }
    }
    assert!(failed.is_empty(), "these inputs break a property (the panics are above): {failed:#?}");
}

#[test]
fn the_corpus_holds_every_generated_seed() {
    for target in TARGETS {
        for (name, bytes) in (target.seeds)() {
            let committed = fs::read(corpus_folder(target.name).join(name));
            let same = committed.is_ok_and(|committed| committed == bytes);
            assert!(same, "seed {name} of {} is missing or has changed; {REMEDY}", target.name);
        }
    }
}

#[test]
fn every_target_is_in_the_table_that_is_replayed() {
    let mut files: Vec<String> = fs::read_dir(folder().join("fuzz_targets"))
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    files.sort();
    let mut table: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
    table.sort_unstable();
    assert_eq!(files, table, "fuzz/fuzz_targets/ and TARGETS in fuzz/src/lib.rs name different targets");
}

const REMEDY: &str = "run `cargo run -p hybrid-fuzz --example write_corpus` and commit fuzz/corpus/";

fn corpus_files(target: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(corpus_folder(target)) else { return Vec::new() };
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("a readable entry").path()).collect();
    files.sort();
    files
}

fn corpus_folder(target: &str) -> PathBuf {
    folder().join("corpus").join(target)
}

fn folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
