//! The tree against the vectors of the reference implementation of Certificate Transparency, and against itself.
#![allow(clippy::unwrap_used, reason = "a test ends there, with the place")]

use stella_protocol::digest::Digest;
use stella_signing::merkle;

/// Inputs and roots of the reference implementation.
const INPUTS: [&[u8]; 8] = [
    b"",
    b"\x00",
    b"\x10",
    b"\x20\x21",
    b"\x30\x31",
    b"\x40\x41\x42\x43",
    b"\x50\x51\x52\x53\x54\x55\x56\x57",
    b"\x60\x61\x62\x63\x64\x65\x66\x67\x68\x69\x6a\x6b\x6c\x6d\x6e\x6f",
];
const ROOTS: [&str; 8] = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
];
/// Its paths: which leaf, of how many, and the hashes beside it.
const PATHS: [(usize, usize, &[&str]); 5] = [
    (0, 1, &[]),
    (
        0,
        8,
        &[
            "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
        ],
    ),
    (
        5,
        8,
        &[
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ],
    ),
    (2, 3, &["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"]),
    (
        1,
        5,
        &[
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        ],
    ),
];

fn leaves() -> Vec<Digest> {
    INPUTS.iter().map(|input| merkle::leaf(input)).collect()
}

#[test]
fn roots_and_paths_are_those_of_the_reference() {
    let leaves = leaves();
    for (count, expected) in (1..).zip(ROOTS) {
        assert_eq!(merkle::root(&leaves[..count]).to_hex(), expected, "{count} leaves");
    }
    let nothing = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    assert_eq!(merkle::root(&[]).to_hex(), nothing);
    for (at, count, expected) in PATHS {
        let path: Vec<String> =
            merkle::path(&leaves[..count], at).unwrap().iter().map(|it| it.to_hex()).collect();
        assert_eq!(path, expected, "leaf {at} of {count}");
    }
}

#[test]
fn each_leaf_is_proven_in_its_place_and_in_no_other() {
    let leaves: Vec<Digest> = (0..33_u8).map(|n| merkle::leaf(&[n])).collect();
    for count in 1..=leaves.len() {
        let tree = &leaves[..count];
        let root = merkle::root(tree);
        for at in 0..count {
            let path = merkle::path(tree, at).unwrap();
            for claimed in 0..count {
                let found = merkle::root_of(tree[at], claimed as u64, count as u64, &path);
                assert_eq!(found == Some(root), claimed == at, "leaf {at} of {count} as {claimed}");
            }
            let other = merkle::root_of(merkle::leaf(b"other"), at as u64, count as u64, &path);
            assert_ne!(other, Some(root));
            let longer = [path.as_slice(), &[Digest([0; 32])]].concat();
            assert_eq!(merkle::root_of(tree[at], at as u64, count as u64, &longer), None);
            if let Some((_, shorter)) = path.split_last() {
                assert_ne!(merkle::root_of(tree[at], at as u64, count as u64, shorter), Some(root));
            }
        }
        assert_eq!(merkle::path(tree, count), None);
        assert_eq!(merkle::root_of(tree[0], count as u64, count as u64, &[]), None);
    }
    assert_eq!(merkle::root_of(leaves[0], 0, u64::MAX, &vec![leaves[0]; merkle::PATH_MAX + 1]), None);
}
