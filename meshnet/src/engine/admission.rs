//! Owns who is let in and what for: the trust rule, and on an authority's node the ledger of used
//! tickets. It decides on proven identities; that the other side holds its key, the handshake showed.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::claims::Claims;
use crate::config::Trust;
use crate::engine::{Redeemed, Rejection};
use crate::key::{PeerId, SecretKey};
use crate::membership::Membership;
use crate::ticket::{Ticket, TicketId};
use crate::wire::control::Refusal;
use crate::wire::hello::{Credential, Hello};

/// Used tickets that are remembered; each until it would have expired.
pub(super) const LEDGER_MAX: usize = 16_384;

/// The rule and its memory.
pub(super) struct Admission {
    trust: Trust,
    authority_key: Option<SecretKey>,
    membership_lifetime: Option<Duration>,
    ledger: BTreeMap<TicketId, Redeemed>,
}

/// What a node was let in with.
pub(super) struct Admitted {
    pub(super) claims: Claims,
    pub(super) membership: Option<Membership>,
    /// The ledger entry, if the node used a ticket just now.
    pub(super) redeemed: Option<Redeemed>,
}

impl Admission {
    pub(super) fn new(
        trust: Trust,
        authority_key: Option<SecretKey>,
        membership_lifetime: Option<Duration>,
        redeemed: &[Redeemed],
    ) -> Self {
        let newest_first = redeemed.iter().rev().take(LEDGER_MAX);
        let ledger = newest_first.map(|entry| (entry.ticket, entry.clone())).collect();
        Admission { trust, authority_key, membership_lifetime, ledger }
    }

    /// The key that signs memberships and tickets, on an authority's node.
    pub(super) fn authority_key(&self) -> Option<&SecretKey> {
        self.authority_key.as_ref()
    }

    /// Whether the node that said `hello` is let in. `serial` is random and names a membership that
    /// is issued now.
    pub(super) fn admit(
        &mut self,
        hello: &Hello,
        unix: Duration,
        serial: u64,
    ) -> Result<Admitted, Rejection> {
        match &hello.credential {
            Credential::Ticket(ticket) => {
                self.redeem(hello.id, ticket, unix, serial).map_err(Rejection::Ticket)
            }
            Credential::Claims => match self.trust {
                Trust::Secret => {
                    Ok(Admitted { claims: hello.claims.clone(), membership: None, redeemed: None })
                }
                Trust::Authority(_) => Err(Rejection::NoMembership),
            },
            Credential::Membership(membership) => {
                self.check(hello.id, membership, unix)?;
                let claims = membership.claims().clone();
                Ok(Admitted { claims, membership: Some(membership.clone()), redeemed: None })
            }
        }
    }

    /// Whether `membership` makes `peer` a member now.
    pub(super) fn check(
        &self,
        peer: PeerId,
        membership: &Membership,
        unix: Duration,
    ) -> Result<(), Rejection> {
        if membership.peer() != peer {
            return Err(Rejection::MembershipOfAnother);
        }
        if matches!(self.trust, Trust::Authority(authority) if authority != membership.network()) {
            return Err(Rejection::ForeignMembership);
        }
        if membership.is_expired(unix) {
            return Err(Rejection::MembershipExpired);
        }
        Ok(())
    }

