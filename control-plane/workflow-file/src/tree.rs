//! A file as a tree in which every part knows where it is.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_saphyr::{Location, Spanned};

use crate::{Fault, Place};

/// How deep a file may be nested: a template needs six levels, and the body of a call may have some more.
const DEPTH_MAX: usize = 32;
/// How many values a file may have. There are no aliases: a small file would become a large one.
const NODES_MAX: usize = 20_000;

/// A part of a file.
#[derive(Debug)]
pub(crate) struct Tree {
    at: Place,
    node: Node,
}

#[derive(Debug)]
enum Node {
    Scalar(Value),
    List(Vec<Tree>),
    Map(Vec<(String, Place, Tree)>),
}

/// Reads a file that is a map with these fields.
pub(crate) fn parse(text: &str, fields: &str) -> Result<Tree, Fault> {
    let budget = serde_saphyr::budget! {
        max_depth: DEPTH_MAX,
        max_nodes: NODES_MAX,
        max_events: NODES_MAX * 3,
        max_aliases: 0,
        max_anchors: 0,
        max_documents: 1,
    };
    let options = serde_saphyr::options! { budget: budget, strict_booleans: true, with_snippet: false };
    let tree: Tree = serde_saphyr::from_str_with_options(text, options).map_err(|error| Fault {
        at: error.location().map(place),
        field: String::new(),
        problem: error.without_snippet().to_string(),
    })?;
    if matches!(tree.node, Node::Map(_)) {
        return Ok(tree);
    }
    let problem = format!("must be a map with {fields}");
    Err(Fault { at: Some(tree.at), field: String::new(), problem })
}

fn place(location: Location) -> Place {
    Place { line: location.line().max(1), column: location.column().max(1) }
}

impl Tree {
    /// What is in it.
    pub(crate) fn to_json(&self) -> Value {
        match &self.node {
            Node::Scalar(value) => value.clone(),
            Node::List(parts) => Value::Array(parts.iter().map(Self::to_json).collect()),
            Node::Map(parts) => Value::Object(
                parts.iter().map(|(key, _, part)| (key.clone(), part.to_json())).collect::<Map<_, _>>(),
            ),
        }
    }

    /// Where the field of this path is, or the part of it that is there.
    pub(crate) fn place(&self, path: &str) -> Place {
        let mut tree = self;
        for key in keys(path) {
            match tree.part(key) {
                Some(part) => tree = part,
                None => break,
            }
        }
        tree.at
    }

    /// Where the key of this path is.
    pub(crate) fn place_of_key(&self, path: &str) -> Option<Place> {
        let (parent, key) = path.rsplit_once('.').unwrap_or(("", path));
        let tree = keys(parent).try_fold(self, Self::part)?;
        let Node::Map(parts) = &tree.node else { return None };
        parts.iter().find(|(name, ..)| name == key).map(|(_, at, _)| *at)
    }

    fn part(&self, key: &str) -> Option<&Self> {
        match &self.node {
            Node::Scalar(_) => None,
            Node::List(parts) => parts.get(key.parse::<usize>().ok()?),
            Node::Map(parts) => parts.iter().find(|(name, ..)| name == key).map(|(_, _, part)| part),
        }
    }
}

/// The keys of a path.
fn keys(path: &str) -> impl Iterator<Item = &str> {
    path.split(['.', '[']).map(|key| key.trim_end_matches(']')).filter(|key| !key.is_empty())
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned: Spanned<Node> = Spanned::deserialize(deserializer)?;
        Ok(Self { at: place(spanned.referenced), node: spanned.value })
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Nodes)
    }
}

struct Nodes;

impl<'de> Visitor<'de> for Nodes {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Bool(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Scalar(Value::from(value)))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Scalar(Value::from(value)))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Node, E> {
        let number = Number::from_f64(value).ok_or_else(|| E::custom("is no finite number"))?;
        Ok(Node::Scalar(Value::Number(number)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Scalar(Value::from(value)))
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        Node::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let mut parts = Vec::new();
        while let Some(part) = access.next_element()? {
            parts.push(part);
        }
        Ok(Node::List(parts))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let mut parts = Vec::new();
        while let Some(key) = access.next_key::<Spanned<String>>()? {
            parts.push((key.value, place(key.referenced), access.next_value()?));
        }
        Ok(Node::Map(parts))
    }
}
