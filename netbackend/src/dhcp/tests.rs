//! Clients against simulated servers, in virtual time.
#![expect(
    clippy::wildcard_enum_match_arm,
    clippy::unwrap_in_result,
    reason = "a simulated server knows few messages, and a message that is none fails the test"
)]

use std::net::Ipv6Addr;
use std::time::Duration;

use dhcproto::{Decodable, Decoder, Encodable, v4 as d4, v6 as d6};
use proptest::prelude::*;

use super::*;

const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 7]);
const SERVER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

fn identity() -> Identity {
    Identity {
        mac: MAC,
        container: "c1".to_owned(),
        host_name: "web".to_owned(),
    }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A server of both protocols, or its absence.
#[derive(Debug, Clone)]
struct Simulated {
    up: bool,
    /// The last octet of the address that it leases.
    host: u8,
    lifetime: u32,
    /// Whether it refuses whoever asks for another address.
    strict: bool,
    /// Whether it refuses everything but a search.
    refuses: bool,
    heard: Vec<String>,
}

impl Simulated {
    fn new(lifetime: u32) -> Self {
        Self {
            up: true,
            host: 50,
            lifetime,
            strict: true,
            refuses: false,
            heard: Vec::new(),
        }
    }

    fn answer(&mut self, outgoing: &Outgoing, v6: bool) -> Option<Vec<u8>> {
        let answer = if v6 {
            self.answer6(&outgoing.payload)
        } else {
            self.answer4(outgoing)
        };
        answer.filter(|_| self.up)
    }

    fn answer4(&mut self, outgoing: &Outgoing) -> Option<Vec<u8>> {
        let asked = d4::Message::decode(&mut Decoder::new(&outgoing.payload))
            .expect("the client writes messages");
        let kind = asked.opts().msg_type().expect("of a kind");
        let unicast = matches!(outgoing.to, Destination::Server { .. });
        self.heard
            .push(format!("{kind:?}{}", if unicast { " to one" } else { "" }));
        let address = Ipv4Addr::new(10, 0, 0, self.host);
        let wanted = match asked.opts().get(d4::OptionCode::RequestedIpAddress) {
            Some(d4::DhcpOption::RequestedIpAddress(wanted)) => *wanted,
            _ => asked.ciaddr(),
        };
        let reply = match kind {
            d4::MessageType::Discover => d4::MessageType::Offer,
            d4::MessageType::Request if self.refuses || self.strict && wanted != address => {
                d4::MessageType::Nak
            }
            d4::MessageType::Request => d4::MessageType::Ack,
            _ => return None,
        };
        let mut message = asked;
        message
            .set_opcode(d4::Opcode::BootReply)
            .set_yiaddr(address);
        let mut options = d4::DhcpOptions::new();
        options.insert(d4::DhcpOption::MessageType(reply));
        options.insert(d4::DhcpOption::ServerIdentifier(SERVER));
        options.insert(d4::DhcpOption::SubnetMask(Ipv4Addr::new(255, 255, 255, 0)));
        options.insert(d4::DhcpOption::AddressLeaseTime(self.lifetime));
        options.insert(d4::DhcpOption::Router(vec![SERVER]));
        message.set_opts(options);
        Some(message.to_vec().expect("it is short"))
    }

    fn answer6(&mut self, payload: &[u8]) -> Option<Vec<u8>> {
        let asked =
            d6::Message::decode(&mut Decoder::new(payload)).expect("the client writes messages");
        let kind = asked.msg_type();
        self.heard.push(format!("{kind:?}"));
        let reply = match kind {
            d6::MessageType::Solicit => d6::MessageType::Advertise,
            d6::MessageType::Request | d6::MessageType::Renew | d6::MessageType::Rebind => {
                d6::MessageType::Reply
            }
            _ => return None,
        };
        let Some(d6::DhcpOption::IANA(association)) = asked.opts().get(d6::OptionCode::IANA) else {
            panic!("an address is always asked for");
        };
        let mut inner = d6::DhcpOptions::new();
        if self.refuses && kind != d6::MessageType::Solicit {
            let status = d6::Status::NoBinding;
            inner.insert(d6::DhcpOption::StatusCode(d6::StatusCode {
                status,
                msg: String::new(),
            }));
        } else {
            inner.insert(d6::DhcpOption::IAAddr(d6::IAAddr {
                addr: Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, self.host.into()),
                preferred_life: self.lifetime,
                valid_life: self.lifetime,
                opts: d6::DhcpOptions::new(),
            }));
        }
        let mut message = d6::Message::new_with_id(reply, asked.xid());
        message.opts_mut().insert(
            asked
                .opts()
                .get(d6::OptionCode::ClientId)
                .expect("we say who we are")
                .clone(),
        );
        message
            .opts_mut()
            .insert(d6::DhcpOption::ServerId(vec![1, 2, 3]));
        message.opts_mut().insert(d6::DhcpOption::IANA(d6::IANA {
            id: association.id,
            t1: 0,
            t2: 0,
            opts: inner,
        }));
        Some(message.to_vec().expect("it is short"))
    }
}

