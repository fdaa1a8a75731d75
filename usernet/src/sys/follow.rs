//! What becomes of the host while we run: a network that comes, and other name servers.
//!
//! *The network.* A family in local mode waits for it ([`crate::config::change`]). Netlink tells that something has
//! changed; after a pause the links, addresses and routes are read again and everything is decided as at the start. What
//! follows from it goes first to the guest, through the process that may change it ([`super::keeper`]), and then to the
//! forwarder. When nobody waits any more, the sockets are closed and that process ends; a run that begins with a network
//! has none of this.
//!
//! *Name servers.* When inotify tells that resolv.conf may be another one, the process in the guest's namespace reads it
//! ([`super::names`]), and new queries go to the servers that it names. It is read once more when it is watched.

use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::Instant;

use nix::errno::Errno;

use super::facts;
use super::keeper::Keeper;
use super::names::{Ears, RESOLV_CONF};
use super::netlink::{Netlink, NetlinkError, Notices};
use super::start::Ends;
use crate::cli::Options;
use crate::config::change::{self, Waiting};
use crate::config::{
    Config, Facts, Families, Family, HostLink, Level, Notice, decide, rename, report_change,
};
use crate::limits;

/// What is to be known of a run to follow its host.
#[derive(Debug)]
pub struct Followed {
    /// What was written.
    pub options: Options,
    /// What the host was like; links, addresses and routes are not needed.
    pub facts: Facts,
    /// What was decided.
    pub config: Config,
    /// The name servers of each family.
    pub resolvers: Families<Vec<IpAddr>>,
    /// The indexes of the host's links that the guest's one stands for.
    pub links: Families<u32>,
    /// Until when IPv6 is waited for if there is IPv4.
    pub until: Option<Instant>,
    /// When the host was like this.
    pub seen: Instant,
}

impl Followed {
    /// Somebody waits for the host's network.
    #[must_use]
    pub fn waits(&self) -> bool {
        !Waiting::new(&self.config, self.until, self.seen).is_over()
    }

    /// Somebody asks the host's name servers, or is told of them.
    #[must_use]
    pub fn names(&self) -> bool {
        let config = &self.config;
        let families = [config.families.v4.as_ref(), config.families.v6.as_ref()];
        let forward = |family: &Family| family.dns_forward.is_some();
        let asks = families.into_iter().flatten().any(forward);
        !config.splice_only && (asks || !config.announce.dns.is_empty() || self.waits())
    }
}

/// What is new.
#[derive(Debug)]
pub struct News {
    /// The run from now on.
    pub config: Config,
    /// The name servers from now on.
    pub resolvers: Families<Vec<IpAddr>>,
    /// The host's links from now on.
    pub links: Families<u32>,
    /// To be told.
    pub notices: Vec<Notice>,
}

/// Something that may be readable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
enum Source {
    /// The host's network has changed. Numbers above those of [`super::start::End`]
    /// and of [`super::control::Control`].
    Network = 32,
    /// The guest's side was changed.
    Keeper,
    /// resolv.conf has changed.
    Names,
}

/// Follows the host of one run.
#[derive(Debug)]
pub struct Follower {
    now: Followed,
    network: Option<Network>,
    ears: Option<Ears>,
}

/// What is there while the host's network is waited for.
#[derive(Debug)]
struct Network {
    notices: Notices,
    netlink: Netlink,
    /// Where the guest's side is ours to configure.
    keeper: Option<Keeper>,
    waiting: Waiting,
    look_at: Option<Instant>,
    /// What the guest is being changed to.
    coming: Option<Followed>,
}

