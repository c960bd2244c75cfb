//! The map as a picture: SVG of its own layered layout, or a graph for Graphviz.
//!
//! Flows in: an answer of `/v1/topology`. Flows out: text. Nodes stand in rows by how far they are from hosts: hosts below, leaves, spines; those of a row in
//! the order of their names, by number where names have one. A link that is down is dashed.

use crate::row::Row;
use std::collections::{BTreeMap, VecDeque};

/// Pixels between the middles of two nodes of a row, and of two rows.
const ACROSS: usize = 96;
const DOWN: usize = 140;
const WIDTH: usize = 80;
const HEIGHT: usize = 28;

/// Rows of nodes, the lowest first.
fn rows(map: &Row) -> Vec<Vec<String>> {
    let nodes = map.rows("nodes");
    let mut near: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for link in map.rows("links") {
        let (a, b) = (node_of(link.text("a")).to_owned(), node_of(link.text("b")).to_owned());
        near.entry(a.clone()).or_default().push(b.clone());
        near.entry(b).or_default().push(a);
    }
    let hosts = nodes.iter().filter(|node| node.text("kind") == "host").map(|node| node.text("name").to_owned());
    let mut open: VecDeque<String> = hosts.collect();
    let mut height: BTreeMap<String, usize> = open.iter().map(|host| (host.clone(), 0)).collect();
    while let Some(node) = open.pop_front() {
        let above = height.get(&node).map_or(1, |height| height + 1);
        for next in near.get(&node).into_iter().flatten() {
            if !height.contains_key(next) {
                height.insert(next.clone(), above);
                open.push_back(next.clone());
            }
        }
    }
    // Switches that nobody leads to stand on top.
    let top = height.values().max().map_or(1, |top| top + 1);
    let mut rows: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    for node in &nodes {
        let name = node.text("name");
        rows.entry(height.get(name).copied().unwrap_or(top)).or_default().push(name.to_owned());
    }
    let mut rows: Vec<_> = rows.into_values().collect();
    rows.iter_mut().for_each(|row| row.sort_by_key(|name| natural(name)));
    rows
}

/// host2 before host10.
fn natural(name: &str) -> (String, u64, String) {
    let digits = name.len() - name.trim_end_matches(|c: char| c.is_ascii_digit()).len();
    let (stem, number) = name.split_at(name.len() - digits);
    (stem.to_owned(), number.parse().unwrap_or_default(), name.to_owned())
}

fn node_of(port: &str) -> &str {
    port.split_once(':').map_or(port, |(node, _)| node)
}

/// Characters that XML reserves, and those that it cannot hold.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// A picture of its own.
#[must_use]
pub fn svg(map: &Row) -> String {
    let rows = rows(map);
    let widest = rows.iter().map(Vec::len).max().unwrap_or(0).max(1);
    let (width, height) = (widest * ACROSS + ACROSS / 2, rows.len().max(1) * DOWN);
    let mut place: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for (number, row) in rows.iter().enumerate() {
        for (at, name) in row.iter().enumerate() {
            // Each node in the middle of its share of the row.
            let x = (2 * at + 1) * width / (2 * row.len());
            place.insert(name, (x, height - DOWN / 2 - number * DOWN));
        }
    }
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    let mut drawn: BTreeMap<(&str, &str), i64> = BTreeMap::new();
    let links = map.rows("links");
    for link in &links {
        let (a, b) = (node_of(link.text("a")), node_of(link.text("b")));
        let (Some((x1, y1)), Some((x2, y2))) = (place.get(a), place.get(b)) else { continue };
        // Cables beside each other are drawn beside each other.
        let beside = drawn.entry((a, b)).or_default();
        let shift = (*beside + 1) / 2 * if *beside % 2 == 0 { 6 } else { -6 };
        *beside += 1;
        let (colour, dash) = if link.flag("up") { ("#555", "") } else { ("#c00", " stroke-dasharray=\"6 4\"") };
        let shifted = |x: &usize| i64::try_from(*x).unwrap_or(i64::MAX).saturating_add(shift);
        text += &format!(
            "<line x1=\"{}\" y1=\"{y1}\" x2=\"{}\" y2=\"{y2}\" stroke=\"{colour}\"{dash}><title>{}</title></line>\n",
            shifted(x1),
            shifted(x2),
            escaped(link.text("name"))
        );
    }
    let kinds: BTreeMap<String, String> =
        map.rows("nodes").iter().map(|node| (node.text("name").to_owned(), node.text("kind").to_owned())).collect();
    for (name, (x, y)) in &place {
        let fill = if kinds.get(*name).is_some_and(|kind| kind == "host") { "#e8f0fe" } else { "#fef3e0" };
        text += &format!(
            "<rect x=\"{}\" y=\"{}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" rx=\"4\" fill=\"{fill}\" stroke=\"#333\"/>\n\
             <text x=\"{x}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n",
            x.saturating_sub(WIDTH / 2),
            y.saturating_sub(HEIGHT / 2),
            y + 4,
            escaped(name)
        );
    }
    text + "</svg>\n"
}

/// For Graphviz: `railwatch topology -o dot | dot -Tpdf`.
#[must_use]
pub fn dot(map: &Row) -> String {
    let quoted = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
    let mut text = String::from("graph fabric {\n  rankdir=BT;\n  node [shape=box];\n");
    for row in rows(map) {
        let names: Vec<_> = row.iter().map(|name| quoted(name)).collect();
        text += &format!("  {{ rank=same; {}; }}\n", names.join("; "));
    }
    for link in map.rows("links") {
        let (a, b) = (link.text("a"), link.text("b"));
        let port = |end: &str| quoted(end.split_once(':').map_or("", |(_, port)| port));
        let style = if link.flag("up") { "" } else { ", style=dashed, color=red" };
        text += &format!(
            "  {} -- {} [taillabel={}, headlabel={}{style}];\n",
            quoted(node_of(a)),
            quoted(node_of(b)),
            port(a),
            port(b)
        );
    }
    text + "}\n"
}
