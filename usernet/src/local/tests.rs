use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use dhcproto::{Decodable, Decoder, Encodable, v4 as d4, v6 as d6};
use proptest::prelude::*;

use super::*;
use crate::config::{Announce, Families, Off};
use crate::packet::icmp;

const OURS: Mac = [0x9a, 0x55, 0x9a, 0x55, 0x9a, 0x55];
const GUEST: Mac = [2, 0, 0, 0, 0, 7];
const REAL: Mac = [2, 0xaa, 0, 0, 0, 1];

fn addr(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn family(address: &str, gateway: &str, ours: &str) -> Family {
    Family {
        addresses: vec![address.parse().expect("a network")],
        gateway: Some(addr(gateway)),
        routes: Vec::new(),
        ours: addr(ours),
        template: None,
        dns_forward: None,
        dns_host: None,
        map_host_loopback: None,
        map_guest: None,
        outbound: None,
        outbound_interface: None,
        fixed: false,
    }
}

pub(crate) fn config() -> Config {
    Config {
        link: crate::config::Link {
            name: "eth0".to_owned(),
            our_mac: OURS,
            guest_mac: None,
            mtu: 65520,
        },
        families: Families {
            v4: Some(family("192.0.2.10/24", "192.0.2.1", "192.0.2.1")),
            v6: Some(family("2001:db8::10/64", "fe80::1", "fe80::1")),
        },
        off: Off::default(),
        announce: Announce {
            dns: vec![addr("192.0.2.53"), addr("2001:db8::53")],
            search: vec!["example.org".to_owned(), "lan".to_owned()],
            hostname: Some("web".to_owned()),
            fqdn: Some("web.example.org".to_owned()),
        },
        listeners: Vec::new(),
        splice: true,
        splice_only: false,
        loopback_to_loopback: false,
    }
}

fn local(config: &Config) -> Local {
    started(config, start())
}

fn started(config: &Config, now: Instant) -> Local {
    let mut local = Local::new(7);
    local.start(config, now);
    local
}

#[expect(clippy::disallowed_methods, reason = "somewhere time must begin")]
pub(crate) fn start() -> Instant {
    Instant::now()
}

/// The frame of an output.
fn frame_of(output: &Output) -> Vec<u8> {
    let Output::Frame {
        headers,
        payload,
        offload,
        ..
    } = output
    else {
        panic!("{output:?}");
    };
    assert_eq!(*offload, Offload::default(), "complete and in one piece");
    let mut bytes = headers.as_bytes().to_vec();
    if let Payload::Bytes(more) = payload {
        bytes.extend(more);
    } else {
        assert_eq!(*payload, Payload::None);
    }
    bytes
}

/// Give a frame to the services, as the forwarder does.
fn give(local: &mut Local, config: &Config, frame: &[u8]) -> Handled {
    let (header, rest) = eth::parse(frame).expect("a frame");
    if header.kind == eth::ARP {
        return local.arp(config, rest);
    }
    match ip::parse(rest) {
        Ok(packet) => local.packet(config, header.source, &packet, Offload::default()),
        Err(reason) => Handled::Dropped(reason),
    }
}

fn reply(handled: Handled) -> Vec<u8> {
    let Handled::Reply(output) = handled else {
        panic!("{handled:?}");
    };
    frame_of(&output)
}

fn to_us() -> Link {
    Link {
        source: GUEST,
        destination: eth::BROADCAST,
    }
}

fn arp_request(sender: &str, target: &str) -> Vec<u8> {
    let message = arp::Message {
        operation: Operation::Request,
        sender_mac: GUEST,
        sender: sender.parse().expect("an address"),
        target_mac: [0; 6],
        target: target.parse().expect("an address"),
    };
    build::arp(&to_us(), message).as_bytes().to_vec()
}

#[test]
fn arp_has_every_address_but_the_guests() {
    let config = config();
    let mut local = local(&config);
    let check = |local: &mut Local, sender: &str, target: &str, expected: Option<Mac>| {
        let handled = give(local, &config, &arp_request(sender, target));
        let Some(mac) = expected else {
            assert_eq!(handled, Handled::Silent, "{sender} {target}");
            return;
        };
        let bytes = reply(handled);
        let (header, rest) = eth::parse(&bytes).unwrap();
        assert_eq!((header.source, header.destination), (OURS, GUEST));
        let message = arp::parse(rest).unwrap();
        assert_eq!(message.operation, Operation::Reply);
        assert_eq!(
            (message.sender_mac, message.sender.to_string()),
            (mac, target.to_owned())
        );
        assert_eq!(
            (message.target_mac, message.target.to_string()),
            (GUEST, sender.to_owned())
        );
    };
    check(&mut local, "192.0.2.10", "192.0.2.1", Some(OURS));
    check(&mut local, "192.0.2.10", "192.0.2.77", Some(OURS));
    check(&mut local, "192.0.2.10", "192.0.2.10", None);
    check(&mut local, "192.0.2.11", "192.0.2.11", None);
    check(&mut local, "0.0.0.0", "192.0.2.10", None);
    check(&mut local, "0.0.0.0", "192.0.2.77", Some(OURS));
    check(&mut local, "192.0.2.10", "169.254.1.1", Some(OURS));
    let told = local.neighbour(&config, GUEST, addr("192.0.2.77"), Some(REAL));
    let told = frame_of(&told.expect("what was said before is wrong now"));
    let announced = arp::parse(&told[14..]).unwrap();
    assert_eq!(
        (announced.sender_mac, announced.sender),
        (REAL, announced.target)
    );
    check(&mut local, "192.0.2.10", "192.0.2.77", Some(REAL));
    assert_eq!(
        local.neighbour(&config, GUEST, addr("192.0.2.77"), Some(REAL)),
        None
    );
    assert!(
        local
            .neighbour(&config, GUEST, addr("192.0.2.77"), None)
            .is_some()
    );
    check(&mut local, "192.0.2.10", "192.0.2.77", Some(OURS));
}

/// Of neighbours that the guest has never asked for, it is told only that they are others now.
#[test]
fn who_has_not_asked_is_not_told() {
    let config = config();
    let mut local = local(&config);
    let tell = |local: &mut Local, mac| local.neighbour(&config, GUEST, addr("192.0.2.77"), mac);
    assert_eq!(tell(&mut local, Some(REAL)), None);
    assert!(tell(&mut local, Some([2, 0xaa, 0, 0, 0, 2])).is_some());
    assert_eq!(tell(&mut local, None), None);
    for i in 0..5000_u32 {
        local.told.note(Ipv4Addr::from(0x0a00_0000 + i).into());
    }
    assert_eq!(local.told.some.len(), limits::NEIGHBOURS);
    // More have asked than are kept: anybody may have.
    assert!(tell(&mut local, Some(REAL)).is_some());
}

/// With another network, a neighbour's address may be ours.
#[test]
fn a_neighbour_becomes_ours() {
    let mut config = config();
    let mut local = local(&config);
    let address = addr("192.0.2.77");
    let _told = local.neighbour(&config, GUEST, address, Some(REAL));
    assert_eq!(local.mac_of(&config, address), REAL);
    config.families.v4.as_mut().unwrap().ours = address;
    local.restart(&config, start());
    assert_eq!(local.mac_of(&config, address), OURS);
}

#[test]
fn our_own_addresses_stay_ours() {
    let mut config = config();
    config.families.v4.as_mut().unwrap().map_guest = Some(addr("169.254.1.2"));
    let mut local = local(&config);
    for address in ["192.0.2.1", "169.254.1.2", "192.0.2.10", "fe80::1"] {
        assert_eq!(
            local.neighbour(&config, GUEST, addr(address), Some(REAL)),
            None,
            "{address}"
        );
        assert_eq!(local.mac_of(&config, addr(address)), OURS);
    }
}

#[test]
fn neighbours_are_bounded() {
    let config = config();
    let mut local = local(&config);
    for i in 0..5000_u32 {
        let address = Ipv4Addr::from(0x0a00_0000 + i);
        let _told = local.neighbour(&config, GUEST, address.into(), Some(REAL));
    }
    assert_eq!(local.neighbours.len(), limits::NEIGHBOURS);
}

fn solicitation(source: &str, target: &str) -> Vec<u8> {
    let target: Ipv6Addr = target.parse().expect("an address");
    let mut rest = target.octets().to_vec();
    rest.extend([1, 1]);
    rest.extend(GUEST);
    let head = icmp::head(135, 0, 0);
    let mut bytes = build::icmp(
        &to_us(),
        addr(source),
        addr("ff02::1:ff00:1"),
        255,
        &head,
        &rest,
    )
    .as_bytes()
    .to_vec();
    bytes.extend(rest);
    bytes
}

#[test]
fn neighbour_advertisements() {
    let config = config();
    let mut local = local(&config);
    let check = |local: &mut Local, source: &str, target: &str, expected: Option<Mac>| {
        let handled = give(local, &config, &solicitation(source, target));
        let Some(mac) = expected else {
            assert_eq!(handled, Handled::Silent, "{source} {target}");
            return;
        };
        let bytes = reply(handled);
        let packet = ip::parse(&bytes[14..]).unwrap();
        assert_eq!(
            (packet.source, packet.destination),
            (addr("fe80::1"), addr(source))
        );
        assert_eq!(packet.hop_limit, 255);
        assert!(icmp::parse(&packet).is_ok(), "its checksum fits");
        assert_eq!(packet.payload[..2], [136, 0]);
        assert_eq!(packet.payload[4], 0xe0, "router, solicited, override");
        let target: Ipv6Addr = target.parse().unwrap();
        assert_eq!(packet.payload[8..24], target.octets());
        assert_eq!(packet.payload[24..], [&[2, 1], &mac[..]].concat());
    };
    check(&mut local, "2001:db8::10", "2001:db8::1", Some(OURS));
    check(&mut local, "fe80::7", "fe80::1", Some(OURS));
    check(&mut local, "::", "2001:db8::99", None);
    check(&mut local, "fe80::7", "2001:db8::10", None);
    let told = local.neighbour(&config, GUEST, addr("2001:db8::1"), Some(REAL));
    let told = frame_of(&told.expect("what was said before is wrong now"));
    assert_eq!(told[14 + 40 + 4], 0xa0, "not solicited");
    check(&mut local, "2001:db8::10", "2001:db8::1", Some(REAL));
}

#[test]
fn router_advertisements() {
    let mut config = config();
    let head = icmp::head(133, 0, 0);
    let solicitation = build::icmp(&to_us(), addr("fe80::7"), addr("ff02::2"), 255, &head, &[]);
    let now = start();
    let mut local = started(&config, now);
    let bytes = reply(give(&mut local, &config, solicitation.as_bytes()));
    let packet = ip::parse(&bytes[14..]).unwrap();
    assert_eq!(
        (packet.source, packet.destination),
        (addr("fe80::1"), addr("fe80::7"))
    );
    assert_eq!(packet.payload[0], 134);
    assert_eq!(
        packet.payload[4..8],
        [255, 0x80, 255, 255],
        "managed, for 65535 s"
    );

    let deadline = local.deadline().unwrap();
    assert!((200..600).contains(&(deadline - now).as_secs()));
    assert_eq!(local.timer(&config, now, GUEST), None);
    let unasked = local.timer(&config, deadline, GUEST).unwrap();
    let unasked = frame_of(&unasked);
    assert_eq!(
        ip::parse(&unasked[14..]).unwrap().destination,
        addr("ff02::1")
    );
    assert!(local.deadline().unwrap() > deadline);

    config.off.ra = true;
    let mut local = started(&config, now);
    assert_eq!(local.deadline(), None);
    let handled = give(&mut local, &config, solicitation.as_bytes());
    assert_eq!(handled, Handled::Dropped(Drop::Disabled));
}

/// A DHCP message of the guest in a frame.
fn dhcp_frame(message: &[u8]) -> Vec<u8> {
    let source = SocketAddr::new(addr("0.0.0.0"), 68);
    let destination = SocketAddr::new(addr("255.255.255.255"), 67);
    let headers = build::udp_complete(&to_us(), source, destination, 64, message);
    [headers.as_bytes(), message].concat()
}

fn discover(kind: d4::MessageType) -> d4::Message {
    let mut message = d4::Message::new(
        Ipv4Addr::UNSPECIFIED,
        Ipv4Addr::UNSPECIFIED,
        Ipv4Addr::UNSPECIFIED,
        Ipv4Addr::UNSPECIFIED,
        &GUEST,
    );
    message.opts_mut().insert(d4::DhcpOption::MessageType(kind));
    message
}

fn lease(config: &Config, message: &[u8]) -> (SocketAddr, Mac, d4::Message, Vec<u8>) {
    let bytes = reply(give(&mut local(config), config, &dhcp_frame(message)));
    let (header, rest) = eth::parse(&bytes).unwrap();
    let packet = ip::parse(rest).unwrap();
    assert_eq!(packet.source, addr("192.0.2.1"));
    let (udp_header, payload) = udp::parse(packet.payload).unwrap();
    assert!(udp::fits(&packet, udp_header, Offload::default()));
    assert_eq!(udp_header.source, 67);
    let decoded = d4::Message::decode(&mut Decoder::new(payload)).expect("a client can read it");
    let to = SocketAddr::new(packet.destination, udp_header.destination);
    (to, header.destination, decoded, payload.to_vec())
}

#[test]
fn dhcp_offers_what_there_is() {
    use d4::{DhcpOption as O, OptionCode as C};
    let config = config();
    let asked = discover(d4::MessageType::Discover);
    let (to, mac, offer, _) = lease(&config, &asked.to_vec().unwrap());
    assert_eq!((to.to_string(), mac), ("192.0.2.10:68".to_owned(), GUEST));
    assert_eq!(offer.xid(), asked.xid());
    assert_eq!(offer.chaddr(), GUEST);
    assert_eq!(offer.yiaddr().to_string(), "192.0.2.10");
    let check = |code, expected| assert_eq!(offer.opts().get(code), Some(&expected));
    let ours: Ipv4Addr = "192.0.2.1".parse().unwrap();
    check(C::MessageType, O::MessageType(d4::MessageType::Offer));
    check(C::ServerIdentifier, O::ServerIdentifier(ours));
    check(C::AddressLeaseTime, O::AddressLeaseTime(u32::MAX));
    check(
        C::SubnetMask,
        O::SubnetMask("255.255.255.0".parse().unwrap()),
    );
    check(C::Router, O::Router(vec![ours]));
    check(
        C::DomainNameServer,
        O::DomainNameServer(vec!["192.0.2.53".parse().unwrap()]),
    );
    check(C::Hostname, O::Hostname("web".to_owned()));
    check(C::InterfaceMtu, O::InterfaceMtu(65520));
    assert!(offer.opts().get(C::DomainSearch).is_some());
    assert!(offer.opts().get(C::ClientFQDN).is_some());
    assert_eq!(offer.opts().get(C::ClasslessStaticRoute), None);
}

#[test]
fn dhcp_kinds() {
    use d4::MessageType as T;
    let config = config();
    let answer = |message: &d4::Message| {
        lease(&config, &message.to_vec().unwrap())
            .2
            .opts()
            .msg_type()
    };
    assert_eq!(answer(&discover(T::Discover)), Some(T::Offer));
    assert_eq!(answer(&discover(T::Request)), Some(T::Ack));
    let mut rapid = discover(T::Discover);
    rapid.opts_mut().insert(d4::DhcpOption::RapidCommit);
    assert_eq!(answer(&rapid), Some(T::Ack));
    let mut other = discover(T::Request);
    let wanted = d4::DhcpOption::RequestedIpAddress("10.9.8.7".parse().unwrap());
    other.opts_mut().insert(wanted);
    assert_eq!(
        answer(&other),
        Some(T::Ack),
        "never refused, and given ours"
    );
    for kind in [T::Release, T::Decline, T::Inform, T::Offer] {
        let frame = dhcp_frame(&discover(kind).to_vec().unwrap());
        assert_eq!(
            give(&mut local(&config), &config, &frame),
            Handled::Silent,
            "{kind:?}"
        );
    }
    let mut broadcast = discover(T::Discover);
    broadcast.set_flags(d4::Flags::default().set_broadcast());
    let (to, mac, ..) = lease(&config, &broadcast.to_vec().unwrap());
    assert_eq!((to.ip(), mac), (addr("255.255.255.255"), eth::BROADCAST));
}

#[test]
fn bootp_is_served() {
    let config = config();
    let mut message = vec![0; 300];
    message[..3].copy_from_slice(&[1, 1, 6]);
    message[28..34].copy_from_slice(&GUEST);
    let (_, _, reply, bytes) = lease(&config, &message);
    assert_eq!(reply.yiaddr().to_string(), "192.0.2.10");
    assert!(bytes.len() >= 300);
}

#[test]
fn dhcp_with_a_gateway_elsewhere() {
    let mut config = config();
    config.families.v4 = Some(family("192.0.2.10/32", "198.51.100.1", "198.51.100.1"));
    let message = discover(d4::MessageType::Discover).to_vec().unwrap();
    let bytes = reply(give(&mut local(&config), &config, &dhcp_frame(&message)));
    let packet = ip::parse(&bytes[14..]).unwrap();
    let offer = d4::Message::decode(&mut Decoder::new(&packet.payload[8..])).unwrap();
    let Some(d4::DhcpOption::ClasslessStaticRoute(routes)) =
        offer.opts().get(d4::OptionCode::ClasslessStaticRoute)
    else {
        panic!("{offer}");
    };
    let routes: Vec<String> = routes
        .iter()
        .map(|(net, by)| format!("{net} {by}"))
        .collect();
    assert_eq!(
        routes,
        ["198.51.100.1/32 0.0.0.0", "0.0.0.0/0 198.51.100.1"]
    );
}

#[test]
fn dhcp_fits_into_what_the_client_takes() {
    let mut config = config();
    config.announce.search = (0..6)
        .map(|i| format!("{i}.{}.example", "x".repeat(60)))
        .collect();
    config.announce.dns = (0..20).map(|i| addr(&format!("192.0.2.{i}"))).collect();
    let check = |longest: Option<u16>, search: bool| {
        let mut message = discover(d4::MessageType::Discover);
        if let Some(longest) = longest {
            message
                .opts_mut()
                .insert(d4::DhcpOption::MaxMessageSize(longest));
        }
        let (_, _, offer, bytes) = lease(&config, &message.to_vec().unwrap());
        let size = bytes.len() + 28;
        assert!(size <= usize::from(longest.unwrap_or(0).max(576)), "{size}");
        assert!(bytes.len() - 240 <= limits::DHCP_OPTIONS);
        assert_eq!(
            offer.opts().get(d4::OptionCode::DomainSearch).is_some(),
            search
        );
        assert!(offer.opts().get(d4::OptionCode::Router).is_some());
    };
    check(None, false);
    check(Some(100), false);
    check(Some(1500), false);
    config.announce.dns.truncate(2);
    let check = |longest: Option<u16>, search: bool| {
        let mut message = discover(d4::MessageType::Discover);
        if let Some(longest) = longest {
            message
                .opts_mut()
                .insert(d4::DhcpOption::MaxMessageSize(longest));
        }
        let (_, _, offer, _) = lease(&config, &message.to_vec().unwrap());
        assert_eq!(
            offer.opts().get(d4::OptionCode::DomainSearch).is_some(),
            search
        );
    };
    check(None, false);
    check(Some(1500), true);
}

#[test]
fn dhcp_switched_off_or_for_others() {
    let mut config = config();
    let message = discover(d4::MessageType::Discover).to_vec().unwrap();
    let source = SocketAddr::new(addr("192.0.2.10"), 68);
    let elsewhere = SocketAddr::new(addr("203.0.113.1"), 67);
    let headers = build::udp_complete(&to_us(), source, elsewhere, 64, &message);
    let frame = [headers.as_bytes(), &message].concat();
    assert_eq!(
        give(&mut local(&config), &config, &frame),
        Handled::Elsewhere
    );
    let mut damaged = dhcp_frame(&message);
    damaged[60] ^= 1;
    assert_eq!(
        give(&mut local(&config), &config, &damaged),
        Handled::Dropped(Drop::Checksum)
    );
    config.off.dhcp = true;
    let handled = give(&mut local(&config), &config, &dhcp_frame(&message));
    assert_eq!(handled, Handled::Dropped(Drop::Disabled));
    config.off.dhcp = false;
    config.families.v4.as_mut().unwrap().gateway = None;
    let handled = give(&mut local(&config), &config, &dhcp_frame(&message));
    assert_eq!(handled, Handled::Dropped(Drop::Disabled));
}

const SERVER: [u8; 10] = [0, 3, 0, 1, 0x9a, 0x55, 0x9a, 0x55, 0x9a, 0x55];

fn v6_message(kind: d6::MessageType, options: Vec<d6::DhcpOption>) -> Vec<u8> {
    let mut message = d6::Message::new_with_id(kind, [1, 2, 3]);
    message
        .opts_mut()
        .insert(d6::DhcpOption::ClientId(vec![0, 3, 0, 1, 9, 9, 9, 9, 9, 9]));
    for option in options {
        message.opts_mut().insert(option);
    }
    message.to_vec().unwrap()
}

fn v6_frame(message: &[u8], destination: &str) -> Vec<u8> {
    let source = SocketAddr::new(addr("fe80::7"), 546);
    let destination = SocketAddr::new(addr(destination), 547);
    let headers = build::udp_complete(&to_us(), source, destination, 1, message);
    [headers.as_bytes(), message].concat()
}

fn wanted(address: Option<&str>) -> d6::DhcpOption {
    let mut opts = d6::DhcpOptions::new();
    if let Some(address) = address {
        opts.insert(d6::DhcpOption::IAAddr(d6::IAAddr {
            addr: address.parse().unwrap(),
            preferred_life: 0,
            valid_life: 0,
            opts: d6::DhcpOptions::new(),
        }));
    }
    d6::DhcpOption::IANA(d6::IANA {
        id: 77,
        t1: 0,
        t2: 0,
        opts,
    })
}

/// The reply's kind, the address in it, and the status anywhere.
fn v6_reply(
    config: &Config,
    message: &[u8],
) -> Option<(d6::MessageType, Option<String>, Option<d6::Status>)> {
    let handled = give(&mut local(config), config, &v6_frame(message, "ff02::1:2"));
    if handled == Handled::Silent {
        return None;
    }
    let bytes = reply(handled);
    let packet = ip::parse(&bytes[14..]).unwrap();
    assert_eq!(
        (packet.source, packet.destination),
        (addr("fe80::1"), addr("fe80::7"))
    );
    let (header, payload) = udp::parse(packet.payload).unwrap();
    assert!(udp::fits(&packet, header, Offload::default()));
    assert_eq!((header.source, header.destination), (547, 546));
    let decoded = d6::Message::decode(&mut Decoder::new(payload)).expect("a client can read it");
    assert_eq!(decoded.xid(), [1, 2, 3]);
    let options = decoded.opts();
    assert_eq!(
        options.get(d6::OptionCode::ServerId),
        Some(&d6::DhcpOption::ServerId(SERVER.to_vec()))
    );
    assert!(options.get(d6::OptionCode::ClientId).is_some());
    let status = |options: &d6::DhcpOptions| match options.get(d6::OptionCode::StatusCode) {
        Some(d6::DhcpOption::StatusCode(code)) => Some(code.status),
        _ => None,
    };
    let Some(d6::DhcpOption::IANA(set)) = options.get(d6::OptionCode::IANA) else {
        return Some((decoded.msg_type(), None, status(options)));
    };
    assert_eq!(set.id, 77);
    let address = match set.opts.get(d6::OptionCode::IAAddr) {
        Some(d6::DhcpOption::IAAddr(address)) => Some(address.addr.to_string()),
        _ => None,
    };
    Some((decoded.msg_type(), address, status(&set.opts)))
}

#[test]
fn dhcpv6_kinds() {
    use d6::MessageType as T;
    let config = config();
    let ours = || Some("2001:db8::10".to_owned());
    let server = || d6::DhcpOption::ServerId(SERVER.to_vec());
    let stranger = || d6::DhcpOption::ServerId(vec![0, 3, 0, 1, 1, 1, 1, 1, 1, 1]);
    let check = |kind, options, expected| {
        assert_eq!(
            v6_reply(&config, &v6_message(kind, options)),
            expected,
            "{kind:?}"
        );
    };
    check(
        T::Solicit,
        vec![wanted(None)],
        Some((T::Advertise, ours(), None)),
    );
    check(
        T::Solicit,
        vec![wanted(Some("2001:db8::99"))],
        Some((T::Advertise, ours(), None)),
    );
    check(T::Solicit, vec![wanted(None), server()], None);
    check(
        T::Request,
        vec![wanted(Some("2001:db8::10")), server()],
        Some((T::Reply, ours(), None)),
    );
    check(T::Request, vec![wanted(None), stranger()], None);
    check(T::Request, vec![wanted(None)], None);
    let elsewhere = Some(d6::Status::NotOnLink);
    check(
        T::Request,
        vec![wanted(Some("2001:db8::99")), server()],
        Some((T::Reply, None, elsewhere)),
    );
    check(
        T::Renew,
        vec![wanted(Some("2001:db8::10")), server()],
        Some((T::Reply, ours(), None)),
    );
    check(
        T::Rebind,
        vec![wanted(Some("2001:db8::10"))],
        Some((T::Reply, ours(), None)),
    );
    check(
        T::Confirm,
        vec![wanted(Some("2001:db8::10"))],
        Some((T::Reply, None, Some(d6::Status::Success))),
    );
    check(
        T::Confirm,
        vec![wanted(Some("2001:db8::99"))],
        Some((T::Reply, None, elsewhere)),
    );
    check(T::InformationRequest, vec![], Some((T::Reply, None, None)));
    check(T::Release, vec![wanted(None), server()], None);
    check(T::Advertise, vec![wanted(None)], None);
}

#[test]
fn dhcpv6_announces() {
    let mut config = config();
    let message = v6_message(d6::MessageType::InformationRequest, vec![]);
    let bytes = reply(give(
        &mut local(&config),
        &config,
        &v6_frame(&message, "ff02::1:2"),
    ));
    let decoded = d6::Message::decode(&mut Decoder::new(&bytes[14 + 48..])).unwrap();
    let servers = d6::DhcpOption::DomainNameServers(vec!["2001:db8::53".parse().unwrap()]);
    assert_eq!(
        decoded.opts().get(d6::OptionCode::DomainNameServers),
        Some(&servers)
    );
    assert!(
        decoded
            .opts()
            .get(d6::OptionCode::DomainSearchList)
            .is_some()
    );
    assert_eq!(
        give(
            &mut local(&config),
            &config,
            &v6_frame(&message, "2001:db8::1")
        ),
        Handled::Elsewhere
    );
    config.families.v6.as_mut().unwrap().addresses.clear();
    let solicit = v6_message(d6::MessageType::Solicit, vec![wanted(None)]);
    let expected = (
        d6::MessageType::Advertise,
        None,
        Some(d6::Status::NoAddrsAvail),
    );
    assert_eq!(v6_reply(&config, &solicit), Some(expected));
    config.off.dhcpv6 = true;
    let handled = give(
        &mut local(&config),
        &config,
        &v6_frame(&message, "ff02::1:2"),
    );
    assert_eq!(handled, Handled::Dropped(Drop::Disabled));
}

proptest! {
    #[test]
    fn any_options_are_read(options: Vec<u8>, six: bool) {
        let config = config();
        let frame = if six {
            v6_frame(&[&[1, 1, 2, 3], &options[..]].concat(), "ff02::1:2")
        } else {
            let mut message = discover(d4::MessageType::Discover).to_vec().unwrap();
            message.truncate(240);
            dhcp_frame(&[message, options].concat())
        };
        let _handled = give(&mut local(&config), &config, &frame);
    }
}
