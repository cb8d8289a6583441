//! `syncd init` and `syncd id`: which device a directory is a replica of.

use std::path::PathBuf;

use clap::Args;
use hybrid_examples::daemon::{self, Failure};
use hybrid_examples::sync_settings::{ServeFlags, SyncSettings};
use hybrid_examples::{sync_control, sync_node};
use syncfs::FolderId;

#[derive(Args)]
pub struct Options {
    /// An existing directory
    #[arg(required_unless_present = "config")]
    dir: Option<PathBuf>,
    /// The device's secret key, made if it is not there [default: DIR/.syncfs/key]
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Make every folder of a TOML file a replica
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The folder that the directory is to be a replica of, as `syncd status` shows it there [default: that of its first peer
    /// if it is empty, else a new one]
    #[arg(long, value_name = "ID", conflicts_with = "config")]
    folder: Option<FolderId>,
}

#[derive(Args)]
pub struct Id {
    /// An initialised directory
    dir: PathBuf,
}

pub async fn run(Options { dir, key, config, folder }: Options) -> Result<(), Failure> {
    // Where the device will listen does not matter yet.
    let listen = Some(([127, 0, 0, 1], 0).into());
    let flags = ServeFlags { listen, key, ..ServeFlags::default() };
    let mut settings = SyncSettings::new(dir, flags, config.as_deref())?;
    if let (Some(folder), Some(served)) = (folder, settings.folders.first_mut()) {
        served.config.folder = Some(folder);
    }
    let device = sync_node::init(&settings).await?;
    if let Some(file) = &settings.file {
        // Who asks before the first start finds a state directory that is elsewhere.
        for served in &settings.folders {
            sync_control::leave_word(&served.config.root, Some(file))?;
        }
    }
    daemon::print(&format!("{device}\n"))
}

pub async fn id(Id { dir }: Id) -> Result<(), Failure> {
    daemon::print(&format!("{}\n", sync_control::status(&dir).await?.device))
}
