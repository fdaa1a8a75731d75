//! When to look after the table, from what the kernel tells of it.
//!
//! ```text
//!            notice                     quiet for QUIET, or PATIENCE since the first notice
//!   idle ─────────────▶ waiting ───────────────────────────────────────────────▶ look, then idle
//! ```
//! One who writes rules with a script makes many transactions; it would be futile to repair what the next one breaks.
//!
//! A look finds whether all that the records call for is there. It counts rules and does not read them, so a rule that
//! somebody replaced goes unnoticed; but a rule of the table that goes by a hand other than ours is told of, and then
//! the table is written anew, whatever the look finds. What somebody adds to the table stays until then.

use std::time::{Duration, Instant};

use crate::nft::notice::Notice;

/// How long nothing may happen before we look.
pub const QUIET: Duration = Duration::from_millis(100);

/// How long we wait at most.
pub const PATIENCE: Duration = Duration::from_millis(500);

/// How long we wait after a look that failed.
pub const RETRY: Duration = Duration::from_secs(5);

/// Names of processes that keep the table as the records say: the program under its two names.
const OURS: [&str; 2] = ["netavark", "netbackend"];

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Look {
    /// Whether anything is missing, and repair it.
    Check,
    /// The table is to be written anew in any case.
    Restore,
}

/// What has been told and not looked after.
#[derive(Debug, Default)]
pub struct Watch {
    pending: Option<Pending>,
    /// Whether the transaction that is being told of took rules of the table away.
    rule_gone: bool,
    /// Whether it concerns the table.
    touched: bool,
}

#[derive(Debug)]
struct Pending {
    look: Look,
    first: Instant,
    due: Instant,
}

impl Watch {
    /// Takes note.
    pub fn tell(&mut self, notice: &Notice, now: Instant) {
        match notice {
            Notice::Touched => self.touched = true,
            Notice::RuleGone => (self.touched, self.rule_gone) = (true, true),
            Notice::Commit(process) => {
                let foreign = !OURS.contains(&process.as_str());
                if self.touched && self.rule_gone && foreign {
                    self.want(Look::Restore, now);
                } else if self.touched {
                    self.want(Look::Check, now);
                }
                (self.touched, self.rule_gone) = (false, false);
            }
        }
    }

    /// A look is wanted, for what was told or because something was missed.
    pub fn want(&mut self, look: Look, now: Instant) {
        let (look, first) = match &self.pending {
            Some(pending) => (pending.look.max(look), pending.first),
            None => (look, now),
        };
        let due = (now + QUIET).min(first + PATIENCE);
        self.pending = Some(Pending { look, first, due });
    }

    /// A look failed and is to be repeated.
    pub fn retry(&mut self, look: Look, now: Instant) {
        let due = now + RETRY;
        self.pending = Some(Pending {
            look,
            first: due,
            due,
        });
    }

    /// When something is to be done, if nothing more is told.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        self.pending.as_ref().map(|pending| pending.due)
    }

    /// What is to be done now. It is done with, then.
    pub fn take(&mut self, now: Instant) -> Option<Look> {
        let pending = self.pending.take_if(|pending| pending.due <= now)?;
        Some(pending.look)
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "a test needs some moment to begin with"
)]
mod tests {
    use super::*;

    fn commit(watch: &mut Watch, process: &str, notices: &[Notice], now: Instant) {
        for notice in notices {
            watch.tell(notice, now);
        }
        watch.tell(&Notice::Commit(process.to_owned()), now);
    }

    #[test]
    fn others_do_not_wake_us() {
        let (mut watch, now) = (Watch::default(), Instant::now());
        commit(&mut watch, "nft", &[], now);
        assert_eq!(watch.due(), None);
        assert_eq!(watch.take(now + PATIENCE), None);
    }

    #[test]
    fn a_rule_that_others_remove_is_restored_one_of_ours_is_not() {
        let now = Instant::now();
        for (process, look) in [
            ("nft", Look::Restore),
            ("netavark", Look::Check),
            ("netbackend", Look::Check),
        ] {
            let mut watch = Watch::default();
            commit(
                &mut watch,
                process,
                &[Notice::RuleGone, Notice::Touched],
                now,
            );
            assert_eq!(watch.take(now), None);
            assert_eq!(watch.take(now + QUIET), Some(look));
            assert_eq!(watch.take(now + PATIENCE), None);
        }
    }

    #[test]
    fn what_goes_on_is_waited_for_but_not_for_ever() {
        let mut watch = Watch::default();
        let begin = Instant::now();
        let mut now = begin;
        commit(&mut watch, "nft", &[Notice::RuleGone], now);
        while watch.take(now).is_none() {
            commit(&mut watch, "nft", &[Notice::Touched], now);
            now += QUIET / 2;
        }
        assert_eq!(now - begin, PATIENCE);
    }

    #[test]
    fn a_failed_look_is_repeated() {
        let (mut watch, now) = (Watch::default(), Instant::now());
        watch.retry(Look::Restore, now);
        commit(&mut watch, "nft", &[Notice::Touched], now);
        assert_eq!(watch.take(now + QUIET), Some(Look::Restore));
    }
}
