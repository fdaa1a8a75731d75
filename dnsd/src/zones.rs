//! What is known about containers: an immutable snapshot, made of one table for each network.
//!
//! # How it is laid out
//!
//! A network is a handful of flat arrays, so that ten thousand containers take little memory and a reload that
//! replaces them gives it back. Names lie one after the other in `text`. `names` says where each one is and where
//! its addresses begin in `ipv4` and `ipv6` (they end where the next name's begin); `hosts` is the same thing
//! the other way round, from an address to its names. Two hash tables of positions lead into `names` and `hosts`.
//!
//! [`Zones`] puts networks together. Tables of unchanged networks are shared between snapshots; all it adds is
//! which containers are in several networks, and in which range the addresses of each network lie.
//!
//! # Who may see what
//!
//! An asker is known by its address. The container that has the address may see all networks that it is in,
//! whichever of our addresses it asks. Somebody unknown (the host, another subnet) sees the network of the address
//! that was asked. Addresses that occur in several networks are not told apart.
//!
//! A container is known by a hash of its id of 64 bits: that two of ten thousand share one has a probability of
//! 3 in 10^12, and the ids are not chosen by anybody who would gain from it.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;

use foldhash::quality::FixedState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use crate::name;

/// A container, by the hash of its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContainerKey(u64);

impl ContainerKey {
    /// The key of an id; letter case does not matter.
    #[must_use]
    pub fn of(id: &str) -> Self {
        let mut hasher = HASHES.build_hasher();
        let (chunks, rest) = id.as_bytes().as_chunks::<16>();
        for chunk in chunks {
            hasher.write(&chunk.map(|byte| byte.to_ascii_lowercase()));
        }
        hasher.write(&rest.to_ascii_lowercase());
        Self(hasher.finish())
    }
}

/// Resolvers to ask, in this order.
pub type Servers = Arc<[SocketAddr]>;

/// A service that containers offer under `name`, a key such as `\x05_http\x04_tcp\x03web`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// What is asked for.
    pub name: Box<[u8]>,
    /// The name of the container that offers it.
    pub target: Box<[u8]>,
    /// Its port there.
    pub port: u16,
}

/// A domain whose names a network asks of other servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The domain, as a key.
    pub domain: Box<[u8]>,
    /// Whom to ask.
    pub servers: Servers,
}

/// The containers of a network.
#[derive(Debug, Clone)]
pub struct Network {
    /// Its name.
    pub name: Box<str>,
    /// Its name as a key, if names below it can be asked for.
    pub key: Option<Box<[u8]>>,
    /// Whether it is cut off from the world.
    pub internal: bool,
    /// Our addresses on it.
    pub listen: Box<[IpAddr]>,
    /// Its resolvers.
    pub servers: Servers,
    /// Domains with other resolvers.
    pub routes: Box<[Route]>,
    /// Services, sorted by name.
    pub services: Vec<Service>,
    text: Vec<u8>,
    names: Vec<NameRecord>,
    name_index: Index,
    ipv4: Vec<Ipv4Addr>,
    ipv6: Vec<Ipv6Addr>,
    hosts: Vec<Host>,
    host_index: Index,
    host_names: Vec<u32>,
    host_owners: Vec<ContainerKey>,
    host_servers: Vec<Servers>,
    wildcards: bool,
    spans: Spans,
}

/// A name and where its addresses begin.
#[derive(Debug, Clone, Copy)]
struct NameRecord {
    at: u32,
    ipv4: u32,
    ipv6: u32,
    length: u8,
}

/// An address and where its names and owners begin. `servers` counts from 1; 0 is none.
#[derive(Debug, Clone, Copy)]
struct Host {
    address: IpAddr,
    names: u32,
    owners: u32,
    servers: u32,
}

/// The position of a name in its network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NameAt(u32);

fn at(position: u32) -> usize {
    position as usize
}

