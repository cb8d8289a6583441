//! How `meshd` comes to its network, and in which order of precedence:
//!
//! 1. `--authority`: it founds the network and keeps the ledger of used tickets in its state directory.
//! 2. `--ticket` or `--ticket-file`: it joins, and keeps its membership in the state directory. If a membership of the
//!    ticket's network is there already, that one is used and the ticket is ignored, expired, used or deleted as it may
//!    be; one of another network is an error, never replaced. One that has expired gives way to the ticket.
//! 3. `--network-secret-file`: the network's secret alone decides who belongs to it. A membership in the state
//!    directory is then an error: the node would trust whoever has the secret.
//! 4. None of these: the membership in the state directory.

use std::time::Duration;

use meshnet::{Config, Membership, Mesh, NetworkSecret, PeerConfig, SecretKey, Ticket};

use crate::daemon::{Context, Failure};
use crate::mesh_ledger::{Ledger, unix_time};
use crate::mesh_settings::{MeshSettings, TicketText, missing};
use crate::mesh_state::{Joined, Reservation, StateDirectory};
use crate::settings;

/// How long the ticket's issuer may take to answer.
pub const JOIN_LIMIT: Duration = Duration::from_secs(15);

/// What is to be done, once the node runs, for the way in which it comes to its network.
#[derive(Debug)]
pub enum Entry {
    /// Nothing: it shows what the settings say, or the membership that it kept.
    Open,
    /// Every ticket that is used must be written down: see [`Ledger::follow`].
    Authority(Ledger),
    /// The ticket must be exchanged for a membership: see [`Joining::finish`].
    Joining(Joining),
}

/// A ticket about to be used, and the place for what it gives.
#[derive(Debug)]
pub struct Joining {
    ticket: Box<Ticket>,
    place: Reservation,
}

/// What the library needs to start a node with these settings, and what is to be done then.
///
/// # Errors
/// The settings cannot work, a file cannot be read, or the ticket cannot be used. Of a node that would join nothing is
/// left behind then; an authority's empty ledger may stay.
pub async fn prepare(node: &MeshSettings) -> Result<(Config, Entry), Failure> {
    let state = match &node.state {
        Some(path) => Ok(StateDirectory::at(path.clone())),
        None => StateDirectory::default_of(&node.local_name()),
    };
    let (mut config, entry) = if node.authority {
        found(node, &state?)?
    } else if node.ticket.is_some() || node.ticket_file.is_some() {
        join(node, &state?)?
    } else if node.network_secret_file.is_some() || node.address.is_some() {
        (share(node, state.as_ref().ok())?, Entry::Open)
    } else {
        let state = state?;
        let kept = state.joined()?.ok_or_else(|| {
            let state = state.path().display();
            Failure::new(format!(
                "{state} holds no membership: join with --ticket-file, or say --address and --network-secret-file"
            ))
        })?;
        (remember(node, &state, kept)?, Entry::Open)
    };
    node.complete(&mut config).await?;
    config.validate()?;
    if config.peers.is_empty() && matches!(entry, Entry::Joining(_)) {
        let listen = config.listen;
        return Err(Failure::new(format!(
            "the ticket has only IPv6 endpoints, which a node that listens on {listen} cannot reach: say --listen [::]:0"
        )));
    }
    Ok((config, entry))
}

impl Joining {
    /// Waits until the issuer has answered, then keeps the membership.
    ///
    /// # Errors
    /// The issuer refused or did not answer, or the membership cannot be kept. Nothing is left behind then.
    pub async fn finish(self, mesh: &Mesh) -> Result<(), Failure> {
        let (endpoints, issuer) = (self.ticket.endpoints(), self.ticket.issuer());
        let places = endpoints.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let joined = mesh.joined(JOIN_LIMIT).await;
        let membership = joined.context(format!("cannot join at {places} ({issuer})"))?;
        let network_secret = self.ticket.network_secret().clone();
        let peers = endpoints.iter().map(|&endpoint| PeerConfig { endpoint, id: Some(issuer) });
        self.place
            .store(&Joined { membership, network_secret, peers: peers.collect() })
            .context("joined, but could not keep the membership (the ticket still works with this key)")
    }
}

