//! Owns the Noise handshake, `Noise_XXpsk0_25519_ChaChaPoly_BLAKE2s`, as phases that cannot be mixed up:
//! [`Initiator`] -> keys, [`Responder`] -> keys.
//!
//! Why this pattern: `psk0` mixes the network secret in before anything else, so the first message
//! already carries a tag that only members can make (with a pre-shared key Noise also mixes the
//! ephemeral into the key, so the tag differs every time). A stranger's message is dropped by symmetric
//! cryptography alone, before any scalar multiplication, and is not answered. `XX` needs no prior
//! knowledge of the other's key, so a peer can be dialled by address and port alone, and sends both
//! identities encrypted. See the Noise specification, revision 34, sections 7.5 and 9.
//!
//! snow runs the state machine. The X25519 here is ours for two reasons: the static public key is
//! computed only when it is needed (snow's own computes it for every first message, genuine or not),
//! and a shared secret of zero, which points of small order lead to, is refused.

use std::sync::OnceLock;

use curve25519_dalek::montgomery::MontgomeryPoint;
use snow::params::{CipherChoice, DHChoice, HashChoice, NoiseParams};
use snow::resolvers::{CryptoResolver, DefaultResolver};
use snow::types::{Cipher, Dh, Hash, Random};
use snow::{Builder, HandshakeState};
use zeroize::Zeroizing;

use crate::key::SecretKey;
use crate::network::NetworkSecret;
use crate::wire::HANDSHAKE_MAX;

const PATTERN: &str = "Noise_XXpsk0_25519_ChaChaPoly_BLAKE2s";
/// Binds the handshake to this protocol and its version.
const PROLOGUE: &[u8] = b"meshnet 1";

/// What a node brings to every handshake.
pub(super) struct Identity {
    private: Zeroizing<[u8; 32]>,
    network_secret: NetworkSecret,
    params: NoiseParams,
}

/// The handshake message does not authenticate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Forged;

/// The keys of a session, from this side's view.
pub(super) struct Keys {
    pub(super) send: Zeroizing<[u8; 32]>,
    pub(super) receive: Zeroizing<[u8; 32]>,
}

/// The opening side, waiting for the second message.
pub(super) struct Initiator(Box<HandshakeState>);

/// The opening side, having read the second message.
pub(super) struct Answered(Box<HandshakeState>);

/// The answering side, having read the first message.
pub(super) struct Opened(Box<HandshakeState>);

/// The answering side, waiting for the third message.
pub(super) struct Responder(Box<HandshakeState>);

/// What a message carried: the other side's static key and the payload.
pub(super) struct Proven {
    pub(super) x25519: [u8; 32],
    pub(super) payload: Vec<u8>,
}

impl Identity {
    pub(super) fn new(key: &SecretKey, network_secret: NetworkSecret) -> Self {
        let params = PATTERN.parse().expect("snow knows the pattern");
        Identity { private: key.x25519_private(), network_secret, params }
    }

    /// Opens a handshake. `ephemeral` is 32 fresh random bytes.
    pub(super) fn initiate(&self, ephemeral: [u8; 32], payload: &[u8], out: &mut Vec<u8>) -> Initiator {
        let initiator = self.builder(ephemeral).build_initiator();
        let mut state = Box::new(initiator.expect("all the pattern needs is given"));
        write(&mut state, payload, out);
        Initiator(state)
    }

    /// Reads a first message. Costs no scalar multiplication.
    pub(super) fn open(&self, ephemeral: [u8; 32], message: &[u8]) -> Result<(Opened, Vec<u8>), Forged> {
        let responder = self.builder(ephemeral).build_responder();
        let mut state = Box::new(responder.expect("all the pattern needs is given"));
        let payload = read(&mut state, message)?;
        Ok((Opened(state), payload))
    }

    fn builder(&self, ephemeral: [u8; 32]) -> Builder<'_> {
        let resolver = Resolver { ephemeral: Zeroizing::new(ephemeral) };
        Builder::with_resolver(self.params.clone(), Box::new(resolver))
            .local_private_key(self.private.as_ref())
            .and_then(|builder| builder.psk(0, self.network_secret.as_bytes()))
            .and_then(|builder| builder.prologue(PROLOGUE))
            .expect("each setting is made once")
    }
}