fn position(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

impl Network {
    /// Where a name is, if a container has it.
    #[must_use]
    pub fn find(&self, key: &[u8]) -> Option<NameAt> {
        let found = self
            .name_index
            .find(hash(key), |n| self.name_of(NameAt(*n)) == key);
        found.copied().map(NameAt)
    }

    /// Where a wildcard (`*.alias`) is that covers a name. The longest one counts.
    #[must_use]
    pub fn find_wildcard(&self, key: &[u8]) -> Option<NameAt> {
        if !self.wildcards {
            return None;
        }
        let mut rest = name::parent(key)?;
        let mut wanted = Vec::with_capacity(name::LONGEST);
        while !rest.is_empty() {
            wanted.clear();
            wanted.extend_from_slice(b"\x01*");
            wanted.extend_from_slice(rest);
            if let Some(found) = self.find(&wanted) {
                return Some(found);
            }
            rest = name::parent(rest)?;
        }
        None
    }

    /// A name as a key.
    #[must_use]
    pub fn name_of(&self, name: NameAt) -> &[u8] {
        let record = &self.names[at(name.0)];
        &self.text[at(record.at)..at(record.at) + usize::from(record.length)]
    }

    /// The IPv4 addresses of a name, in the order of the file.
    #[must_use]
    pub fn ipv4(&self, name: NameAt) -> &[Ipv4Addr] {
        &self.ipv4[at(self.names[at(name.0)].ipv4)..at(self.names[at(name.0) + 1].ipv4)]
    }

    /// The IPv6 addresses of a name, in the order of the file.
    #[must_use]
    pub fn ipv6(&self, name: NameAt) -> &[Ipv6Addr] {
        &self.ipv6[at(self.names[at(name.0)].ipv6)..at(self.names[at(name.0) + 1].ipv6)]
    }

    /// The names of an address, in the order of the file.
    pub fn names_of(&self, address: IpAddr) -> impl Iterator<Item = NameAt> + '_ {
        let host = self.host(address);
        let range = host.map_or(0..0, |host| {
            at(self.hosts[host].names)..at(self.hosts[host + 1].names)
        });
        self.host_names[range].iter().map(|name| NameAt(*name))
    }

    /// How many names there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.names.len() - 1
    }

    /// Whether there are no names.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All names, in the order in which they were first seen.
    pub fn names(&self) -> impl Iterator<Item = NameAt> + '_ {
        (0..position(self.len())).map(NameAt)
    }

    /// The services under a name.
    #[must_use]
    pub fn services(&self, key: &[u8]) -> &[Service] {
        let start = self
            .services
            .partition_point(|service| *service.name < *key);
        let rest = &self.services[start..];
        &rest[..rest.partition_point(|service| *service.name == *key)]
    }

    fn host(&self, address: IpAddr) -> Option<usize> {
        let found = self
            .host_index
            .find(hash(address), |n| self.hosts[at(*n)].address == address);
        found.copied().map(at)
    }

    /// How many containers have an address.
    #[cfg(test)]
    pub(crate) fn owners_of(&self, address: IpAddr) -> usize {
        self.host(address).map_or(0, |host| self.owners(host).len())
    }

    fn owners(&self, host: usize) -> &[ContainerKey] {
        &self.host_owners[at(self.hosts[host].owners)..at(self.hosts[host + 1].owners)]
    }

    fn servers_of(&self, host: usize) -> Option<&Servers> {
        let list = at(self.hosts[host].servers).checked_sub(1)?;
        self.host_servers.get(list)
    }
}

/// The lowest and highest address of each family.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Spans([Option<(IpAddr, IpAddr)>; 2]);

impl Spans {
    fn add(&mut self, address: IpAddr) {
        let span = &mut self.0[usize::from(address.is_ipv6())];
        let (low, high) = span.get_or_insert((address, address));
        *low = address.min(*low);
        *high = address.max(*high);
    }
}

/// Takes what stands in the lines of a zone file.
pub trait Collect {
    /// The position of a name, new or not.
    fn name(&mut self, key: &[u8]) -> u32;

    /// The position of a list of resolvers, counted from 1; 0 if it is empty.
    fn servers(&mut self, servers: &[SocketAddr]) -> u32;

