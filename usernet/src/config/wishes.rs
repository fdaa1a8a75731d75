//! What the options mean by themselves, without a look at the host.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{
    Attach, ConfigError, Families, Level, LogFile, MTU_DEFAULT, MTU_MAX, Notice, OUR_MAC_DEFAULT,
    Off, Run, RunAs, UserNamespace, advice,
};
use crate::cli::{Given, Id, Options};
use crate::limits;
use crate::ports::Direction;

/// Length of every IPv6 prefix that is not copied from the host.
const IPV6_LENGTH: u8 = 64;

/// The options, understood.
#[derive(Debug)]
pub(super) struct Wishes {
    pub(super) run: Run,
    pub(super) notices: Vec<Notice>,
    /// `-4` or `-6`
    pub(super) v4: bool,
    pub(super) v6: bool,
    pub(super) mtu: u32,
    pub(super) our_mac: [u8; 6],
    pub(super) guest_mac: Option<[u8; 6]>,
    pub(super) ifname: Option<String>,
    pub(super) interface: Option<String>,
    pub(super) outbound_interface: Families<String>,
    pub(super) addresses: Families<IpNet>,
    /// Prefix length of an IPv4 address that is not copied.
    pub(super) netmask: Option<u8>,
    pub(super) gateways: Families<IpAddr>,
    pub(super) outbound: Families<IpAddr>,
    pub(super) dns: Dns,
    pub(super) map_host_loopback: Families<IpAddr>,
    pub(super) map_gateway: bool,
    pub(super) map_guest: Families<IpAddr>,
    pub(super) hostname: Option<String>,
    pub(super) fqdn: Option<String>,
    pub(super) off: Off,
    pub(super) copy_routes: bool,
    pub(super) copy_addresses: bool,
    pub(super) splice: bool,
    pub(super) splice_only: bool,
    pub(super) loopback_to_loopback: bool,
    pub(super) ports: Vec<(Direction, String)>,
}

/// What was said about names.
#[derive(Debug, Default)]
pub(super) struct Dns {
    pub(super) servers: Vec<IpAddr>,
    /// `-D none`
    pub(super) none: bool,
    pub(super) forward: Families<IpAddr>,
    pub(super) host: Families<IpAddr>,
    pub(super) announce: bool,
    pub(super) search: Vec<String>,
    pub(super) no_search: bool,
    pub(super) announce_search: bool,
}

/// What is known only when all options are read.
#[derive(Debug, Default)]
struct Reading {
    quiet: bool,
    debug: bool,
    trace: bool,
    netns: Option<PathBuf>,
    userns: Option<PathBuf>,
    netns_only: bool,
    /// The address was given with its length.
    length_given: bool,
    log_file: Option<PathBuf>,
    log_size: Option<u64>,
    needs_config_net: Option<String>,
}

/// Understands the options.
pub(super) fn read(options: &Options) -> Result<Wishes, ConfigError> {
    let mut wishes = Wishes::default();
    let mut reading = Reading::default();
    for given in &options.given {
        let known = wishes.option(given, &mut reading);
        let known = known.map_err(|error| advice::of_option(error, given))?;
        debug_assert!(known, "{} has no meaning", given.name);
    }
    wishes.finish(reading, &options.rest)?;
    Ok(wishes)
}

impl Default for Wishes {
    fn default() -> Self {
        Self {
            run: Run::default(),
            notices: Vec::new(),
            v4: true,
            v6: true,
            mtu: MTU_DEFAULT,
            our_mac: OUR_MAC_DEFAULT,
            guest_mac: None,
            ifname: None,
            interface: None,
            outbound_interface: Families::default(),
            addresses: Families::default(),
            netmask: None,
            gateways: Families::default(),
            outbound: Families::default(),
            dns: Dns::default(),
            map_host_loopback: Families::default(),
            map_gateway: true,
            map_guest: Families::default(),
            hostname: None,
            fqdn: None,
            off: Off::default(),
            copy_routes: true,
            copy_addresses: true,
            splice: true,
            splice_only: false,
            loopback_to_loopback: false,
            ports: Vec::new(),
        }
    }
}