/// A client, its server, and the time.
struct World {
    now: Moment,
    v6: bool,
    client: Client,
    server: Simulated,
    /// Address and moment of each lease, or the moment of its loss.
    story: Vec<(Moment, Option<IpNet>)>,
    /// What a proxy would have written down.
    on_record: Option<IpAddr>,
}

impl World {
    fn new(v6: bool, server: Simulated) -> Self {
        let client = if v6 {
            Client::V6(v6::Client::new(identity(), seconds(1000), 1))
        } else {
            Client::V4(v4::Client::new(identity(), seconds(1000), 1))
        };
        Self {
            now: seconds(1000),
            v6,
            client,
            server,
            story: Vec::new(),
            on_record: None,
        }
    }

    /// Goes on with the lease in a new process.
    fn restart(&mut self) {
        let terms = self.client.terms().expect("there is a lease").clone();
        self.client = if self.v6 {
            Client::V6(v6::Client::resume(identity(), terms, self.now, 2))
        } else {
            Client::V4(v4::Client::resume(identity(), terms, self.now, 2))
        };
    }

    fn happen(&mut self, event: Event<'_>) {
        let mut actions: std::collections::VecDeque<_> = self.client.handle(self.now, event).into();
        let mut rounds = 0;
        while let Some(action) = actions.pop_front() {
            match action {
                Action::Send(outgoing) => {
                    rounds += 1;
                    assert!(
                        rounds < 10,
                        "client and server never end: {:?}",
                        self.server.heard
                    );
                    let payload = self.server.answer(&outgoing, self.v6);
                    let asks = self.server.heard.last().is_some_and(|heard| {
                        ["Request", "Renew", "Rebind"]
                            .iter()
                            .any(|word| heard.starts_with(word))
                    });
                    assert!(
                        !asks || self.on_record.is_some(),
                        "asked for an address that nobody would give back: {:?}",
                        self.server.heard
                    );
                    if let Some(payload) = payload {
                        let event = Event::Received {
                            from: SERVER_MAC,
                            payload: &payload,
                        };
                        actions.extend(self.client.handle(self.now, event));
                    }
                }
                Action::Chosen(terms) => self.on_record = Some(terms.address.addr()),
                Action::Bound(terms) => {
                    self.on_record = Some(terms.address.addr());
                    self.story.push((self.now, Some(terms.address)));
                }
                Action::Lost(_) => {
                    self.on_record = None;
                    self.story.push((self.now, None));
                }
            }
        }
    }

    /// Lets time pass until this moment.
    fn until(&mut self, end: Moment) {
        let mut wakes = 0;
        while self.client.deadline() <= end {
            wakes += 1;
            assert!(wakes < 10_000, "the client never sleeps: {:?}", self.client);
            self.now = self.now.max(self.client.deadline());
            self.happen(Event::Wake);
        }
        self.now = end;
    }