impl Initiator {
    /// Reads the second message. A forged one leaves the handshake as it was.
    pub(super) fn answered(mut self, message: &[u8]) -> Result<(Answered, Proven), (Self, Forged)> {
        match read(&mut self.0, message) {
            Ok(payload) => {
                let proven = Proven { x25519: remote_static(&self.0), payload };
                Ok((Answered(self.0), proven))
            }
            Err(forged) => Err((self, forged)),
        }
    }
}

impl Answered {
    /// Writes the third message; the handshake is done on this side.
    pub(super) fn finish(mut self, payload: &[u8], out: &mut Vec<u8>) -> Keys {
        write(&mut self.0, payload, out);
        let (to_responder, to_initiator) = self.0.dangerously_get_raw_split();
        Keys { send: Zeroizing::new(to_responder), receive: Zeroizing::new(to_initiator) }
    }
}

impl Opened {
    /// Writes the second message. Fails if the other's ephemeral key is of small order.
    pub(super) fn answer(mut self, payload: &[u8], out: &mut Vec<u8>) -> Result<Responder, Forged> {
        try_write(&mut self.0, payload, out)?;
        Ok(Responder(self.0))
    }
}

impl Responder {
    /// Reads the third message. A forged one leaves the handshake as it was.
    pub(super) fn finish(mut self, message: &[u8]) -> Result<(Keys, Proven), (Self, Forged)> {
        match read(&mut self.0, message) {
            Ok(payload) => {
                let proven = Proven { x25519: remote_static(&self.0), payload };
                let (to_responder, to_initiator) = self.0.dangerously_get_raw_split();
                Ok((
                    Keys { send: Zeroizing::new(to_initiator), receive: Zeroizing::new(to_responder) },
                    proven,
                ))
            }
            Err(forged) => Err((self, forged)),
        }
    }
}

/// Writes a message whose Diffie-Hellman inputs were checked when they were read.
fn write(state: &mut HandshakeState, payload: &[u8], out: &mut Vec<u8>) {
    try_write(state, payload, out).expect("the message fits and the keys were checked");
}

fn try_write(state: &mut HandshakeState, payload: &[u8], out: &mut Vec<u8>) -> Result<(), Forged> {
    let start = out.len();
    out.resize(start + HANDSHAKE_MAX, 0);
    let written = state.write_message(payload, &mut out[start..]);
    out.truncate(start + written.as_ref().copied().unwrap_or(0));
    written.map(|_| ()).map_err(|_| Forged)
}

fn read(state: &mut HandshakeState, message: &[u8]) -> Result<Vec<u8>, Forged> {
    let mut payload = vec![0; message.len()];
    let len = state.read_message(message, &mut payload).map_err(|_| Forged)?;
    payload.truncate(len);
    Ok(payload)
}

fn remote_static(state: &HandshakeState) -> [u8; 32] {
    let key = state.get_remote_static().expect("the message that was read carries the static key");
    key.try_into().expect("an X25519 key has 32 bytes")
}

/// Everything from snow's pure resolver except randomness and X25519.
struct Resolver {
    ephemeral: Zeroizing<[u8; 32]>,
}

impl CryptoResolver for Resolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(OneDraw(Some(self.ephemeral.clone()))))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        matches!(choice, DHChoice::Curve25519).then(|| Box::new(X25519::default()) as Box<dyn Dh>)
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        DefaultResolver.resolve_hash(choice)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        DefaultResolver.resolve_cipher(choice)
    }
}

/// Gives the ephemeral key of one handshake, once: each side of `XX` draws exactly one.
struct OneDraw(Option<Zeroizing<[u8; 32]>>);

impl Random for OneDraw {
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), snow::Error> {
        match self.0.take() {
            Some(bytes) if bytes.len() == dest.len() => {
                dest.copy_from_slice(bytes.as_ref());
                Ok(())
            }
            _ => Err(snow::Error::Rng),
        }
    }
}

/// X25519 as Noise wants it, with the public key computed on first use.
#[derive(Default)]
struct X25519 {
    private: Zeroizing<[u8; 32]>,
    public: OnceLock<[u8; 32]>,
}

