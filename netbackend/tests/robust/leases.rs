//! Everything that happens to packets, calls and files of leases before anything happens to the host.
//!
//! An input is a byte that says what it is, and the rest: 0 and 1, a story of a client of IPv4 or IPv6; 2 and 3, the two
//! messages of gRPC that have fields; 4, a file of leases. A story is a list of events: a byte below 128 lets
//! that many seconds pass, times four; any other one is followed by two bytes of a length and a packet of that
//! length. What a server could know, the number of the exchange and the MAC address, is put into a packet first if the
//! byte is even. Files `fuzz/dhcp/*` are such inputs.

use std::net::IpAddr;
use std::time::Duration;

use netbackend::dhcp::record;
use netbackend::dhcp::{Action, Client, Event, FOREVER, Identity, Moment, Terms, v4, v6};
use wire::names::MacAddr;
use wire::proxy::{Kept, KeptLease, Lease, LeaseFile, Message, NetworkConfig, Version};

const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 7]);
const SERVER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
/// What a client has a right to do within one call: nobody drives it in a loop.
const MOST_ACTIONS: usize = 3;

/// Lets an input happen. Says whether it was understood: whether a lease was had, or the document is one.
///
/// # Errors
/// What must not be.
pub(crate) fn happen(input: &[u8]) -> Result<bool, String> {
    match input.split_first() {
        Some((0, story)) => tell(false, story),
        Some((1, story)) => tell(true, story),
        Some((2, bytes)) => comes_back::<NetworkConfig>(bytes),
        Some((3, bytes)) => comes_back::<Lease>(bytes),
        Some((4, text)) => file(&String::from_utf8_lossy(text)),
        Some(_) | None => Ok(false),
    }
}

fn ensure(holds: bool, why: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(why()) }
}

fn comes_back<T: Message + PartialEq + std::fmt::Debug>(bytes: &[u8]) -> Result<bool, String> {
    let Ok(message) = T::decode(bytes) else {
        return Ok(false);
    };
    let again = T::decode(&message.encode());
    ensure(again.as_ref() == Ok(&message), || {
        format!("{message:?} comes back as {again:?}")
    })?;
    Ok(true)
}

/// A file is refused, or what is read of it is read again after it is written.
fn file(text: &str) -> Result<bool, String> {
    let read =
        |text: &str| record::read(text, Duration::from_secs(5000), Duration::from_secs(1000));
    let Ok(records) = read(text) else {
        return Ok(false);
    };
    let kept: Vec<KeptLease> = records
        .leases
        .iter()
        .map(|lease| lease.kept.clone())
        .collect();
    let written = LeaseFile::from([("all".to_owned(), kept)]);
    let written = serde_json::to_string(&written).map_err(|error| error.to_string())?;
    let again = read(&written).map_err(|error| error.to_string())?;
    ensure(again.leases == records.leases, || {
        format!("{:?} are read as {:?}", records.leases, again.leases)
    })?;
    for lease in &records.leases {
        let identity = identity(lease.mac);
        let client = resume(
            identity,
            lease.config.version == Version::V6,
            lease.terms.clone(),
        );
        drop(client.release());
    }
    Ok(!records.leases.is_empty())
}

fn identity(mac: MacAddr) -> Identity {
    Identity {
        mac,
        container: "c1".to_owned(),
        host_name: "web".to_owned(),
    }
}

fn resume(identity: Identity, is_v6: bool, terms: Terms) -> Client {
    let now = Duration::from_secs(5000);
    if is_v6 {
        Client::V6(v6::Client::resume(identity, terms, now, 1))
    } else {
        Client::V4(v4::Client::resume(identity, terms, now, 1))
    }
}

/// A client and what is known of it.
struct Teller {
    is_v6: bool,
    client: Client,
    now: Moment,
    /// The number of the exchange, as it stands in packets.
    xid: Vec<u8>,
    /// What a proxy would have on record.
    on_record: Option<IpAddr>,
    had_lease: bool,
}

fn tell(is_v6: bool, mut story: &[u8]) -> Result<bool, String> {
    let now = Duration::from_secs(1000);
    let client = if is_v6 {
        Client::V6(v6::Client::new(identity(MAC), now, 1))
    } else {
        Client::V4(v4::Client::new(identity(MAC), now, 1))
    };
    let mut teller = Teller {
        is_v6,
        client,
        now,
        xid: Vec::new(),
        on_record: None,
        had_lease: false,
    };
    teller.pass(Duration::ZERO)?;
    while let Some((&kind, rest)) = story.split_first() {
        story = rest;
        if kind < 128 {
            teller.pass(Duration::from_secs(u64::from(kind) * 4))?;
            continue;
        }
        let Some(([low, high], rest)) = rest.split_first_chunk() else {
            break;
        };
        let length = usize::from(u16::from_le_bytes([*low, *high])).min(rest.len());
        let (packet, rest) = rest.split_at(length);
        story = rest;
        let mut packet = packet.to_vec();
        if kind % 2 == 0 {
            teller.address(&mut packet);
        }
        teller.event(Event::Received {
            from: SERVER_MAC,
            payload: &packet,
        })?;
    }
    Ok(teller.had_lease)
}

