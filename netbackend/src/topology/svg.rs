//! The picture as SVG 1.1, without scripts, fonts or anything else from elsewhere.
//!
//! Colours are classes of a style sheet, so that one picture is legible on light and on dark ground: browsers choose by
//! what their user prefers, programs that know no such thing draw the light one, and a [`Theme`] fixes it. All text is
//! escaped; what was cut is whole in a title, which viewers show to who points at it.

use std::fmt::{self, Write};

use super::layout::{Card, Lane, Line, NAME, Picture, Pill, Rect, Stroke, Text};
use super::measure::Font;

/// The font of the legend.
const LEGEND: Font = Font::Bold(120);

/// On which ground the picture is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Theme {
    /// As the viewer's user prefers.
    #[default]
    Auto,
    /// Light.
    Light,
    /// Dark.
    Dark,
}

/// Colours of one ground.
struct Palette {
    ground: &'static str,
    text: &'static str,
    faint: &'static str,
    card: &'static str,
    edge: &'static str,
    host: &'static str,
    uplink: &'static str,
    ports: &'static str,
    on_ports: &'static str,
    bad: &'static str,
    networks: [&'static str; super::layout::COLOURS],
}

const LIGHT: Palette = Palette {
    ground: "#ffffff",
    text: "#1c2430",
    faint: "#566274",
    card: "#ffffff",
    edge: "#b6c0cd",
    host: "#eef1f5",
    uplink: "#7a8798",
    ports: "#c2410c",
    on_ports: "#ffffff",
    bad: "#c81e1e",
    networks: [
        "#2563c9", "#0f7f7a", "#7c3fbf", "#b02a6b", "#3f7d20", "#8a5a13", "#4a5fa5", "#66707d",
    ],
};

const DARK: Palette = Palette {
    ground: "#12171f",
    text: "#e8edf4",
    faint: "#a3b0c2",
    card: "#1b222d",
    edge: "#475365",
    host: "#222b38",
    uplink: "#8f9db0",
    ports: "#ff9a5c",
    on_ports: "#2a1204",
    bad: "#ff7b7b",
    networks: [
        "#7fb0ff", "#4fd1c5", "#c39bff", "#ff8fc2", "#9bd66f", "#e3b565", "#9fb2ff", "#aab6c4",
    ],
};

/// The text of the file.
#[must_use]
pub fn svg(picture: &Picture, theme: Theme) -> String {
    let mut out = String::new();
    write_picture(&mut out, picture, theme).expect("writing to a string does not fail");
    out
}

fn write_picture(out: &mut String, picture: &Picture, theme: Theme) -> fmt::Result {
    let (width, height) = (picture.width, picture.height);
    writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" role=\"img\">"
    )?;
    writeln!(
        out,
        "<title>Container networks</title>\n<desc>{}</desc>",
        Escaped(&picture.summary)
    )?;
    style(out, theme)?;
    writeln!(
        out,
        "<rect class=\"ground\" width=\"{width}\" height=\"{height}\"/>"
    )?;
    for lane in &picture.lanes {
        frame(out, lane)?;
    }
    host(out, picture)?;
    // Lines lie between the frames and what is in them. What lies beneath shows on both sides of a crossing.
    for line in &picture.lines {
        stroke(out, line)?;
    }
    for lane in &picture.lanes {
        contents(out, lane)?;
    }
    legend(out, picture)?;
    out.push_str("</svg>\n");
    Ok(())
}

fn style(out: &mut String, theme: Theme) -> fmt::Result {
    out.push_str(
        "<style>\n\
         text { font-family: system-ui, 'Segoe UI', 'DejaVu Sans', Arial, sans-serif; font-size: 13px; }\n\
         .small { font-family: ui-monospace, 'DejaVu Sans Mono', Consolas, monospace; font-size: 11.5px; }\n\
         .name { font-weight: bold; font-size: 14px; }\n\
         .lanename { font-weight: bold; font-size: 16px; }\n\
         .title { font-weight: bold; font-size: 20px; }\n\
         .pill { font-weight: bold; font-size: 10.5px; }\n\
         .line { fill: none; stroke-width: 1.6; stroke-linejoin: round; }\n",
    );
    match theme {
        Theme::Light => colours(out, &LIGHT)?,
        Theme::Dark => colours(out, &DARK)?,
        Theme::Auto => {
            colours(out, &LIGHT)?;
            out.push_str("@media (prefers-color-scheme: dark) {\n");
            colours(out, &DARK)?;
            out.push_str("}\n");
        }
    }
    out.push_str("</style>\n");
    Ok(())
}

