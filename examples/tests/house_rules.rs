//! The repository's rules, as far as a test can read them off the files; `.github/CONTRIBUTING.md` gives all of
//! them and their reasons. A violation is reported as `file:line: what. What to do.`, all of them at once.
#![allow(clippy::disallowed_methods)]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

const CRATES: [&str; 4] = ["meshnet", "syncfs", "edgeproxy", "swarmctl"];
const MEMBERS: [&str; 7] = ["meshnet", "syncfs", "edgeproxy", "swarmctl", "examples", "fuzz", "benches"];
const PRODUCTION_LINES_MAX: usize = 500;

#[test]
fn the_four_crates_never_depend_on_each_other() {
    let mut found = Violations::default();
    for name in CRATES {
        let file = format!("{name}/Cargo.toml");
        let manifest = manifest(&file);
        let mut tables: Vec<&toml::Value> = vec![&manifest];
        if let Some(targets) = manifest.get("target").and_then(toml::Value::as_table) {
            tables.extend(targets.values());
        }
        for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
            for dependencies in tables.iter().filter_map(|table| table.get(kind)?.as_table()) {
                for (key, value) in dependencies {
                    let package = value.get("package").and_then(toml::Value::as_str).unwrap_or(key);
                    if MEMBERS.contains(&package) || package.starts_with("hybrid-") {
                        let what = format!("{name} depends on {package}");
                        found.add(&file, 0, &what, "Join them in examples/, by a trait that the crate owns");
                    }
                }
            }
        }
    }
    found.none();
}

#[test]
fn only_the_driver_of_a_crate_may_touch_the_world() {
    let mut found = Violations::default();
    for source in sources() {
        let allowed = CRATES.contains(&source.member()) && source.path.ends_with("src/driver/mod.rs");
        if !source.in_crate_src() || allowed {
            continue;
        }
        for (number, line) in source.lines().take(source.production_lines()) {
            if line.contains("clippy::disallowed") {
                let remedy = "Move the effect below src/driver/, or take its result as an input";
                found.add(&source.path, number, "a second allowance of I/O, clock or entropy", remedy);
            }
        }
    }
    found.none();
}

#[test]
fn files_are_named_after_what_they_own() {
    let mut found = Violations::default();
    for path in files() {
        let parts = Path::new(&path).iter().map(|part| part.to_string_lossy().into_owned());
        for part in parts {
            let stem = part.split('.').next().unwrap_or_default().to_lowercase();
            let nameless = ["util", "utils", "helper", "helpers", "common", "misc"].contains(&stem.as_str());
            if nameless && !path.starts_with("fuzz/corpus/") {
                let what = format!("`{part}` names no concept");
                found.add(&path, 0, &what, "Name it after what it owns, in the field's own term");
            }
        }
    }
    found.none();
}

#[test]
fn files_stay_short_and_say_first_what_they_own() {
    let mut found = Violations::default();
    for source in sources().into_iter().filter(Source::in_src) {
        let lines = source.production_lines();
        if lines > PRODUCTION_LINES_MAX {
            let what = format!("{lines} production lines, {PRODUCTION_LINES_MAX} is the limit");
            found.add(&source.path, lines, &what, "Cut it along an invariant that one part can own");
        }
        if lines > 0 && !source.text.starts_with("//! ") {
            let remedy = "Open the file with `//!`: what it owns, and what it must never do";
            found.add(&source.path, 1, "no module doc", remedy);
        }
    }
    found.none();
}

#[test]
fn an_ignored_test_says_what_it_needs_and_ci_runs_it() {
    let mut found = Violations::default();
    let marker = concat!("#[", "ignore");
    for source in sources() {
        for (number, line) in source.lines() {
            let Some(rest) = line.trim_start().strip_prefix(marker) else {
                continue;
            };
            if !rest.starts_with(" = \"needs ") {
                let remedy = "Write `= \"needs ...: run with --ignored\"`, or let it run always";
                found.add(&source.path, number, "a test is ignored without saying what it needs", remedy);
            }
            if !(source.in_src() || source.is_test_target()) {
                let remedy = "Move it into the crate's src/ or tests/";
                found.add(&source.path, number, "CI does not look for ignored tests here", remedy);
            }
        }
    }
    for command in ["cargo test --workspace", "cargo test --workspace --lib --bins --tests -- --ignored"] {
        if !read(".ci/run").lines().any(|line| line.trim_start().starts_with(command)) {
            let what = format!("`{command}` is not run");
            found.add(".ci/run", 0, &what, "CI runs every test, ignored ones included");
        }
    }
    found.none();
}