impl Wishes {
    /// One option. False: it has no meaning.
    fn option(&mut self, given: &Given, reading: &mut Reading) -> Result<bool, ConfigError> {
        Ok(self.flag(given, reading)?
            || self.address(given, reading)?
            || self.name(given)?
            || self.of_the_run(given, reading)?)
    }

    /// Options without a value. False: another kind of option.
    fn flag(&mut self, given: &Given, reading: &mut Reading) -> Result<bool, ConfigError> {
        #[expect(
            clippy::wildcard_enum_match_arm,
            reason = "the other options have values, and are matched elsewhere"
        )]
        match given.id {
            Id::Debug => (reading.debug, reading.quiet) = (true, false),
            Id::Trace => {
                (reading.trace, reading.debug, reading.quiet) = (true, true, false);
            }
            Id::Quiet => {
                (reading.trace, reading.debug, reading.quiet) = (false, false, true);
            }
            Id::Foreground => self.run.foreground = true,
            Id::Stderr => self.deprecated(given),
            Id::DhcpDns => self.dns.announce = true,
            Id::DhcpSearch => self.dns.announce_search = true,
            Id::NoTcp => self.off.tcp = true,
            Id::NoUdp => self.off.udp = true,
            Id::NoIcmp => (self.off.icmp, self.off.ndp) = (true, true),
            Id::NoDhcp => self.off.dhcp = true,
            Id::NoNdp => self.off.ndp = true,
            Id::NoDhcpv6 => self.off.dhcpv6 = true,
            Id::NoRa => self.off.ra = true,
            Id::Freebind => self.run.freebind = true,
            Id::NoMapGw => self.map_gateway = false,
            Id::ChrootFallback => self.run.chroot_fallback = true,
            Id::Ipv4Only => (self.v4, self.v6) = (true, false),
            Id::Ipv6Only => (self.v4, self.v6) = (false, true),
            Id::HostLoToNsLo => self.loopback_to_loopback = true,
            Id::NetnsOnly => reading.netns_only = true,
            Id::NoNetnsQuit => self.run.stay_without_netns = true,
            Id::NoPidns => self.run.no_pidns = true,
            Id::ConfigNet => self.run.config_net = true,
            Id::NoCopyRoutes | Id::NoCopyAddrs => {
                self.copy_routes &= given.id != Id::NoCopyRoutes;
                self.copy_addresses &= given.id != Id::NoCopyAddrs;
                self.deprecated(given);
                reading.needs_config_net = Some(given.name.clone());
            }
            Id::NoSplice => self.splice = false,
            Id::SpliceOnly => (self.splice_only, self.loopback_to_loopback) = (true, true),
            Id::Machine => return Err(ConfigError::Machine(given.name.clone())),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn deprecated(&mut self, given: &Given) {
        let text = format!("--{} will be dropped soon", long(given));
        self.notices.push(Notice {
            level: Level::Warning,
            text,
        });
    }

    /// Options whose value is an address. False: another kind of option.
    fn address(&mut self, given: &Given, reading: &mut Reading) -> Result<bool, ConfigError> {
        let text = given.value.to_string_lossy();
        let address = |what, fits: fn(IpAddr) -> bool| {
            let parsed = text.parse().ok().filter(|&address| fits(address));
            parsed.ok_or_else(|| invalid(what, &text))
        };
        #[expect(
            clippy::wildcard_enum_match_arm,
            reason = "the other options are matched elsewhere"
        )]
        match given.id {
            Id::Address => {
                let (address, length_given) = guest_address(&text)?;
                if address.addr().is_ipv4() {
                    reading.length_given = length_given;
                }
                self.addresses.set(address.addr(), address);
            }
            Id::Netmask => self.netmask = Some(netmask(&text)?),
            Id::MacAddr => self.our_mac = mac(&text)?,
            Id::NsMacAddr => self.guest_mac = Some(mac(&text)?),
            Id::Gateway => set(
                &mut self.gateways,
                address("gateway address", is_neighbour)?,
            ),
            Id::Outbound => set(
                &mut self.outbound,
                address("or redundant outbound address", |address| {
                    !address.is_unspecified() && !address.is_multicast()
                })?,
            ),
            Id::Dns if text == "none" || text.is_empty() => {
                self.dns.none = true;
                self.dns.servers.clear();
                self.dns.forward = Families::default();
            }
            Id::Dns => {
                let server = text.parse().ok();
                let server = server.filter(|_| self.dns.servers.len() < limits::NAME_SERVERS);
                let server = server.filter(|address: &IpAddr| !address.is_unspecified());
                let server = server.ok_or_else(|| ConfigError::Dns(text.to_string()))?;
                self.dns.servers.push(server);
            }
            Id::DnsForward => set(
                &mut self.dns.forward,
                address("DNS forwarding address", is_neighbour)?,
            ),
            Id::DnsHost => set(
                &mut self.dns.host,
                address("host nameserver address", |address| {
                    !address.is_unspecified()
                })?,
            ),
            Id::MapHostLoopback if text == "none" => {
                self.map_gateway = false;
                self.map_host_loopback = Families::default();
            }
            Id::MapGuestAddr if text == "none" => self.map_guest = Families::default(),
            Id::MapHostLoopback => set(
                &mut self.map_host_loopback,
                address("address to remap to host", is_neighbour)?,
            ),
            Id::MapGuestAddr => set(
                &mut self.map_guest,
                address("address to remap to host", is_neighbour)?,
            ),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Options whose value is a name, or a word for later. False: another kind of option.
    fn name(&mut self, given: &Given) -> Result<bool, ConfigError> {
        let text = given.value.to_string_lossy().into_owned();
        #[expect(
            clippy::wildcard_enum_match_arm,
            reason = "the other options are matched elsewhere"
        )]
        match given.id {
            Id::NsIfname => self.ifname = Some(new_interface_name(text)?),
            Id::Interface => self.interface = Some(text),
            Id::OutboundIf4 => self.outbound_interface.v4 = Some(interface_name(text)?),
            Id::OutboundIf6 => self.outbound_interface.v6 = Some(interface_name(text)?),
            Id::Search if text == "none" => {
                self.dns.no_search = true;
                self.dns.search.clear();
            }
            Id::Search => {
                let full = self.dns.search.len() >= limits::SEARCH_DOMAINS;
                if full || advice::why_domain(&text).is_some() {
                    return Err(ConfigError::Search(text));
                }
                self.dns.search.push(text);
            }
            Id::Hostname if advice::why_domain(&text).is_none() => self.hostname = Some(text),
            Id::Hostname => return Err(invalid("hostname", &text)),
            Id::Fqdn if advice::why_domain(&text).is_none() => self.fqdn = Some(text),
            Id::Fqdn => return Err(invalid("FQDN", &text)),
            Id::TcpPorts => self.ports.push((Direction::TcpToGuest, text)),
            Id::UdpPorts => self.ports.push((Direction::UdpToGuest, text)),
            Id::TcpNs => self.ports.push((Direction::TcpToHost, text)),
            Id::UdpNs => self.ports.push((Direction::UdpToHost, text)),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Options that the forwarder itself need not know. False: another kind of option.
    fn of_the_run(&mut self, given: &Given, reading: &mut Reading) -> Result<bool, ConfigError> {
        let text = given.value.to_string_lossy();
        let path = || PathBuf::from(&given.value);
        #[expect(
            clippy::wildcard_enum_match_arm,
            reason = "the other options are matched elsewhere"
        )]
        match given.id {
            Id::Stats if !self.run.foreground => return Err(ConfigError::StatsInBackground),
            Id::Stats => {
                self.run.stats = Some(number(&text).ok_or_else(|| invalid("--stats", &text))?);
            }
            Id::LogFile => reading.log_file = Some(path()),
            Id::LogSize => {
                let size = number(&text).filter(|&size| size >= LogFile::SIZE_MIN);
                reading.log_size = Some(size.ok_or_else(|| invalid("--log-size", &text))?);
            }
            Id::RunAs => {
                let (user, group) = match text.split_once(':') {
                    Some((user, group)) => (user, Some(group)),
                    None => (&*text, None),
                };
                if user.is_empty() || group.is_some_and(str::is_empty) {
                    return Err(invalid("--runas option", &text));
                }
                self.run.run_as = Some(RunAs {
                    user: user.to_owned(),
                    group: group.map(str::to_owned),
                });
            }
            Id::ConfPath if text.is_empty() => return Err(invalid("configuration path", &text)),
            Id::ConfPath => self.run.conf_path = Some(path()),
            Id::Pcap => self.run.pcap = Some(path()),
            Id::Pid => self.run.pid_file = Some(path()),
            Id::Mtu => {
                let mtu: u64 = number(&text).ok_or_else(|| invalid("MTU", &text))?;
                let fits = u32::try_from(mtu).ok().filter(|&mtu| mtu <= MTU_MAX);
                self.mtu = fits.ok_or(ConfigError::MtuTooLarge(mtu))?;
            }
            Id::Userns => reading.userns = Some(path()),
            Id::Netns if text.contains('/') => reading.netns = Some(path()),
            Id::Netns => reading.netns = Some(PathBuf::from("/run/netns").join(path())),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// What follows from several options together.
    fn finish(&mut self, reading: Reading, rest: &[OsString]) -> Result<(), ConfigError> {
        if self.netmask.is_some() && reading.length_given {
            return Err(ConfigError::RedundantLength);
        }
        if !self.splice && self.splice_only {
            return Err(ConfigError::Incompatible("--splice-only", "--no-splice"));
        }
        if !self.splice && self.loopback_to_loopback {
            let option = "--host-lo-to-ns-lo";
            return Err(ConfigError::Incompatible(option, "--no-splice"));
        }
        if let Some(option) = reading.needs_config_net.filter(|_| !self.run.config_net) {
            return Err(ConfigError::NeedsConfigNet(option));
        }
        let path = reading.log_file;
        self.run.log_file = path.map(|path| LogFile {
            path,
            size: reading.log_size.unwrap_or(LogFile::SIZE_DEFAULT),
        });
        self.run.attach = attach(reading.netns, rest)?;
        let command = matches!(self.run.attach, Attach::Command(_));
        self.run.userns = match (reading.userns, &self.run.attach) {
            (Some(path), _) => UserNamespace::Join(path),
            (None, _) if reading.netns_only => UserNamespace::Stay,
            (None, Attach::Path(_)) => UserNamespace::Stay,
            (None, Attach::Process(pid)) => {
                UserNamespace::Join(PathBuf::from(format!("/proc/{pid}/ns/user")))
            }
            (None, Attach::Command(_)) => UserNamespace::New,
        };
        self.run.foreground |= command;
        self.run.verbosity = match (reading.trace, reading.debug, reading.quiet || command) {
            (true, _, _) => Level::Trace,
            (false, true, _) => Level::Debug,
            (false, false, true) => Level::Warning,
            (false, false, false) => Level::Info,
        };
        Ok(())
    }
}

