//! Where everything is, in pixels.
//!
//! The number of cards in a row is a free choice. Pictures with 1 to [`MOST_COLUMNS`] of them are laid out, and the one is
//! taken whose shape is nearest to that of a screen. All lanes are equally wide.
//!
//! What may be long is bounded where it is drawn: text is cut to its room, lists end with how many more there are. The
//! whole grows with the number of containers and nothing else.

use std::collections::BTreeMap;

use wire::inspection::{Attachment, Container, Inspection, Network, Uplink};

use super::measure::Font;
use crate::inspect::text::printable;

/// No picture has more cards in a row.
pub const MOST_COLUMNS: usize = 10;
/// Width and height of the wanted shape.
const SHAPE: (i32, i32) = (16, 10);
/// Free space around everything.
const MARGIN: i32 = 28;
/// Room for the lines on the left.
const GUTTER: i32 = 58;
/// The narrowest picture.
const NARROWEST: i32 = 860;
/// The column of a lane that tells about the network.
const HEADER: i32 = 232;
/// A card, and what is between cards.
const CARD: i32 = 212;
const GAP: i32 = 16;
/// The column of tags.
const TAGS: i32 = 236;
const TAG_HEIGHT: i32 = 22;
/// Free space between lanes, and inside of them.
const LANE_GAP: i32 = 18;
const PAD: i32 = 14;
/// Above the cards of a row: where the line to ports runs, and how far below it tabs begin.
const CHANNEL: i32 = 18;
/// The height of a tab with a port.
const BADGE: i32 = 20;
/// Below the cards of a row: from the cards to the first line, and from line to line.
const BELOW: i32 = 7;
const LINE: i32 = 7;
/// From track to track in the gutter on the right.
const TRACK: i32 = 9;
/// At most so many ports and so many lines are on a card, and so many lines in a header.
const MOST_BADGES: usize = 6;
const MOST_LINES: usize = 5;
/// The lane's colours repeat after these.
pub const COLOURS: usize = 8;

/// The fonts of the picture; `svg` uses the same sizes.
pub(super) const NAME: Font = Font::Bold(140);
pub(super) const LANE_NAME: Font = Font::Bold(160);
pub(super) const SMALL: Font = Font::Mono(115);
pub(super) const PILL: Font = Font::Bold(105);

/// A place, from its top left corner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rect {
    /// From the left.
    pub x: i32,
    /// From the top.
    pub y: i32,
    /// Its width.
    pub w: i32,
    /// Its height.
    pub h: i32,
}

impl Rect {
    /// Where it ends on the right.
    #[must_use]
    pub fn right(&self) -> i32 {
        self.x + self.w
    }

    /// Where it ends below.
    #[must_use]
    pub fn bottom(&self) -> i32 {
        self.y + self.h
    }
}

/// A text as there is room for it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Text {
    /// What is drawn.
    pub shown: String,
    /// All of it.
    pub full: String,
}

impl Text {
    fn new(full: &str, font: Font, room: i32) -> Self {
        let full = printable(full);
        Self {
            shown: font.fit(&full, room),
            full,
        }
    }
}

/// A small label in a frame of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pill {
    /// Where it is.
    pub rect: Rect,
    /// What it says.
    pub text: Text,
}

/// A line of text on a card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CardLine {
    /// The colour of the network that it is about, if that is not the lane's.
    pub colour: Option<usize>,
    /// What it says.
    pub text: Text,
}

/// A container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Card {
    /// Where it is.
    pub rect: Rect,
    /// Its name.
    pub name: Text,
    /// Its id, for who points at it.
    pub id: String,
    /// Its interfaces and addresses.
    pub lines: Vec<CardLine>,
    /// Its ports.
    pub badges: Vec<Pill>,
    /// What is wrong with it.
    pub complaints: Vec<String>,
}