#[test]
fn the_top_level_holds_what_it_should_and_nothing_else() {
    let mut found = Violations::default();
    for entry in fs::read_dir(root()).expect("the repository's root can be listed") {
        let name = entry.expect("a readable entry").file_name().to_string_lossy().into_owned();
        let known = MEMBERS.contains(&name.as_str())
            || ["Cargo.toml", "Cargo.lock", "README.md", "target"].contains(&name.as_str())
            || name.starts_with('.')
            || name.starts_with("LICENSE-");
        if !known {
            let remedy = "Put it into the member that it belongs to; settings are dotfiles";
            found.add(&name, 0, "not a name for the top level", remedy);
        }
    }
    found.none();
}

#[test]
fn nothing_refers_to_a_path_outside_the_repository() {
    // Put together from pieces, so that this file does not find itself.
    let outside =
        [["..", "/shared"], ["/work", "/"], ["/home", "/"], ["/root", "/"]].map(|parts| parts.concat());
    let mut found = Violations::default();
    for path in files().into_iter().filter(|path| !path.starts_with("fuzz/corpus/")) {
        let Ok(text) = fs::read_to_string(root().join(&path)) else {
            continue;
        };
        for (number, line) in text.lines().enumerate() {
            for needle in &outside {
                if words(line).any(|word| word.starts_with(needle.as_str())) {
                    let what = format!("`{needle}` is outside the repository");
                    found.add(&path, number + 1, &what, "Bring the file in, or describe it");
                }
            }
        }
    }
    found.none();
}

#[test]
fn a_published_crate_includes_only_its_own_files() {
    let mut found = Violations::default();
    for source in sources().into_iter().filter(|source| CRATES.contains(&source.member())) {
        let folder = Path::new(&source.path).parent().expect("a source file has a folder");
        for (number, line) in source.lines() {
            for included in
                ["include_str!(\"", "include_bytes!(\"", "#[path = \""].iter().filter_map(|opening| {
                    let (_, rest) = line.split_once(opening)?;
                    rest.split('"').next()
                })
            {
                if normalised(&folder.join(included)).iter().next() != folder.iter().next() {
                    let what = format!("`{included}` would be missing from the published crate");
                    found.add(&source.path, number, &what, "Keep the file inside the crate's own folder");
                }
            }
        }
    }
    found.none();
}

#[test]
fn each_crate_can_be_published_with_its_papers() {
    let mut found = Violations::default();
    let workspace = manifest("Cargo.toml");
    let version = workspace["workspace"]["package"]["version"].as_str().expect("the workspace has a version");
    for name in CRATES {
        for paper in ["README.md", "CHANGELOG.md", "LICENSE-MIT", "LICENSE-APACHE"] {
            let path = format!("{name}/{paper}");
            match fs::read_to_string(root().join(&path)) {
                Err(_) => found.add(&path, 0, "missing", "Each crate is published with its own copy"),
                Ok(text) if text.trim().is_empty() => found.add(&path, 0, "empty", "Write it"),
                Ok(text) if paper == "CHANGELOG.md" && !text.contains(version) => {
                    let what = format!("version {version} is not in it");
                    found.add(&path, 0, &what, "Say what the version brings");
                }
                Ok(text) if paper.starts_with("LICENSE") && text.trim() != read(paper).trim() => {
                    found.add(
                        &path,
                        0,
                        "differs from the one at the top",
                        &format!("Copy {paper} from there"),
                    );
                }
                Ok(_) => {}
            }
        }
    }
    found.none();
}

#[test]
fn the_readme_gives_the_two_commands() {
    let mut found = Violations::default();
    let readme = fs::read_to_string(root().join("README.md")).unwrap_or_default();
    for command in ["cargo run --release --bin hybrid -- demo", "cargo test --workspace"] {
        if !readme.contains(command) {
            found.add("README.md", 0, &format!("`{command}` is missing"), "A newcomer starts with these two");
        }
    }
    found.none();
}