    fn address(&self) -> Option<IpAddr> {
        self.client.terms().map(|terms| terms.address.addr())
    }
}

fn heard(world: &mut World) -> String {
    std::mem::take(&mut world.server.heard).join(", ")
}

#[test]
fn a_lease_is_found_and_renewed() {
    let mut world = World::new(false, Simulated::new(120));
    world.until(seconds(1000));
    assert_eq!(heard(&mut world), "Discover, Request");
    assert_eq!(
        world
            .client
            .terms()
            .map(|terms| terms.address.to_string())
            .as_deref(),
        Some("10.0.0.50/24")
    );
    assert_eq!(world.client.deadline(), seconds(1060));
    assert!(!world.client.listens());
    world.until(seconds(1060));
    assert_eq!(heard(&mut world), "Request to one");
    world.until(seconds(5000));
    assert!(world.story.iter().all(|(_, address)| address.is_some()));
    assert_eq!(world.story.len(), 2 + (4000 - 60) / 60);
}

#[test]
fn a_lease6_is_found_and_renewed() {
    let mut world = World::new(true, Simulated::new(100));
    world.until(seconds(1000));
    assert_eq!(heard(&mut world), "Solicit");
    world.until(seconds(1002));
    assert_eq!(heard(&mut world), "Request");
    assert_eq!(
        world
            .client
            .terms()
            .map(|terms| terms.address.to_string())
            .as_deref(),
        Some("fd00::32/128")
    );
    world.until(seconds(1052));
    assert_eq!(heard(&mut world), "Renew");
    world.until(seconds(5000));
    assert!(world.story.iter().all(|(_, address)| address.is_some()));
}

#[test]
fn a_server_that_comes_back_in_time_is_not_noticed() {
    for v6 in [false, true] {
        let mut world = World::new(v6, Simulated::new(1200));
        world.until(seconds(1010));
        let address = world.address();
        heard(&mut world);
        world.server.up = false;
        world.until(seconds(1010 + 1100));
        let asked = heard(&mut world);
        assert!(
            asked.contains(if v6 { "Renew" } else { "Request to one" }),
            "{asked}"
        );
        assert!(
            asked.ends_with(if v6 { "Rebind" } else { "Request" }),
            "{asked}"
        );
        assert_eq!(world.address(), address);
        world.server.up = true;
        world.until(seconds(1010 + 3000));
        assert!(
            world.story.iter().all(|(_, address)| address.is_some()),
            "{:?}",
            world.story
        );
    }
}

#[test]
fn a_lease_ends_without_a_server_and_another_is_found_later() {
    for v6 in [false, true] {
        let mut world = World::new(v6, Simulated::new(120));
        world.until(seconds(1010));
        world.server.up = false;
        world.server.host = 60;
        world.until(seconds(1500));
        let (lost, address) = *world.story.last().expect("something happened");
        assert!(
            address.is_none() && lost <= seconds(1122) && lost >= seconds(1120),
            "{lost:?}"
        );
        world.server.up = true;
        world.until(seconds(6000));
        let found = world.address().expect("the server is back").to_string();
        assert_eq!(found, if v6 { "fd00::3c" } else { "10.0.0.60" });
    }
}

#[test]
fn a_refusal_leads_to_a_new_lease_at_once() {
    for v6 in [false, true] {
        let mut world = World::new(v6, Simulated::new(120));
        world.until(seconds(1010));
        world.server.host = 60;
        world.server.refuses = v6;
        world.until(seconds(1062));
        let lost = world
            .story
            .iter()
            .position(|(_, address)| address.is_none())
            .expect("it was refused");
        world.server.refuses = false;
        world.until(seconds(1100));
        let (found, address) = world.story[lost + 1];
        assert!(
            address.is_some() && found.saturating_sub(world.story[lost].0) <= seconds(4),
            "{:?}",
            world.story
        );
    }
}