impl Dh for X25519 {
    fn name(&self) -> &'static str {
        "25519"
    }

    fn pub_len(&self) -> usize {
        32
    }

    fn priv_len(&self) -> usize {
        32
    }

    fn set(&mut self, private: &[u8]) {
        self.private.copy_from_slice(private);
        self.public = OnceLock::new();
    }

    fn generate(&mut self, rng: &mut dyn Random) -> Result<(), snow::Error> {
        rng.try_fill_bytes(self.private.as_mut())?;
        self.public = OnceLock::new();
        Ok(())
    }

    fn pubkey(&self) -> &[u8] {
        self.public.get_or_init(|| MontgomeryPoint::mul_base_clamped(*self.private).to_bytes())
    }

    fn privkey(&self) -> &[u8] {
        self.private.as_ref()
    }

    fn dh(&self, public: &[u8], out: &mut [u8]) -> Result<(), snow::Error> {
        let public: [u8; 32] = *public.first_chunk().ok_or(snow::Error::Dh)?;
        let shared = MontgomeryPoint(public).mul_clamped(*self.private);
        if shared.to_bytes() == [0; 32] {
            return Err(snow::Error::Dh);
        }
        out[..32].copy_from_slice(shared.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(seed: u8, secret: u8) -> Identity {
        Identity::new(&SecretKey::from_bytes([seed; 32]), NetworkSecret::from_bytes([secret; 32]))
    }

    #[test]
    fn both_sides_end_with_the_same_keys_and_know_each_other() {
        let (alice, bob) = (identity(1, 9), identity(2, 9));
        let mut message = Vec::new();
        let initiator = alice.initiate([11; 32], b"one", &mut message);
        let (opened, payload) = bob.open([12; 32], &message).ok().unwrap();
        assert_eq!(payload, b"one");
        message.clear();
        let responder = opened.answer(b"two", &mut message).ok().unwrap();
        let (answered, proven) = initiator.answered(&message).ok().unwrap();
        assert_eq!(proven.payload, b"two");
        assert_eq!(Some(proven.x25519), SecretKey::from_bytes([2; 32]).id().x25519_public());
        message.clear();
        let ours = answered.finish(b"three", &mut message);
        let (theirs, proven) = responder.finish(&message).ok().unwrap();
        assert_eq!(proven.payload, b"three");
        assert_eq!(Some(proven.x25519), SecretKey::from_bytes([1; 32]).id().x25519_public());
        assert_eq!(ours.send, theirs.receive);
        assert_eq!(ours.receive, theirs.send);
        assert_ne!(ours.send, ours.receive);
    }

    #[test]
    fn a_stranger_fails_at_the_first_message() {
        let mut message = Vec::new();
        identity(1, 8).initiate([11; 32], b"one", &mut message);
        assert!(identity(2, 9).open([12; 32], &message).is_err());
    }

    #[test]
    fn forged_messages_do_not_break_a_handshake() {
        let (alice, bob) = (identity(1, 9), identity(2, 9));
        let mut first = Vec::new();
        let initiator = alice.initiate([11; 32], b"one", &mut first);
        let (opened, _) = bob.open([12; 32], &first).ok().unwrap();
        let mut second = Vec::new();
        let responder = opened.answer(b"two", &mut second).ok().unwrap();
        let mut forged = second.clone();
        forged[40] ^= 1;
        let (initiator, _) = initiator.answered(&forged).err().unwrap();
        let (initiator, _) = initiator.answered(&[0; 20]).err().unwrap();
        let (answered, _) = initiator.answered(&second).ok().unwrap();
        let mut third = Vec::new();
        answered.finish(b"three", &mut third);
        let (responder, _) = responder.finish(&third[1..]).err().unwrap();
        assert!(responder.finish(&third).is_ok());
    }

    #[test]
    fn an_ephemeral_key_of_small_order_is_refused() {
        // A member could send one on purpose: all zero is the simplest.
        let mut message = Vec::new();
        identity(1, 9).initiate([11; 32], b"one", &mut message);
        let mut dh = X25519::default();
        dh.set(&[7; 32]);
        assert!(dh.dh(&[0; 32], &mut [0; 56]).is_err());
    }
}