fn colours(out: &mut String, colours: &Palette) -> fmt::Result {
    let Palette {
        ground,
        text,
        faint,
        card,
        edge,
        host,
        uplink,
        ports,
        on_ports,
        bad,
        networks,
    } = colours;
    writeln!(
        out,
        ".ground {{ fill: {ground}; }}\ntext {{ fill: {text}; }}\n.faint {{ fill: {faint}; }}\n\
         .card {{ fill: {card}; stroke: {edge}; }}\n.card.bad {{ stroke: {bad}; }}\n\
         .host {{ fill: {host}; stroke: {edge}; }}\n\
         .uplink {{ stroke: {uplink}; }}\n.uplink-tip {{ fill: {uplink}; }}\n\
         .ports {{ stroke: {ports}; }}\n.ports-tip {{ fill: {ports}; }}\n.on-ports {{ fill: {on_ports}; }}\n\
         .alarm {{ fill: {bad}; }}\n.on-alarm {{ fill: {ground}; }}"
    )?;
    for (number, colour) in networks.iter().enumerate() {
        writeln!(
            out,
            ".n{number} {{ stroke: {colour}; }}\n.n{number}-tip {{ fill: {colour}; }}\n\
             .n{number}-lane {{ fill: {colour}; fill-opacity: 0.07; stroke: {colour}; stroke-opacity: 0.55; }}\n\
             .n{number}-tag {{ fill: {card}; stroke: {colour}; }}"
        )?;
    }
    Ok(())
}

/// A text that is part of a document.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for letter in self.0.chars() {
            match letter {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                // No document may have these.
                '\u{fffe}' | '\u{ffff}' => f.write_char('\u{fffd}')?,
                letter if letter.is_control() => f.write_char('\u{fffd}')?,
                letter => f.write_char(letter)?,
            }
        }
        Ok(())
    }
}

fn rect(out: &mut String, class: &str, place: Rect, radius: i32, more: &str) -> fmt::Result {
    let Rect { x, y, w, h } = place;
    writeln!(
        out,
        "<rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{w}\" height=\"{h}\" rx=\"{radius}\"{more}/>"
    )
}

fn label(out: &mut String, class: &str, (x, y): (i32, i32), text: &str) -> fmt::Result {
    writeln!(
        out,
        "<text class=\"{class}\" x=\"{x}\" y=\"{y}\">{}</text>",
        Escaped(text)
    )
}

/// A text, with all of it as its title where some was cut.
fn text(out: &mut String, class: &str, at: (i32, i32), text: &Text) -> fmt::Result {
    if text.shown == text.full {
        return label(out, class, at, &text.shown);
    }
    write!(out, "<g><title>{}</title>", Escaped(&text.full))?;
    label(out, class, at, &text.shown)?;
    writeln!(out, "</g>")
}

fn host(out: &mut String, picture: &Picture) -> fmt::Result {
    let place = picture.host;
    label(out, "title", (place.x, 48), "Container networks")?;
    label(out, "faint", (place.x, 69), &picture.summary)?;
    if picture.uplink.is_some() {
        outside(out, place)?;
    }
    rect(out, "host", place, 10, "")?;
    machine(out, (place.x + 18, place.y + 14))?;
    let y = place.y + 31;
    label(out, "name", (place.x + 54, y), "host")?;
    match &picture.uplink {
        None => label(out, "faint", (place.x + 102, y), "no way out"),
        Some((interface, addresses)) => {
            text(out, "name", (place.x + 102, y), interface)?;
            let x = place.x + 116 + NAME.width(&interface.shown);
            text(out, "small faint", (x, y), addresses)
        }
    }
}

/// What is beyond the host, above it.
fn outside(out: &mut String, host: Rect) -> fmt::Result {
    let middle = host.x + host.w / 2;
    let cloud = Rect {
        x: middle - 70,
        y: host.y - 60,
        w: 140,
        h: 28,
    };
    rect(out, "host", cloud, 14, " stroke-dasharray=\"4 3\"")?;
    writeln!(
        out,
        "<text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\">outside</text>",
        cloud.y + 18
    )?;
    let (top, bottom) = (cloud.bottom() + 2, host.y - 2);
    writeln!(
        out,
        "<path class=\"line uplink\" d=\"M{middle} {top}V{bottom}\"/>"
    )?;
    tip(out, "uplink-tip", (middle, top), (0, -1))?;
    tip(out, "uplink-tip", (middle, bottom), (0, 1))
}

