//! Steps as a picture: lines for a terminal, or SVG.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;
use serde_json::Value;
use stella_api_types::workflow::Step;

use crate::args::Format;

/// Sizes in the picture, in pixels.
const BOX_WIDTH: usize = 180;
const BOX_HEIGHT: usize = 48;
const GAP_X: usize = 60;
const GAP_Y: usize = 24;
const MARGIN: usize = 20;

/// A step.
#[derive(Serialize)]
pub(super) struct Node {
    id: String,
    kind: String,
    needs: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    compensates: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<String>,
}

impl Node {
    pub(super) fn of_run(step: &Step) -> Self {
        Self {
            id: step.id.clone(),
            kind: step.kind.clone(),
            needs: step.needs.clone(),
            compensates: step.compensates.clone(),
            state: Some(step.state.clone()),
        }
    }

    /// What is before it in the picture.
    fn before(&self) -> impl Iterator<Item = &String> {
        self.needs.iter().chain(&self.compensates)
    }
}

/// The steps of a template as the API has it.
pub(super) fn of_template(template: &Value) -> Vec<Node> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let kinds =
        ["deploy", "rollback", "task", "approval", "wait", "input", "http", "notify", "gate", "workflow"];
    let steps = template.get("steps").and_then(Value::as_array).into_iter().flatten();
    let node = |step: &Value| {
        let needs = step.get("needs").and_then(Value::as_array).into_iter().flatten().filter_map(text);
        Some(Node {
            id: step.get("id").and_then(text)?,
            // A newer control plane may have more.
            kind: kinds.into_iter().find(|kind| step.get(kind).is_some()).unwrap_or("?").to_owned(),
            needs: needs.collect(),
            compensates: step.get("compensates").and_then(text),
            state: None,
        })
    };
    steps.filter_map(node).collect()
}

/// A sign that says the same as the colour would.
pub(super) fn sign(state: &str) -> &'static str {
    match state {
        "succeeded" => "✓",
        "failed" => "✗",
        "running" => "•",
        "backing_off" | "held" => "!",
        _ => "-",
    }
}

pub(super) fn draw(format: Format, title: &str, nodes: &[Node]) -> String {
    match format {
        Format::Text => text(title, nodes),
        Format::Svg => svg(title, nodes),
    }
}

/// How many steps there are at least before each. What waits in a circle, which no control plane has, ends somewhere.
fn levels(nodes: &[Node]) -> BTreeMap<&str, usize> {
    let mut levels: BTreeMap<&str, usize> = nodes.iter().map(|node| (node.id.as_str(), 0)).collect();
    for _ in nodes {
        for node in nodes {
            let before = node.before().filter_map(|id| levels.get(id.as_str())).max();
            let level = before.map_or(0, |level| level + 1).min(nodes.len());
            levels.insert(&node.id, level);
        }
    }
    levels
}

fn text(title: &str, nodes: &[Node]) -> String {
    let levels = levels(nodes);
    let mut sorted: Vec<&Node> = nodes.iter().collect();
    sorted.sort_by_key(|node| levels.get(node.id.as_str()));
    let mut lines = vec![title.to_owned()];
    for node in sorted {
        let indent = "   ".repeat(levels.get(node.id.as_str()).copied().unwrap_or(0));
        let (sign, state) = match &node.state {
            Some(state) => (sign(state), format!(" {state}")),
            None => ("○", String::new()),
        };
        let needs =
            if node.needs.is_empty() { String::new() } else { format!(" ← {}", node.needs.join(", ")) };
        let makes_up = node.compensates.as_ref().map(|other| format!(" ↩ {other}")).unwrap_or_default();
        lines.push(format!("{indent}{sign} {} ({}){state}{needs}{makes_up}", node.id, node.kind));
    }
    lines.join("\n")
}

fn svg(title: &str, nodes: &[Node]) -> String {
    let levels = levels(nodes);
    let mut rows: BTreeMap<usize, usize> = BTreeMap::new();
    let mut places: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for node in nodes {
        let level = levels.get(node.id.as_str()).copied().unwrap_or(0);
        let row = rows.entry(level).or_insert(0);
        let x = MARGIN + level * (BOX_WIDTH + GAP_X);
        places.insert(&node.id, (x, 2 * MARGIN + *row * (BOX_HEIGHT + GAP_Y)));
        *row += 1;
    }
    let width = 2 * MARGIN + rows.len() * (BOX_WIDTH + GAP_X) - GAP_X.min(rows.len() * GAP_X);
    let height = 3 * MARGIN + rows.values().max().copied().unwrap_or(0) * (BOX_HEIGHT + GAP_Y);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"13\">\n<title>{0}</title>\n<text x=\"{MARGIN}\" y=\"{MARGIN}\">{0}</text>\n",
        escaped(title)
    );
    for node in nodes {
        let Some((x, y)) = places.get(node.id.as_str()) else { continue };
        for before in node.before() {
            let Some((from_x, from_y)) = places.get(before.as_str()) else { continue };
            let (from_x, from_y, to_y) = (from_x + BOX_WIDTH, from_y + BOX_HEIGHT / 2, y + BOX_HEIGHT / 2);
            let middle = (from_x + x) / 2;
            let dashes = if node.compensates.is_some() { " stroke-dasharray=\"4\"" } else { "" };
            // Writing to a text does not fail.
            writeln!(out, "<path d=\"M{from_x} {from_y} C{middle} {from_y} {middle} {to_y} {x} {to_y}\" fill=\"none\" stroke=\"#667\"{dashes}/>").ok();
        }
    }
    for node in nodes {
        let Some((x, y)) = places.get(node.id.as_str()) else { continue };
        let state = node.state.as_deref().unwrap_or_default();
        let (text_x, first, second) = (x + 10, y + 20, y + 38);
        let sign = if state.is_empty() { "" } else { sign(state) };
        writeln!(
            out,
            "<rect x=\"{x}\" y=\"{y}\" width=\"{BOX_WIDTH}\" height=\"{BOX_HEIGHT}\" rx=\"6\" fill=\"{}\" stroke=\"#445\"/>\n<text x=\"{text_x}\" y=\"{first}\" font-weight=\"bold\">{sign} {}</text>\n<text x=\"{text_x}\" y=\"{second}\" fill=\"#445\">{} {state}</text>",
            colour(state),
            escaped(&node.id),
            escaped(&node.kind),
        )
        .ok();
    }
    out.push_str("</svg>");
    out
}

fn colour(state: &str) -> &'static str {
    match state {
        "succeeded" => "#d7f0dc",
        "failed" => "#f6d5d5",
        "running" => "#d8e6fa",
        "backing_off" | "held" => "#fbeccb",
        "skipped" | "cancelled" => "#e6e6e6",
        _ => "#ffffff",
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn steps_stand_behind_what_they_need() {
        let nodes = of_template(&json!({ "steps": [
            { "id": "out", "needs": ["soak", "go"], "deploy": {} }, { "id": "soak", "wait": "1s" },
            { "id": "go", "needs": ["soak"], "approval": {} }, { "id": "undo", "compensates": "out", "rollback": {} },
        ]}));
        let expected = "ship\n○ soak (wait)\n   ○ go (approval) ← soak\n      ○ out (deploy) ← soak, go\n         ○ undo (rollback) ↩ out";
        assert_eq!(draw(Format::Text, "ship", &nodes), expected);
        let svg = draw(Format::Svg, "a < b", &nodes);
        assert!(svg.contains("<title>a &lt; b</title>"), "{svg}");
        assert_eq!((svg.matches("<rect").count(), svg.matches("<path").count()), (4, 4));
    }
}