/// A network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lane {
    /// Where it is.
    pub rect: Rect,
    /// The number of its colour.
    pub colour: usize,
    /// Its name.
    pub name: Text,
    /// What carries it, and its subnets.
    pub lines: Vec<Text>,
    /// What is special about it.
    pub marks: Vec<Pill>,
    /// Whether it is closed to the outside.
    pub closed: bool,
    /// The containers that are drawn here.
    pub cards: Vec<Card>,
    /// Those that are drawn elsewhere.
    pub tags: Vec<Pill>,
    /// What is wrong with it.
    pub complaints: Vec<String>,
}

/// What a line stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stroke {
    /// The way to the outside.
    Uplink,
    /// The way to published ports.
    Published,
    /// A container's way to a network in whose lane it is not, in that network's colour.
    Member(usize),
}

/// A line with right angles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// What it stands for.
    pub stroke: Stroke,
    /// Its corners.
    pub points: Vec<(i32, i32)>,
    /// Whether it ends in an arrow.
    pub arrow: bool,
}

/// The whole.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Picture {
    /// Its width.
    pub width: i32,
    /// Its height.
    pub height: i32,
    /// How many there are of what.
    pub summary: String,
    /// The host.
    pub host: Rect,
    /// Its way out: interface and addresses.
    pub uplink: Option<(Text, Text)>,
    /// The networks.
    pub lanes: Vec<Lane>,
    /// What joins them.
    pub lines: Vec<Line>,
}

/// The picture of what was found.
#[must_use]
pub fn layout(inspection: &Inspection) -> Picture {
    let drawing = Drawing::of(inspection);
    let most = drawing.lanes.iter().map(|lane| lane.homes.len());
    let most = most.max().unwrap_or_default().clamp(1, MOST_COLUMNS);
    let pictures = (1..=most).map(|columns| drawing.arrange(columns));
    // The first of equals: the narrower one.
    pictures
        .min_by_key(|picture| unlikeness(picture.width, picture.height))
        .unwrap_or_default()
}

/// How far a shape is from the wanted one, in either direction.
fn unlikeness(width: i32, height: i32) -> i64 {
    let wide = i64::from(width) * i64::from(SHAPE.1) * 1000;
    let high = i64::from(height.max(1)) * i64::from(SHAPE.0) * 1000;
    (wide * 1000 / high.max(1)).max(high * 1000 / wide.max(1))
}

/// A member of a network.
struct Member<'a> {
    container: &'a Container,
    on: &'a Attachment,
}

/// A network, with those that are drawn in its lane and those that are not.
struct LanePlan<'a> {
    network: Network,
    homes: Vec<Member<'a>>,
    guests: Vec<Member<'a>>,
}

struct Drawing<'a> {
    inspection: &'a Inspection,
    lanes: Vec<LanePlan<'a>>,
    /// The numbers of lanes by the ids of networks.
    numbers: BTreeMap<&'a str, usize>,
}

/// Where a line leaves a card: the number of the lane that it leads to, the container, and the first corners.
struct Start {
    lane: usize,
    container: String,
    corners: Vec<(i32, i32)>,
}

/// The line above a row: its height, and where its arrows end.
struct PortRow {
    y: i32,
    tips: Vec<(i32, i32)>,
}

/// The cards of a lane, in rows.
#[derive(Default)]
struct Rows {
    cards: Vec<Card>,
    /// Where lines run below rows, from and to which height.
    blocked: Vec<(i32, i32)>,
    /// Lines to ports, one for each row that has any.
    port_rows: Vec<Option<PortRow>>,
    /// Where they end.
    bottom: i32,
}

/// Where lines of members begin, and where they end, by lane and container.
#[derive(Default)]
struct Ends {
    starts: Vec<Start>,
    tags: BTreeMap<(usize, String), (i32, i32)>,
}