#[test]
fn a_server_that_refuses_what_it_offers_is_not_asked_in_a_loop() {
    for v6 in [false, true] {
        let mut server = Simulated::new(120);
        server.refuses = true;
        let mut world = World::new(v6, server);
        world.until(seconds(4600));
        let asked = world.server.heard.len();
        assert!((50..4000).contains(&asked), "{asked} messages in an hour");
        assert!(world.story.is_empty());
    }
}

#[test]
fn silence_is_asked_into_less_and_less() {
    for v6 in [false, true] {
        let mut server = Simulated::new(120);
        server.up = false;
        let mut world = World::new(v6, server);
        world.until(seconds(1008));
        assert!(
            (3..=4).contains(&world.server.heard.len()),
            "{:?}",
            world.server.heard
        );
        world.until(seconds(1000 + 86_400));
        let asked = world.server.heard.len();
        assert!(
            if v6 { asked < 50 } else { asked < 1600 },
            "{asked} messages in a day"
        );
    }
}

#[test]
fn a_restarted_client_asks_for_its_address() {
    let mut world = World::new(false, Simulated::new(120));
    world.until(seconds(1020));
    heard(&mut world);
    world.restart();
    world.until(seconds(1020));
    assert_eq!(heard(&mut world), "Request");
    assert_eq!(world.client.deadline(), seconds(1080));
    let mut world = World::new(true, Simulated::new(120));
    world.until(seconds(1020));
    heard(&mut world);
    world.restart();
    world.until(seconds(1020));
    assert_eq!(heard(&mut world), "Renew");
}

#[test]
fn a_restarted_client_trusts_its_lease_when_nobody_answers() {
    for v6 in [false, true] {
        let mut world = World::new(v6, Simulated::new(1200));
        world.until(seconds(1020));
        world.server.up = false;
        world.restart();
        world.until(seconds(1100));
        assert!(world.address().is_some());
        world.server.up = true;
        world.until(seconds(9000));
        assert!(
            world.story.iter().all(|(_, address)| address.is_some()),
            "{:?}",
            world.story
        );
    }
}

#[test]
fn a_client_that_was_away_too_long_has_lost_its_lease() {
    for v6 in [false, true] {
        let mut world = World::new(v6, Simulated::new(120));
        world.until(seconds(1020));
        world.server.up = false;
        world.now = seconds(3000);
        world.restart();
        world.happen(Event::Wake);
        assert_eq!(world.story.last().map(|(_, address)| *address), Some(None));
    }
}

#[test]
fn a_lease_for_ever_is_never_renewed() {
    for v6 in [false, true] {
        let mut world = World::new(v6, Simulated::new(FOREVER));
        world.until(seconds(1010));
        heard(&mut world);
        world.until(seconds(1_000_000_000));
        assert_eq!(heard(&mut world), "");
    }
}

#[test]
fn a_lease_is_given_back() {
    for v6 in [false, true] {
        let mut world = World::new(v6, Simulated::new(120));
        world.until(seconds(1010));
        let outgoing = world.client.release().expect("there is a lease");
        world.server.answer(&outgoing, v6);
        let last = world.server.heard.last().expect("something was said");
        assert_eq!(last, if v6 { "Release" } else { "Release to one" });
        let silent = Simulated {
            up: false,
            ..Simulated::new(1)
        };
        let mut searching = World::new(v6, silent);
        searching.until(seconds(1010));
        assert_eq!(searching.client.release(), None);
    }
}

/// The server may have leased it, and its answer may be lost.
#[test]
fn what_was_asked_for_is_given_back() {
    for v6 in [false, true] {
        let mut world = World::new(v6, Simulated::new(120));
        let Some(Action::Send(asked)) = world.client.handle(world.now, Event::Wake).pop() else {
            panic!("it asks");
        };
        let offer = world.server.answer(&asked, v6).expect("it offers");
        world.server.up = false;
        world.happen(Event::Received {
            from: SERVER_MAC,
            payload: &offer,
        });
        world.until(seconds(1002));
        assert_eq!(world.client.terms(), None);
        let chosen = world.on_record.expect("it is on record");
        let outgoing = world.client.release().expect("there may be a lease");
        world.server.answer(&outgoing, v6);
        let last = world.server.heard.last().expect("something was said");
        assert_eq!(last, if v6 { "Release" } else { "Release to one" });
        if let Destination::Server {
            source,
            address,
            mac,
        } = outgoing.to
        {
            assert_eq!(
                (IpAddr::V4(source), address, mac),
                (chosen, SERVER, SERVER_MAC)
            );
        }
    }
}