    /// Adds an address of a container: its names lead to it and it to them. Internal networks have no
    /// resolvers of containers.
    fn host(&mut self, owner: ContainerKey, address: IpAddr, names: &[u32], servers: u32);

    /// Adds a service of a container.
    fn service(&mut self, service: Service);
}

/// Makes the table of a whole zone file.
#[derive(Debug, Default)]
pub struct Builder {
    text: Vec<u8>,
    names: Vec<NameRecord>,
    name_index: Index,
    name_ipv4: Vec<(u32, Ipv4Addr)>,
    name_ipv6: Vec<(u32, Ipv6Addr)>,
    hosts: Vec<Host>,
    host_index: Index,
    host_names: Vec<(u32, u32)>,
    host_owners: Vec<(u32, ContainerKey)>,
    server_lists: Vec<Servers>,
    server_index: BTreeMap<Vec<SocketAddr>, u32>,
    services: Vec<Service>,
    wildcards: bool,
}

impl Builder {
    /// Has room for about so many containers, that have one address and two names each.
    #[must_use]
    pub fn with_room(containers: usize) -> Self {
        Self {
            text: Vec::with_capacity(32 * containers),
            names: Vec::with_capacity(2 * containers + 1),
            name_index: Index::with_capacity(2 * containers),
            name_ipv4: Vec::with_capacity(2 * containers),
            hosts: Vec::with_capacity(containers + 1),
            host_index: Index::with_capacity(containers),
            host_names: Vec::with_capacity(2 * containers),
            host_owners: Vec::with_capacity(containers),
            ..Self::default()
        }
    }

    /// The finished table.
    #[must_use]
    pub fn build(mut self, head: Head) -> Network {
        let (v4_starts, ipv4) = group(self.names.len(), &self.name_ipv4);
        self.name_ipv4 = Vec::new();
        let (v6_starts, ipv6) = group(self.names.len(), &self.name_ipv6);
        self.name_ipv6 = Vec::new();
        for (record, (v4, v6)) in self.names.iter_mut().zip(v4_starts.iter().zip(&v6_starts)) {
            (record.ipv4, record.ipv6) = (*v4, *v6);
        }
        self.names.push(NameRecord {
            at: position(self.text.len()),
            ipv4: position(ipv4.len()),
            ipv6: position(ipv6.len()),
            length: 0,
        });
        let (name_starts, host_names) = group(self.hosts.len(), &self.host_names);
        self.host_names = Vec::new();
        let (owner_starts, host_owners) = group(self.hosts.len(), &self.host_owners);
        for (host, (names, owners)) in self
            .hosts
            .iter_mut()
            .zip(name_starts.iter().zip(&owner_starts))
        {
            (host.names, host.owners) = (*names, *owners);
        }
        let mut spans = Spans::default();
        self.hosts.iter().for_each(|host| spans.add(host.address));
        self.hosts.push(Host {
            address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            names: position(host_names.len()),
            owners: position(host_owners.len()),
            servers: 0,
        });
        sort(&mut self.services);
        Network {
            key: name::key(&head.name).map(Vec::into_boxed_slice),
            name: head.name,
            internal: head.internal,
            listen: head.listen,
            servers: head.servers,
            routes: head.routes,
            services: self.services,
            text: exact(self.text),
            names: exact(self.names),
            name_index: self.name_index,
            ipv4,
            ipv6,
            hosts: exact(self.hosts),
            host_index: self.host_index,
            host_names,
            host_owners,
            host_servers: self.server_lists,
            wildcards: self.wildcards,
            spans,
        }
    }
}

impl Collect for Builder {
    fn name(&mut self, key: &[u8]) -> u32 {
        let (text, names) = (&self.text, &self.names);
        let of = |n: &u32| {
            let record = &names[at(*n)];
            &text[at(record.at)..at(record.at) + usize::from(record.length)]
        };
        let entry = self
            .name_index
            .entry(hash(key), |n| of(n) == key, |n| hash(of(n)));
        let free = match entry {
            Entry::Occupied(found) => return *found.get(),
            Entry::Vacant(free) => free,
        };
        let new = position(names.len());
        free.insert(new);
        self.names.push(NameRecord {
            at: position(self.text.len()),
            ipv4: 0,
            ipv6: 0,
            length: u8::try_from(key.len()).unwrap_or(u8::MAX),
        });
        self.text.extend_from_slice(key);
        self.wildcards |= key.starts_with(b"\x01*");
        new
    }