/// A machine: a box with two slots and a lamp.
fn machine(out: &mut String, (x, y): (i32, i32)) -> fmt::Result {
    let icon = Rect { x, y, w: 22, h: 24 };
    rect(out, "card", icon, 3, "")?;
    for slot in [7, 13] {
        writeln!(
            out,
            "<path class=\"line uplink\" d=\"M{} {}h12\"/>",
            x + 5,
            y + slot
        )?;
    }
    writeln!(
        out,
        "<circle class=\"ports-tip\" cx=\"{}\" cy=\"{}\" r=\"1.8\"/>",
        x + 16,
        y + 19
    )
}

/// A triangle with its point here, in this direction.
fn tip(out: &mut String, class: &str, (x, y): (i32, i32), (dx, dy): (i32, i32)) -> fmt::Result {
    let (back_x, back_y) = (x - 7 * dx, y - 7 * dy);
    let (left, right) = (
        (back_x + 4 * dy, back_y + 4 * dx),
        (back_x - 4 * dy, back_y - 4 * dx),
    );
    writeln!(
        out,
        "<path class=\"{class}\" d=\"M{x} {y}L{} {}L{} {}Z\"/>",
        left.0, left.1, right.0, right.1
    )
}

fn frame(out: &mut String, lane: &Lane) -> fmt::Result {
    let dashes = if lane.closed {
        " stroke-dasharray=\"6 4\""
    } else {
        ""
    };
    let class = format!("n{}-lane", lane.colour);
    rect(out, &class, lane.rect, 10, dashes)?;
    let stripe = Rect {
        y: lane.rect.y + 10,
        w: 5,
        h: lane.rect.h - 20,
        ..lane.rect
    };
    rect(out, &format!("n{}-tip", lane.colour), stripe, 2, "")
}

fn contents(out: &mut String, lane: &Lane) -> fmt::Result {
    let (x, mut y) = (lane.rect.x + 18, lane.rect.y + 34);
    text(out, "lanename", (x, y), &lane.name)?;
    if !lane.complaints.is_empty() {
        alarm(out, (lane.rect.x + 204, y - 5), &lane.complaints)?;
    }
    for line in &lane.lines {
        y += 16;
        let y = y + 2;
        text(out, "small faint", (x, y), line)?;
    }
    for mark in &lane.marks {
        rect(out, &format!("n{}-tag", lane.colour), mark.rect, 9, "")?;
        pill_text(out, "pill", mark, 13)?;
    }
    for tag in &lane.tags {
        rect(out, &format!("n{}-tag", lane.colour), tag.rect, 4, "")?;
        text(out, "small", (tag.rect.x + 8, tag.rect.y + 13), &tag.text)?;
    }
    lane.cards.iter().try_for_each(|one| card(out, one))
}

fn pill_text(out: &mut String, class: &str, pill: &Pill, down: i32) -> fmt::Result {
    let at = (pill.rect.x + 7, pill.rect.y + down);
    text(out, class, at, &pill.text)
}

fn card(out: &mut String, card: &Card) -> fmt::Result {
    for badge in &card.badges {
        let place = Rect {
            h: badge.rect.h - 2,
            ..badge.rect
        };
        rect(out, "ports-tip", place, 5, "")?;
        let at = (badge.rect.x + 8, badge.rect.y + 13);
        text(out, "pill on-ports", at, &badge.text)?;
    }
    let Rect { x, y, .. } = card.rect;
    write!(
        out,
        "<g><title>{}</title>",
        Escaped(&format!("{}\n{}", card.name.full, card.id))
            .to_string()
            .replace('\u{fffd}', " ")
    )?;
    let (class, dashes) = if card.complaints.is_empty() {
        ("card", "")
    } else {
        ("card bad", " stroke-dasharray=\"5 3\"")
    };
    rect(out, class, card.rect, 7, dashes)?;
    label(out, "name", (x + 12, y + 23), &card.name.shown)?;
    writeln!(out, "</g>")?;
    if !card.complaints.is_empty() {
        alarm(out, (card.rect.right() - 16, y + 18), &card.complaints)?;
    }
    let mut baseline = y + 26;
    for line in &card.lines {
        baseline += 16;
        let mut at = (x + 12, baseline);
        if let Some(colour) = line.colour {
            writeln!(
                out,
                "<circle class=\"n{colour}-tip\" cx=\"{}\" cy=\"{}\" r=\"4\"/>",
                x + 16,
                baseline - 4
            )?;
            at.0 += 12;
        }
        text(out, "small faint", at, &line.text)?;
    }
    Ok(())
}

