//! Asking a running daemon of ours what it knows.
//!
//! # How
//!
//! ```text
//!   who asks                                         the daemon, locked in
//!   listens on 127.0.0.1:PORT
//!   SIGURG with a value: PORT, form, token ────────▶ reads it (signalfd), makes its answer,
//!   believes whoever says the token      ◀────────── connects to 127.0.0.1:PORT: token, length, answer
//! ```
//!
//! Who may send a signal to a process may ask it: its own user, and root. It is the kernel that decides so, by identities
//! from outside of user namespaces. A daemon in a user namespace that maps nobody could not tell by itself: it sees the
//! same user, `nobody`, at the other end of every local socket. The signal carries 64 bits, in which the daemon is told
//! where to go and what to say, so that its answer goes to nobody else and nobody else is taken for it.
//!
//! A daemon that is never asked has nothing of this but one more signal among those it waits for: no descriptor, no
//! name, no file, and nothing that is left behind when it is killed. `SIGURG` does nothing to a process that does not
//! expect it.
//!
//! Both must be in one network namespace with its loopback up, and who asks must see the daemon's number.
//!
//! # Modules
//!
//! Here is what goes over; [`text`] is how it looks to people; [`sys`] asks. Answering is each daemon's own matter, since each has a loop of its own.

pub mod text;
pub mod sys;

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

/// Bytes before an answer.
pub const HEAD: usize = 16;

const TOKENS: u64 = (1 << TOKEN_BITS) - 1;
const FORM: u32 = TOKEN_BITS;
const LIST: u32 = FORM + 2;
const PORT: u32 = LIST + 10;

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

    /// The answer as it is sent: the token and the length before it, so that one that was cut is known.
    #[must_use]
    pub fn reply(&self, answer: &[u8]) -> Vec<u8> {
        let length = answer.len() as u64;
        let head = [self.token.to_be_bytes(), length.to_be_bytes()].concat();
        [&head, answer].concat()
    }

    /// The length that the first bytes of a reply tell; none: it is not for this question.
    #[must_use]
    pub fn length(&self, head: [u8; HEAD]) -> Option<u64> {
        let (token, length) = head.split_first_chunk::<8>()?;
        let length = u64::from_be_bytes(length.try_into().ok()?);
        (u64::from_be_bytes(*token) == self.token).then_some(length)
    }
}

/// An answer without anything that a terminal would do: who answers may not be ours any more.
#[must_use]
pub fn harmless(answer: &[u8]) -> String {
    let text = String::from_utf8_lossy(answer);
    let shown = |c: char| match c {
        '\n' => '\n',
        c if c.is_control() => '\u{fffd}',
        c => c,
    };
    text.chars().map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_is_not_told_anything() {
        let said = b"up 1 s\n\x1b]0;title\x07 \xff\x7f \xc2\x9b31m\r";
        let expected = "up 1 s\n\u{fffd}]0;title\u{fffd} \u{fffd}\u{fffd} \u{fffd}31m\u{fffd}";
        assert_eq!(harmless(said), expected);
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
    fn a_reply_is_for_its_question() {
        let question = Question::of(7 << PORT | 5).unwrap();
        let reply = question.reply(b"answer");
        let head = *reply.first_chunk().unwrap();
        assert_eq!(
            (question.length(head), &reply[HEAD..]),
            (Some(6), &b"answer"[..])
        );
        assert_eq!(
            Question {
                token: 6,
                ..question
            }
            .length(head),
            None
        );
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
