//! What signatures are about: a release, or the approval of a promotion.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use stella_protocol::digest::Digest;

/// What kind of statement the bytes are, and which version of it. Another form is another type, so that an old signature is
/// never read as something new.
pub const PAYLOAD_TYPE: &str = "application/vnd.stella.release.v1+json";

/// The same of what approves a promotion.
pub const APPROVAL_TYPE: &str = "application/vnd.stella.approval.v2+json";

/// The form of before, which did not say whose approval it is. Journals have it.
pub const ANYBODYS_APPROVAL_TYPE: &str = "application/vnd.stella.approval.v1+json";

/// Something that is signed.
pub trait Signed {
    /// What is signed: a payload and its type in the pre-authentication encoding of DSSE (<https://github.com/secure-systems-lab/dsse>).
    fn signed_bytes(&self) -> Vec<u8>;
}

/// That somebody approves a plan of a promotion. The plan's root stands for everything that the deployment would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ApprovalStatement {
    /// The id of the promotion.
    pub promotion: String,
    /// The root of its plan.
    pub plan: Digest,
    /// The id of the account whose approval it is, so that nobody can pass it off as their own. Without it, it is in the form of before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
}

impl Signed for ApprovalStatement {
    fn signed_bytes(&self) -> Vec<u8> {
        let kind = if self.account.is_some() { APPROVAL_TYPE } else { ANYBODYS_APPROVAL_TYPE };
        encoded(kind, &canonical(self))
    }
}

/// Everything of a release that a host is affected by, and where it comes from. Not in it: what the control plane adds (ids, times,
/// what people think of it), so that one signature holds wherever the same release is registered.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Statement {
    /// What it is a release of.
    pub application: String,
    /// Its version.
    pub version: String,
    /// What it is made of.
    pub components: Vec<Component>,
    /// What is done on a target, as the API shows it, with nothing left out that has a default.
    pub steps: Vec<Value>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Where it comes from, as the API shows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provenance: Option<Value>,
}

/// A part of a release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Component {
    /// Its name.
    pub name: String,
    /// What its archive hashes to.
    pub digest: Digest,
    /// The archive's size in bytes.
    pub size_bytes: u64,
}

impl Statement {
    /// The statement as canonical JSON: members sorted by their names' bytes, no white space, whole numbers only.
    #[must_use]
    pub fn payload(&self) -> String {
        canonical(self)
    }

    /// What the payload hashes to: how people tell statements apart.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest(Sha256::digest(self.payload()).into())
    }
}

impl Signed for Statement {
    fn signed_bytes(&self) -> Vec<u8> {
        encoded(PAYLOAD_TYPE, &self.payload())
    }
}

fn encoded(kind: &str, payload: &str) -> Vec<u8> {
    format!("DSSEv1 {} {kind} {} {payload}", kind.len(), payload.len()).into_bytes()
}

fn canonical(statement: &impl Serialize) -> String {
    let value = serde_json::to_value(statement).expect("plain values, and maps with texts as keys, are JSON");
    let mut out = String::new();
    write(&value, &mut out);
    out
}

/// Does not rely on how maps are ordered in memory, which is a feature of `serde_json` that any crate may switch.
fn write(value: &Value, out: &mut String) {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            out.push_str(&value.to_string())
        }
        Value::Array(items) => {
            out.push('[');
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                write(item, out);
            }
            out.push(']');
        }
        Value::Object(members) => {
            let sorted: BTreeMap<&String, &Value> = members.iter().collect();
            out.push('{');
            for (at, (name, member)) in sorted.into_iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                out.push_str(&Value::from(name.as_str()).to_string());
                out.push(':');
                write(member, out);
            }
            out.push('}');
        }
    }
}
