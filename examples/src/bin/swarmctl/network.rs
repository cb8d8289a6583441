//! Networks.

use clap::{Args, Subcommand};
use hybrid_examples::daemon::Failure;
use hybrid_examples::table::Table;
use serde_json::{Value, json};
use swarmctl::overlay;
use swarmctl::spec::NetworkSpec;
use swarmctl::warnings::Prefix;

use crate::{Session, labels, pair};

#[derive(Subcommand)]
pub enum Verb {
    /// List the networks that reach over the nodes
    Ls,
    /// Make an overlay network
    Create(Create),
    /// Remove networks
    Rm {
        /// Their names
        #[arg(required = true)]
        names: Vec<String>,
    },
}

#[derive(Args)]
pub struct Create {
    /// Its name
    name: String,
    /// Its driver
    #[arg(long, short, default_value = "overlay")]
    driver: String,
    /// The MTU of the tunnel between the nodes: larger packets than what it leaves room for are lost
    #[arg(long, value_name = "BYTES")]
    tunnel_mtu: Option<u32>,
    /// Let containers that belong to no service join
    #[arg(long)]
    attachable: bool,
    /// Lead nowhere outside
    #[arg(long)]
    internal: bool,
    /// Its addresses; can be given again [default: the engine's choice]
    #[arg(long, value_name = "PREFIX")]
    subnet: Vec<Prefix>,
    /// What the driver is told; can be given again
    #[arg(long, short, value_parser = pair, value_name = "KEY=VALUE")]
    opt: Vec<(String, String)>,
    /// A label; can be given again
    #[arg(long, value_parser = pair, value_name = "KEY=VALUE")]
    label: Vec<(String, String)>,
}

pub async fn run(session: &Session, verb: Verb) -> Result<(), Failure> {
    match verb {
        Verb::Ls => {
            let mut table = Table::new(&["NAME", "DRIVER", "MTU", "LABELS"]);
            let mut list = Vec::new();
            for it in session.swarm.swarm_networks().await? {
                let mtu = it.options.get(overlay::MTU_OPTION).cloned();
                list.push(json!({
                    "id": it.id, "name": it.name, "driver": it.driver, "mtu": mtu, "options": it.options,
                    "labels": it.labels,
                }));
                table.row([it.name, it.driver, mtu.unwrap_or_default(), labels(&it.labels)]);
            }
            session.show((table, Value::from(list)))
        }
        Verb::Create(create) => {
            let network = network(create)?;
            session.swarm.create_network(&network).await?;
            session.say(&format!("{}\n", network.name), json!([network.name]))
        }
        Verb::Rm { names } => {
            for name in &names {
                session.swarm.remove_network(name).await?;
            }
            session.say(&format!("{}\n", names.join("\n")), json!(names))
        }
    }
}

fn network(create: Create) -> Result<NetworkSpec, Failure> {
    let mut network = match create.tunnel_mtu {
        None => NetworkSpec::new(create.name, create.driver),
        Some(mtu) => overlay::through_tunnel(&create.name, mtu).ok_or_else(|| {
            Failure::new(format!(
                "a tunnel with an MTU of {mtu} leaves no room for a network: it needs 1280 or more"
            ))
        })?,
    };
    network.attachable = create.attachable;
    network.internal = create.internal;
    network.subnets = create.subnet.iter().map(|subnet| (subnet.to_string(), None)).collect();
    network.options.extend(create.opt);
    network.labels.extend(create.label);
    Ok(network)
}