    fn servers(&mut self, servers: &[SocketAddr]) -> u32 {
        if servers.is_empty() {
            return 0;
        }
        if let Some(found) = self.server_index.get(servers) {
            return *found;
        }
        self.server_lists.push(servers.into());
        let new = position(self.server_lists.len());
        self.server_index.insert(servers.to_vec(), new);
        new
    }

    fn host(&mut self, owner: ContainerKey, address: IpAddr, names: &[u32], servers: u32) {
        let hosts = &mut self.hosts;
        let entry = self.host_index.entry(
            hash(address),
            |n| hosts[at(*n)].address == address,
            |n| hash(hosts[at(*n)].address),
        );
        let host = match entry {
            Entry::Occupied(found) => *found.get(),
            Entry::Vacant(free) => {
                let new = position(hosts.len());
                free.insert(new);
                hosts.push(Host {
                    address,
                    names: 0,
                    owners: 0,
                    servers: 0,
                });
                new
            }
        };
        self.hosts[at(host)].servers = servers;
        self.host_owners.push((host, owner));
        for name in names {
            self.host_names.push((host, *name));
            match address {
                IpAddr::V4(address) => self.name_ipv4.push((*name, address)),
                IpAddr::V6(address) => self.name_ipv6.push((*name, address)),
            }
        }
    }

    fn service(&mut self, service: Service) {
        self.services.push(service);
    }
}

/// Adds the lines that a zone file has grown by to a copy of its table. That costs as much as the copy, and for a
/// name or address that was known before a move of all that lies behind it: it is for a few lines.
#[derive(Debug)]
pub struct Extender {
    network: Network,
}

impl Extender {
    /// A copy of a table, with room for so many more containers.
    #[must_use]
    pub fn of(old: &Network, containers: usize) -> Self {
        let network = Network {
            name: old.name.clone(),
            key: old.key.clone(),
            internal: old.internal,
            listen: old.listen.clone(),
            servers: old.servers.clone(),
            routes: old.routes.clone(),
            services: old.services.clone(),
            text: copy(&old.text, 32 * containers),
            names: copy(&old.names, 2 * containers),
            name_index: old.name_index.clone(),
            ipv4: copy(&old.ipv4, 2 * containers),
            ipv6: old.ipv6.clone(),
            hosts: copy(&old.hosts, containers),
            host_index: old.host_index.clone(),
            host_names: copy(&old.host_names, 2 * containers),
            host_owners: copy(&old.host_owners, containers),
            host_servers: old.host_servers.clone(),
            wildcards: old.wildcards,
            spans: old.spans,
        };
        Self { network }
    }

    /// The finished table.
    #[must_use]
    pub fn build(mut self) -> Network {
        sort(&mut self.network.services);
        self.network
    }

    fn link(&mut self, name: u32, address: IpAddr) {
        let Network {
            names, ipv4, ipv6, ..
        } = &mut self.network;
        let (this, next) = (names[at(name)], names[at(name) + 1]);
        match address {
            IpAddr::V4(address) if insert(ipv4, this.ipv4..next.ipv4, address) => {
                let behind = names.iter_mut().skip(at(name) + 1);
                behind.for_each(|record| record.ipv4 += 1);
            }
            IpAddr::V6(address) if insert(ipv6, this.ipv6..next.ipv6, address) => {
                let behind = names.iter_mut().skip(at(name) + 1);
                behind.for_each(|record| record.ipv6 += 1);
            }
            IpAddr::V4(_) | IpAddr::V6(_) => {}
        }
    }
}

/// Adds a value at the end of a group, if the group does not have it.
fn insert<T: PartialEq>(values: &mut Vec<T>, group: Range<u32>, value: T) -> bool {
    let new = !values[at(group.start)..at(group.end)].contains(&value);
    if new {
        values.insert(at(group.end), value);
    }
    new
}