impl Follower {
    /// To be called in the host's network namespace before the sandbox closes. `configured`: the guest's side is ours.
    ///
    /// # Errors
    /// There are no descriptors left.
    pub fn open(
        now: Followed,
        configured: bool,
        keeper: Option<Keeper>,
        ends: &mut Ends,
        time: Instant,
    ) -> Result<Self, NetlinkError> {
        let path = Path::new(RESOLV_CONF);
        let alone = now.names() && !ends.listen(path);
        let mut network = None;
        // A guest that cannot be changed stays as it is.
        if now.waits() && (keeper.is_some() || !configured) {
            network = Some(Network {
                notices: Notices::open()?,
                netlink: Netlink::open()?,
                keeper,
                waiting: Waiting::new(&now.config, now.until, time),
                // What came between the first look and the first notice.
                look_at: Some(time),
                coming: None,
            });
        }
        Ok(Self {
            ears: alone.then(|| Ears::open(path).ok()).flatten(),
            network,
            now,
        })
    }

    /// What to wait for, with the number to call it by.
    pub fn descriptors(&self) -> impl Iterator<Item = (u32, BorrowedFd<'_>)> {
        let network = self.network.iter();
        let keeper = self.network.iter().filter_map(|n| n.keeper.as_ref());
        let ears = self.ears.iter();
        network
            .map(|network| (Source::Network as u32, network.notices.fd()))
            .chain(keeper.map(|keeper| (Source::Keeper as u32, keeper.fd())))
            .chain(ears.map(|ears| (Source::Names as u32, ears.fd())))
    }

    /// When to call [`Self::due`].
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let network = self.network.as_ref()?;
        if network.coming.is_some() {
            return None;
        }
        let ends = [network.look_at, network.waiting.deadline()];
        ends.into_iter().flatten().min()
    }

    /// The links have other indexes.
    pub fn moved(&mut self, links: &Families<u32>) {
        self.now.links = links.clone();
    }

    /// resolv.conf is to be read again, says one of the descriptors.
    #[must_use]
    pub fn hears(&self, number: u32) -> bool {
        number == Source::Names as u32 && self.ears.as_ref().is_some_and(Ears::hear)
    }

    /// One of the descriptors is readable.
    pub fn ready(&mut self, number: u32, time: Instant) -> Option<News> {
        let network = self.network.as_mut()?;
        if number == Source::Network as u32 {
            network.notices.drain();
            let soon = time + limits::NETWORK_PAUSE;
            network.look_at = Some(network.look_at.unwrap_or(soon));
        }
        if number != Source::Keeper as u32 {
            return None;
        }
        match network.keeper.as_mut()?.answer() {
            Ok(None) => None,
            Ok(Some(failed)) => {
                let coming = network.coming.take()?;
                let mut news = self.adopt(coming, time);
                if failed > 0 {
                    let text = format!("{failed} changes of the guest's side could not be made");
                    let level = Level::Warning;
                    news.notices.push(Notice { level, text });
                }
                Some(news)
            }
            Err(_) => Some(self.alone()),
        }
    }

    /// A deadline has passed.
    pub fn due(&mut self, time: Instant) -> Option<News> {
        let network = self.network.as_mut()?;
        network
            .waiting
            .update(&self.now.config, self.now.until, time);
        if network.waiting.is_over() {
            self.network = None;
            return None;
        }
        if network.coming.is_some() || network.look_at.is_none_or(|when| when > time) {
            return None;
        }
        network.look_at = None;
        let waiting = network.waiting.families();
        let coming = self.now.look(&mut network.netlink, &waiting, time)?;
        if coming.config == self.now.config {
            self.now.until = coming.until;
            network
                .waiting
                .update(&self.now.config, self.now.until, time);
            return None;
        }
        match &mut network.keeper {
            None => Some(self.adopt(coming, time)),
            Some(keeper) => {
                let changes = change::changes(&self.now.config, &coming.config);
                if changes.is_empty() {
                    return Some(self.adopt(coming, time));
                }
                if keeper.order(&changes).is_err() {
                    return Some(self.alone());
                }
                network.coming = Some(coming);
                None
            }
        }
    }

    /// The text of resolv.conf was read.
    pub fn names(&mut self, text: Result<Vec<u8>, Errno>) -> Option<News> {
        let text = match text {
            Ok(text) => text,
            Err(Errno::EXDEV) if !self.now.facts.resolv_conf.is_empty() => {
                let text = format!("{RESOLV_CONF} leads elsewhere now: using what it said before");
                let level = Level::Warning;
                return Some(self.now.news(vec![Notice { level, text }]));
            }
            // It will come again.
            Err(_) => return None,
        };
        if text == self.now.facts.resolv_conf {
            return None;
        }
        let (config, resolvers) = rename(&self.now.options, &text, &self.now.config).ok()?;
        // A file that names nobody is one that is being made.
        if [&resolvers.v4, &resolvers.v6]
            .into_iter()
            .flatten()
            .all(Vec::is_empty)
        {
            return None;
        }
        self.now.facts.resolv_conf = text;
        self.now.config = config;
        self.now.resolvers = resolvers;
        let servers = self.now.resolvers.v4.iter().flatten();
        let servers: Vec<_> = servers.map(ToString::to_string).collect();
        let text = format!("Name servers of the host: {}", servers.join(", "));
        let level = Level::Info;
        Some(self.now.news(vec![Notice { level, text }]))
    }

    /// Nobody can change the guest any more.
    fn alone(&mut self) -> News {
        self.network = None;
        let text = "Our process that changes the guest's addresses is gone: it keeps what it has when the host's network \
                    comes; restart the container";
        let (text, level) = (text.to_owned(), Level::Warning);
        self.now.news(vec![Notice { level, text }])
    }

    fn adopt(&mut self, coming: Followed, time: Instant) -> News {
        let notices = report_change(&self.now.config, &coming.config);
        self.now = coming;
        if let Some(network) = &mut self.network {
            network
                .waiting
                .update(&self.now.config, self.now.until, time);
        }
        self.now.news(notices)
    }
}