/// What to attach to: one number is a process, anything else a command.
fn attach(netns: Option<PathBuf>, rest: &[OsString]) -> Result<Attach, ConfigError> {
    match (netns, rest) {
        (Some(path), []) => Ok(Attach::Path(path)),
        (Some(_), _) => Err(ConfigError::NetnsAndRest),
        (None, rest) => {
            let [word] = rest else {
                return Ok(Attach::Command(rest.to_vec()));
            };
            let pid = number(&word.to_string_lossy());
            Ok(pid.map_or_else(|| Attach::Command(rest.to_vec()), Attach::Process))
        }
    }
}

/// The name of an option with its long name, whatever was written.
fn long(given: &Given) -> &'static str {
    let mut options = crate::cli::OPTIONS.iter();
    let found = options.find(|option| option.id == given.id);
    found.map_or("", |option| option.long)
}

fn invalid(what: &'static str, value: &str) -> ConfigError {
    ConfigError::Invalid {
        what,
        value: value.to_owned(),
    }
}

fn set(families: &mut Families<IpAddr>, address: IpAddr) {
    families.set(address, address);
}

/// Digits only: no sign, no other base.
fn number<T: FromStr>(text: &str) -> Option<T> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// An address that something on the link can have.
fn is_neighbour(address: IpAddr) -> bool {
    let broadcast = matches!(address, IpAddr::V4(address) if address.is_broadcast());
    !(address.is_unspecified() || address.is_loopback() || address.is_multicast() || broadcast)
}