/// A sign with what is wrong as its title.
fn alarm(out: &mut String, (x, y): (i32, i32), complaints: &[String]) -> fmt::Result {
    writeln!(
        out,
        "<g><title>{}</title><circle class=\"alarm\" cx=\"{x}\" cy=\"{y}\" r=\"8\"/>\
         <text class=\"pill on-alarm\" x=\"{x}\" y=\"{}\" text-anchor=\"middle\">!</text></g>",
        complaints
            .iter()
            .map(|complaint| Escaped(complaint).to_string())
            .collect::<Vec<_>>()
            .join("\n"),
        y + 4
    )
}

fn stroke(out: &mut String, line: &Line) -> fmt::Result {
    let class = match line.stroke {
        Stroke::Uplink => "uplink".to_owned(),
        Stroke::Published => "ports".to_owned(),
        Stroke::Member(colour) => format!("n{colour}"),
    };
    let path = path(&line.points);
    writeln!(out, "<path class=\"line {class}\" d=\"{path}\"/>")?;
    let (Some(end), Some(before)) = (line.points.last(), line.points.iter().rev().nth(1)) else {
        return Ok(());
    };
    if line.arrow {
        let direction = ((end.0 - before.0).signum(), (end.1 - before.1).signum());
        tip(out, &format!("{class}-tip"), *end, direction)
    } else if line.stroke == Stroke::Uplink {
        writeln!(
            out,
            "<circle class=\"uplink-tip\" cx=\"{}\" cy=\"{}\" r=\"4\"/>",
            end.0, end.1
        )
    } else {
        Ok(())
    }
}

/// The line with its corners rounded.
fn path(points: &[(i32, i32)]) -> String {
    let mut path = String::new();
    let toward = |from: (i32, i32), to: (i32, i32)| {
        let (dx, dy) = (to.0 - from.0, to.1 - from.1);
        let length = dx.abs().max(dy.abs());
        let cut = (length / 2).min(5);
        (from.0 + dx.signum() * cut, from.1 + dy.signum() * cut)
    };
    for (place, point) in points.iter().enumerate() {
        let before = place.checked_sub(1).and_then(|place| points.get(place));
        let piece = match (before, points.get(place + 1)) {
            (None, _) => format!("M{} {}", point.0, point.1),
            (Some(_), None) => format!("L{} {}", point.0, point.1),
            (Some(before), Some(after)) => {
                let (start, end) = (toward(*point, *before), toward(*point, *after));
                format!(
                    "L{} {}Q{} {} {} {}",
                    start.0, start.1, point.0, point.1, end.0, end.1
                )
            }
        };
        path.push_str(&piece);
    }
    path
}

/// What the lines mean, for those that are there.
fn legend(out: &mut String, picture: &Picture) -> fmt::Result {
    let (mut x, y) = (picture.host.x, picture.height - 26);
    let has = |wanted: fn(&Stroke) -> bool| picture.lines.iter().any(|line| wanted(&line.stroke));
    let entries = [
        (
            has(|stroke| *stroke == Stroke::Published),
            "ports",
            "published port, from the host",
        ),
        (
            has(|stroke| *stroke == Stroke::Uplink),
            "uplink",
            "reaches the outside",
        ),
        (
            has(|stroke| matches!(stroke, Stroke::Member(_))),
            "n7",
            "further network of a container",
        ),
    ];
    for (_, class, words) in entries.into_iter().filter(|entry| entry.0) {
        sample(out, class, (x, y))?;
        label(out, "faint", (x + 40, y + 4), words)?;
        x += 68 + LEGEND.width(words);
    }
    if picture.lanes.iter().any(|lane| lane.closed) {
        let sample = Rect {
            x,
            y: y - 7,
            w: 26,
            h: 14,
        };
        rect(out, "n7-lane", sample, 4, " stroke-dasharray=\"6 4\"")?;
        label(out, "faint", (x + 36, y + 4), "closed to the outside")?;
    }
    Ok(())
}

/// A piece of a line, as it ends in the picture.
fn sample(out: &mut String, class: &str, (x, y): (i32, i32)) -> fmt::Result {
    writeln!(out, "<path class=\"line {class}\" d=\"M{x} {y}h26\"/>")?;
    if class != "uplink" {
        return tip(out, &format!("{class}-tip"), (x + 32, y), (1, 0));
    }
    writeln!(
        out,
        "<circle class=\"uplink-tip\" cx=\"{}\" cy=\"{y}\" r=\"4\"/>",
        x + 28
    )
}
