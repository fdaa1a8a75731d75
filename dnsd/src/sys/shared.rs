//! What all threads see: the snapshot that is served, kept answers, what has failed, counters.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::answer::Policy;
use crate::cache::Cache;
use crate::failures::Failures;
use crate::packet;
use crate::zones::{Servers, Zones};

/// A snapshot: never changed, replaced as a whole.
#[derive(Debug)]
pub struct State {
    /// The containers.
    pub zones: Zones,
    /// What the command line and the environment say.
    pub policy: Policy,
    /// The servers of the host.
    pub host_servers: Servers,
}

impl State {
    /// Whom to ask in the end: never ourselves, and never the asker. Nothing if that was all: then the question has
    /// gone in a circle.
    pub fn servers(&self, chosen: Option<Servers>, asker: IpAddr) -> Option<Servers> {
        let chosen = chosen.unwrap_or_else(|| self.host_servers.clone());
        let asked = |server: &&SocketAddr| server.ip() != asker && !self.zones.is_ours(server.ip());
        let count = chosen.iter().filter(asked).count();
        if count == chosen.len() {
            return Some(chosen);
        }
        let circle = count == 0 && chosen.iter().any(|server| server.ip() == asker);
        (!circle).then(|| chosen.iter().filter(asked).copied().collect())
    }
}

/// What all threads see.
#[derive(Debug)]
pub struct Shared {
    generation: AtomicU64,
    state: Mutex<Arc<State>>,
    cache: Mutex<Cache>,
    failures: Mutex<Failures>,
}

impl Shared {
    /// Serves a first snapshot.
    pub fn new(state: State, cache_bytes: usize) -> Self {
        Self {
            generation: AtomicU64::new(1),
            state: Mutex::new(Arc::new(state)),
            cache: Mutex::new(Cache::new(cache_bytes)),
            failures: Mutex::default(),
        }
    }

    /// Serves another snapshot from now on.
    pub fn publish(&self, state: State) {
        *lock(&self.state) = Arc::new(state);
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Changes with every snapshot.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The snapshot of now.
    pub fn state(&self) -> Arc<State> {
        lock(&self.state).clone()
    }

    /// Questions that failed.
    pub fn failures(&self) -> MutexGuard<'_, Failures> {
        lock(&self.failures)
    }

    /// Kept answers.
    pub fn cache(&self) -> MutexGuard<'_, Cache> {
        lock(&self.cache)
    }
}

/// Nothing that is done under these locks can be left half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

macro_rules! counters {
    ($($(#[doc = $doc:literal])* $name:ident,)*) => {
        /// What a thread has counted.
        #[derive(Debug, Default)]
        #[repr(align(64))]
        pub struct Counters {
            $($(#[doc = $doc])* pub $name: AtomicU64,)*
        }

        impl Counters {
            /// Names, what they mean, and values.
            pub fn all(&self) -> Vec<(&'static str, &'static str, u64)> {
                vec![$((stringify!($name), concat!($($doc),*), self.$name.load(Ordering::Relaxed)),)*]
            }
        }
    };
}

counters! {
    /// Queries by UDP.
    queries_udp,
    /// Queries by TCP.
    queries_tcp,
    /// Queries answered from the zones.
    answered,
    /// Queries answered from kept answers.
    answered_cache,
    /// Queries sent to servers.
    forwarded,
    /// Queries that joined an equal one.
    joined,
    /// Queries not forwarded because too many wait.
    refused,
    /// Queries not answered because they gave way to others'.
    gave_way,
    /// Queries of servers that would have gone back to them.
    loops,
    /// Queries that nobody can answer, since there is no server.
    nobody,
    /// Messages that are not queries.
    dropped,
    /// Messages from servers that nobody asked for.
    stray,
    /// Answers of servers that cannot be read.
    broken,
    /// Questions that all servers left unanswered.
    failed,
    /// Questions asked again by TCP because the answer was cut.
    truncated,
    /// Queries for A.
    asked_a,
    /// Queries for AAAA.
    asked_aaaa,
    /// Queries for PTR.
    asked_ptr,
    /// Queries for SRV.
    asked_srv,
    /// Queries for other types.
    asked_others,
    /// Answers without an error.
    said_noerror,
    /// Answers that nobody has the name.
    said_nxdomain,
    /// Answers of failure (SERVFAIL).
    said_servfail,
    /// Answers of refusal (REFUSED).
    said_refused,
    /// Other answers.
    said_others,
}

impl Counters {
    /// Counts a query by its type.
    pub fn asked(&self, query: &[u8]) {
        count(match packet::question_kind(query) {
            Some(1) => &self.asked_a,
            Some(28) => &self.asked_aaaa,
            Some(12) => &self.asked_ptr,
            Some(33) => &self.asked_srv,
            Some(_) | None => &self.asked_others,
        });
    }

    /// Counts an answer to a client by what it says.
    pub fn said(&self, reply: &[u8]) {
        count(match reply.get(3).map(|flags| flags & 0xf) {
            Some(0) => &self.said_noerror,
            Some(2) => &self.said_servfail,
            Some(3) => &self.said_nxdomain,
            Some(5) => &self.said_refused,
            Some(_) | None => &self.said_others,
        });
    }
}

/// Counts one.
pub fn count(counter: &AtomicU64) {
    // Each thread has counters of its own, so adding need not be atomic.
    counter.store(
        counter.load(Ordering::Relaxed).wrapping_add(1),
        Ordering::Relaxed,
    );
}
