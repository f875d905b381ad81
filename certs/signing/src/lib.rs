//! What is signed of a release, or to approve a promotion, and whether it was.
//!
//! A release is signed as a [`Statement`]: canonical JSON in an envelope that says what kind of thing it is, so that a signature
//! never means anything else. Both ends make the same bytes from what they know, so neither signs or checks what the other
//! only claims. Keys are ed25519; they are made and used where the signer is, and only their public halves travel.
//!
//! Checking has no clock, no randomness and no I/O, so the pure core may do it. Making a key is the one thing here that
//! needs randomness. The cryptography is that of the TLS stack, aws-lc-rs: there is no second provider.
//!
//! Reading order: [`statement`], [`key`], [`merkle`].

pub mod key;
pub mod merkle;
pub mod statement;

pub use key::{KeyError, PublicKey, Signature, SigningKey};
pub use statement::{
    ANYBODYS_APPROVAL_TYPE, APPROVAL_TYPE, ApprovalStatement, Component, PAYLOAD_TYPE, Signed, Statement,
};