fn copy<T: Copy>(values: &[T], more: usize) -> Vec<T> {
    let mut copy = Vec::with_capacity(values.len() + more);
    copy.extend_from_slice(values);
    copy
}

impl Collect for Extender {
    fn name(&mut self, key: &[u8]) -> u32 {
        if let Some(found) = self.network.find(key) {
            return found.0;
        }
        let Network {
            text,
            names,
            name_index,
            ..
        } = &mut self.network;
        // The last record only says where all others end; it becomes the new name, and another one the last.
        let new = names.len() - 1;
        let end = names[new];
        names[new].length = u8::try_from(key.len()).unwrap_or(u8::MAX);
        text.extend_from_slice(key);
        names.push(NameRecord {
            at: position(text.len()),
            ..end
        });
        let hash_of = |n: &u32| {
            let record = &names[at(*n)];
            hash(&text[at(record.at)..at(record.at) + usize::from(record.length)])
        };
        name_index.insert_unique(hash(key), position(new), hash_of);
        self.network.wildcards |= key.starts_with(b"\x01*");
        position(new)
    }

    fn servers(&mut self, servers: &[SocketAddr]) -> u32 {
        if servers.is_empty() {
            return 0;
        }
        let lists = &mut self.network.host_servers;
        let found = lists.iter().position(|list| **list == *servers);
        let place = found.unwrap_or_else(|| {
            lists.push(servers.into());
            lists.len() - 1
        });
        position(place + 1)
    }

    fn host(&mut self, owner: ContainerKey, address: IpAddr, names: &[u32], servers: u32) {
        for name in names {
            self.link(*name, address);
        }
        let found = self.network.host(address);
        let Network {
            hosts,
            host_index,
            host_names,
            host_owners,
            spans,
            ..
        } = &mut self.network;
        let host = found.unwrap_or_else(|| {
            let new = hosts.len() - 1;
            let end = hosts[new];
            hosts[new].address = address;
            hosts.push(end);
            host_index.insert_unique(hash(address), position(new), |n| {
                hash(hosts[at(*n)].address)
            });
            spans.add(address);
            new
        });
        hosts[host].servers = servers;
        for name in names {
            if insert(host_names, hosts[host].names..hosts[host + 1].names, *name) {
                hosts[host + 1..]
                    .iter_mut()
                    .for_each(|host| host.names += 1);
            }
        }
        if insert(
            host_owners,
            hosts[host].owners..hosts[host + 1].owners,
            owner,
        ) {
            hosts[host + 1..]
                .iter_mut()
                .for_each(|host| host.owners += 1);
        }
    }

    fn service(&mut self, service: Service) {
        self.network.services.push(service);
    }
}

fn sort(services: &mut Vec<Service>) {
    services.sort_by(|a, b| a.name.cmp(&b.name));
    services.dedup();
}

/// What a network is, apart from its containers.
#[derive(Debug)]
#[expect(missing_docs, reason = "see the fields of `Network`")]
pub struct Head {
    pub name: Box<str>,
    pub internal: bool,
    pub listen: Box<[IpAddr]>,
    pub servers: Servers,
    pub routes: Box<[Route]>,
}

/// Gives back what is not used.
fn exact<T>(mut values: Vec<T>) -> Vec<T> {
    values.shrink_to_fit();
    values
}

/// Puts values in the order of their groups, the order within a group kept, each value once in a group. Also
/// says where each group begins.
fn group<T: Copy + Ord>(groups: usize, pairs: &[(u32, T)]) -> (Vec<u32>, Vec<T>) {
    let mut counts = vec![0u32; groups + 1];
    for (group, _) in pairs {
        counts[at(*group) + 1] += 1;
    }
    for n in 0..groups {
        counts[n + 1] += counts[n];
    }
    let mut next = counts.clone();
    let mut order = vec![0u32; pairs.len()];
    for (n, (group, _)) in pairs.iter().enumerate() {
        order[at(next[at(*group)])] = position(n);
        next[at(*group)] += 1;
    }
    let mut starts = Vec::with_capacity(groups);
    let mut values: Vec<T> = Vec::with_capacity(pairs.len());
    let mut seen = BTreeSet::new();
    for n in 0..groups {
        let start = values.len();
        starts.push(position(start));
        let members = &order[at(counts[n])..at(counts[n + 1])];
        let many = members.len() > 16;
        seen.clear();
        for member in members {
            let value = pairs[at(*member)].1;
            let known = if many {
                !seen.insert(value)
            } else {
                values[start..].contains(&value)
            };
            if !known {
                values.push(value);
            }
        }
    }
    (starts, exact(values))
}

