//! Asking a running daemon of ours what it knows.
//!
//! # How
//!
//! ```text
//!   who asks                                         the daemon, locked in
//!   listens on 127.0.0.1:PORT
//!   SIGURG with a value: PORT, form, token ────────▶ reads it (signalfd), makes its answer,
//!   who says this has heard the question ◀────────── connects to 127.0.0.1:PORT: the token's first 20 bits
//!   the token's last 16 bits             ──────────▶ who says these has asked
//!   knows whether it was cut             ◀────────── length, answer
//! ```
//!
//! Who may send a signal to a process may ask it: its own user, and root. It is the kernel that decides so, by identities
//! from outside of user namespaces. A daemon in a user namespace that maps nobody could not tell by itself: it sees the
//! same user, `nobody`, at the other end of every local socket.
//!
//! A daemon that is never asked has nothing of this but one more signal among those it waits for: no descriptor, no
//! name, no file, and nothing that is left behind when it is killed. `SIGURG` does nothing to a process that does not
//! expect it.
//!
//! # Who else can be at either end
//!
//! An address of the loopback means something else in each network namespace, and later on in the same one, so somebody
//! else may listen where the daemon connects to: when who asks is in another namespace, or has given up and somebody has
//! got his port. And whoever is on the same loopback may connect to who asks. A signal carries 64 bits, of which 36 are
//! a token that only the two of them know; each shows the other a part of it before the answer goes over.
//!
//! - Who listens and has not asked is called once for each question, and guesses 16 bits; wrong, he gets nothing. He
//!   sees the first part of the token, which is worth nothing afterwards.
//! - Who connects and was not asked guesses 20 bits, [`sys::STRANGERS`] times for each question at most.
//! - Who may trace one of the two, or read what goes over the loopback of its namespace, is not kept out.
//!
//! # What does not work
//!
//! Both must be in one network namespace with its loopback up, and who asks must see the daemon's number. Who asks from
//! another namespace is told so at once if the kernel lets him see it (root, and who could trace the daemon), otherwise
//! after [`sys::BEGIN`], as a possibility. Nobody is taken to the daemon's namespace: root would have to enter it, and an
//! ordinary user the user namespace that owns it first, which `nsenter` and `podman unshare --rootless-netns` do.
//!
//! # Modules
//!
//! Here is what goes over; [`text`] is how it looks to people; [`sys`] asks. Answering is each daemon's own matter, since
//! each has a loop of its own.

pub mod text;
pub mod sys;

use std::fmt::Write as _;

/// How the answer shall look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Lines for people.
    Text,
    /// A JSON document.
    Json,
}

/// A question, as it fits in the value of a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question {
    /// Where on the loopback the answer is waited for; never 0.
    pub port: u16,
    /// How the answer shall look.
    pub form: Form,
    /// Entries of a long list, at most: [`MOST`] or less.
    pub most: u16,
    /// Who says this has heard the question. It has [`TOKEN_BITS`] bits.
    pub token: u64,
}

/// Entries of a long list that can be asked for.
pub const MOST: u16 = 1023;
/// The bits of a token: enough that nobody guesses one while an answer is waited for.
pub const TOKEN_BITS: u32 = 36;

/// The bits of it that who answers says first; who asks says the others.
const HAIL_BITS: u32 = 20;
const COUNTERSIGN_BITS: u32 = TOKEN_BITS - HAIL_BITS;

/// Bytes that who answers says first.
pub const HAIL: usize = 4;
/// Bytes that who asks says then.
pub const COUNTERSIGN: usize = 2;
/// Bytes before an answer: its length.
pub const HEAD: usize = 8;

const TOKENS: u64 = (1 << TOKEN_BITS) - 1;
const FORM: u32 = TOKEN_BITS;
const LIST: u32 = FORM + 2;
const PORT: u32 = LIST + 10;
const _: () =
    assert!(COUNTERSIGN_BITS as usize == 8 * COUNTERSIGN && HAIL_BITS as usize <= 8 * HAIL);

impl Question {
    /// As one number: port, list, form, token, from the highest bit on.
    #[must_use]
    pub fn value(&self) -> u64 {
        let form = match self.form {
            Form::Text => 0,
            Form::Json => 1,
        };
        u64::from(self.port) << PORT
            | u64::from(self.most.min(MOST)) << LIST
            | form << FORM
            | self.token & TOKENS
    }

    /// What a number means; none: no question of this kind.
    #[must_use]
    pub fn of(value: u64) -> Option<Self> {
        let [high, low, ..] = value.to_be_bytes();
        let port = u16::from_be_bytes([high, low]);
        let form = match value >> FORM & 3 {
            0 => Form::Text,
            1 => Form::Json,
            _ => return None,
        };
        let most = u16::try_from(value >> LIST & u64::from(MOST)).ok()?;
        (port != 0).then_some(Self {
            port,
            form,
            most,
            token: value & TOKENS,
        })
    }

    /// What who answers says first.
    #[must_use]
    pub const fn hail(&self) -> [u8; HAIL] {
        let [_, _, _, _, first @ ..] = ((self.token & TOKENS) >> COUNTERSIGN_BITS).to_be_bytes();
        first
    }

