//! `syncd import`: from Syncthing.

use std::path::{Path, PathBuf};

use clap::Args;
use hybrid_examples::daemon::{self, Context, Failure};
use hybrid_examples::sync_import::{self, Import};

#[derive(Args)]
pub struct Options {
    /// Syncthing's config.xml
    file: PathBuf,
    /// Where to write the settings, and beside them the key `syncd.key` [default: print them]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Which of its devices this one is: a name or an ID of Syncthing [default: the one that listens there]
    #[arg(long, value_name = "NAME")]
    this: Option<String>,
    /// Also make the key and, where they are, the folders replicas, and print the device ID
    #[arg(long, requires = "out")]
    apply: bool,
}

pub async fn run(Options { file, out, this, apply }: Options) -> Result<(), Failure> {
    let home = std::env::var_os("HOME").map_or_else(|| PathBuf::from("/root"), PathBuf::from);
    let import = Import::read(&file, this, home)?;
    let Some(out) = out else { return daemon::print(&import.toml(Path::new("/var/lib/syncd/key"))) };
    let key = std::path::absolute(&out).context(out.display())?.with_file_name("syncd.key");
    sync_import::write(&out, &import.toml(&key))?;
    let mut lines = import.report();
    lines.push(String::new());
    if apply {
        lines.push(format!("this device is {}", import.apply(&key).await?));
    }
    lines.extend(import.steps());
    daemon::print(&(lines.join("\n") + "\n"))
}