/// Positions in some array, by the hash of what is there.
type Index = HashTable<u32>;

/// The seed is fixed, since snapshots are compared with each other. Who chooses names could make them collide,
/// but would only slow down the network that they are in.
const HASHES: FixedState = FixedState::with_seed(0x6463_6d5e_9a1f_0b27);

/// The hash of anything that is compared here.
pub(crate) fn hash(value: impl Hash) -> u64 {
    HASHES.hash_one(value)
}

/// All networks.
#[derive(Debug, Default)]
pub struct Zones {
    networks: Box<[Arc<Network>]>,
    /// The network of each address that we listen on; the first one by name where several share it.
    listen: BTreeMap<IpAddr, u32>,
    /// Containers in several networks.
    shared: BTreeMap<ContainerKey, Box<[u32]>>,
    /// The lowest and highest address of each network and family, sorted.
    ranges: Box<[(IpAddr, IpAddr, u32)]>,
    /// For each range, the highest address in it and all before it in its family.
    reach: Box<[IpAddr]>,
    /// Whether two networks have the same name.
    twins: bool,
}

impl Zones {
    /// Puts networks together; they are sorted by name here.
    #[must_use]
    pub fn new(mut networks: Vec<Arc<Network>>) -> Self {
        networks.sort_by(|a, b| a.name.cmp(&b.name));
        let mut listen = BTreeMap::new();
        for (network, n) in networks.iter().zip(0..) {
            for address in &network.listen {
                listen.entry(*address).or_insert(n);
            }
        }
        let (ranges, reach) = ranges(&networks);
        Self {
            listen,
            shared: shared(&networks),
            ranges,
            reach,
            twins: networks.windows(2).any(|pair| pair[0].name == pair[1].name),
            networks: networks.into_boxed_slice(),
        }
    }

    /// The networks, sorted by name.
    #[must_use]
    pub fn networks(&self) -> &[Arc<Network>] {
        &self.networks
    }

    /// A network by its position.
    #[must_use]
    pub fn network(&self, n: u32) -> &Network {
        &self.networks[at(n)]
    }

    /// Every address to listen on.
    pub fn listen(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.listen.keys().copied()
    }

    /// Whether we listen on an address.
    #[must_use]
    pub fn is_ours(&self, address: IpAddr) -> bool {
        self.listen.contains_key(&address)
    }

    /// Who asks, seen from the address that was asked.
    #[must_use]
    pub fn asker(&self, source: IpAddr, asked: IpAddr) -> Asker {
        let mut asker = Asker {
            networks: Vec::new(),
            known: false,
            internal_only: false,
            servers: None,
            owner: None,
        };
        let mut owners: Vec<ContainerKey> = Vec::new();
        for n in self.candidates(source) {
            let network = self.network(n);
            let Some(host) = network.host(source) else {
                continue;
            };
            asker.known = true;
            asker.networks.push(n);
            owners.extend(network.owners(host));
            if !network.internal {
                asker.servers = network.servers_of(host).cloned();
            }
        }
        asker.owner = owners.first().copied();
        // The networks that have the address itself come first, so do their answers.
        for owner in owners {
            for n in self.shared.get(&owner).into_iter().flatten() {
                if !asker.networks.contains(n) {
                    asker.networks.push(*n);
                }
            }
        }
        if self.twins {
            self.add_twins(&mut asker.networks);
        }
        if asker.known {
            asker.internal_only = asker.networks.iter().all(|n| self.network(*n).internal);
        } else {
            asker.networks.extend(self.listen.get(&asked));
        }
        asker
    }