impl Teller {
    fn address(&self, packet: &mut [u8]) {
        let mut put = |at: usize, bytes: &[u8]| {
            if let Some(place) = packet.get_mut(at..at + bytes.len()) {
                place.copy_from_slice(bytes);
            }
        };
        if self.is_v6 {
            put(1, &self.xid);
        } else {
            put(4, &self.xid);
            put(28, &MAC.0);
        }
    }

    fn pass(&mut self, time: Duration) -> Result<(), String> {
        let end = self.now + time;
        let mut wakes = 0;
        while self.client.deadline() <= end {
            wakes += 1;
            ensure(wakes < 1000, || {
                format!("it never sleeps: {:?}", self.client)
            })?;
            self.now = self.now.max(self.client.deadline());
            self.event(Event::Wake)?;
        }
        self.now = end;
        Ok(())
    }

    fn event(&mut self, event: Event<'_>) -> Result<(), String> {
        let actions = self.client.handle(self.now, event);
        ensure(actions.len() <= MOST_ACTIONS, || format!("{actions:?}"))?;
        for action in actions {
            match action {
                Action::Chosen(terms) => self.on_record = Some(terms.address.addr()),
                Action::Lost(_) => self.on_record = None,
                Action::Bound(terms) => {
                    self.had_lease = true;
                    self.on_record = Some(terms.address.addr());
                    self.check(&terms)?;
                }
                Action::Send(outgoing) => {
                    let payload = outgoing.payload;
                    ensure(payload.len() <= 1472, || format!("{} bytes", payload.len()))?;
                    let at = if self.is_v6 { 1..4 } else { 4..8 };
                    self.xid = payload.get(at).ok_or("no number")?.to_vec();
                    // A request of whatever kind: anything but the search.
                    let asks = if self.is_v6 {
                        matches!(payload.first(), Some(3 | 5 | 6))
                    } else {
                        payload.get(240..243) == Some(&[53, 1, 3])
                    };
                    ensure(!asks || self.on_record.is_some(), || {
                        format!("not on record: {:?}", self.client)
                    })?;
                }
            }
        }
        let expiry = self.client.terms().map_or(Moment::MAX, Terms::expiry);
        ensure(self.client.deadline() <= expiry, || {
            format!("a lease is held beyond its end: {:?}", self.client)
        })
    }

    /// A lease that makes sense, and comes back from the record.
    fn check(&self, terms: &Terms) -> Result<(), String> {
        let own = terms.address.addr();
        let makes_sense = own.is_ipv6() == self.is_v6
            && !(own.is_unspecified() || own.is_loopback() || own.is_multicast())
            && terms.t1 <= terms.t2
            && (terms.t2 <= terms.lifetime || terms.lifetime == FOREVER)
            && terms.renewal() <= terms.expiry()
            && [
                terms.gateways.len(),
                terms.routes.len(),
                terms.dns.len(),
                terms.ntp.len(),
            ]
            .iter()
            .all(|count| *count <= 16)
            && !terms.domain.contains(['\n', ' ', '/', '\0'])
            && !terms.host_name.contains(['\n', ' ', '/', '\0']);
        ensure(makes_sense, || format!("{terms:?}"))?;
        let lease = terms.lease(MAC);
        comes_back::<Lease>(&lease.encode())?;
        let digits = terms.server.duid.iter().map(|byte| format!("{byte:02x}"));
        let calendar = Duration::from_secs(1_000_000);
        let kept = KeptLease {
            lease,
            netbackend: Some(Kept {
                config: NetworkConfig::default(),
                since: calendar.as_secs() - (self.now - terms.since).as_secs(),
                server_mac: terms.server.mac,
                server_duid: digits.collect(),
                routes: terms.routes.clone(),
                netns_inode: 7,
                unconfirmed: false,
            }),
        };
        let text = serde_json::to_string(&kept).map_err(|error| error.to_string())?;
        let kept: KeptLease = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        let again = record::terms(&kept, self.now, calendar).ok_or("no terms come back")?;
        let same = Terms {
            since: terms.since,
            ..again
        };
        ensure(same == *terms, || {
            format!("{terms:?} comes back as {same:?}")
        })
    }
}