#[test]
fn a_file_of_leases_is_read_as_far_as_it_goes() {
    use wire::proxy::{Kept, KeptLease, NetworkConfig, Version};
    let mut world = World::new(false, Simulated::new(120));
    world.until(seconds(1010));
    let terms = world.client.terms().expect("there is a lease").clone();
    let kept = |version, interface: &str| KeptLease {
        lease: terms.lease(MAC),
        netbackend: Some(Kept {
            config: NetworkConfig {
                host_iface: "br1".to_owned(),
                container_iface: interface.to_owned(),
                container_mac_addr: MAC.to_string(),
                version,
                ..NetworkConfig::default()
            },
            since: 5_000,
            server_mac: SERVER_MAC,
            server_duid: "0102f".to_owned(),
            routes: Vec::new(),
            netns_inode: 7,
            unconfirmed: false,
        }),
    };
    let netavarks = KeptLease {
        netbackend: None,
        ..kept(Version::V4, "eth0")
    };
    let file = serde_json::json!({
        "a": [kept(Version::V4, "eth0"), netavarks, kept(Version::V6, "eth0")],
        "b": [{"yiaddr": "10.0.0.9", "t1": "soon"}, 7, kept(Version::V4, "no/name")],
    });
    let read = |text: &str| record::read(text, seconds(1010), seconds(5_010));
    let records = read(&format!("\0\0{file}\n")).expect("it is one");
    let [lease] = records.leases.as_slice() else {
        panic!("{records:?}");
    };
    // As old as the calendar says, and otherwise the same but for an odd digit.
    assert_eq!(lease.terms.since, seconds(1000));
    assert_eq!(lease.terms.server.duid, [1, 2]);
    assert_eq!(lease.terms.address, terms.address);
    assert_eq!(
        records.incomplete,
        ["10.0.0.50", "10.0.0.50", "10.0.0.9", "?", "10.0.0.50"]
    );
    assert_eq!(
        read("").expect("no lease is no damage"),
        record::Records::default()
    );
    let less = record::without(&file.to_string(), &lease.kept).expect("it is one");
    let less = read(&less).expect("it still is");
    assert_eq!((less.leases.len(), less.incomplete.len()), (0, 5));
    let text = file.to_string();
    for length in 1..text.len() {
        read(&text[..length]).expect_err("it is cut off");
    }
}

#[test]
fn another_servers_word_does_not_count() {
    let mut client = v4::Client::new(identity(), seconds(0), 3);
    let mut server = Simulated::new(120);
    let sent = |actions: Vec<Action>| match actions.into_iter().next_back() {
        Some(Action::Send(outgoing)) => outgoing,
        other => panic!("{other:?}"),
    };
    let discover = sent(client.handle(seconds(0), Event::Wake));
    let offer = server.answer(&discover, false).expect("it answers");
    let request = sent(client.handle(
        seconds(0),
        Event::Received {
            from: SERVER_MAC,
            payload: &offer,
        },
    ));
    let ack = server.answer(&request, false).expect("it answers");
    let mut foreign = d4::Message::decode(&mut Decoder::new(&ack)).expect("it is one");
    foreign
        .opts_mut()
        .insert(d4::DhcpOption::ServerIdentifier(OTHER));
    let foreign = foreign.to_vec().expect("it is short");
    let event = |payload| Event::Received {
        from: SERVER_MAC,
        payload,
    };
    assert_eq!(client.handle(seconds(0), event(&foreign)), []);
    assert!(matches!(
        client.handle(seconds(0), event(&ack)).as_slice(),
        [Action::Bound(_)]
    ));
}

