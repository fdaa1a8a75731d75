//! Published ports: both protocols, both families, from the network and by loopback, in each form that Podman has.

use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};

use anyhow::{Result, ensure};
use test_fixtures::lab::Host;
use test_fixtures::netns::Netns;
use test_fixtures::traffic::{Protocol, Reply, ask, serve};

use super::machine::{Family, MAP_GUEST, Machine, PATIENCE, address, on, settle};

/// Who connects, and how it gets to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Path {
    /// By the host's address on its uplink.
    Tap,
    /// By the host's loopback address, from socket to socket.
    Loopback,
}

impl Path {
    pub(crate) fn address(self, family: Family) -> IpAddr {
        match self {
            Self::Tap => family.host(),
            Self::Loopback => family.loopback(),
        }
    }

    fn interface(self) -> &'static str {
        match self {
            Self::Tap => Host::UPLINK,
            Self::Loopback => "lo",
        }
    }
}

/// What is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Single,
    Range,
    Translated,
    TranslatedRange,
    AddressBound,
    InterfaceBound,
}

#[derive(Clone, Copy, Debug)]
struct Case {
    protocol: Protocol,
    family: Family,
    path: Path,
    form: Form,
}

/// First port of the host, without and with an address.
const PORTS: [u16; 2] = [7000, 7100];

impl Case {
    fn count(self) -> u16 {
        if matches!(self.form, Form::Range | Form::TranslatedRange) {
            3
        } else {
            1
        }
    }

    /// Port of the guest minus that of the host.
    fn shift(self) -> u16 {
        u16::from(matches!(
            self.form,
            Form::Translated | Form::TranslatedRange
        ))
    }

    /// The words, as `--network pasta:…` or `-p …` lead to them, and the first ports published.
    fn words(self) -> (Vec<String>, Vec<u16>) {
        let to = self.path.address(self.family);
        let option = match self.protocol {
            Protocol::Udp => ["-u", "--udp-ports"],
            Protocol::Tcp | Protocol::Sctp => ["-t", "--tcp-ports"],
        };
        let ports = |first: u16| {
            let (last, target) = (first + self.count() - 1, first + self.shift());
            format!("{first}-{last}:{target}-{}", target + self.count() - 1)
        };
        let published =
            |first, address: &str| [option[0].to_owned(), format!("{address}{}", ports(first))];
        let with_address = published(PORTS[1], &format!("{to}/"));
        match self.form {
            Form::AddressBound => (with_address.into(), vec![PORTS[1]]),
            Form::InterfaceBound => {
                let interface = self.path.interface();
                let port = PORTS[1];
                let spec = format!("{to}%{interface}/{port}:{port}");
                (vec![option[1].to_owned(), spec], vec![port])
            }
            Form::Single | Form::Range | Form::Translated | Form::TranslatedRange => (
                [published(PORTS[0], ""), with_address].concat(),
                PORTS.into(),
            ),
        }
    }

    /// The client as the guest sees it, if it is on the host.
    fn client(self, peer: IpAddr) -> Result<()> {
        let expected = match (self.path, self.family, peer) {
            (Path::Loopback, family, _) => peer == family.host(),
            (Path::Tap, Family::V4, _) => peer == address(MAP_GUEST),
            (Path::Tap, Family::V6, IpAddr::V6(peer)) => peer.is_unicast_link_local(),
            (Path::Tap, Family::V6, IpAddr::V4(_)) => false,
        };
        ensure!(expected, "the guest saw {peer}");
        Ok(())
    }
}

fn forward(machine: &Machine<'_>, case: Case) -> Result<()> {
    let guest = machine.guest()?;
    let (words, firsts) = case.words();
    let words: Vec<&str> = words.iter().map(|word| &**word).collect();
    let _daemon = machine.podman(&guest, &[], &words)?;
    settle(&guest)?;
    for port in firsts.iter().flat_map(|first| *first..first + case.count()) {
        let target = port + case.shift();
        let tag = target.to_string();
        let at = SocketAddr::new(case.family.any(), target);
        let _server = serve(&guest, case.protocol, at, &tag)?;
        let asked = |from: &Netns, of: IpAddr| -> Result<Reply> {
            let reply = ask(from, case.protocol, None, (of, port).into(), PATIENCE)?;
            ensure!(reply.tag == tag, "{port} led to {reply}");
            Ok(reply)
        };
        let reply = asked(machine.host, case.path.address(case.family))?;
        case.client(reply.peer.ip())?;
        if case.path == Path::Tap {
            // Who comes from elsewhere is seen as he is.
            let reply = asked(&machine.outside, case.family.host())?;
            ensure!(reply.peer.ip() == case.family.outside(), "{reply}");
        }
    }
    bound(machine, case)
}

/// A port with an address is bound there and nowhere else, and only on the interface that was named.
fn bound(machine: &Machine<'_>, case: Case) -> Result<()> {
    let port = PORTS[1];
    let other = match case.path {
        Path::Tap => case.family.loopback(),
        Path::Loopback => case.family.host(),
    };
    let bind = |at: IpAddr| {
        machine.host.enter(|| {
            Ok(match case.protocol {
                Protocol::Udp => UdpSocket::bind((at, port)).map(drop),
                Protocol::Tcp | Protocol::Sctp => TcpListener::bind((at, port)).map(drop),
            })
        })
    };
    bind(other)?.map_err(|error| anyhow::anyhow!("{other} is bound, too: {error}"))?;
    ensure!(bind(case.path.address(case.family))?.is_err(), "not bound");
    if case.form == Form::InterfaceBound {
        let sockets = machine.host.sh("ss -Hltun")?;
        let expected = format!("%{}:{port} ", case.path.interface());
        ensure!(sockets.contains(&expected), "{sockets}");
    }
    Ok(())
}

macro_rules! forms {
    ($protocol:ident $family:ident $path:ident: $($name:ident $form:ident),*) => { $(
        #[test]
        fn $name() {
            on!(|machine| {
                let (protocol, family) = (Protocol::$protocol, Family::$family);
                forward(machine, Case { protocol, family, path: Path::$path, form: Form::$form })
            });
        }
    )* };
}

macro_rules! matrix {
    ($($module:ident $protocol:ident $family:ident $path:ident;)*) => { $(
        mod $module {
            use super::*;

            forms! {
                $protocol $family $path:
                single_port Single,
                port_range Range,
                translated_port Translated,
                translated_range TranslatedRange,
                address_bound AddressBound,
                interface_bound InterfaceBound
            }
        }
    )* };
}

matrix! {
    tcp_v4_tap Tcp V4 Tap;
    tcp_v4_loopback Tcp V4 Loopback;
    tcp_v6_tap Tcp V6 Tap;
    tcp_v6_loopback Tcp V6 Loopback;
    udp_v4_tap Udp V4 Tap;
    udp_v4_loopback Udp V4 Loopback;
    udp_v6_tap Udp V6 Tap;
    udp_v6_loopback Udp V6 Loopback;
}