impl<'a> Drawing<'a> {
    fn of(inspection: &'a Inspection) -> Self {
        let mut lanes: Vec<LanePlan<'a>> = super::networks(inspection)
            .into_iter()
            .map(|network| LanePlan {
                network,
                homes: Vec::new(),
                guests: Vec::new(),
            })
            .collect();
        let mut numbers = BTreeMap::new();
        for on in inspection
            .containers
            .iter()
            .flat_map(|one| &one.attachments)
        {
            let number = lanes
                .iter()
                .position(|lane| lane.network.id == on.network_id);
            numbers.extend(number.map(|number| (on.network_id.as_str(), number)));
        }
        for container in &inspection.containers {
            let home = home(container, &lanes);
            for (place, on) in container.attachments.iter().enumerate() {
                let number = numbers.get(on.network_id.as_str());
                let Some(lane) = number.and_then(|number| lanes.get_mut(*number)) else {
                    continue;
                };
                let member = Member { container, on };
                if place == home {
                    lane.homes.push(member);
                } else {
                    lane.guests.push(member);
                }
            }
        }
        for lane in &mut lanes {
            lane.homes
                .sort_by_key(|member| super::ports(member.container).is_empty());
        }
        Self {
            inspection,
            lanes,
            numbers,
        }
    }

    fn arrange(&self, columns: usize) -> Picture {
        let has_tags = self.lanes.iter().any(|lane| !lane.guests.is_empty());
        let tags = if has_tags { TAGS + GAP } else { 0 };
        let cards = pixels(columns) * (CARD + GAP);
        let lane_width = (HEADER + cards + tags + PAD).max(NARROWEST - GUTTER - 2 * MARGIN);
        let uplink = self.inspection.uplink.as_ref();
        let above = if uplink.is_some() { 62 } else { 0 };
        let host = Rect {
            x: MARGIN,
            y: MARGIN + 46 + above,
            w: GUTTER + lane_width,
            h: 52,
        };
        let mut lanes = Vec::new();
        let mut ends = Ends::default();
        let mut lines = Vec::new();
        let mut y = host.bottom() + 34;
        for (number, plan) in self.lanes.iter().enumerate() {
            let place = Rect {
                x: MARGIN + GUTTER,
                y,
                w: lane_width,
                h: 0,
            };
            let lane = self.lane(number, plan, place, columns, &mut ends, &mut lines);
            y = lane.rect.bottom() + LANE_GAP;
            lanes.push(lane);
        }
        let tracks = member_lines(ends, host.right(), &mut lines);
        trunks(&host, &self.lanes, &lanes, &mut lines);
        Picture {
            width: host.right() + pixels(tracks) * TRACK + MARGIN,
            height: y - LANE_GAP + 44 + MARGIN / 2,
            summary: self.summary(),
            uplink: uplink.map(|uplink| uplink_texts(uplink, host.w - 330)),
            host,
            lanes,
            lines,
        }
    }

    fn summary(&self) -> String {
        let containers = &self.inspection.containers;
        let ports = containers.iter().map(|one| super::ports(one).len()).sum();
        let count = |number: usize, one: &str, many: &str| match number {
            1 => format!("1 {one}"),
            number => format!("{number} {many}"),
        };
        [
            count(self.lanes.len(), "network", "networks"),
            count(containers.len(), "container", "containers"),
            count(ports, "published port", "published ports"),
        ]
        .join("  ·  ")
    }

    fn lane(
        &self,
        number: usize,
        plan: &LanePlan<'_>,
        mut place: Rect,
        columns: usize,
        ends: &mut Ends,
        lines: &mut Vec<Line>,
    ) -> Lane {
        let network = &plan.network;
        let cards_x = place.x + HEADER;
        let rows = self.rows(number, plan, (cards_x, place.y + 4), columns, ends);
        let tag_corner = (place.right() - PAD - TAGS, place.y + PAD);
        let (tags, lowest) = tags(number, plan, tag_corner, &rows.blocked, ends);
        let (header, marks, header_bottom) = header(network, place);
        place.h = rows.bottom.max(lowest).max(header_bottom) + PAD / 2 - place.y;
        branch(place, cards_x, rows.port_rows, lines);
        Lane {
            rect: place,
            colour: number % COLOURS,
            name: Text::new(&network.name, LANE_NAME, HEADER - 2 * PAD - 14),
            lines: header,
            marks,
            closed: network.internal,
            cards: rows.cards,
            tags,
            complaints: super::complaints(network.parts.iter()),
        }
    }