fn found(node: &MeshSettings, state: &StateDirectory) -> Result<(Config, Entry), Failure> {
    if let Some(kept) = state.joined()? {
        return Err(in_the_way(state, &kept.membership, "an authority founds a network of its own"));
    }
    let key = own_key(node)?;
    let address = node.address.ok_or_else(|| missing("address"))?;
    let mut config = Config::founder(key, network_secret(node)?, address);
    config.listen = node.listen.ok_or_else(|| missing("listen"))?;
    config.subnets = node.subnet.clone();
    config.name = node.local_name();
    config.validate()?;
    let ledger = Ledger::open(state, config.secret_key.id(), unix_time())?;
    config.redeemed = ledger.entries().to_vec();
    Ok((config, Entry::Authority(ledger)))
}

fn share(node: &MeshSettings, state: Option<&StateDirectory>) -> Result<Config, Failure> {
    if let Some(state) = state
        && let Some(kept) = state.joined()?
    {
        let why = "with the address and the network's secret from the settings this node would trust whoever has \
                   the secret; leave them out to be a member";
        return Err(in_the_way(state, &kept.membership, why));
    }
    let address = node.address.ok_or_else(|| missing("address"))?;
    let secret = network_secret(node)?;
    let key = match &node.key {
        Some(_) => own_key(node)?,
        None => SecretKey::generate(),
    };
    let mut config = Config::new(key, secret, address);
    config.listen = node.listen.ok_or_else(|| missing("listen"))?;
    config.subnets = node.subnet.clone();
    Ok(config)
}

fn join(node: &MeshSettings, state: &StateDirectory) -> Result<(Config, Entry), Failure> {
    no_claims_of_its_own(node)?;
    let kept = state.joined()?.filter(|kept| !kept.membership.is_expired(unix_time()));
    let is_gone = node.ticket_file.as_ref().is_some_and(|file| !file.exists());
    if let Some(kept) = kept {
        if !is_gone && read_ticket(node)?.authority() != kept.membership.network() {
            return Err(in_the_way(state, &kept.membership, "the ticket is for another network"));
        }
        eprintln!("meshd: the ticket is ignored: {} holds this node's membership", state.path().display());
        return Ok((remember(node, state, kept)?, Entry::Open));
    }
    let ticket = read_ticket(node)?;
    ticket.check_expiry(unix_time()).context(ticket_place(node))?;
    let config = Config::join(own_key(node)?, ticket.clone());
    let place = state.reserve()?;
    Ok((config, Entry::Joining(Joining { ticket: Box::new(ticket), place })))
}

fn remember(node: &MeshSettings, state: &StateDirectory, kept: Joined) -> Result<Config, Failure> {
    no_claims_of_its_own(node)?;
    let file = state.membership_file();
    if kept.membership.is_expired(unix_time()) {
        let file = file.display();
        return Err(Failure::new(format!(
            "the membership in {file} has expired: join with a new ticket (and check this node's clock)"
        )));
    }
    let mut config = Config::member(own_key(node)?, kept.network_secret, kept.membership);
    config.peers = kept.peers;
    config.validate().context(file.display())?;
    Ok(config)
}

fn read_ticket(node: &MeshSettings) -> Result<Ticket, Failure> {
    match (&node.ticket, &node.ticket_file) {
        (Some(TicketText(text)), _) => text.parse().context(ticket_place(node)),
        (None, Some(file)) => settings::read_secret(file),
        (None, None) => Err(missing("ticket-file")),
    }
}

fn ticket_place(node: &MeshSettings) -> String {
    node.ticket_file.as_ref().map_or("--ticket".to_owned(), |file| file.display().to_string())
}

fn own_key(node: &MeshSettings) -> Result<SecretKey, Failure> {
    settings::read_secret(node.key.as_deref().ok_or_else(|| missing("key"))?)
}

fn network_secret(node: &MeshSettings) -> Result<NetworkSecret, Failure> {
    let file = node.network_secret_file.as_deref().ok_or_else(|| missing("network-secret-file"))?;
    settings::read_secret(file)
}

/// A member's address and subnets are the authority's word; others in the settings would be ignored in silence.
fn no_claims_of_its_own(node: &MeshSettings) -> Result<(), Failure> {
    let set = [
        ("address", node.address.is_some()),
        ("network-secret-file", node.network_secret_file.is_some()),
        ("subnet", !node.subnet.is_empty()),
    ];
    match set.into_iter().find(|(_, is_set)| *is_set) {
        Some((key, _)) => Err(Failure::new(format!(
            "a ticket or membership decides the `{key}`: leave it out of the settings"
        ))),
        None => Ok(()),
    }
}

fn in_the_way(state: &StateDirectory, membership: &Membership, why: &str) -> Failure {
    let (file, network) = (state.membership_file(), membership.network());
    Failure::new(format!(
        "{} holds a membership of the network {network}: {why} (or choose another --state, or remove that file)",
        file.display()
    ))
}