/// `address [ "/" length ]`, and whether the length was there.
fn guest_address(text: &str) -> Result<(IpNet, bool), ConfigError> {
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (text, None),
    };
    let address = address
        .parse()
        .ok()
        .filter(|&address| is_neighbour(address));
    let address: IpAddr = address.ok_or_else(|| invalid("guest address", text))?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let length: Option<u8> = match length {
        Some(length) => {
            let length = number(length).filter(|&length| length <= most);
            Some(length.ok_or_else(|| invalid("prefix length", text))?)
        }
        None => None,
    };
    let net = match address {
        IpAddr::V4(address) => {
            let length = length.filter(|&length| length > 0);
            let length = length.unwrap_or_else(|| class_length(address));
            Ipv4Net::new(address, length).map(IpNet::from)
        }
        IpAddr::V6(address) => Ipv6Net::new(address, IPV6_LENGTH).map(IpNet::from),
    };
    let net = net.map_err(|_| invalid("prefix length", text))?;
    Ok((net, length.is_some()))
}

/// The length that an address without one has by its class, as ifconfig had it.
const fn class_length(address: Ipv4Addr) -> u8 {
    match address.octets()[0] {
        0..128 => 8,
        128..192 => 16,
        192..224 => 24,
        224.. => 32,
    }
}

