//! `syncd events`: what happens in a replica.

use std::path::PathBuf;

use clap::Args;
use hybrid_examples::daemon::{self, Failure};
use hybrid_examples::sync_control;

#[derive(Args)]
pub struct Options {
    /// A directory that is being served
    dir: PathBuf,
    /// Begin after the event of this number instead of with the next one; 0 for all that are kept
    #[arg(long, value_name = "NUMBER")]
    after: Option<u64>,
}

pub async fn run(Options { dir, mut after }: Options) -> Result<(), Failure> {
    loop {
        let extract = sync_control::events(&dir, after).await?;
        if extract.missed > 0 {
            daemon::print(&format!(
                "{}\n",
                serde_json::json!({ "event": "missed", "count": extract.missed })
            ))?;
        }
        for event in &extract.events {
            daemon::print(&format!("{}\n", serde_json::to_string(event)?))?;
        }
        after = extract.events.last().map(|event| event.number).or(after);
    }
}
