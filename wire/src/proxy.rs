//! What netbackend and the DHCP proxy tell each other: the messages of the gRPC package `netavark_proxy`, in the
//! encoding of Protocol Buffers, and the proxy's file of leases.
//!
//! Numbers of fields are netavark's. Those from 1000 on are ours; netavark's programs skip them, and without them
//! everything is as with netavark. There are few and flat messages, so the encoding is written out here: a field is
//! a varint `number << 3 | type`, then a varint (type 0) or a varint length and as many bytes (type 2).
//!
//! The file of leases is a JSON object: MAC address to a list of leases, with netavark's field names. What the
//! proxy needs to go on after a restart stands below the key `netbackend` of each lease.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::names::MacAddr;

/// The gRPC service, as it stands in paths.
pub const SERVICE: &str = "netavark_proxy.NetavarkProxy";

/// What is wrong with the bytes of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[expect(missing_docs, reason = "each variant is its message")]
pub enum DecodeError {
    #[error("the message ends within a field")]
    Short,
    #[error("a varint is longer than 64 bits")]
    Varint,
    #[error("field {0} has a type that is not known")]
    Type(u64),
    #[error("field {0} is not UTF-8")]
    Text(u64),
}

/// A message that can be sent over gRPC.
pub trait Message: Sized {
    /// Its bytes.
    fn encode(&self) -> Vec<u8>;
    /// From its bytes. Fields that are not known are skipped.
    ///
    /// # Errors
    /// The bytes are not a message at all.
    fn decode(bytes: &[u8]) -> Result<Self, DecodeError>;
}

/// Which DHCP to speak.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Version {
    /// DHCP for IPv4.
    #[default]
    V4,
    /// DHCP for IPv6.
    V6,
}

/// For whom a lease is wanted or given back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkConfig {
    /// The interface of the host that leads to the server: a bridge or a parent.
    pub host_iface: String,
    /// The interface of the container, which gets the address.
    pub container_iface: String,
    /// Its MAC address.
    pub container_mac_addr: String,
    /// Unused: neither netavark nor we send it to the server.
    pub domain_name: String,
    /// The name to tell the server; empty for none.
    pub host_name: String,
    /// Which DHCP.
    pub version: Version,
    /// The path of the container's network namespace.
    pub ns_path: String,
    /// The id of the container, which identifies the client to the server.
    pub container_id: String,
    /// The metric of routes (1000); netavark's proxy always uses 100.
    pub metric: Option<u32>,
    /// That the container gets no default route (1001).
    pub no_default_route: bool,
    /// That the MTU is the network's and not the server's to say (1002).
    pub keep_mtu: bool,
}

/// A route that the server wants the container to have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeasedRoute {
    /// Where it leads to.
    pub destination: IpNet,
    /// The next hop; none if the destination is on the link.
    pub gateway: Option<IpAddr>,
}

/// What a server has leased, as the proxy tells it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Lease {
    /// Seconds until it is renewed.
    pub t1: u32,
    /// Seconds until any server is asked.
    pub t2: u32,
    /// Seconds until it ends; `u32::MAX` for never.
    pub lease_time: u32,
    /// The MTU that the server names; 0 for none.
    pub mtu: u32,
    /// The domain of the network.
    pub domain_name: String,
    /// The MAC address of the container.
    pub mac_address: String,
    /// Whether it is one of DHCP for IPv6.
    pub is_v6: bool,
    /// The address of the next server.
    pub siaddr: String,
    /// The address of the container.
    pub yiaddr: String,
    /// The server.
    pub srv_id: String,
    /// The mask of the subnet; for IPv6 the length of the prefix.
    pub subnet_mask: String,
    /// The broadcast address.
    pub broadcast_addr: String,
    /// Resolvers.
    pub dns_servers: Vec<String>,
    /// Default gateways.
    pub gateways: Vec<String>,
    /// Time servers.
    pub ntp_servers: Vec<String>,
    /// The name that the server has for the container.
    pub host_name: String,
    /// Whether the wishes of fields from 1000 on were understood (1000).
    #[serde(skip)]
    pub obeyed: bool,
}

