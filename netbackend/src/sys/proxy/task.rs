//! One lease, from the search for a server until it is given back: the loop that lets a [`Client`] loose on the world.

use std::rc::Rc;
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::sleep;
use wire::proxy::{Kept, KeptLease, Lease, Version};

use super::grpc::{Code, Status};
use super::port::{self, LONGEST, Port};
use super::site::Site;
use super::{Key, Proxy, now};
use crate::dhcp::{Action, Client, Event, Outgoing, Terms};

/// How often we look whether the namespace is still there, if there is nothing else to do.
const WATCH: Duration = Duration::from_secs(10);
/// How long to wait for an interface that is not ready yet.
const EARLY: Duration = Duration::from_millis(100);

/// Why a task ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// It was told to.
    Stopped,
    /// The container is gone.
    Gone,
    /// Whoever wanted the lease does not wait for it any more.
    Abandoned,
    /// The lease cannot be put to use.
    Unusable,
}

/// One lease.
pub(super) struct Task {
    pub(super) proxy: Rc<Proxy>,
    pub(super) key: Key,
    pub(super) serial: u64,
    pub(super) site: Site,
    pub(super) client: Client,
    /// What the interface has of a lease.
    pub(super) applied: Option<Terms>,
    /// Who waits for the first lease.
    pub(super) first: Option<oneshot::Sender<Result<Lease, Status>>>,
    pub(super) stop: Rc<Notify>,
    pub(super) port: Option<Port>,
    /// What could not be sent yet.
    pub(super) unsent: Option<Outgoing>,
}

enum Woken {
    Time,
    Packet(wire::names::MacAddr, Vec<u8>),
    Broken(std::io::Error),
    End(End),
}

impl Task {
    /// Runs until there is no lease to care for any more.
    pub(super) async fn run(mut self) {
        let end = self.go_on().await;
        tracing::debug!("{}: {end:?}", self.key.mac);
        let Self {
            proxy,
            key,
            serial,
            site,
            client,
            applied,
            first,
            ..
        } = self;
        // Not before everything is done may somebody find that there is no lease.
        let outgoing = client.release();
        if let Some(outgoing) = &outgoing {
            site.release(outgoing).await;
            tracing::info!("lease of {} given back", key.mac);
        }
        if end != End::Gone
            && let Some(applied) = &applied
            && let Err(error) = site.change(Some(applied), None).await
        {
            tracing::debug!("{}: {error}", key.mac);
        }
        proxy.forget(&key, serial);
        drop(first);
    }

    async fn go_on(&mut self) -> End {
        let mut buffer = vec![0; LONGEST];
        loop {
            let woken = self.sleep(&mut buffer).await;
            let event = match &woken {
                Woken::Time => {
                    if !self.site.is_there() {
                        return End::Gone;
                    }
                    if let Some(outgoing) = self.unsent.take() {
                        self.send(outgoing);
                    }
                    Event::Wake
                }
                Woken::Packet(from, payload) => Event::Received {
                    from: *from,
                    payload,
                },
                Woken::Broken(error) => {
                    tracing::debug!("{}: receive: {error}", self.key.mac);
                    self.port = None;
                    sleep(EARLY).await;
                    continue;
                }
                Woken::End(end) => return *end,
            };
            for action in self.client.handle(now(), event) {
                if let Err(end) = self.act(action).await {
                    return end;
                }
            }
            if !self.client.listens() {
                self.port = None;
            }
        }
    }

