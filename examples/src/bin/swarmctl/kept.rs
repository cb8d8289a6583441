//! Secrets and configs: contents that the Swarm keeps.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;

use clap::Subcommand;
use hybrid_examples::daemon::{Context, Failure};
use hybrid_examples::table::Table;
use serde_json::{Value, json};
use swarmctl::error::Kind;
use swarmctl::spec::{BLOB_MAX_BYTES, BlobSpec};

use crate::{Session, labels, pair};

#[derive(Subcommand)]
pub enum Verb {
    /// List them
    Ls,
    /// Keep the content of a file, or of standard input
    Create {
        /// Its name
        name: String,
        /// The file; `-` is standard input
        file: PathBuf,
        /// A label; can be given again
        #[arg(long, value_parser = pair, value_name = "KEY=VALUE")]
        label: Vec<(String, String)>,
    },
    /// Remove them
    Rm {
        /// Their names
        #[arg(required = true)]
        names: Vec<String>,
    },
}

pub async fn run(session: &Session, kind: Kind, verb: Verb) -> Result<(), Failure> {
    let (swarm, is_secret) = (&session.swarm, kind == Kind::Secret);
    match verb {
        Verb::Ls => {
            let kept = if is_secret { swarm.secrets().await? } else { swarm.configs().await? };
            let mut table = Table::new(&["NAME", "LABELS"]);
            let mut list = Vec::new();
            for (name, it) in kept {
                list.push(json!({"name": name, "labels": it.labels}));
                table.row([name, labels(&it.labels)]);
            }
            session.show((table, Value::from(list)))
        }
        Verb::Create { name, file, label } => {
            let blob = BlobSpec::new(name, content(&file)?, BTreeMap::from_iter(label));
            match is_secret {
                true => swarm.create_secret(&blob).await?,
                false => swarm.create_config(&blob).await?,
            }
            session.say(&format!("{}\n", blob.name), json!([blob.name]))
        }
        Verb::Rm { names } => {
            for name in &names {
                match is_secret {
                    true => swarm.remove_secret(name).await?,
                    false => swarm.remove_config(name).await?,
                }
            }
            session.say(&format!("{}\n", names.join("\n")), json!(names))
        }
    }
}

fn content(file: &PathBuf) -> Result<Vec<u8>, Failure> {
    let place = format!("cannot read {}", file.display());
    let source: Box<dyn Read> = match file.as_os_str() == "-" {
        true => Box::new(io::stdin()),
        false => Box::new(File::open(file).context(&place)?),
    };
    let mut content = Vec::new();
    // One byte more is enough to be refused.
    source.take(BLOB_MAX_BYTES as u64 + 1).read_to_end(&mut content).context(&place)?;
    Ok(content)
}