#[test]
fn options_become_terms() {
    let mut client = v4::Client::new(identity(), seconds(0), 3);
    let mut server = Simulated::new(120);
    for _ in 0..2 {
        let actions = client.handle(client.deadline(), Event::Wake);
        let Some(Action::Send(asked)) = actions.first() else {
            panic!("{actions:?}")
        };
        let answer = server.answer(asked, false).expect("it answers");
        let mut answer = d4::Message::decode(&mut Decoder::new(&answer)).expect("it is one");
        let options = answer.opts_mut();
        let route = |text: &str| text.parse().expect("a network");
        options.insert(d4::DhcpOption::ClasslessStaticRoute(vec![
            (route("172.16.0.0/12"), OTHER),
            (route("0.0.0.0/0"), OTHER),
            (route("10.9.9.9/32"), Ipv4Addr::UNSPECIFIED),
        ]));
        options.insert(d4::DhcpOption::InterfaceMtu(1400));
        options.insert(d4::DhcpOption::DomainNameServer(vec![
            SERVER,
            Ipv4Addr::LOCALHOST,
        ]));
        options.insert(d4::DhcpOption::NtpServers(vec![OTHER]));
        options.insert(d4::DhcpOption::DomainName("example.org\nx y".to_owned()));
        options.insert(d4::DhcpOption::Renewal(10));
        options.insert(d4::DhcpOption::Rebinding(20));
        let payload = answer.to_vec().expect("it is short");
        for action in client.handle(
            seconds(1),
            Event::Received {
                from: SERVER_MAC,
                payload: &payload,
            },
        ) {
            if let Action::Send(asked) = action {
                let answer = server.answer(&asked, false).expect("it answers");
                let mut ack = d4::Message::decode(&mut Decoder::new(&answer)).expect("it is one");
                let mut options = d4::Message::decode(&mut Decoder::new(&payload))
                    .expect("it is one")
                    .opts()
                    .clone();
                options.insert(d4::DhcpOption::MessageType(d4::MessageType::Ack));
                ack.set_opts(options);
                let payload = ack.to_vec().expect("it is short");
                client.handle(
                    seconds(1),
                    Event::Received {
                        from: SERVER_MAC,
                        payload: &payload,
                    },
                );
            }
        }
        if client.terms().is_some() {
            break;
        }
    }
    let terms = client.terms().expect("there is a lease");
    assert_eq!(terms.gateways, [IpAddr::V4(OTHER)]);
    let routes: Vec<String> = terms
        .routes
        .iter()
        .map(|route| format!("{} {:?}", route.destination, route.gateway))
        .collect();
    assert_eq!(routes, ["172.16.0.0/12 Some(10.0.0.2)", "10.9.9.9/32 None"]);
    assert_eq!((terms.mtu, terms.t1, terms.t2), (Some(1400), 10, 20));
    assert_eq!(terms.dns, [IpAddr::V4(SERVER)]);
    assert_eq!(terms.ntp, [IpAddr::V4(OTHER)]);
    assert_eq!(terms.domain, "example.orgxy");
    let lease = terms.lease(MAC);
    let again = Terms::from_lease(
        &lease,
        terms.routes.clone(),
        SERVER_MAC,
        Vec::new(),
        terms.since,
    );
    assert_eq!(again.as_ref(), Some(terms));
}

/// What the world does between two looks at a client.
#[derive(Debug, Clone)]
enum Turn {
    Pass(u16),
    Server(bool),
    Address(u8),
    Refuse(bool),
    Restart,
    Noise(Vec<u8>),
}

fn turn() -> impl Strategy<Value = Turn> {
    prop_oneof![
        4 => (0u16..400).prop_map(Turn::Pass),
        2 => any::<bool>().prop_map(Turn::Server),
        1 => (50u8..53).prop_map(Turn::Address),
        1 => any::<bool>().prop_map(Turn::Refuse),
        1 => Just(Turn::Restart),
        1 => any::<Vec<u8>>().prop_map(Turn::Noise),
    ]
}

