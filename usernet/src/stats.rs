//! What is counted, and how it is shown.
//!
//! Counters are plain numbers that only grow. The forwarder adds to them where it handles an event or gives an output,
//! which costs it an addition. Whoever shows them keeps an earlier copy, and the difference is what happened meanwhile.
//! [`Counters::all`] is everything by name, for a table or for any other form.

use std::fmt;
use std::time::Duration;

use crate::event::Drop;

/// The names of counters, by group, in the order they are shown.
macro_rules! counters {
    ($($name:ident = $group:literal, $text:literal;)*) => {
        /// What is counted.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[expect(missing_docs, reason = "its names say it")]
        pub enum Counter { $($name,)* }

        impl Counter {
            /// All of them.
            pub const ALL: [Self; [$($group,)*].len()] = [$(Self::$name,)*];

            /// Which kind of thing, and which one.
            #[must_use]
            pub const fn names(self) -> (&'static str, &'static str) {
                match self { $(Self::$name => ($group, $text),)* }
            }
        }
    };
}

counters! {
    Rounds = "events", "rounds";
    Frames = "events", "frames";
    Connections = "events", "connections";
    Readiness = "events", "socket readiness";
    Datagrams = "events", "datagram batches";
    Arrivals = "events", "datagram arrivals";
    Failures = "events", "socket errors";
    Timers = "events", "timers";
    TcpMade = "flows made", "tcp";
    SpliceMade = "flows made", "tcp splice";
    UdpMade = "flows made", "udp";
    RelayMade = "flows made", "udp splice";
    EchoMade = "flows made", "echo";
    TcpEnded = "flows ended", "tcp";
    SpliceEnded = "flows ended", "tcp splice";
    UdpEnded = "flows ended", "udp";
    RelayEnded = "flows ended", "udp splice";
    EchoEnded = "flows ended", "echo";
    TcpEvicted = "flows evicted", "tcp";
    SpliceEvicted = "flows evicted", "tcp splice";
    UdpEvicted = "flows evicted", "udp";
    RelayEvicted = "flows evicted", "udp splice";
    EchoEvicted = "flows evicted", "echo";
    TooMuchKept = "flows evicted", "kept too much";
    TableFull = "flows refused", "table full";
    NoSocket = "flows refused", "no socket";
    FramesToHost = "to the host", "frames";
    FrameBytesToHost = "to the host", "frame bytes";
    StreamBytesToHost = "to the host", "tcp bytes";
    DatagramsToHost = "to the host", "datagrams";
    DatagramBytesToHost = "to the host", "datagram bytes";
    SplicedToHost = "to the host", "tcp splice bytes";
    FramesToGuest = "to the guest", "frames";
    FrameBytesToGuest = "to the guest", "frame bytes";
    StreamBytesToGuest = "to the guest", "tcp bytes";
    DatagramsToGuest = "to the guest", "udp splice datagrams";
    DatagramBytesToGuest = "to the guest", "udp splice bytes";
    SplicedToGuest = "to the guest", "tcp splice bytes";
    DroppedMalformed = "dropped", "malformed";
    DroppedChecksum = "dropped", "checksum";
    DroppedProtocol = "dropped", "protocol";
    DroppedSource = "dropped", "source";
    DroppedDestination = "dropped", "destination";
    DroppedDisabled = "dropped", "switched off";
    DroppedFlow = "dropped", "no flow";
    DroppedFragment = "dropped", "fragment";
    DroppedUnanswered = "dropped", "unanswered";
    TapRefused = "dropped", "refused by the tap";
}

impl From<Drop> for Counter {
    fn from(reason: Drop) -> Self {
        match reason {
            Drop::Malformed => Self::DroppedMalformed,
            Drop::Checksum => Self::DroppedChecksum,
            Drop::Protocol => Self::DroppedProtocol,
            Drop::Source => Self::DroppedSource,
            Drop::Destination => Self::DroppedDestination,
            Drop::Disabled => Self::DroppedDisabled,
            Drop::Flow => Self::DroppedFlow,
            Drop::Fragment => Self::DroppedFragment,
            Drop::Unanswered => Self::DroppedUnanswered,
        }
    }
}

/// All counters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counters([u64; Counter::ALL.len()]);

impl Default for Counters {
    fn default() -> Self {
        Self([0; Counter::ALL.len()])
    }
}

impl Counters {
    /// One more.
    pub fn count(&mut self, counter: Counter) {
        self.add(counter, 1);
    }

    /// Some more.
    pub fn add(&mut self, counter: Counter, some: u64) {
        if let Some(number) = self.0.get_mut(counter as usize) {
            *number = number.wrapping_add(some);
        }
    }

    /// How many.
    #[must_use]
    pub fn of(&self, counter: Counter) -> u64 {
        self.0.get(counter as usize).copied().unwrap_or(0)
    }

    /// All of them, in order.
    pub fn all(&self) -> impl Iterator<Item = (Counter, u64)> {
        Counter::ALL
            .into_iter()
            .map(|counter| (counter, self.of(counter)))
    }
}

/// What is shown to a person: what was counted in all, and since an earlier time. Counters without anything are left out.
#[derive(Debug, Clone, Copy)]
pub struct Table<'a> {
    /// All.
    pub now: &'a Counters,
    /// Earlier.
    pub before: &'a Counters,
    /// The time since the beginning, and since `before`.
    pub elapsed: (Duration, Duration),
    /// Flows there are.
    pub flows: u32,
}

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (all, last) = self.elapsed;
        let all = format!("{:.1} s", all.as_secs_f64());
        let last = format!("last {:.1} s", last.as_secs_f64());
        writeln!(f, "{:36}{all:>20}{last:>20}", "counted in")?;
        writeln!(f, "{:14}{:22}{:>20}", "flows", "now", self.flows)?;
        let mut before = "";
        for (counter, number) in self.now.all().filter(|(_, number)| *number != 0) {
            let (group, name) = counter.names();
            let shown = if group == before { "" } else { group };
            before = group;
            let new = number.wrapping_sub(self.before.of(counter));
            writeln!(f, "{shown:14}{name:22}{number:>20}{new:>20}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_of_what_was_counted() {
        let mut before = Counters::default();
        before.add(Counter::Frames, 10);
        before.count(Counter::TcpMade);
        let mut now = before.clone();
        now.add(Counter::Frames, 5);
        now.count(Counter::Rounds);
        now.count(Drop::Flow.into());
        let table = Table {
            now: &now,
            before: &before,
            elapsed: (Duration::from_secs(12), Duration::from_millis(2_040)),
            flows: 3,
        };
        let expected = "\
counted in                                        12.0 s          last 2.0 s
flows         now                                      3
events        rounds                                   1                   1
              frames                                  15                   5
flows made    tcp                                      1                   0
dropped       no flow                                  1                   1
";
        assert_eq!(table.to_string(), expected);
    }

    #[test]
    fn counters_have_names_of_their_own() {
        let names: std::collections::BTreeSet<_> =
            Counter::ALL.iter().map(|counter| counter.names()).collect();
        assert_eq!(names.len(), Counter::ALL.len());
        let mut counters = Counters::default();
        counters.add(Counter::Timers, u64::MAX);
        counters.count(Counter::Timers);
        assert_eq!(counters, Counters::default());
    }
}
