use super::*;

const LINKS: Families<u32> = Families {
    v4: Some(7),
    v6: Some(8),
};
const REACHABLE: u16 = 0x02;
const STALE: u16 = 0x04;
const FAILED: u16 = 0x20;
const ONE: Mac = [2, 0, 0, 0, 0, 1];
const TWO: Mac = [2, 0, 0, 0, 0, 2];

fn addr(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn message(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER + body.len()).unwrap();
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes.extend(body);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn body(link: u32, state: u16, address: &str, mac: &[u8]) -> Vec<u8> {
    let (family, address) = match addr(address) {
        IpAddr::V4(address) => (2, address.octets().to_vec()),
        IpAddr::V6(address) => (10, address.octets().to_vec()),
    };
    let mut bytes = vec![family, 0, 0, 0];
    bytes.extend(link.to_ne_bytes());
    bytes.extend(state.to_ne_bytes());
    bytes.extend([0, 1]);
    for (kind, value) in [(1_u16, &address[..]), (2, mac)] {
        if !value.is_empty() {
            bytes.extend(u16::try_from(4 + value.len()).unwrap().to_ne_bytes());
            bytes.extend(kind.to_ne_bytes());
            bytes.extend(value);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
    }
    bytes
}

fn notice(link: u32, state: u16, address: &str, mac: &[u8]) -> Vec<u8> {
    message(NEW, 0, 0, &body(link, state, address, mac))
}

fn gone(link: u32, address: &str) -> Vec<u8> {
    message(GONE, 0, 0, &body(link, FAILED, address, &[]))
}

fn known(address: &str, mac: Mac) -> Vec<News> {
    vec![(addr(address), Some(mac))]
}

fn forgotten(address: &str) -> Vec<News> {
    vec![(addr(address), None)]
}

/// A request's family, link and number.
fn asked(neighbours: &mut Neighbours) -> Option<(u8, u32, u32)> {
    let bytes = neighbours.request()?;
    assert_eq!(u32_at(&bytes, 0), Some(36));
    assert_eq!(u16_at(&bytes, 4), Some(30));
    let number = |place| u32_at(&bytes, place).unwrap();
    Some((bytes[16], number(32), number(8)))
}

/// Both lists are empty.
fn listed() -> Neighbours {
    let mut neighbours = Neighbours::default();
    assert_eq!(neighbours.follow(LINKS), []);
    answer(&mut neighbours, &[]);
    neighbours
}

/// Both lists are asked for, and answered with these entries. What follows.
fn answer(neighbours: &mut Neighbours, entries: &[Vec<u8>]) -> Vec<News> {
    let mut news = Vec::new();
    for (family, link) in [(2, 7), (10, 8)] {
        let (of, on, sequence) = asked(neighbours).unwrap();
        assert_eq!((of, on), (family, link));
        assert_eq!(neighbours.request(), None);
        let mut bytes = Vec::new();
        for entry in entries.iter().filter(|entry| entry[0] == family) {
            bytes.extend(message(NEW, 2, sequence, entry));
        }
        news.extend(neighbours.take(&bytes));
        news.extend(neighbours.take(&message(DONE, 2, sequence, &[0; 4])));
    }
    news
}

#[test]
fn notices() {
    let mut neighbours = listed();
    let mut take = |bytes: Vec<u8>| neighbours.take(&bytes);
    assert_eq!(
        take(notice(7, REACHABLE, "192.0.2.9", &ONE)),
        known("192.0.2.9", ONE)
    );
    assert_eq!(take(notice(7, STALE, "192.0.2.9", &ONE)), []);
    assert_eq!(
        take(notice(7, STALE, "192.0.2.9", &TWO)),
        known("192.0.2.9", TWO)
    );
    assert_eq!(
        take(notice(8, STALE, "fe80::9", &TWO)),
        known("fe80::9", TWO)
    );
    assert_eq!(
        take(notice(7, FAILED, "192.0.2.9", &TWO)),
        forgotten("192.0.2.9")
    );
    assert_eq!(take(gone(7, "192.0.2.9")), []);
    assert_eq!(take(gone(8, "fe80::9")), forgotten("fe80::9"));
    assert_eq!(neighbours.request(), None);
}

#[test]
fn what_is_no_neighbour() {
    let mut neighbours = listed();
    let mut proxy = body(7, STALE, "192.0.2.9", &ONE);
    proxy[10] = PROXY;
    let strange = [
        notice(8, STALE, "192.0.2.9", &ONE),
        notice(7, STALE, "fe80::9", &ONE),
        notice(7, STALE, "224.0.0.251", &[1, 0, 0x5e, 0, 0, 0xfb]),
        notice(7, STALE, "192.0.2.255", &[0xff; 6]),
        notice(7, STALE, "192.0.2.9", &[0; 6]),
        notice(7, STALE, "192.0.2.9", &[2; 4]),
        notice(7, 1, "192.0.2.9", &[]),
        message(NEW, 0, 0, &proxy),
        message(16, 0, 0, &body(7, STALE, "192.0.2.9", &ONE)),
    ];
    for bytes in strange {
        assert_eq!(neighbours.take(&bytes), [], "{bytes:?}");
    }
    let bytes = notice(7, STALE, "192.0.2.9", &ONE);
    for end in 0..bytes.len() {
        assert_eq!(neighbours.take(&bytes[..end]), []);
    }
}

#[test]
fn lists_in_the_beginning_and_when_notices_were_lost() {
    let mut neighbours = Neighbours::default();
    assert_eq!(neighbours.follow(LINKS), []);
    let nine = body(7, STALE, "192.0.2.9", &ONE);
    let eight = body(7, STALE, "192.0.2.8", &ONE);
    let six = body(8, STALE, "fe80::9", &TWO);
    let news = answer(&mut neighbours, &[nine.clone(), eight, six.clone()]);
    let all = ["192.0.2.9", "192.0.2.8", "fe80::9"];
    assert_eq!(
        news.iter().map(|(a, _)| *a).collect::<Vec<_>>(),
        all.map(addr)
    );
    neighbours.lost();
    assert_eq!(
        answer(&mut neighbours, &[nine, six]),
        forgotten("192.0.2.8")
    );
    assert_eq!(neighbours.request(), None);
}

/// Notices that were there before the list say what was, those after its beginning what is.
#[test]
fn notices_before_and_after_the_beginning_of_a_list() {
    let mut neighbours = listed();
    neighbours.take(&notice(7, STALE, "192.0.2.7", &ONE));
    neighbours.take(&notice(8, STALE, "fe80::7", &ONE));
    neighbours.lost();
    let (_, _, sequence) = asked(&mut neighbours).unwrap();
    neighbours.take(&notice(7, STALE, "192.0.2.7", &TWO));
    let part = body(7, STALE, "192.0.2.8", &ONE);
    neighbours.take(&message(NEW, 2, sequence, &part));
    neighbours.take(&notice(7, STALE, "192.0.2.9", &ONE));
    neighbours.take(&notice(8, STALE, "fe80::7", &TWO));
    assert_eq!(neighbours.take(&message(DONE, 2, sequence, &[0; 4])), []);
    let (_, _, sequence) = asked(&mut neighbours).unwrap();
    let news = neighbours.take(&message(DONE, 2, sequence, &[0; 4]));
    assert_eq!(news, [(addr("192.0.2.7"), None), (addr("fe80::7"), None)]);
}

/// More is lost while the list is told: it is asked for again.
#[test]
fn a_list_that_cannot_be_trusted() {
    let mut neighbours = listed();
    let nine = body(7, STALE, "192.0.2.9", &ONE);
    neighbours.take(&message(NEW, 0, 0, &nine));
    neighbours.lost();
    neighbours.lost();
    assert_eq!(answer(&mut neighbours, &[]), []);
    assert_eq!(answer(&mut neighbours, &[]), forgotten("192.0.2.9"));
    assert_eq!(neighbours.request(), None);
    // Not for ever.
    neighbours.take(&message(NEW, 0, 0, &nine));
    neighbours.lost();
    for _ in 0..ATTEMPTS {
        neighbours.lost();
        assert_eq!(answer(&mut neighbours, &[]), []);
    }
    assert_eq!(neighbours.request(), None);
    // The kernel refuses.
    neighbours.lost();
    for _ in FAMILIES {
        let (_, _, sequence) = asked(&mut neighbours).unwrap();
        assert_eq!(
            neighbours.take(&message(ERROR, 0, sequence, &[0xff; 4])),
            []
        );
    }
    assert_eq!(neighbours.request(), None);
}

/// The links are others while a list is told.
#[test]
fn other_links() {
    let mut neighbours = listed();
    neighbours.take(&notice(7, STALE, "192.0.2.9", &ONE));
    neighbours.lost();
    let (_, _, sequence) = asked(&mut neighbours).unwrap();
    let links = Families {
        v4: Some(9),
        v6: None,
    };
    assert_eq!(neighbours.follow(links), forgotten("192.0.2.9"));
    assert_eq!(neighbours.request(), None, "the kernel is busy");
    neighbours.take(&message(
        NEW,
        2,
        sequence,
        &body(7, STALE, "192.0.2.9", &ONE),
    ));
    assert_eq!(neighbours.take(&message(DONE, 2, sequence, &[0; 4])), []);
    let (family, link, sequence) = asked(&mut neighbours).unwrap();
    assert_eq!((family, link), (2, 9));
    let list = message(NEW, 2, sequence, &body(9, STALE, "192.0.2.9", &TWO));
    assert_eq!(neighbours.take(&list), known("192.0.2.9", TWO));
    assert_eq!(neighbours.take(&message(DONE, 2, sequence, &[0; 4])), []);
    assert_eq!(neighbours.request(), None);
    assert_eq!(
        neighbours.follow(Families::default()),
        forgotten("192.0.2.9")
    );
    assert_eq!(neighbours.request(), None);
}

#[test]
fn links_by_their_names() {
    let body = |family: u8, index: u32, name: &str| {
        let mut bytes = vec![family, 0, 1, 0];
        bytes.extend(index.to_ne_bytes());
        bytes.extend([0; 8]);
        bytes.extend([5, 0, 13, 0, 1, 0, 0, 0]);
        // The rest of a request is a name.
        bytes.extend(&ask_link(name)[32..]);
        bytes
    };
    let mut bytes = message(LINK, 0, 0, &body(0, 7, "uplink"));
    bytes.extend(message(LINK_GONE, 0, 0, &body(0, 8, "other")));
    bytes.extend(message(LINK_GONE, 0, 0, &body(7, 9, "port")));
    bytes.extend(notice(7, STALE, "192.0.2.9", &ONE));
    let expected = [Link::There(7, "uplink".to_owned()), Link::Gone(8)];
    assert_eq!(links(&bytes).collect::<Vec<_>>(), expected);
    for end in 0..HEADER + 16 {
        assert_eq!(links(&bytes[..end]).count(), 0);
    }
    let request = ask_link("uplink");
    assert_eq!(u32_at(&request, 0), Some(44));
    assert_eq!(u16_at(&request, 32), Some(11));
}

#[test]
fn neighbours_are_bounded() {
    let mut neighbours = listed();
    for i in 0..2 * limits::NEIGHBOURS {
        let address = format!("10.0.{}.{}", i >> 8, i & 0xff);
        let news = neighbours.take(&notice(7, STALE, &address, &ONE));
        assert_eq!(news.is_empty(), i >= limits::NEIGHBOURS);
    }
    assert_eq!(neighbours.known.len(), limits::NEIGHBOURS);
}