    /// A network can have two files, one of them from before it became internal.
    fn add_twins(&self, networks: &mut Vec<u32>) {
        for n in networks.clone() {
            let twins = (0..)
                .zip(&self.networks)
                .filter(|(_, network)| network.name == self.network(n).name);
            for (twin, _) in twins {
                if !networks.contains(&twin) {
                    networks.push(twin);
                }
            }
        }
    }

    /// Whether an address is one of ours or between those of the containers of some network.
    #[must_use]
    pub fn covers(&self, address: IpAddr) -> bool {
        self.is_ours(address) || self.candidates(address).next().is_some()
    }

    /// Networks whose range of addresses has this one in it, in their order.
    fn candidates(&self, address: IpAddr) -> impl Iterator<Item = u32> + '_ {
        let end = self.ranges.partition_point(|(low, _, _)| *low <= address);
        let mut start = end;
        while start > 0 && self.reach[start - 1] >= address {
            start -= 1;
        }
        let mut found: Vec<u32> = self.ranges[start..end]
            .iter()
            .filter(|(low, high, _)| *low <= address && address <= *high)
            .map(|(_, _, n)| *n)
            .collect();
        found.sort_unstable();
        found.into_iter()
    }
}

/// The containers that are in several networks.
///
/// Few are, so those that certainly are not are left out first: every container marks one of many places with its
/// network, and is of interest only if another network has marked its place before.
fn shared(networks: &[Arc<Network>]) -> BTreeMap<ContainerKey, Box<[u32]>> {
    if networks.len() < 2 {
        return BTreeMap::new();
    }
    let owners = || {
        let numbered = networks.iter().zip(0u32..);
        numbered.flat_map(|(network, n)| network.host_owners.iter().map(move |owner| (*owner, n)))
    };
    let total: usize = networks
        .iter()
        .map(|network| network.host_owners.len())
        .sum();
    let mut places = vec![FREE; (8 * total).next_power_of_two()];
    let mask = places.len() - 1;
    let place = |owner: ContainerKey| usize::try_from(owner.0).unwrap_or_default() & mask;
    let mut several = Vec::new();
    for (owner, n) in owners() {
        let first = &mut places[place(owner)];
        match *first {
            FREE => *first = n,
            network if network == n => {}
            _ => several.push(owner),
        }
    }
    several.sort_unstable();
    several.dedup();
    let mut shared: BTreeMap<ContainerKey, Vec<u32>> = BTreeMap::new();
    if several.is_empty() {
        return BTreeMap::new();
    }
    for (owner, n) in owners().filter(|(owner, _)| several.binary_search(owner).is_ok()) {
        let networks = shared.entry(owner).or_default();
        if networks.last() != Some(&n) {
            networks.push(n);
        }
    }
    let several = shared
        .into_iter()
        .filter(|(_, networks)| networks.len() > 1);
    several
        .map(|(owner, networks)| (owner, networks.into()))
        .collect()
}

const FREE: u32 = u32::MAX;

type Ranges = (Box<[(IpAddr, IpAddr, u32)]>, Box<[IpAddr]>);

fn ranges(networks: &[Arc<Network>]) -> Ranges {
    let numbered = networks.iter().zip(0u32..);
    let spans = numbered.flat_map(|(network, n)| {
        let spans = network.spans.0.iter().flatten();
        spans.map(move |(low, high)| (*low, *high, n))
    });
    let mut ranges: Vec<_> = spans.collect();
    ranges.sort_unstable();
    let mut reach = Vec::with_capacity(ranges.len());
    for (_, high, _) in &ranges {
        reach.push(reach.last().map_or(*high, |before| *high.max(before)));
    }
    (ranges.into_boxed_slice(), reach.into_boxed_slice())
}

