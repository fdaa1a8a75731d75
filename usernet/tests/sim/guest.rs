//! The guest: smoltcp, and the network card between it and the tap.

use std::collections::VecDeque;
use std::net::IpAddr;

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp;
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{HardwareAddress, IpCidr, IpEndpoint};
use usernet::event::{Offload, Segments};
use usernet::packet::checksum::{Sum, pseudo_header};
use usernet::packet::{eth, ip};

/// Two queues of IP packets.
#[derive(Debug)]
pub(crate) struct Queues {
    pub(crate) incoming: VecDeque<Vec<u8>>,
    pub(crate) outgoing: VecDeque<Vec<u8>>,
    mtu: usize,
}

pub(crate) struct In(Vec<u8>);
pub(crate) struct Out<'a>(&'a mut VecDeque<Vec<u8>>);

impl RxToken for In {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Out<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut packet = vec![0; len];
        let result = f(&mut packet);
        self.0.push_back(packet);
        result
    }
}

impl Device for Queues {
    type RxToken<'a> = In;
    type TxToken<'a> = Out<'a>;

    fn receive(&mut self, _: Instant) -> Option<(In, Out<'_>)> {
        let packet = self.incoming.pop_front()?;
        Some((In(packet), Out(&mut self.outgoing)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Out<'_>> {
        Some(Out(&mut self.outgoing))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        capabilities
    }
}

pub(crate) struct Guest {
    pub(crate) queues: Queues,
    interface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
}

impl Guest {
    pub(crate) fn new(
        address: IpAddr,
        gateway: IpAddr,
        mtu: usize,
        rx: usize,
        tx: usize,
        seed: u64,
    ) -> Self {
        let mut queues = Queues {
            incoming: VecDeque::new(),
            outgoing: VecDeque::new(),
            mtu,
        };
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut queues, Instant::ZERO);
        let prefix = if address.is_ipv4() { 24 } else { 64 };
        interface.update_ip_addrs(|addresses| {
            addresses
                .push(IpCidr::new(address.into(), prefix))
                .expect("room");
        });
        let routes = interface.routes_mut();
        match gateway {
            IpAddr::V4(gateway) => routes.add_default_ipv4_route(gateway).map(drop),
            IpAddr::V6(gateway) => routes.add_default_ipv6_route(gateway).map(drop),
        }
        .expect("room");
        let mut sockets = SocketSet::new(Vec::new());
        let buffer = |len| tcp::SocketBuffer::new(vec![0; len]);
        let mut socket = tcp::Socket::new(buffer(rx), buffer(tx));
        if seed.is_multiple_of(3) {
            socket.set_ack_delay(None);
        }
        if seed.is_multiple_of(5) {
            socket.set_nagle_enabled(false);
        }
        let handle = sockets.add(socket);
        Self {
            queues,
            interface,
            sockets,
            handle,
        }
    }

    pub(crate) fn socket(&mut self) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(self.handle)
    }

    pub(crate) fn connect(&mut self, to: IpEndpoint, port: u16) {
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(self.handle);
        socket
            .connect(self.interface.context(), to, port)
            .expect("a new socket");
    }

    pub(crate) fn poll(&mut self, micros: i64) {
        let now = Instant::from_micros(micros);
        self.interface
            .poll(now, &mut self.queues, &mut self.sockets);
    }

    /// Microseconds from now until it wants to be polled.
    pub(crate) fn poll_in(&mut self, micros: i64) -> Option<Duration> {
        self.interface
            .poll_delay(Instant::from_micros(micros), &self.sockets)
    }
}

/// What a network card with segmentation and checksum offload makes of a frame: IP packets.
pub(crate) fn transmit(frame: &[u8], offload: Offload) -> Vec<Vec<u8>> {
    let packet = &frame[eth::LEN..];
    let parsed = ip::parse(packet).expect("the forwarder makes packets");
    if parsed.protocol != ip::TCP {
        return vec![packet.to_vec()];
    }
    let head = parsed.headers.len();
    let tcp_head = usize::from(parsed.payload[12] >> 4) * 4;
    let payload = &parsed.payload[tcp_head..];
    let cut = match offload.segments {
        Segments::Tcp(cut) => usize::from(cut),
        Segments::One => payload.len().max(1),
        Segments::Udp(_) => panic!("a train of datagrams over TCP"),
    };
    let parts: Vec<&[u8]> = match payload.len() {
        0 => vec![&[]],
        _ => payload.chunks(cut).collect(),
    };
    let last = parts.len() - 1;
    let mut sent = 0;
    let cut_one = |(number, part): (usize, &&[u8])| {
        let mut one = packet[..head + tcp_head].to_vec();
        one.extend(*part);
        let seq = u32::from_be_bytes(one[head + 4..head + 8].try_into().expect("four"));
        one[head + 4..head + 8].copy_from_slice(&seq.wrapping_add(sent).to_be_bytes());
        sent = sent.wrapping_add(u32::try_from(part.len()).expect("small"));
        if number != last {
            one[head + 13] &= !9;
        }
        finish(&mut one, head, parsed.source, parsed.destination, offload);
        one
    };
    parts.iter().enumerate().map(cut_one).collect()
}

/// Lengths and checksums of one packet.
fn finish(one: &mut [u8], head: usize, source: IpAddr, destination: IpAddr, offload: Offload) {
    let len = u16::try_from(one.len()).expect("a packet");
    if source.is_ipv4() {
        one[2..4].copy_from_slice(&len.to_be_bytes());
        one[10..12].copy_from_slice(&[0, 0]);
        let sum = Sum::new().bytes(&one[..head]).checksum();
        one[10..12].copy_from_slice(&sum.to_be_bytes());
    } else {
        one[4..6].copy_from_slice(&(len - 40).to_be_bytes());
    }
    if !offload.partial_checksum {
        return;
    }
    if offload.segments == Segments::One {
        // As the kernel does: the sum over what is there, the pseudo header's included.
        let sum = Sum::new().bytes(&one[head..]).checksum();
        one[head + 16..head + 18].copy_from_slice(&sum.to_be_bytes());
        return;
    }
    one[head + 16..head + 18].copy_from_slice(&[0, 0]);
    let sum = pseudo_header(source, destination, ip::TCP, one.len() - head)
        .bytes(&one[head..])
        .checksum();
    one[head + 16..head + 18].copy_from_slice(&sum.to_be_bytes());
}