    /// Until the deadline, a packet, or word from outside. Everything that is waited for can be dropped.
    async fn sleep(&mut self, buffer: &mut [u8]) -> Woken {
        if self.port.is_none()
            && self.client.listens()
            && let Err(end) = self.listen()
        {
            return Woken::End(end);
        }
        let pause = self.client.deadline().saturating_sub(now()).min(WATCH);
        let pause = if self.unsent.is_some() {
            pause.min(EARLY)
        } else {
            pause
        };
        let port = self.port.as_ref();
        let packet = async {
            match port {
                Some(port) => port
                    .receive(buffer)
                    .await
                    .map(|(from, payload)| (from, payload.to_vec())),
                None => std::future::pending().await,
            }
        };
        let first = self.first.as_mut();
        let abandoned = async {
            match first {
                Some(first) => first.closed().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.stop.notified() => Woken::End(End::Stopped),
            () = abandoned => Woken::End(End::Abandoned),
            received = packet => match received {
                Ok((from, payload)) => Woken::Packet(from, payload),
                Err(error) => Woken::Broken(error),
            },
            () = sleep(pause) => Woken::Time,
        }
    }

    /// Opens the socket. An interface that is gone takes its lease with it; anything else may pass.
    fn listen(&mut self) -> Result<(), End> {
        match self.site.port() {
            Ok(port) => self.port = Some(port),
            Err(error) => {
                let is_gone = error.errno() == Some(libc::ENODEV) || !self.site.is_there();
                tracing::info!("{}: {error}", self.key.mac);
                if is_gone || self.first.is_some() {
                    self.fail(Status::new(Code::Internal, error.to_string()));
                    return Err(if is_gone { End::Gone } else { End::Unusable });
                }
            }
        }
        Ok(())
    }

    fn fail(&mut self, status: Status) {
        if let Some(first) = self.first.take() {
            drop(first.send(Err(status)));
        }
    }

    fn send(&mut self, outgoing: Outgoing) {
        if self.port.is_none() && self.listen().is_err() {
            return;
        }
        let Some(port) = &self.port else {
            self.unsent = Some(outgoing);
            return;
        };
        match port.send(&outgoing) {
            Ok(()) => {}
            // It is tried again soon, instead of only when an answer is overdue.
            Err(error) if port::is_early(&error, self.site.config.version) => {
                self.unsent = Some(outgoing);
            }
            Err(error) => tracing::debug!("{}: send: {error}", self.key.mac),
        }
    }

    async fn act(&mut self, action: Action) -> Result<(), End> {
        match action {
            // On record first: after that nothing that we crash in makes us forget it.
            Action::Chosen(terms) => {
                self.record(&terms, true);
                Ok(())
            }
            Action::Send(outgoing) => {
                self.unsent = None;
                self.send(outgoing);
                Ok(())
            }
            Action::Bound(terms) => self.bound(*terms).await,
            Action::Lost(why) => {
                tracing::warn!("lease of {} lost: {why}", self.key.mac);
                let old = self.applied.take();
                if let Err(error) = self.site.change(old.as_ref(), None).await {
                    tracing::warn!("{}: {error}", self.key.mac);
                }
                self.proxy.keep(&self.key, self.serial, None);
                Ok(())
            }
        }
    }

    async fn bound(&mut self, terms: Terms) -> Result<(), End> {
        let mac = self.key.mac;
        let old = self.applied.take();
        if old.as_ref().is_some_and(|old| old.differs(&terms)) {
            tracing::info!("ip or gateway for mac {mac} changed, update address");
        }
        tracing::debug!("{mac}: {} for {} s", terms.address, terms.lifetime);
        let lease = self.record(&terms, false);
        let changed = self.site.change(old.as_ref(), Some(&terms)).await;
        self.applied = Some(terms);
        match (changed, self.first.take()) {
            (Ok(()), Some(first)) => {
                let lease = Lease {
                    obeyed: true,
                    ..lease
                };
                first.send(Ok(lease)).map_err(|_| End::Abandoned)
            }
            (Ok(()), None) => Ok(()),
            (Err(error), Some(first)) => {
                drop(first.send(Err(Status::new(Code::Internal, error.to_string()))));
                Err(End::Unusable)
            }
            (Err(error), None) => {
                if self.site.is_there() {
                    tracing::warn!("{mac}: {error}");
                    Ok(())
                } else {
                    Err(End::Gone)
                }
            }
        }
    }

    fn record(&self, terms: &Terms, unconfirmed: bool) -> Lease {
        let lease = terms.lease(self.key.mac);
        let kept = self.kept(terms, lease.clone(), unconfirmed);
        self.proxy.keep(&self.key, self.serial, Some(kept));
        lease
    }

    fn kept(&self, terms: &Terms, lease: Lease, unconfirmed: bool) -> KeptLease {
        let hexadecimal = terms.server.duid.iter().map(|byte| format!("{byte:02x}"));
        // Seconds of the calendar, which other processes know, too.
        let age = now().saturating_sub(terms.since);
        KeptLease {
            lease,
            netbackend: Some(Kept {
                config: self.site.config.clone(),
                since: super::calendar().saturating_sub(age).as_secs(),
                server_mac: terms.server.mac,
                server_duid: hexadecimal.collect(),
                routes: terms.routes.clone(),
                netns_inode: self.site.netns_inode,
                unconfirmed,
            }),
        }
    }
}

/// A number to tell clients apart by.
pub(super) fn seed(key: &Key) -> u64 {
    let [a, b, c, d, e, f] = key.mac.0;
    let time = now().subsec_nanos();
    let version = u8::from(key.version == Version::V6);
    u64::from_be_bytes([a, b, c, d, e, f, version, 0]) ^ (u64::from(time) << 20)
}
