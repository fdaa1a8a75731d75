//! Which questions fail most, for people who look for what is wrong.
//!
//! Memory is for [`limits::FAILURES`] questions. One that finds no room takes the place of the one that failed least
//! and its count with it ("space saving"): whatever fails more often than all others together divided by the room is
//! in the list, and no count is too low.

use hickory_proto::rr::RecordType;

use crate::packet;
use crate::{limits, name};

/// Questions and how often they failed.
#[derive(Debug, Default)]
pub struct Failures {
    questions: Vec<Question>,
    key: Vec<u8>,
}

#[derive(Debug)]
struct Question {
    name: Box<[u8]>,
    kind: u16,
    count: u64,
}

impl Failures {
    /// Counts the question of a query.
    pub fn add(&mut self, query: &[u8]) {
        let mut key = std::mem::take(&mut self.key);
        let kind =
            packet::question_name(query, &mut key).and_then(|end| packet::u16_at(query, end));
        if let Some(kind) = kind {
            self.count(&key, kind);
        }
        self.key = key;
    }

    fn count(&mut self, name: &[u8], kind: u16) {
        let known = |known: &&mut Question| known.kind == kind && *known.name == *name;
        if let Some(question) = self.questions.iter_mut().find(known) {
            question.count += 1;
            return;
        }
        let mut new = Question {
            name: name.into(),
            kind,
            count: 1,
        };
        if self.questions.len() < limits::FAILURES {
            self.questions.push(new);
        } else if let Some(least) = self.questions.iter_mut().min_by_key(|least| least.count) {
            new.count += least.count;
            *least = new;
        }
    }

    /// Questions as text and how often they failed, those that failed most first.
    #[must_use]
    pub fn top(&self) -> Vec<(String, u64)> {
        let text = |question: &Question| {
            let kind = RecordType::from(question.kind);
            (
                format!("{} {kind}", name::text(&question.name)),
                question.count,
            )
        };
        let mut top: Vec<_> = self.questions.iter().map(text).collect();
        top.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        top
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(label: &str) -> Vec<u8> {
        let length = u8::try_from(label.len()).unwrap();
        let header = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00";
        [
            header,
            &[length][..],
            label.as_bytes(),
            b"\x00\x00\x1c\x00\x01",
        ]
        .concat()
    }

    #[test]
    fn what_fails_most_comes_first() {
        let mut failures = Failures::default();
        for label in ["a", "b", "B", "b", "a", "c"] {
            failures.add(&query(label));
        }
        let expected = [("b AAAA", 3), ("a AAAA", 2), ("c AAAA", 1)];
        assert_eq!(
            failures.top(),
            expected.map(|(text, count)| (text.to_owned(), count))
        );
    }

    #[test]
    fn what_fails_often_is_found_among_much_that_fails_once() {
        let mut failures = Failures::default();
        for n in 0..10_000 {
            failures.add(&query(&format!("once-{n}")));
            if n % 20 == 0 {
                failures.add(&query("often"));
            }
        }
        let top = failures.top();
        assert_eq!((top.len(), &*top[0].0), (limits::FAILURES, "often AAAA"));
        assert!(top[0].1 >= 500);
    }

    #[test]
    fn what_is_no_question_is_not_counted() {
        let mut failures = Failures::default();
        for bytes in [&b""[..], b"short", &query("x")[..14], &[0xff; 40]] {
            failures.add(bytes);
        }
        assert!(failures.top().is_empty());
    }
}
