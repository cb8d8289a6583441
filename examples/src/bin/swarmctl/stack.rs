//! Stacks of Compose files.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use hybrid_examples::daemon::{Context, Failure};
use hybrid_examples::settings;
use hybrid_examples::table::Table;
use serde_json::{Value, json};
use swarmctl::compose::{self, Severity, Surroundings};
use swarmctl::plan::{Plan, PlanOptions, plan, plan_removal};
use swarmctl::spec::BLOB_MAX_BYTES;
use swarmctl::stack::STACK_LABEL;

use crate::rollout::{self, Waiting};
use crate::{Session, tell};

#[derive(Subcommand)]
pub enum Verb {
    /// List the stacks
    Ls,
    /// Say what `deploy` would change, and change nothing
    Plan(File),
    /// Make the Swarm what a file says, and wait until it is; what does not get there is put back
    Deploy {
        #[command(flatten)]
        file: File,
        #[command(flatten)]
        waiting: Waiting,
    },
    /// Remove everything that belongs to a stack, and nothing else
    Rm {
        /// Its name
        name: String,
        #[command(flatten)]
        waiting: Waiting,
    },
}

#[derive(Args)]
pub struct File {
    /// The Compose file
    file: PathBuf,
    /// The stack's name [default: that of the file's directory]
    #[arg(long, short)]
    name: Option<String>,
    /// Leave what belongs to the stack and is not in the file any more
    #[arg(long)]
    no_prune: bool,
    #[command(flatten)]
    data: Data,
}

/// Where services have data that follows them.
#[derive(Args)]
pub struct Data {
    /// A volume driver that lets one node write at a time; can be given again
    #[arg(long, value_name = "DRIVER", default_value = "synced")]
    leased_driver: Vec<String>,
    /// A directory of the nodes that is synchronised; can be given again
    #[arg(long, value_name = "DIR")]
    synced_folder: Vec<String>,
}

impl Data {
    /// What plans depend on.
    pub fn options(&self) -> PlanOptions {
        let mut options = PlanOptions::default();
        options.leased_drivers = self.leased_driver.iter().cloned().collect();
        options.synced_folders = self.synced_folder.clone();
        options
    }
}

pub async fn run(session: &Session, verb: Verb) -> Result<(), Failure> {
    match verb {
        Verb::Ls => ls(session).await,
        Verb::Plan(file) => {
            let plan = planned(session, &file).await?;
            show(session, &plan)
        }
        Verb::Deploy { file, waiting } => {
            let plan = planned(session, &file).await?;
            rollout::deploy(session, &plan, &waiting).await?;
            show(session, &plan)
        }
        Verb::Rm { name, waiting } => {
            let plan = plan_removal(&name, &session.swarm.present().await?);
            if plan.steps.is_empty() {
                let ask = "`swarmctl stack ls` shows those there are";
                return Err(Failure::new(format!("nothing belongs to a stack {name}: {ask}")));
            }
            rollout::deploy(session, &plan, &waiting).await?;
            show(session, &plan)
        }
    }
}

fn show(session: &Session, plan: &Plan) -> Result<(), Failure> {
    if plan.steps.is_empty() {
        tell("nothing to change");
    }
    let steps: Vec<String> = plan.steps.iter().map(|step| step.to_string().trim_end().to_owned()).collect();
    session.say(&plan.to_string(), json!({"steps": steps, "warnings": plan.warnings}))
}

async fn ls(session: &Session) -> Result<(), Failure> {
    let mut stacks: BTreeMap<String, u64> = BTreeMap::new();
    for service in session.swarm.services().await? {
        if let Some(stack) = service.labels.get(STACK_LABEL) {
            *stacks.entry(stack.clone()).or_default() += 1;
        }
    }
    let mut table = Table::new(&["NAME", "SERVICES"]);
    let mut list = Vec::new();
    for (name, services) in stacks {
        list.push(json!({"name": name, "services": services}));
        table.row([name, services.to_string()]);
    }
    session.show((table, Value::from(list)))
}

async fn planned(session: &Session, args: &File) -> Result<Plan, Failure> {
    let text = settings::read_text(&args.file)?;
    let place = args.file.display();
    let path = fs::canonicalize(&args.file).context(format!("cannot read {place}"))?;
    let around = Around { dir: path.parent().unwrap_or(Path::new("/")).to_owned() };
    let name = match &args.name {
        Some(name) => name.clone(),
        None => around.dir.file_name().unwrap_or_default().to_string_lossy().into_owned(),
    };
    let (stack, diagnostics) = compose::read(&text, &name, &around);
    for diagnostic in &diagnostics {
        tell(format_args!("{place}:{diagnostic}"));
    }
    let errors = diagnostics.iter().filter(|it| it.severity == Severity::Error).count();
    let stack = stack
        .ok_or_else(|| Failure::new(format!("{place} is not used for the {errors} error(s) told above")))?;
    let mut options = args.data.options();
    options.prune = !args.no_prune;
    plan(&stack, &session.swarm.present().await?, &options).map_err(|refusals| {
        for refusal in &refusals {
            tell(format_args!("{place}: {refusal}"));
        }
        Failure::new(format!("{place} cannot be deployed for the {} reason(s) told above", refusals.len()))
    })
}

/// The directory of a Compose file, and the environment.
struct Around {
    dir: PathBuf,
}

impl Surroundings for Around {
    fn variable(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }

    fn absolute(&self, path: &str) -> Result<String, String> {
        let home = || std::env::var("HOME").map_err(|_| format!("{path}: HOME is not set"));
        let path = match path.strip_prefix('~') {
            Some(rest) if rest.is_empty() || rest.starts_with('/') => PathBuf::from(home()? + rest),
            _ => self.dir.join(path),
        };
        // Without `.`, which is in no path that the engine has.
        Ok(path.components().collect::<PathBuf>().to_string_lossy().into_owned())
    }

    fn file(&self, path: &str) -> Result<Vec<u8>, String> {
        let path = self.absolute(path)?;
        let mut content = Vec::new();
        let file = fs::File::open(&path).map_err(|error| format!("cannot read {path}: {error}"))?;
        let read = file.take(BLOB_MAX_BYTES as u64 + 1).read_to_end(&mut content);
        read.map_err(|error| format!("cannot read {path}: {error}"))?;
        Ok(content)
    }
}
