//! Drawings: the same facts give the same picture, nothing overlaps, and nothing that people name gets out of its place.

use netbackend::inspect::inspection;
use netbackend::schema::Name;
use netbackend::topology::layout::{Lane, Line, Picture, Rect, Stroke, layout};
use netbackend::topology::svg::{Theme, svg};
use netbackend::topology::{graph, mermaid};
use serde_json::json;
use test_fixtures::golden;
use wire::topology::EdgeKind;

use crate::facts::{self, World, busy, crowd, hostile, one, shop};
use crate::validator::check;

fn worlds() -> [(&'static str, World); 6] {
    [
        ("nothing", World::new()),
        ("one", one()),
        ("shop", shop()),
        ("busy", busy()),
        ("crowd", crowd()),
        ("hostile", hostile()),
    ]
}

fn picture(world: &World) -> Picture {
    layout(&inspection(&world.facts))
}

#[test]
fn drawings() {
    for (name, world) in worlds() {
        let drawn = svg(&picture(&world), Theme::Auto);
        golden::assert_matches(facts::golden(&format!("{name}.svg")), &drawn);
    }
    let dark = svg(&picture(&shop()), Theme::Dark);
    golden::assert_matches(facts::golden("shop-dark.svg"), &dark);
}

#[test]
fn charts() {
    for (name, world) in worlds() {
        let chart = mermaid::mermaid(&graph(&inspection(&world.facts)));
        golden::assert_matches(facts::golden(&format!("{name}.mmd")), &chart);
    }
}

/// Frames lie within the picture, cards, tabs, marks and tags within their lane, and none of them on another.
#[test]
fn nothing_overlaps() {
    for (name, world) in worlds() {
        let picture = picture(&world);
        let whole = Rect {
            w: picture.width,
            h: picture.height,
            ..Rect::default()
        };
        let lanes: Vec<Rect> = picture.lanes.iter().map(|lane| lane.rect).collect();
        assert_apart(name, whole, &lanes);
        assert_apart(name, whole, &[picture.host]);
        for lane in &picture.lanes {
            assert_apart(name, lane.rect, &boxes(lane));
        }
        for line in &picture.lines {
            assert_line(name, whole, line);
        }
    }
}

fn boxes(lane: &Lane) -> Vec<Rect> {
    let cards = lane.cards.iter().map(|card| card.rect);
    let badges = lane.cards.iter().flat_map(|card| &card.badges);
    let pills = lane.marks.iter().chain(&lane.tags).chain(badges);
    cards.chain(pills.map(|pill| pill.rect)).collect()
}

fn assert_apart(name: &str, whole: Rect, boxes: &[Rect]) {
    for (place, one) in boxes.iter().enumerate() {
        let inside = whole.x <= one.x
            && whole.y <= one.y
            && one.right() <= whole.right()
            && one.bottom() <= whole.bottom();
        assert!(inside, "{name}: {one:?} is not within {whole:?}");
        for other in &boxes[..place] {
            let apart = one.right() <= other.x
                || other.right() <= one.x
                || one.bottom() <= other.y
                || other.bottom() <= one.y;
            assert!(apart, "{name}: {one:?} is on {other:?}");
        }
    }
}

/// Lines have right angles and stay in the picture.
fn assert_line(name: &str, whole: Rect, line: &Line) {
    for pair in line.points.windows(2) {
        assert!(
            (pair[0].0 == pair[1].0) != (pair[0].1 == pair[1].1),
            "{name}: {line:?}"
        );
    }
    for (x, y) in &line.points {
        assert!(
            (0..=whole.w).contains(x) && (0..=whole.h).contains(y),
            "{name}: {line:?}"
        );
    }
}

/// Each further network of a container has a tag, and a line that ends there; no line runs through a card or a tag.
#[test]
fn members_are_led_to_their_tags() {
    for (name, world) in worlds() {
        let picture = picture(&world);
        let further: usize = world
            .facts
            .containers
            .iter()
            .map(|one| one.attachments.len() + one.others.len() - 1)
            .sum();
        let tags: Vec<Rect> = picture
            .lanes
            .iter()
            .flat_map(|lane| &lane.tags)
            .map(|tag| tag.rect)
            .collect();
        let lines: Vec<&Line> = picture
            .lines
            .iter()
            .filter(|line| matches!(line.stroke, Stroke::Member(_)))
            .collect();
        assert_eq!((tags.len(), lines.len()), (further, further), "{name}");
        for tag in &tags {
            let end = (tag.right(), tag.y + tag.h / 2);
            let ends = lines.iter().filter(|line| line.points.last() == Some(&end));
            assert_eq!(ends.count(), 1, "{name}: {tag:?}");
        }
        let obstacles = picture.lanes.iter().flat_map(boxes);
        for obstacle in obstacles {
            for line in &lines {
                assert!(
                    !line.points.windows(2).any(|pair| crosses(pair, obstacle)),
                    "{name}: {line:?} {obstacle:?}"
                );
            }
        }
    }
}

/// Whether a straight piece of a line is seen within a box, not counting its border.
fn crosses(pair: &[(i32, i32)], place: Rect) -> bool {
    let (left, right) = (pair[0].0.min(pair[1].0), pair[0].0.max(pair[1].0));
    let (top, bottom) = (pair[0].1.min(pair[1].1), pair[0].1.max(pair[1].1));
    left < place.right()
        && place.x < right.max(left + 1)
        && top < place.bottom()
        && place.y < bottom.max(top + 1)
}

/// Each element is closed, each reference is one of those that XML knows, and nothing of a name is an element.
#[test]
fn drawings_are_documents() {
    for (name, world) in worlds() {
        for theme in [Theme::Auto, Theme::Light, Theme::Dark] {
            assert_well_formed(name, &svg(&picture(&world), theme));
        }
    }
}

fn assert_well_formed(name: &str, text: &str) {
    const KNOWN: [&str; 9] = [
        "svg", "title", "desc", "style", "rect", "path", "circle", "g", "text",
    ];
    let mut open = Vec::new();
    for piece in text.split('<').skip(1) {
        let (tag, rest) = piece
            .split_once('>')
            .unwrap_or_else(|| panic!("{name}: <{piece}"));
        for reference in rest.split('&').skip(1) {
            let reference = reference.split(';').next().unwrap();
            assert!(
                ["amp", "lt", "gt", "quot", "#39"].contains(&reference),
                "{name}: &{reference}"
            );
        }
        assert!(
            rest.chars()
                .all(|letter| letter == '\n' || !letter.is_control()),
            "{name}: {rest:?}"
        );
        if let Some(closed) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(closed), "{name}");
            continue;
        }
        let element = tag.split([' ', '/', '\n']).next().unwrap();
        assert!(KNOWN.contains(&element), "{name}: <{tag}>");
        if !tag.ends_with('/') {
            open.push(element);
        }
    }
    assert!(open.is_empty(), "{name}: {open:?} are not closed");
}