/// A number of bits, or ones followed by zeros with dots. Zero is no mask.
fn netmask(text: &str) -> Result<u8, ConfigError> {
    let dotted = |text: &str| {
        let mask: Ipv4Addr = text.parse().ok()?;
        ipnet::ipv4_mask_to_prefix(mask).ok()
    };
    let length = number(text).or_else(|| dotted(text));
    let length = length.filter(|&length| length <= 32);
    length.ok_or_else(|| invalid("prefix length", text))
}

/// Six bytes with colons, not a group address: no interface has such a one.
fn mac(text: &str) -> Result<[u8; 6], ConfigError> {
    let mut bytes = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut bytes {
        let part = parts.next().filter(|part| part.len() == 2);
        let part = part.and_then(|part| u8::from_str_radix(part, 16).ok());
        *byte = part.ok_or_else(|| invalid("MAC address", text))?;
    }
    if parts.next().is_some() || bytes[0] & 1 == 1 || bytes == [0; 6] {
        return Err(invalid("MAC address", text));
    }
    Ok(bytes)
}

fn interface_name(text: String) -> Result<String, ConfigError> {
    match advice::why_name(&text) {
        Some(_) => Err(ConfigError::InterfaceName(text)),
        None => Ok(text),
    }
}

fn new_interface_name(text: String) -> Result<String, ConfigError> {
    match advice::why_new_name(&text) {
        Some(_) => Err(ConfigError::InterfaceName(text)),
        None => Ok(text),
    }
}