    /// The cards of a lane, from this corner on.
    fn rows(
        &self,
        number: usize,
        plan: &LanePlan<'_>,
        (x, y): (i32, i32),
        columns: usize,
        ends: &mut Ends,
    ) -> Rows {
        let mut rows = Rows {
            bottom: y,
            ..Rows::default()
        };
        for row in plan.homes.chunks(columns.max(1)) {
            let top = rows.bottom;
            let laid = self.row(number, row, (x, top), ends);
            let bottom = laid.iter().map(|card| card.rect.bottom()).max();
            let mut bottom = bottom.unwrap_or(top);
            let leaving: usize = row
                .iter()
                .map(|one| one.container.attachments.len().saturating_sub(1))
                .sum();
            if leaving > 0 {
                let below = bottom + BELOW + pixels(leaving) * LINE;
                rows.blocked.push((bottom, below));
                bottom = below;
            }
            rows.port_rows.push(port_line(top + 4, &laid));
            rows.bottom = bottom + PAD / 2;
            rows.cards.extend(laid);
        }
        rows
    }

    /// The cards of a row; where lines leave them is noted. Tops of cards are level.
    fn row(
        &self,
        lane: usize,
        row: &[Member<'_>],
        (x, y): (i32, i32),
        ends: &mut Ends,
    ) -> Vec<Card> {
        let mut cards: Vec<Card> = row.iter().map(|one| self.card(lane, one)).collect();
        let tabs = cards.iter().map(|card| badge_rows(&card.badges)).max();
        let tabs = tabs.unwrap_or_default();
        let lines = cards.iter().map(|card| card.lines.len()).max();
        let height = 40 + pixels(lines.unwrap_or_default()) * 16;
        let top = if tabs > 0 {
            y + CHANNEL + tabs * BADGE
        } else {
            y + PAD - 4
        };
        for (place, card) in cards.iter_mut().enumerate() {
            card.rect = Rect {
                x: x + pixels(place) * (CARD + GAP),
                y: top,
                w: CARD,
                h: height,
            };
            let rows = badge_rows(&card.badges);
            for badge in &mut card.badges {
                badge.rect.x += card.rect.x;
                badge.rect.y += top - rows * BADGE;
            }
        }
        let mut channel = top + height + BELOW;
        for (member, card) in row.iter().zip(&cards) {
            let mut exit = card.rect.right() - 16;
            for target in self.elsewhere(lane, member.container) {
                ends.starts.push(Start {
                    lane: target,
                    container: member.container.id.clone(),
                    corners: vec![(exit, card.rect.bottom()), (exit, channel)],
                });
                exit -= 10;
                channel += LINE;
            }
        }
        cards
    }

    /// The lanes of the other networks that a container is on.
    fn elsewhere(&self, lane: usize, container: &Container) -> Vec<usize> {
        let all = container.attachments.iter();
        let mut numbers: Vec<usize> = all
            .filter_map(|on| self.numbers.get(on.network_id.as_str()).copied())
            .filter(|number| *number != lane)
            .collect();
        numbers.dedup();
        numbers
    }

    fn card(&self, lane: usize, member: &Member<'_>) -> Card {
        let container = member.container;
        let room = CARD - 24;
        let mut lines = Vec::new();
        let others = container.attachments.iter();
        let others = others.filter(|on| on.network_id != member.on.network_id);
        for on in std::iter::once(member.on).chain(others) {
            let number = self.numbers.get(on.network_id.as_str()).copied();
            let away = number.filter(|number| *number != lane);
            let colour = away.map(|number| number % COLOURS);
            let room = if colour.is_some() { room - 12 } else { room };
            lines.extend(address_lines(on).into_iter().map(|line| CardLine {
                colour,
                text: Text::new(&line, SMALL, room),
            }));
        }
        let rest = cut(&mut lines, |line| &line.text);
        lines.extend(rest.map(|text| CardLine { colour: None, text }));
        Card {
            rect: Rect::default(),
            name: Text::new(&container.name, NAME, room - 16),
            id: container.id.clone(),
            lines,
            badges: badges(&super::ports(container)),
            complaints: super::complaints(container.attachments.iter().flat_map(|on| &on.parts)),
        }
    }
}

/// The interface of the way out and its addresses, for which there is so much room.
fn uplink_texts(uplink: &Uplink, room: i32) -> (Text, Text) {
    let addresses: Vec<String> = uplink.addresses.iter().map(ToString::to_string).collect();
    let addresses = Text::new(&addresses.join("  "), SMALL, room);
    (Text::new(&uplink.interface, NAME, 130), addresses)
}

/// A number of things, as a factor of pixels.
fn pixels(count: usize) -> i32 {
    // So many would not fit into any picture.
    i32::try_from(count.min(1 << 16)).unwrap_or_default()
}

/// Which of its networks a container is drawn on: the first that is open if it publishes ports, else the first.
fn home(container: &Container, lanes: &[LanePlan<'_>]) -> usize {
    if super::ports(container).is_empty() {
        return 0;
    }
    let is_open = |on: &Attachment| {
        let mut lanes = lanes.iter();
        let lane = lanes.find(|lane| lane.network.id == on.network_id);
        lane.is_some_and(|lane| super::goes_out(&lane.network) && !on.ports.is_empty())
    };
    let mut all = container.attachments.iter();
    all.position(is_open).unwrap_or_default()
}

fn address_lines(on: &Attachment) -> Vec<String> {
    let interface = on.interface.as_deref().unwrap_or("?");
    let mut lines: Vec<String> = on
        .addresses
        .iter()
        .map(|address| format!("{interface} {}", address.addr()))
        .collect();
    if lines.is_empty() {
        lines.push(interface.to_owned());
    }
    lines
}

/// Keeps so many lines that there is room for one that tells how many are left out, and returns that one.
fn cut<T>(lines: &mut Vec<T>, text: impl Fn(&T) -> &Text) -> Option<Text> {
    if lines.len() <= MOST_LINES {
        return None;
    }
    let hidden = lines.split_off(MOST_LINES - 1);
    let all: Vec<&str> = hidden.iter().map(|line| text(line).full.as_str()).collect();
    Some(Text {
        shown: format!("+{} more", hidden.len()),
        full: all.join("\n"),
    })
}

/// Tabs in rows, from the left, placed as if their card were at the origin and they were above it.
fn badges(ports: &[String]) -> Vec<Pill> {
    let mut labels: Vec<String> = ports.iter().take(MOST_BADGES).cloned().collect();
    if ports.len() > MOST_BADGES {
        labels.truncate(MOST_BADGES - 1);
        labels.push(format!("+{} more", ports.len() - labels.len()));
    }
    let (mut x, mut y) = (6, 0);
    let mut pills = Vec::new();
    for label in &labels {
        let mut text = Text::new(label, PILL, CARD - 32);
        if text.shown != text.full
            && let Some(short) = same_ports(label)
        {
            text.shown = PILL.fit(&short, CARD - 32);
        }
        let width = PILL.width(&text.shown) + 16;
        if x > 6 && x + width > CARD - 6 {
            (x, y) = (6, y + BADGE);
        }
        if label.starts_with('+') {
            let hidden: Vec<&str> = ports
                .iter()
                .skip(MOST_BADGES - 1)
                .map(String::as_str)
                .collect();
            text.full = hidden.join("\n");
        }
        let rect = Rect {
            x,
            y,
            w: width,
            h: BADGE,
        };
        pills.push(Pill { rect, text });
        x += width + 4;
    }
    pills
}

/// A label whose ports are the same on both sides, with one of them.
fn same_ports(label: &str) -> Option<String> {
    let (host, container) = label.split_once('→')?;
    let (ports, protocols) = container.split_once('/')?;
    let end = host.strip_suffix(ports)?;
    (end.is_empty() || end.ends_with(':')).then(|| format!("{host}/{protocols}"))
}

fn badge_rows(badges: &[Pill]) -> i32 {
    badges
        .last()
        .map_or(0, |last| last.rect.y.max(0) / BADGE + 1)
}

/// The line above a row that leads to its ports, and the arrows that leave it. Nothing if there are none.
fn port_line(y: i32, cards: &[Card]) -> Option<PortRow> {
    let tips = cards.iter().filter_map(|card| {
        let first = card.badges.first()?;
        Some((first.rect.x + first.rect.w / 2, first.rect.y))
    });
    let tips: Vec<(i32, i32)> = tips.collect();
    (!tips.is_empty()).then_some(PortRow { y, tips })
}

/// The lines to the ports of a lane: in at its top, down beside the cards, and along each row that has any. Each piece is
/// drawn once: what leaves a line begins a little before it does.
fn branch(lane: Rect, cards_x: i32, rows: Vec<Option<PortRow>>, lines: &mut Vec<Line>) {
    let (x, top) = (cards_x - 12, lane.y + 8);
    let mut way_in = Some(vec![(lane.x, top), (x, top)]);
    for PortRow { y, tips } in rows.into_iter().flatten().rev() {
        for (place, (tip_x, tip_y)) in tips.iter().rev().enumerate() {
            let mut points = if place == 0 {
                let beside = if y == top { (x - 8, y) } else { (x, y - 8) };
                let mut whole = way_in.take().unwrap_or_else(|| vec![beside]);
                whole.push((x, y));
                whole
            } else {
                vec![(tip_x - 8, y)]
            };
            points.extend([(*tip_x, y), (*tip_x, *tip_y)]);
            points.dedup();
            lines.push(Line {
                stroke: Stroke::Published,
                points,
                arrow: true,
            });
        }
    }
}

/// Where in the gutter the two trunks are.
const PORTS_TRUNK: i32 = 40;
const UPLINK_TRUNK: i32 = 16;

/// The lines from the host to lanes: to those with ports, and to those that reach the outside.
fn trunks(host: &Rect, plans: &[LanePlan<'_>], lanes: &[Lane], lines: &mut Vec<Line>) {
    for (plan, lane) in plans.iter().zip(lanes) {
        if lane.cards.iter().any(|card| !card.badges.is_empty()) {
            let x = host.x + PORTS_TRUNK;
            lines.push(Line {
                stroke: Stroke::Published,
                points: vec![
                    (x, host.bottom()),
                    (x, lane.rect.y + 8),
                    (lane.rect.x, lane.rect.y + 8),
                ],
                arrow: false,
            });
        }
        if super::goes_out(&plan.network) {
            let (x, y) = (host.x + UPLINK_TRUNK, lane.rect.y + 30);
            lines.push(Line {
                stroke: Stroke::Uplink,
                points: vec![(x, host.bottom()), (x, y), (lane.rect.x, y)],
                arrow: false,
            });
        }
    }
}

/// Tags of members whose cards are elsewhere, from this corner down, but not where lines leave the rows. Returns how far
/// down they go.
fn tags(
    lane: usize,
    plan: &LanePlan<'_>,
    (x, mut y): (i32, i32),
    blocked: &[(i32, i32)],
    ends: &mut Ends,
) -> (Vec<Pill>, i32) {
    let mut lowest = 0;
    let mut tags = Vec::new();
    for guest in &plan.guests {
        for (from, to) in blocked {
            if y < *to && *from < y + TAG_HEIGHT {
                y = to + 4;
            }
        }
        let on = guest.on;
        let address = on.addresses.first().map(|one| one.addr().to_string());
        let address = address.unwrap_or_default();
        let name = Text::new(
            &guest.container.name,
            SMALL,
            TAGS - 26 - SMALL.width(&address) - 8,
        );
        let text = Text {
            shown: format!("{} {address}", name.shown),
            full: format!("{} {}", name.full, super::endpoint(on)),
        };
        let rect = Rect {
            x,
            y,
            w: TAGS,
            h: TAG_HEIGHT - 4,
        };
        let mid = rect.y + rect.h / 2;
        let key = (lane, guest.container.id.clone());
        ends.tags.insert(key, (rect.right(), mid));
        tags.push(Pill { rect, text });
        y += TAG_HEIGHT;
        lowest = y;
    }
    (tags, lowest)
}

/// What a lane tells of its network: lines, marks, and where they end.
fn header(network: &Network, place: Rect) -> (Vec<Text>, Vec<Pill>, i32) {
    let room = HEADER - 2 * PAD - 14;
    let mut lines = vec![super::carrier(network)];
    lines.extend(network.subnets.iter().map(|one| one.subnet.to_string()));
    let outbound = network.outbound.iter();
    lines.extend(outbound.map(|address| format!("as {address}")));
    let lines = lines.iter();
    let mut lines: Vec<Text> = lines.map(|line| Text::new(line, SMALL, room)).collect();
    let rest = cut(&mut lines, |line| line);
    lines.extend(rest);
    let (left, mut y) = (place.x + PAD + 4, place.y + 46 + pixels(lines.len()) * 16);
    let mut x = left;
    let mut marks = Vec::new();
    for mark in super::marks(network) {
        let text = Text::new(&mark, PILL, room - 16);
        let width = PILL.width(&text.shown) + 14;
        if x > left && x + width > left + room {
            (x, y) = (left, y + 22);
        }
        let rect = Rect {
            x,
            y,
            w: width,
            h: 18,
        };
        marks.push(Pill { rect, text });
        x += width + 6;
    }
    let bottom = if marks.is_empty() { y } else { y + 22 };
    (lines, marks, bottom)
}

/// Lines from cards to tags, each in a track of the gutter where no other is at that height. Returns how many tracks there
/// are.
fn member_lines(ends: Ends, right: i32, lines: &mut Vec<Line>) -> usize {
    let mut tracks: Vec<Vec<(i32, i32)>> = Vec::new();
    for Start {
        lane,
        container,
        corners,
    } in ends.starts
    {
        let tag = ends.tags.get(&(lane, container));
        let (Some((tag_x, tag_y)), Some((_, y))) = (tag.copied(), corners.last().copied()) else {
            continue;
        };
        let (top, bottom) = (y.min(tag_y) - 4, y.max(tag_y) + 4);
        let is_free =
            |track: &Vec<(i32, i32)>| track.iter().all(|(from, to)| bottom < *from || *to < top);
        let number = tracks.iter().position(is_free).unwrap_or(tracks.len());
        if number == tracks.len() {
            tracks.push(Vec::new());
        }
        if let Some(track) = tracks.get_mut(number) {
            track.push((top, bottom));
        }
        let x = right + 12 + pixels(number) * TRACK;
        let mut points = corners;
        points.extend([(x, y), (x, tag_y), (tag_x, tag_y)]);
        lines.push(Line {
            stroke: Stroke::Member(lane % COLOURS),
            points,
            arrow: true,
        });
    }
    if tracks.is_empty() {
        0
    } else {
        tracks.len() + 1
    }
}