#[test]
fn a_graph_is_as_described_and_its_ends_are_there() {
    for (name, world) in worlds() {
        let graph = graph(&inspection(&world.facts));
        check(&Name::Topology.schema(), &json!(graph))
            .unwrap_or_else(|why| panic!("{name}: {why}"));
        let is_node = |id: &String| graph.nodes.iter().filter(|node| node.id == *id).count() == 1;
        assert!(
            graph
                .edges
                .iter()
                .all(|edge| is_node(&edge.from) && is_node(&edge.to)),
            "{name}"
        );
    }
    let graph = graph(&inspection(&shop().facts));
    let of_kind = |kind| graph.edges.iter().filter(|edge| edge.kind == kind).count();
    assert_eq!(of_kind(EdgeKind::Attached), 8);
    assert_eq!(of_kind(EdgeKind::Published), 3);
    assert_eq!(of_kind(EdgeKind::Uplink), 3, "all but the internal network");
}

/// A chart's lines are ours, whatever a container is called.
#[test]
fn names_are_no_commands_of_a_chart() {
    let chart = mermaid::mermaid(&graph(&inspection(&hostile().facts)));
    let ours = ["flowchart TB", "  n", "  classDef ", "  class "];
    assert!(
        chart
            .lines()
            .all(|line| ours.iter().any(|start| line.starts_with(start))),
        "{chart}"
    );
    for line in chart.lines().filter(|line| line.contains('"')) {
        assert_eq!(line.matches('"').count(), 2, "{line}");
        let text = line.split('"').nth(1).unwrap();
        let text = ["<b>", "</b>", "<i>", "</i>", "<br/>"]
            .iter()
            .fold(text.to_owned(), |text, tag| text.replace(tag, ""));
        assert!(
            !text.contains(['<', '>', '&', '"', '`', '[', ']', '(', ')', '{', '}']),
            "{line}"
        );
    }
}

/// What was cut is told whole, ports that are the same on both sides once.
#[test]
fn what_is_cut_has_a_title() {
    let drawn = svg(&picture(&hostile()), Theme::Light);
    for whole in [
        "a-very-long-network-name-that-goes-on-and-on-until-nobody-reads-it",
        "[2001:db8:ffff:ffff::1]:1780-1789→2000-2009/sctp",
        "&lt;/text&gt;&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&amp;amp;&quot;\\u{1b}[31m",
    ] {
        let titles = drawn
            .split("<title>")
            .skip(1)
            .map(|rest| rest.split("</title>").next().unwrap());
        assert!(
            titles.into_iter().any(|title| title.contains(whole)),
            "{whole}"
        );
    }
    let drawn = svg(&picture(&crowd()), Theme::Light);
    assert!(drawn.contains(">192.0.2.10:9000-9009/udp<"));
}