proptest! {
    /// Whatever happens: no lease is held beyond its end, what is told is what is held, and with a server that is up
    /// and willing there is a lease within a while.
    #[test]
    fn a_client_holds_what_it_tells(v6: bool, lifetime in 20u32..400, turns in prop::collection::vec(turn(), 0..40)) {
        let mut world = World::new(v6, Simulated::new(lifetime));
        for turn in turns {
            match turn {
                Turn::Pass(time) => world.until(world.now + seconds(time.into())),
                Turn::Server(up) => world.server.up = up,
                Turn::Address(host) => world.server.host = host,
                Turn::Refuse(refuses) => world.server.refuses = refuses,
                Turn::Restart if world.client.terms().is_some() => world.restart(),
                Turn::Restart => {}
                Turn::Noise(payload) => world.happen(Event::Received { from: SERVER_MAC, payload: &payload }),
            }
            let told = world.story.last().and_then(|(_, address)| *address);
            prop_assert_eq!(told, world.client.terms().map(|terms| terms.address));
            let expiry = world.client.terms().map_or(Moment::MAX, Terms::expiry);
            prop_assert!(world.client.deadline() <= expiry);
            prop_assert!(world.client.deadline() >= world.now || world.client.listens());
        }
        world.server.up = true;
        world.server.refuses = false;
        world.until(world.now + seconds(8000));
        prop_assert!(world.client.terms().is_some());
    }

    /// Bytes of any kind, and damaged answers with options of any kind, do no harm.
    #[test]
    fn damaged_packets_are_dropped(
        v6: bool,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        options in prop::collection::vec((0u8..130, prop::collection::vec(any::<u8>(), 0..40)), 0..8),
        cut: prop::sample::Index,
    ) {
        let mut world = World::new(v6, Simulated::new(120));
        let Some(Action::Send(asked)) = world.client.handle(world.now, Event::Wake).pop() else {
            panic!("it asks");
        };
        let mut answer = world.server.answer(&asked, v6).expect("it answers");
        if !v6 {
            // The end of options.
            answer.pop();
        }
        for (code, value) in options {
            if v6 {
                answer.extend([0, code, 0]);
            } else {
                answer.push(code);
            }
            answer.push(value.len().try_into().expect("it is short"));
            answer.extend(value);
        }
        for (at, value) in damage {
            let at = at.index(answer.len());
            answer[at] = value;
        }
        answer.truncate(cut.index(answer.len() * 2));
        world.happen(Event::Received { from: SERVER_MAC, payload: &answer });
        world.until(seconds(2000));
    }
}

#[test]
fn options_that_make_the_decoder_panic_are_left_out() {
    let mut message = vec![0; 240];
    message[..4].copy_from_slice(&[2, 1, 6, 0]);
    message[236..].copy_from_slice(&[99, 130, 83, 99]);
    let check = |options: &[u8], expected: &[u8]| {
        let sound = sieve::v4(&[&message, options].concat()).expect("it is whole");
        assert_eq!(&sound[240..], expected);
        d4::Message::decode(&mut Decoder::new(&sound)).expect("it is one");
    };
    check(
        &[
            53, 1, 5, 121, 5, 33, 1, 2, 3, 4, 81, 1, 0, 151, 0, 12, 1, 0xff, 255,
        ],
        &[53, 1, 5, 255],
    );
    check(
        &[0, 121, 8, 24, 1, 2, 3, 1, 2, 3, 4],
        &[121, 8, 24, 1, 2, 3, 1, 2, 3, 4, 255],
    );
    assert_eq!(sieve::v4(&message[..239]), None);
    let status = [
        7, 1, 2, 3, 0, 13, 0, 1, 9, 0, 16, 0, 0, 0, 17, 0, 1, 5, 0, 2, 0, 1, 8,
    ];
    assert_eq!(sieve::v6(&status), Some(vec![7, 1, 2, 3, 0, 2, 0, 1, 8]));
}