    /// What who asks says then. Before that he is told nothing.
    #[must_use]
    pub const fn countersign(&self) -> [u8; COUNTERSIGN] {
        let [.., high, low] = self.token.to_be_bytes();
        [high, low]
    }
}

/// An answer as it is sent: its length before it, so that one that was cut is known.
#[must_use]
pub fn reply(answer: &[u8]) -> Vec<u8> {
    let length = answer.len() as u64;
    [&length.to_be_bytes(), answer].concat()
}

/// Whether a terminal may do something else than show it. Those that tell directions make a line look like another one.
fn commands(c: char) -> bool {
    let directs =
        matches!(u32::from(c), 0x61c | 0x200e..=0x200f | 0x202a..=0x202e | 0x2066..=0x2069);
    directs || (c.is_control() && c != '\n')
}

/// An answer without anything that a terminal would do: who answers may not be ours any more.
#[must_use]
pub fn harmless(answer: &[u8]) -> String {
    let text = String::from_utf8_lossy(answer);
    let shown = |c| if commands(c) { '\u{fffd}' } else { c };
    text.chars().map(shown).collect()
}

/// A JSON document as `serde_json` prints it, made one that means the same without anything that a terminal would do: such characters can stand in strings
/// only, where they can be written by their numbers.
#[must_use]
pub fn harmless_json(document: &str) -> String {
    let mut shown = String::with_capacity(document.len());
    for c in document.chars() {
        if commands(c) {
            let _ = write!(shown, "\\u{:04x}", u32::from(c)); // into a string, where it cannot fail
        } else {
            shown.push(c);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_is_not_told_anything() {
        let said = b"up 1 s\n\x1b]0;title\x07 \xff\x7f \xc2\x9b31m\r";
        let expected = "up 1 s\n\u{fffd}]0;title\u{fffd} \u{fffd}\u{fffd} \u{fffd}31m\u{fffd}";
        assert_eq!(harmless(said), expected);
        let turned = "gr\u{f6}\u{df}er \u{202e}txt\u{2066}\u{200f}\u{61c}";
        let expected = "gr\u{f6}\u{df}er \u{fffd}txt\u{fffd}\u{fffd}\u{fffd}";
        assert_eq!(harmless(turned.as_bytes()), expected);
    }

    #[test]
    fn a_document_means_the_same_to_a_program() {
        let text = "gr\u{f6}\u{df}er \u{1f600} \u{9b}31m\u{85}\u{7f} \u{202e}txt\u{2069}\u{200e} \u{1b}[2J\n\r\\u202e";
        let document = format!("{:#}", serde_json::json!({text: [text, 1]}));
        let shown = harmless_json(&document);
        assert!(!shown.chars().any(commands), "{shown}");
        assert!(
            shown.contains(
                "gr\u{f6}\u{df}er \u{1f600} \\u009b31m\\u0085\\u007f \\u202etxt\\u2069\\u200e"
            ),
            "{shown}"
        );
        let (before, after): (serde_json::Value, serde_json::Value) = (
            serde_json::from_str(&document).unwrap(),
            serde_json::from_str(&shown).unwrap(),
        );
        assert_eq!(before, after);
    }

    #[test]
    fn a_question_survives_its_number() {
        for (port, most, token) in [
            (1, 0, 0),
            (65_535, MOST, TOKENS),
            (40_000, 20, 0xa_bcde_f012),
        ] {
            for form in [Form::Text, Form::Json] {
                let question = Question {
                    port,
                    form,
                    most,
                    token,
                };
                assert_eq!(Question::of(question.value()), Some(question));
            }
        }
    }

    #[test]
    fn two_show_each_other_all_of_the_token() {
        let of = |token: u64| Question::of(7 << PORT | token).unwrap();
        let question = of(0xa_bcde_f012);
        assert_eq!(question.hail(), [0, 0x0a, 0xbc, 0xde]);
        assert_eq!(question.countersign(), [0xf0, 0x12]);
        for bit in 0..TOKEN_BITS {
            let other = of(0xa_bcde_f012 ^ 1 << bit);
            let told_first = bit >= COUNTERSIGN_BITS;
            assert_eq!(other.hail() != question.hail(), told_first, "{bit}");
            assert_eq!(
                other.countersign() == question.countersign(),
                told_first,
                "{bit}"
            );
        }
    }

    #[test]
    fn an_answer_tells_its_length() {
        assert_eq!(reply(b"answer"), b"\0\0\0\0\0\0\0\x06answer");
    }

    #[test]
    fn what_is_too_large_touches_nothing_else() {
        let question = Question {
            port: 9,
            form: Form::Text,
            most: u16::MAX,
            token: u64::MAX,
        };
        let read = Question::of(question.value()).unwrap();
        assert_eq!(
            (read.port, read.form, read.most, read.token),
            (9, Form::Text, MOST, TOKENS)
        );
    }

    #[test]
    fn other_signals_are_no_questions() {
        // Without a value; with a small one, such as a number of a process; of a form that is not there.
        for value in [0, 4711, 1 << PORT | 2 << FORM, 1 << PORT | 3 << FORM] {
            assert_eq!(Question::of(value), None, "{value:#x}");
        }
    }
}
