//! The graph in the language of Mermaid, which wikis and code hosts draw.

use wire::topology::{Edge, EdgeKind, Node, NodeKind, Topology};

/// The text of a flow chart.
#[must_use]
pub fn mermaid(topology: &Topology) -> String {
    let mut out = String::from("flowchart TB\n");
    let nodes = &topology.nodes;
    for (number, node) in nodes.iter().enumerate() {
        out.push_str(&format!("  n{number}{}\n", shape(node)));
    }
    for edge in &topology.edges {
        out.push_str(&arrow(edge, nodes).unwrap_or_default());
    }
    out.push_str("  classDef host fill:#eef1f5,stroke:#7a8798,color:#1c2430\n");
    out.push_str("  classDef network fill:#e6eefb,stroke:#2563c9,color:#1c2430\n");
    out.push_str("  classDef container fill:#ffffff,stroke:#566274,color:#1c2430\n");
    for (kind, class) in [
        (NodeKind::Host, "host"),
        (NodeKind::Network, "network"),
        (NodeKind::Container, "container"),
    ] {
        let all = nodes.iter().enumerate();
        let members: Vec<String> = all
            .filter(|(_, node)| node.kind == kind)
            .map(|(number, _)| format!("n{number}"))
            .collect();
        if !members.is_empty() {
            out.push_str(&format!("  class {} {class}\n", members.join(",")));
        }
    }
    out
}

fn shape(node: &Node) -> String {
    let mut lines = vec![format!("<b>{}</b>", escaped(&node.label))];
    lines.extend(node.details.iter().map(|line| escaped(line)));
    if !node.marks.is_empty() {
        lines.push(format!("<i>{}</i>", escaped(&node.marks.join(", "))));
    }
    let text = lines.join("<br/>");
    match node.kind {
        NodeKind::Host => format!("([\"{text}\"])"),
        NodeKind::Network => format!("{{{{\"{text}\"}}}}"),
        NodeKind::Container => format!("[\"{text}\"]"),
    }
}

fn arrow(edge: &Edge, nodes: &[Node]) -> Option<String> {
    let number = |id: &str| nodes.iter().position(|node| node.id == id);
    let (from, to) = (number(&edge.from)?, number(&edge.to)?);
    let label = if edge.label.is_empty() {
        String::new()
    } else {
        format!("|\"{}\"|", escaped(&edge.label))
    };
    // Mermaid ranks what an arrow comes from above what it leads to: host, networks, containers.
    Some(match edge.kind {
        EdgeKind::Uplink => format!("  n{to} <--> n{from}\n"),
        EdgeKind::Attached => format!("  n{to} ---{label} n{from}\n"),
        EdgeKind::Published => format!("  n{from} ==>{label} n{to}\n"),
    })
}

/// Text in which nothing is markup: what is not plain is written as the number of its character.
fn escaped(text: &str) -> String {
    let safe = |letter: char| {
        letter.is_alphanumeric() || matches!(letter, ' ' | '-' | '_' | '.' | ',' | '/' | '+' | '→')
    };
    let write = |letter: char| {
        if safe(letter) {
            letter.to_string()
        } else {
            format!("#{};", u32::from(letter))
        }
    };
    text.chars().map(write).collect()
}