/// Who asks: what it may see and whom it wants to be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asker {
    /// The networks that it may see, those of its address first.
    pub networks: Vec<u32>,
    /// Whether it is a container that we know.
    pub known: bool,
    /// Whether it is in internal networks only.
    pub internal_only: bool,
    /// Its own resolvers.
    pub servers: Option<Servers>,
    /// The container that has its address.
    pub owner: Option<ContainerKey>,
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::load;

    /// Zones from files; for tests of other modules, too.
    pub(crate) fn zones(files: &[(&str, &str)]) -> Zones {
        let networks = files.iter().map(|(name, text)| {
            let (network, problems) = load::network(name, text.as_bytes());
            assert!(problems.is_empty(), "{name}: {problems:?}");
            Arc::new(network.expect("a header"))
        });
        Zones::new(networks.collect())
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_container_sees_all_its_networks_its_own_first() {
        let zones = zones(&[
            ("a", "10.0.0.1\nc1 10.0.0.2  web\nc2 10.0.0.3  db\n"),
            ("b", "10.0.1.1\nc1 10.0.1.2  web\nc3 10.0.1.3  x 9.9.9.9\n"),
        ]);
        let asker = |source: &str, asked: &str| zones.asker(address(source), address(asked));
        assert_eq!(asker("10.0.0.2", "10.0.0.1").networks, [0, 1]);
        assert_eq!(asker("10.0.1.2", "10.0.0.1").networks, [1, 0]);
        assert_eq!(asker("10.0.0.3", "10.0.1.1").networks, [0]);
        assert_eq!(asker("10.0.1.3", "10.0.1.1").servers.unwrap().len(), 1);
        let host = asker("192.0.2.1", "10.0.1.1");
        assert_eq!((host.networks, host.known), (vec![1], false));
        assert_eq!(asker("192.0.2.1", "10.9.9.9").networks, [0u32; 0]);
    }

    #[test]
    fn internal_networks_have_no_resolvers_of_containers() {
        let zones = zones(&[
            ("a%int", "10.0.0.1\nc1 10.0.0.2  web 9.9.9.9\n"),
            ("b", "10.0.1.1\nc2 10.0.1.2  x\n"),
        ]);
        let asker = zones.asker(address("10.0.0.2"), address("10.0.0.1"));
        assert!(asker.internal_only && asker.servers.is_none());
        assert!(
            !zones
                .asker(address("192.0.2.9"), address("10.0.0.1"))
                .internal_only
        );
    }

    #[test]
    fn addresses_and_names_lead_to_each_other_once() {
        let zones = zones(&[(
            "a",
            "10.0.0.1\nc1 10.0.0.2,10.0.0.3 fd::2 web,web,w2\nc1 10.0.0.2  web\nc2 10.0.0.9  web\n",
        )]);
        let network = zones.network(0);
        let web = network.find(b"\x03web").unwrap();
        let expected: Vec<Ipv4Addr> = ["10.0.0.2", "10.0.0.3", "10.0.0.9"]
            .map(|a| a.parse().unwrap())
            .into();
        assert_eq!(network.ipv4(web), expected);
        assert_eq!(network.ipv6(web).len(), 1);
        let names: Vec<_> = network
            .names_of(address("10.0.0.2"))
            .map(|n| network.name_of(n))
            .collect();
        assert_eq!(names, [&b"\x03web"[..], b"\x02w2"]);
        assert_eq!(network.find(b"\x03xyz"), None);
    }

    #[test]
    fn overlapping_ranges_are_all_found() {
        let zones = zones(&[
            ("a", "10.0.0.1\nc1 10.0.0.2  a\nc2 10.0.9.2  b\n"),
            ("b", "10.0.1.1\nc3 10.0.1.2  c\nc4 10.0.1.9  d\n"),
            ("c", "10.0.2.1\nc5 10.0.2.2  e\n"),
        ]);
        assert_eq!(
            zones
                .asker(address("10.0.9.2"), address("10.0.0.1"))
                .networks,
            [0]
        );
        assert_eq!(
            zones
                .asker(address("10.0.1.9"), address("10.0.0.1"))
                .networks,
            [1]
        );
        assert!(zones.covers(address("10.0.5.5")));
        assert!(zones.covers(address("10.0.2.1")));
        assert!(!zones.covers(address("10.0.9.3")));
    }
}
