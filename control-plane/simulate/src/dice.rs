//! Chance that depends on a seed and on what it is for, and on nothing else.

use rand::rngs::ChaCha8Rng;
use rand::{RngExt as _, SeedableRng as _};
use sha2::{Digest as _, Sha256};

use crate::scenario::{Chance, Range};

/// Where chance comes from. Two draws for different purposes have nothing to do with each other, in whatever order they are made:
/// so a host that is slow in one simulation is slow in the other that only has another strategy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A source of its own for this purpose. ChaCha has the same values on every machine and in every version.
    pub(crate) fn of(self, purpose: &str, parts: &[&[u8]]) -> ChaCha8Rng {
        let mut hash = Sha256::new();
        hash.update(self.0.to_be_bytes());
        for part in std::iter::once(purpose.as_bytes()).chain(parts.iter().copied()) {
            hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            hash.update(part);
        }
        ChaCha8Rng::from_seed(hash.finalize().into())
    }
}

/// A length of time, in milliseconds.
pub(crate) fn within(source: &mut ChaCha8Rng, range: Range) -> u64 {
    source.random_range(range.shortest_ms..=range.longest_ms)
}

/// Whether it happens.
pub(crate) fn happens(source: &mut ChaCha8Rng, chance: Chance) -> bool {
    source.random_range(0..Chance::CERTAIN) < chance.0
}
