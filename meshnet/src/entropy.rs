//! Owns [`Entropy`]: randomness is an input too.

/// A source of random bytes. Production draws from the operating system every time: a long-lived
/// seeded generator in memory would let an intruder recompute past ephemeral keys.
pub trait Entropy: Send {
    /// Fills `bytes` with fresh random bytes.
    fn fill(&mut self, bytes: &mut [u8]);
}

/// A fresh random array.
pub(crate) fn draw<const N: usize>(entropy: &mut dyn Entropy) -> [u8; N] {
    let mut bytes = [0; N];
    entropy.fill(&mut bytes);
    bytes
}