#[test]
fn fuzz_target_manifest_entry_and_corpus_belong_together() {
    let mut found = Violations::default();
    let targets = names("fuzz/fuzz_targets");
    assert!(!targets.is_empty(), "fuzz/fuzz_targets holds no target");
    let manifest = manifest("fuzz/Cargo.toml");
    let bins = manifest["bin"].as_array().expect("fuzz/Cargo.toml lists its targets as [[bin]]");
    let declared: Vec<&str> = bins.iter().filter_map(|bin| bin["name"].as_str()).collect();
    for target in &targets {
        if !declared.contains(&target.as_str()) {
            let remedy = "Add a [[bin]] with `required-features = [\"libfuzzer\"]`";
            found.add("fuzz/Cargo.toml", 0, &format!("fuzz target {target} is not declared"), remedy);
        }
        if names(&format!("fuzz/corpus/{target}")).is_empty() {
            let remedy =
                "Describe its seeds in fuzz/src/, then `cargo run -p hybrid-fuzz --example write_corpus`";
            found.add(&format!("fuzz/corpus/{target}"), 0, "no corpus", remedy);
        }
    }
    for corpus in names("fuzz/corpus") {
        if !targets.contains(&corpus) {
            found.add(
                &format!("fuzz/corpus/{corpus}"),
                0,
                "a corpus without its target",
                "Remove one, add the other",
            );
        }
    }
    found.none();
}

/// What a test found, reported together.
#[derive(Default)]
struct Violations(String);

impl Violations {
    /// `line` 0 speaks of the whole file.
    fn add(&mut self, path: &str, line: usize, what: &str, remedy: &str) {
        let place = if line == 0 { path.to_owned() } else { format!("{path}:{line}") };
        writeln!(self.0, "{place}: {what}. {remedy}.").expect("a String takes all that is written");
    }

    #[track_caller]
    fn none(self) {
        assert!(
            self.0.is_empty(),
            "house rules broken (.github/CONTRIBUTING.md says why they are there):\n{}",
            self.0
        );
    }
}

/// One `.rs` file, its path relative to the root.
struct Source {
    path: String,
    text: String,
}

impl Source {
    fn member(&self) -> &str {
        self.path.split('/').next().unwrap_or_default()
    }

    fn in_src(&self) -> bool {
        self.path.split('/').nth(1) == Some("src")
    }

    fn in_crate_src(&self) -> bool {
        self.in_src() && CRATES.contains(&self.member())
    }

    fn is_test_target(&self) -> bool {
        self.path.split('/').nth(1) == Some("tests")
    }

    /// Lines with their numbers, from 1.
    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(index, line)| (index + 1, line))
    }

    /// Lines before the in-file test module; none in a test module of its own.
    fn production_lines(&self) -> usize {
        if self.path.ends_with("/tests.rs") {
            return 0;
        }
        let lines: Vec<&str> = self.text.lines().collect();
        let starts_tests = |window: &[&str]| {
            window[0] == "#[cfg(test)]"
                && window[1..].iter().any(|line| line.starts_with("mod ") && line.ends_with('{'))
        };
        lines.windows(3).position(starts_tests).unwrap_or(lines.len())
    }
}

fn sources() -> Vec<Source> {
    let rust = files().into_iter().filter(|path| path.ends_with(".rs"));
    let sources: Vec<Source> = rust.map(|path| Source { text: read(&path), path }).collect();
    assert!(sources.len() > MEMBERS.len(), "the rules found hardly any source below {}", root().display());
    sources
}

/// Every file of the repository, relative to its root, build output left out.
fn files() -> Vec<String> {
    let left_out = ["target", ".git", "fuzz/artifacts", "fuzz/coverage"];
    let (mut found, mut folders) = (Vec::new(), vec![PathBuf::new()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root().join(&folder)).expect("a folder of the repository can be listed") {
            let entry = entry.expect("a readable entry");
            let path = folder.join(entry.file_name());
            let kind = entry.file_type().expect("an entry has a type");
            if left_out.iter().any(|name| path == Path::new(name)) {
                continue;
            }
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() {
                found.push(path.to_string_lossy().into_owned());
            }
        }
    }
    found.sort();
    found
}

/// The names in a folder, without extension; none when there is no such folder.
fn names(folder: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(root().join(folder)) else {
        return Vec::new();
    };
    let stem = |path: PathBuf| path.file_stem().expect("an entry has a name").to_string_lossy().into_owned();
    let mut names: Vec<String> = entries.map(|entry| stem(entry.expect("a readable entry").path())).collect();
    names.sort();
    names
}

/// The parts of a line that may be a path: cut at what a path is quoted or separated with.
fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| c.is_whitespace() || "\"'`()[]{}<>=,;:".contains(c))
}

/// The path without its `.` and `..`; a `..` too many stays in front.
fn normalised(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.iter().filter(|part| *part != ".") {
        if part == ".." && plain.file_name().is_some_and(|last| last != "..") {
            plain.pop();
        } else {
            plain.push(part);
        }
    }
    plain
}

fn manifest(path: &str) -> toml::Value {
    toml::from_str(&read(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("examples/ lies in the repository's root")
}
