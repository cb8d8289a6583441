//! `syncd history` and `syncd restore`: what peers replaced or deleted here.

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use clap::Args;
use hybrid_examples::daemon::{self, Failure};
use hybrid_examples::sync_control::{self, Kept, Request};
use hybrid_examples::sync_report::{self, VersionReport};
use hybrid_examples::sync_time;
use hybrid_examples::table::Table;

#[derive(Args)]
pub struct Options {
    /// A file or directory in a replica that is being served; it need not exist any more
    path: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub struct Restore {
    /// A file, or a directory with everything below it; it need not exist any more
    path: PathBuf,
    /// What stood there then (2026-11-23, "2026-11-23 14:05" in UTC, or 2h for two hours ago), or the number of a version
    #[arg(long, value_name = "TIME|VERSION", value_parser = kept)]
    at: Kept,
    /// Write it there instead, in the same replica
    #[arg(long, value_name = "PATH")]
    to: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub async fn run(Options { path, json }: Options) -> Result<(), Failure> {
    let (root, inside) = sync_control::find(&path)?;
    let request = Request::History { path: inside.as_bytes().to_vec() };
    let versions: Vec<VersionReport> = sync_control::ask(&root, &request, sync_control::ASK_LIMIT).await?;
    if json {
        return daemon::print_json(&versions);
    }
    if versions.is_empty() {
        return daemon::print(&format!(
            "nothing is kept of {} (is the folder's `history` on?)\n",
            path.display()
        ));
    }
    let mut table = Table::new(&["VERSION", "STOOD UNTIL (UTC)", "WRITTEN", "SIZE", "BY A", "PATH"]);
    for version in versions {
        table.row([
            version.version.to_string(),
            sync_time::shown(version.replaced_ns),
            sync_time::shown(version.mtime_ns),
            sync_report::size(version.bytes),
            if version.deleted { "deletion" } else { "change" }.to_owned(),
            version.path,
        ]);
    }
    daemon::print(&table.to_string())
}

pub async fn restore(Restore { path, at, to, json }: Restore) -> Result<(), Failure> {
    let (root, inside) = sync_control::find(&path)?;
    let to = match to {
        None => None,
        Some(to) => {
            let (other, inside) = sync_control::find(&to)?;
            if other != root {
                let (to, root) = (to.display(), root.display());
                return Err(Failure::new(format!(
                    "{to}: is in another replica than {root}: restore, then copy"
                )));
            }
            Some(inside.as_bytes().to_vec())
        }
    };
    let request = Request::Restore { path: inside.as_bytes().to_vec(), at, to };
    let paths: Vec<String> = match sync_control::ask(&root, &request, sync_control::SCAN_LIMIT).await {
        Ok(paths) => paths,
        Err(failure) => return Err(what_exists(&root, &inside, failure).await),
    };
    if json {
        return daemon::print_json(&paths);
    }
    let shown = |path: &String| {
        format!("restored {}\n", root.join(std::ffi::OsStr::from_bytes(path.as_bytes())).display())
    };
    daemon::print(&paths.iter().map(shown).collect::<String>())
}

/// No such version: says which there are.
async fn what_exists(root: &std::path::Path, inside: &syncfs::RelPath, failure: Failure) -> Failure {
    let request = Request::History { path: inside.as_bytes().to_vec() };
    let limit = sync_control::ASK_LIMIT;
    let kept: Vec<VersionReport> = sync_control::ask(root, &request, limit).await.unwrap_or_default();
    let (Some(newest), Some(oldest)) = (kept.first(), kept.last()) else { return failure };
    let until = |version: &VersionReport| {
        format!("{} (until {})", version.version, sync_time::shown(version.replaced_ns))
    };
    Failure::new(format!("{failure}; {} kept, from {} to {}", kept.len(), until(oldest), until(newest)))
}

fn kept(text: &str) -> Result<Kept, String> {
    match text.parse() {
        Ok(number) => Ok(Kept::Version(number)),
        Err(_) => sync_time::parse(text, sync_time::now_ns()).map(Kept::Time),
    }
}