/// The answer to `Clean`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OperationResponse {
    /// Whether it was done.
    pub success: bool,
}

/// The message without fields.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Empty;

/// The proxy's file: leases by MAC address.
pub type LeaseFile = BTreeMap<String, Vec<KeptLease>>;

/// A lease in the proxy's file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptLease {
    /// What netavark writes, too.
    #[serde(flatten)]
    pub lease: Lease,
    /// What a restarted proxy goes by; missing in files of netavark.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netbackend: Option<Kept>,
}

/// What a restarted proxy has to know of a lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// The request.
    pub config: NetworkConfig,
    /// When the lease was asked for, in seconds since 1970.
    pub since: u64,
    /// The MAC address from which the server, or what leads to it, answered.
    pub server_mac: MacAddr,
    /// The identifier of a server of DHCP for IPv6, in hexadecimal digits.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub server_duid: String,
    /// Routes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<LeasedRoute>,
    /// The inode of the container's namespace.
    pub netns_inode: u64,
    /// That the address was asked for, and the server has not said yet whether it leases it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unconfirmed: bool,
}

impl Message for NetworkConfig {
    fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.text(1, &self.host_iface);
        out.text(2, &self.container_iface);
        out.text(3, &self.container_mac_addr);
        out.text(4, &self.domain_name);
        out.text(5, &self.host_name);
        out.number(6, u64::from(self.version == Version::V6));
        out.text(7, &self.ns_path);
        out.text(8, &self.container_id);
        // A metric of 0 is not the same as none.
        if let Some(metric) = self.metric {
            out.always(1000, metric.into());
        }
        out.number(1001, self.no_default_route.into());
        out.number(1002, self.keep_mtu.into());
        out.0
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut config = Self::default();
        for field in Fields(bytes) {
            let (number, value) = field?;
            match number {
                1 => config.host_iface = value.text(number)?,
                2 => config.container_iface = value.text(number)?,
                3 => config.container_mac_addr = value.text(number)?,
                4 => config.domain_name = value.text(number)?,
                5 => config.host_name = value.text(number)?,
                6 if value.flag() => config.version = Version::V6,
                7 => config.ns_path = value.text(number)?,
                8 => config.container_id = value.text(number)?,
                1000 => config.metric = Some(value.number()),
                1001 => config.no_default_route = value.flag(),
                1002 => config.keep_mtu = value.flag(),
                _ => {}
            }
        }
        Ok(config)
    }
}

impl Message for Lease {
    fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.number(1, self.t1.into());
        out.number(2, self.t2.into());
        out.number(3, self.lease_time.into());
        out.number(4, self.mtu.into());
        out.text(5, &self.domain_name);
        out.text(6, &self.mac_address);
        out.number(10, self.is_v6.into());
        out.text(11, &self.siaddr);
        out.text(12, &self.yiaddr);
        out.text(16, &self.srv_id);
        out.text(17, &self.subnet_mask);
        out.text(18, &self.broadcast_addr);
        out.texts(19, &self.dns_servers);
        out.texts(20, &self.gateways);
        out.texts(21, &self.ntp_servers);
        out.text(22, &self.host_name);
        out.number(1000, self.obeyed.into());
        out.0
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut lease = Self::default();
        for field in Fields(bytes) {
            let (number, value) = field?;
            match number {
                1 => lease.t1 = value.number(),
                2 => lease.t2 = value.number(),
                3 => lease.lease_time = value.number(),
                4 => lease.mtu = value.number(),
                5 => lease.domain_name = value.text(number)?,
                6 => lease.mac_address = value.text(number)?,
                10 => lease.is_v6 = value.flag(),
                11 => lease.siaddr = value.text(number)?,
                12 => lease.yiaddr = value.text(number)?,
                16 => lease.srv_id = value.text(number)?,
                17 => lease.subnet_mask = value.text(number)?,
                18 => lease.broadcast_addr = value.text(number)?,
                19 => lease.dns_servers.push(value.text(number)?),
                20 => lease.gateways.push(value.text(number)?),
                21 => lease.ntp_servers.push(value.text(number)?),
                22 => lease.host_name = value.text(number)?,
                1000 => lease.obeyed = value.flag(),
                _ => {}
            }
        }
        Ok(lease)
    }
}

