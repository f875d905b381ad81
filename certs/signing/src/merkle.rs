//! The Merkle tree of RFC 6962, section 2.1: a hash over many leaves, and proofs that one of them is in it.
//!
//! Both ends make the same hashes, so who has a root that was approved can check one leaf without the others and without trusting
//! whoever shows it.

use sha2::{Digest as _, Sha256};
use stella_protocol::digest::Digest;

/// How long a path may be: that of a leaf among more than the control plane could ever hold.
pub const PATH_MAX: usize = 64;

/// The hash of a leaf: over a zero byte and what is in it.
#[must_use]
pub fn leaf(bytes: &[u8]) -> Digest {
    Digest(Sha256::new_with_prefix([0]).chain_update(bytes).finalize().into())
}

fn node(left: Digest, right: Digest) -> Digest {
    let hash = Sha256::new_with_prefix([1]).chain_update(left.0).chain_update(right.0);
    Digest(hash.finalize().into())
}

/// The root over hashed leaves. Over none it is the hash of nothing.
#[must_use]
pub fn root(leaves: &[Digest]) -> Digest {
    match leaves {
        [] => Digest(Sha256::digest([]).into()),
        [leaf] => *leaf,
        _ => {
            let (left, right) = leaves.split_at(half(leaves.len()));
            node(root(left), root(right))
        }
    }
}

/// The largest power of two that is smaller than a number of leaves, of which there are at least two.
const fn half(leaves: usize) -> usize {
    leaves.div_ceil(2).next_power_of_two()
}

/// The path of a leaf: the hashes beside it, from the leaf up; `None` if there are not so many leaves.
#[must_use]
pub fn path(leaves: &[Digest], at: usize) -> Option<Vec<Digest>> {
    if at >= leaves.len() {
        return None;
    }
    let (mut path, mut rest, mut at) = (Vec::new(), leaves, at);
    while rest.len() > 1 {
        let (left, right) = rest.split_at(half(rest.len()));
        if at < left.len() {
            path.push(root(right));
            rest = left;
        } else {
            path.push(root(left));
            at -= left.len();
            rest = right;
        }
    }
    path.reverse();
    Some(path)
}

/// The root that a leaf's hash and its path lead to, as in RFC 9162, section 2.1.3.2: the leaf is in the tree of a root exactly if it
/// is this one. `None` if there is no such place in a tree of so many leaves.
#[must_use]
pub fn root_of(leaf: Digest, at: u64, leaves: u64, path: &[Digest]) -> Option<Digest> {
    if at >= leaves || path.len() > PATH_MAX {
        return None;
    }
    let (mut at, mut last, mut hash) = (at, leaves - 1, leaf);
    for beside in path {
        if last == 0 {
            return None;
        }
        if at % 2 == 1 || at == last {
            hash = node(*beside, hash);
            while at % 2 == 0 && at != 0 {
                at /= 2;
                last /= 2;
            }
        } else {
            hash = node(hash, *beside);
        }
        at /= 2;
        last /= 2;
    }
    (last == 0).then_some(hash)
}