    /// Exchanges a ticket for a membership. The same node may ask again and gets the same answer, so
    /// that a lost reply does not burn its ticket.
    fn redeem(
        &mut self,
        peer: PeerId,
        ticket: &Ticket,
        unix: Duration,
        serial: u64,
    ) -> Result<Admitted, Refusal> {
        let key = self.authority_key.as_ref().ok_or(Refusal::NotTheIssuer)?;
        if ticket.authority() != key.id() {
            return Err(Refusal::ForeignTicket);
        }
        if let Some(entry) = self.ledger.get(&ticket.id()) {
            let membership = entry.membership.clone();
            if membership.peer() != peer {
                return Err(Refusal::TicketUsed);
            }
            return Ok(Admitted {
                claims: membership.claims().clone(),
                membership: Some(membership),
                redeemed: None,
            });
        }
        ticket.check_expiry(unix).map_err(|_| Refusal::TicketExpired)?;
        if self.ledger.len() >= LEDGER_MAX {
            self.ledger.retain(|_, entry| entry.ticket_expires_unix > unix.as_secs());
        }
        if self.ledger.len() >= LEDGER_MAX {
            return Err(Refusal::LedgerFull);
        }
        let expires = self.membership_lifetime.map(|lifetime| unix.saturating_add(lifetime));
        let claims = ticket.claims().clone();
        let membership = Membership::issue(key, peer, claims.clone(), unix, expires, serial);
        let entry = Redeemed::new(ticket.id(), ticket.expires_unix(), membership.clone());
        self.ledger.insert(ticket.id(), entry.clone());
        Ok(Admitted { claims, membership: Some(membership), redeemed: Some(entry) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NetworkSecret;
    use crate::ticket::TicketOptions;

    const UNIX: Duration = Duration::from_secs(1_700_000_000);

    fn key(n: u8) -> SecretKey {
        SecretKey::from_bytes([n; 32])
    }

    fn ticket(authority: u8, id: TicketId) -> Ticket {
        let options = TicketOptions {
            name: "n".into(),
            address: "10.7.0.9".parse().unwrap(),
            subnets: vec![],
            endpoints: vec!["192.0.2.1:1".parse().unwrap()],
            valid_for: Duration::from_secs(60),
        };
        let secret = NetworkSecret::from_bytes([2; 32]);
        Ticket::issue(&key(authority), &secret, key(1).id(), &options, 24, id, UNIX).unwrap()
    }

    fn hello(peer: u8, credential: Credential) -> Hello {
        let claims = Claims::new("n", "10.7.0.9/24".parse().unwrap(), &[]).unwrap();
        Hello { index: 1, cipher: 1, id: key(peer).id(), claims, credential }
    }

    fn authority() -> Admission {
        Admission::new(Trust::Authority(key(1).id()), Some(key(1)), None, &[])
    }

    fn verdict(
        admission: &mut Admission,
        peer: u8,
        ticket: &Ticket,
        unix: Duration,
    ) -> Result<Admitted, Rejection> {
        admission.admit(&hello(peer, Credential::Ticket(ticket.clone())), unix, 7)
    }

    #[test]
    fn a_ticket_serves_one_node_however_often_it_asks() {
        let mut admission = authority();
        let ticket = ticket(1, [1; 16]);
        let first = verdict(&mut admission, 5, &ticket, UNIX).ok().unwrap();
        assert!(first.redeemed.is_some());
        let again = verdict(&mut admission, 5, &ticket, UNIX + Duration::from_secs(3600)).ok().unwrap();
        assert!(again.redeemed.is_none());
        assert_eq!(again.membership, first.membership);
        let other = verdict(&mut admission, 6, &ticket, UNIX).err();
        assert_eq!(other, Some(Rejection::Ticket(Refusal::TicketUsed)));
        let entry = first.redeemed.unwrap();
        let mut restarted = Admission::new(Trust::Authority(key(1).id()), Some(key(1)), None, &[entry]);
        assert_eq!(verdict(&mut restarted, 6, &ticket, UNIX).err(), other);
    }

    #[test]
    fn expired_foreign_and_misplaced_tickets_are_told_apart() {
        let refused =
            |admission: &mut Admission, ticket: &Ticket, unix| match verdict(admission, 5, ticket, unix) {
                Err(Rejection::Ticket(refusal)) => refusal,
                _ => panic!("the ticket was accepted"),
            };
        let good = ticket(1, [1; 16]);
        let late = UNIX + Duration::from_secs(60);
        assert_eq!(refused(&mut authority(), &good, late), Refusal::TicketExpired);
        assert_eq!(refused(&mut authority(), &ticket(3, [1; 16]), UNIX), Refusal::ForeignTicket);
        let mut member = Admission::new(Trust::Authority(key(1).id()), None, None, &[]);
        assert_eq!(refused(&mut member, &good, UNIX), Refusal::NotTheIssuer);
    }

    #[test]
    fn the_ledger_is_bounded_and_expired_entries_make_room() {
        let mut admission = authority();
        let sample = verdict(&mut admission, 5, &ticket(1, [0xff; 16]), UNIX).ok().unwrap().redeemed.unwrap();
        for n in 1..LEDGER_MAX as u128 {
            admission.ledger.insert(n.to_le_bytes(), Redeemed { ticket: n.to_le_bytes(), ..sample.clone() });
        }
        let next = ticket(1, [0xee; 16]);
        let full = verdict(&mut admission, 5, &next, UNIX).err();
        assert_eq!(full, Some(Rejection::Ticket(Refusal::LedgerFull)));
        for entry in admission.ledger.values_mut().take(10) {
            entry.ticket_expires_unix = UNIX.as_secs();
        }
        assert!(verdict(&mut admission, 5, &next, UNIX).is_ok());
        assert_eq!(admission.ledger.len(), LEDGER_MAX - 9);
    }

    #[test]
    fn only_a_valid_membership_of_the_node_itself_lets_it_in() {
        let claims = || Claims::new("n", "10.7.0.9/24".parse().unwrap(), &[]).unwrap();
        let issue = |by: u8, peer: u8, expires| {
            Credential::Membership(Membership::issue(&key(by), key(peer).id(), claims(), UNIX, expires, 1))
        };
        let mut admission = authority();
        let mut admit = |credential| admission.admit(&hello(5, credential), UNIX, 7).map(|_| ());
        assert_eq!(admit(issue(1, 5, None)), Ok(()));
        assert_eq!(admit(issue(1, 6, None)), Err(Rejection::MembershipOfAnother));
        assert_eq!(admit(issue(3, 5, None)), Err(Rejection::ForeignMembership));
        assert_eq!(admit(issue(1, 5, Some(UNIX))), Err(Rejection::MembershipExpired));
        assert_eq!(admit(Credential::Claims), Err(Rejection::NoMembership));
        let mut by_secret = Admission::new(Trust::Secret, None, None, &[]);
        assert!(by_secret.admit(&hello(5, Credential::Claims), UNIX, 7).is_ok());
    }
}