impl Message for OperationResponse {
    fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.number(1, self.success.into());
        out.0
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut response = Self::default();
        for field in Fields(bytes) {
            let (number, value) = field?;
            if number == 1 {
                response.success = value.flag();
            }
        }
        Ok(response)
    }
}

impl Message for Empty {
    fn encode(&self) -> Vec<u8> {
        Vec::new()
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        Fields(bytes).try_for_each(|field| field.map(drop))?;
        Ok(Self)
    }
}

impl Lease {
    /// The address of the container and the length of its prefix, if both can be read.
    #[must_use]
    pub fn address(&self) -> Option<IpNet> {
        let address: IpAddr = self.yiaddr.parse().ok()?;
        let prefix = match self.subnet_mask.parse::<Ipv4Addr>() {
            Ok(mask) => ipnet::ipv4_mask_to_prefix(mask).ok()?,
            Err(_) => match self.subnet_mask.parse() {
                Ok(prefix) => prefix,
                Err(_) if address.is_ipv6() => 128,
                Err(_) => 32,
            },
        };
        IpNet::new(address, prefix).ok()
    }
}

#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value.to_le_bytes()[0] | 0x80);
            value >>= 7;
        }
        self.0.push(value.to_le_bytes()[0]);
    }

    fn always(&mut self, field: u64, value: u64) {
        self.varint(field << 3);
        self.varint(value);
    }

    /// A value that is not the default one.
    fn number(&mut self, field: u64, value: u64) {
        if value != 0 {
            self.always(field, value);
        }
    }

    fn text(&mut self, field: u64, text: &str) {
        if !text.is_empty() {
            self.bytes(field, text.as_bytes());
        }
    }

    /// All of a list; empty elements count.
    fn texts(&mut self, field: u64, texts: &[String]) {
        texts
            .iter()
            .for_each(|text| self.bytes(field, text.as_bytes()));
    }

    fn bytes(&mut self, field: u64, bytes: &[u8]) {
        self.varint(field << 3 | 2);
        self.varint(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        self.0.extend_from_slice(bytes);
    }
}

enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    /// Of a type that no field of ours has.
    Other,
}

impl Value<'_> {
    fn text(&self, field: u64) -> Result<String, DecodeError> {
        match self {
            Self::Bytes(bytes) => {
                String::from_utf8(bytes.to_vec()).map_err(|_| DecodeError::Text(field))
            }
            Self::Number(_) | Self::Other => Err(DecodeError::Type(field)),
        }
    }

    fn number(&self) -> u32 {
        match self {
            // Higher bits are cut off, as other decoders do.
            Self::Number(number) => u32::try_from(number & u64::from(u32::MAX)).unwrap_or_default(),
            Self::Bytes(_) | Self::Other => 0,
        }
    }

    fn flag(&self) -> bool {
        matches!(self, Self::Number(number) if *number != 0)
    }
}