/// The names of the host's links that the guest's one stands for.
#[must_use]
pub fn link_names(config: &Config) -> Families<String> {
    let name = |family: &Option<Family>| {
        let family = family.as_ref()?;
        let outbound = family.outbound_interface.as_ref();
        outbound.or(family.template.as_ref()).cloned()
    };
    Families {
        v4: name(&config.families.v4),
        v6: name(&config.families.v6),
    }
}

/// Their indexes.
#[must_use]
pub fn links(config: &Config, links: &[HostLink]) -> Families<u32> {
    let index = |name: Option<String>| {
        let name = name?;
        let link = links.iter().find(|link| link.name == name);
        link.map(|link| link.index)
    };
    let names = link_names(config);
    Families {
        v4: index(names.v4),
        v6: index(names.v6),
    }
}

impl Followed {
    /// The same run on what the host is like now. A host that cannot be read, or for which the options make no sense for
    /// now, may be looked at again.
    fn look(&self, netlink: &mut Netlink, waiting: &Families<()>, now: Instant) -> Option<Self> {
        let network = facts::network(netlink).ok()?;
        let facts = Facts {
            resolv_conf: self.facts.resolv_conf.clone(),
            ephemeral: self.facts.ephemeral,
            ipv6: self.facts.ipv6,
            ..network
        };
        let decision = decide(&self.options, &facts).ok()?;
        let config = change::adopt(&self.config, &decision.config, waiting);
        Some(Self {
            until: change::routers_silent_until(&config, &facts, now),
            seen: now,
            links: links(&config, &facts.links),
            options: self.options.clone(),
            facts: Facts {
                links: Vec::new(),
                addresses: Vec::new(),
                routes: Vec::new(),
                ..facts
            },
            config,
            resolvers: decision.resolvers,
        })
    }

    fn news(&self, notices: Vec<Notice>) -> News {
        News {
            config: self.config.clone(),
            resolvers: self.resolvers.clone(),
            links: self.links.clone(),
            notices,
        }
    }
}