/// The fields of a message, which ends with the first one that cannot be read.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn varint(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (first, rest) = self.0.split_first().ok_or(DecodeError::Short)?;
            self.0 = rest;
            value |= u64::from(first & 0x7f) << shift;
            if first & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(DecodeError::Varint)
    }

    fn take(&mut self, count: u64) -> Result<&'a [u8], DecodeError> {
        let count = usize::try_from(count).map_err(|_| DecodeError::Short)?;
        let (taken, rest) = self.0.split_at_checked(count).ok_or(DecodeError::Short)?;
        self.0 = rest;
        Ok(taken)
    }

    fn field(&mut self) -> Result<(u64, Value<'a>), DecodeError> {
        let key = self.varint()?;
        let field = key >> 3;
        let value = match key & 7 {
            0 => Value::Number(self.varint()?),
            1 => self.take(8).map(|_| Value::Other)?,
            2 => {
                let length = self.varint()?;
                Value::Bytes(self.take(length)?)
            }
            5 => self.take(4).map(|_| Value::Other)?,
            _ => return Err(DecodeError::Type(field)),
        };
        Ok((field, value))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Value<'a>), DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_back() {
        let config = NetworkConfig {
            host_iface: "br0".to_owned(),
            container_iface: "eth0".to_owned(),
            container_mac_addr: "02:00:00:00:00:01".to_owned(),
            version: Version::V6,
            container_id: "x".repeat(300),
            metric: Some(0),
            no_default_route: true,
            ..NetworkConfig::default()
        };
        assert_eq!(NetworkConfig::decode(&config.encode()), Ok(config));
        let lease = Lease {
            lease_time: u32::MAX,
            gateways: vec!["10.0.0.1".to_owned(), String::new()],
            is_v6: true,
            obeyed: true,
            ..Lease::default()
        };
        assert_eq!(Lease::decode(&lease.encode()), Ok(lease));
        let done = OperationResponse { success: true };
        assert_eq!(done.encode(), [8, 1]);
        assert_eq!(OperationResponse::decode(&[8, 1]), Ok(done));
    }

    #[test]
    fn bytes_are_those_of_other_encoders() {
        let config = NetworkConfig {
            host_iface: "br0".to_owned(),
            version: Version::V6,
            metric: Some(300),
            ..NetworkConfig::default()
        };
        assert_eq!(config.encode(), b"\x0a\x03br0\x30\x01\xc0\x3e\xac\x02");
    }

    #[test]
    fn unknown_fields_are_skipped_and_broken_ones_refused() {
        let check = |bytes: &[u8], expected: Result<&str, DecodeError>| {
            let decoded = NetworkConfig::decode(bytes).map(|config| config.host_iface);
            assert_eq!(
                decoded.as_deref().map_err(|error| *error),
                expected,
                "{bytes:?}"
            );
        };
        check(b"\x79\x01\x02\x03\x04\x05\x06\x07\x08\x0a\x01b", Ok("b"));
        check(b"\x7d\x01\x02\x03\x04\xa2\x06\x01x\x0a\x01b", Ok("b"));
        check(b"\x0a\x05b", Err(DecodeError::Short));
        check(
            b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7fb",
            Err(DecodeError::Short),
        );
        check(b"\x0a\x01\xff", Err(DecodeError::Text(1)));
        check(b"\x0b", Err(DecodeError::Type(1)));
        check(&[0xff; 11], Err(DecodeError::Varint));
    }

    #[test]
    fn leases_of_netavark_can_be_read() {
        let text = r#"{"02:00:00:00:00:01":[{"t1":60,"t2":105,"lease_time":120,"mtu":0,"domain_name":"x","mac_address":
            "02:00:00:00:00:01","is_v6":false,"siaddr":"10.0.0.1","yiaddr":"10.0.0.50","srv_id":"10.0.0.1","subnet_mask":
            "255.255.255.0","broadcast_addr":"","dns_servers":[],"gateways":[],"ntp_servers":[],"host_name":""}]}"#;
        let file: LeaseFile = serde_json::from_str(text).expect("it is one");
        let kept = &file["02:00:00:00:00:01"][0];
        assert_eq!(kept.lease.address(), "10.0.0.50/24".parse().ok());
        assert_eq!(kept.netbackend, None);
        let again: LeaseFile =
            serde_json::from_str(&serde_json::to_string(&file).expect("plain data")).expect("ours");
        assert_eq!(again, file);
    }
}
