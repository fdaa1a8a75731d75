//! From a query to an outcome, by the fast path if it can, else by the full one.

use crate::answer::{Found, Policy};
use crate::zones::{Asker, Servers, Zones};
use crate::{fast, full};

/// What to do with a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Send what was written.
    Reply,
    /// Ask these servers; the host's if there are none.
    Forward(Option<Servers>),
    /// Say nothing.
    Drop,
}

/// Memory that is used again for every query.
#[derive(Debug, Default)]
pub struct Scratch {
    /// The name of the question.
    pub key: Vec<u8>,
    /// The records of the answer.
    pub found: Found,
}

/// Decides about a query and writes the reply to `out`, if there is one.
pub fn respond(
    zones: &Zones,
    policy: &Policy,
    asker: &Asker,
    query: &[u8],
    tcp: bool,
    scratch: &mut Scratch,
    out: &mut Vec<u8>,
) -> Outcome {
    if let Some(outcome) = fast::respond(zones, policy, asker, query, tcp, scratch, out) {
        return outcome;
    }
    full::respond(zones, policy, asker, query, tcp, scratch, out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::answer::SearchDomain;
    use crate::zones::tests::zones;

    fn world() -> Zones {
        let mut many = String::from("10.0.0.1,fd::1 1.1.1.1\n");
        for n in 2..120 {
            many.push_str(&format!(
                "c{n} 10.0.0.{n} fd::{n:x} n{n},all,some{},arpa,podman,dns.podman,a.b{n},*.w,*.n{n} srv=_x._tcp:1\n",
                n % 7
            ));
        }
        zones(&[
            ("one", &many.replace(" srv", "  srv")),
            ("two", "10.0.1.1\nc2 10.0.1.2  n2,other\n"),
            ("in%int", "10.0.2.1\nd1 10.0.2.2  in\n"),
        ])
    }

    fn name() -> impl Strategy<Value = Vec<u8>> {
        let label = prop::sample::select(vec![
            &b"\x02n2"[..],
            b"\x02N7",
            b"\x03all",
            b"\x05some1",
            b"\x03dns\x06podman",
            b"\x03DNS\x06Podman",
            b"\x01a\x02b9",
            b"\x01x\x01w",
            b"\x04_x\x04_tcp",
            b"\x02in",
            b"\x05other",
            b"\x03two",
            b"\x04arpa",
            b"\x012\x010\x010\x0210\x07in-addr\x04arpa",
            b"\x0250\x010\x010\x0210\x07IN-addr\x04arpa",
            b"\xc0\x0c",
            b"\x3f",
            b"\x07example",
            b"\x04host\x0acontainers\x08internal",
            b"\x06podman",
            b"\x01w",
            b"\x01*",
        ]);
        let labels = prop::collection::vec(label, 0..4).prop_map(|labels| labels.concat());
        let reverse = (2u8..130, any::<bool>()).prop_map(|(last, upper)| {
            let digits = format!("{:032x}", (0xfd_u128 << 120) | u128::from(last));
            let mut name = Vec::new();
            for digit in digits.bytes().rev() {
                name.extend_from_slice(&[
                    1,
                    if upper {
                        digit.to_ascii_uppercase()
                    } else {
                        digit
                    },
                ]);
            }
            [
                &name[..],
                if upper {
                    &b"\x03IP6\x04arpa"[..]
                } else {
                    b"\x03ip6\x04arpa"
                },
            ]
            .concat()
        });
        let any_label = prop::collection::vec(any::<u8>(), 1..12).prop_map(|label| {
            let length = u8::try_from(label.len()).unwrap();
            [&[length], &label[..]].concat()
        });
        let strange = (any_label, prop::bool::ANY).prop_map(|(label, ours)| {
            [
                &label[..],
                if ours { &b"\x03dns\x06podman"[..] } else { b"" },
            ]
            .concat()
        });
        prop_oneof![8 => labels, 1 => reverse, 1 => strange]
    }

    fn query() -> impl Strategy<Value = Vec<u8>> {
        let kind = prop::sample::select(vec![1u16, 28, 12, 33, 15, 255, 252, 0, 41, 250, 16]);
        let class = prop_oneof![9 => Just(1u16), 1 => Just(255), 1 => Just(3), 1 => any::<u16>()];
        let opt = prop_oneof![
            Just(Vec::new()),
            (any::<u16>(), any::<bool>()).prop_map(|(size, d)| [
                &[0, 0, 41][..],
                &size.to_be_bytes(),
                &[0, 0, u8::from(d) << 7, 0, 0, 0]
            ]
            .concat()),
            (any::<u16>(), 0u8..2).prop_map(|(size, v)| [
                &[0, 0, 41][..],
                &size.to_be_bytes(),
                &[0, v, 0, 0, 0, 12, 0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8]
            ]
            .concat()),
            prop::collection::vec(any::<u8>(), 0..30),
        ];
        let flags =
            prop_oneof![3 => Just(0x0100u16), 1 => any::<u16>(), 1 => Just(0x0030), 1 => Just(0)];
        let counts = prop_oneof![8 => Just([0u8; 3]), 1 => any::<[u8; 3]>()];
        (
            any::<u16>(),
            flags,
            name(),
            kind,
            class,
            opt,
            counts,
            0usize..400,
        )
            .prop_map(|(id, flags, name, kind, class, opt, [qd, an, ar], cut)| {
                let has_opt = u8::from(!opt.is_empty());
                let mut bytes = [
                    &id.to_be_bytes()[..],
                    &flags.to_be_bytes(),
                    &[0, 1 ^ (qd & 3), 0, an & 1, 0, 0, 0, has_opt ^ (ar & 1)],
                ]
                .concat();
                bytes.extend_from_slice(&name);
                bytes.push(0);
                bytes.extend_from_slice(&kind.to_be_bytes());
                bytes.extend_from_slice(&class.to_be_bytes());
                bytes.extend_from_slice(&opt);
                if cut < bytes.len() && cut > 300 {
                    bytes.truncate(cut);
                }
                bytes
            })
    }

    fn both(
        zones: &Zones,
        query: &[u8],
        source: &str,
        domain: &str,
        tcp: bool,
        rotate: bool,
    ) -> bool {
        let policy = Policy {
            domain: SearchDomain::new(domain),
            forward: true,
            rotate,
            host_names: true,
        };
        let asker = zones.asker(source.parse().unwrap(), "10.0.0.1".parse().unwrap());
        let mut scratch = Scratch::default();
        let (mut short, mut long) = (Vec::new(), Vec::new());
        let fast = fast::respond(zones, &policy, &asker, query, tcp, &mut scratch, &mut short);
        let full = full::respond(zones, &policy, &asker, query, tcp, &mut scratch, &mut long);
        if full == Outcome::Reply {
            assert!(long.len() >= 12 && long[2] & 0x80 != 0);
        }
        let Some(fast) = fast else { return false };
        assert_eq!(fast, full, "{query:02x?}");
        if fast == Outcome::Reply {
            assert_eq!(short, long, "{query:02x?}");
        }
        true
    }

    #[test]
    fn fast_and_full_path_give_the_same_bytes() {
        let zones = world();
        let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(30_000));
        let fast = std::cell::Cell::new(0);
        let domain = prop::sample::select(vec![".dns.podman", ".dns.podman", "podman", "", ".a.b"]);
        let source = prop::sample::select(vec!["10.0.0.2", "10.0.2.2", "192.0.2.1", "fd::9"]);
        runner
            .run(
                &(query(), source, domain, any::<bool>(), any::<bool>()),
                |(query, source, domain, tcp, rotate)| {
                    let taken = both(&zones, &query, source, domain, tcp, rotate);
                    fast.set(fast.get() + u32::from(taken));
                    Ok(())
                },
            )
            .unwrap();
        assert!(
            fast.get() > 5_000,
            "the fast path was hardly used: {}",
            fast.get()
        );
    }

    /// The encoder remembers only some of them to point to.
    #[test]
    fn names_of_many_labels() {
        let zones = world();
        for labels in [10, 40, 44, 48, 60, 90, 120] {
            let name = [&b"\x01x".repeat(labels)[..], b"\x03dns\x06podman\x00"].concat();
            let header = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00";
            let query = [&header[..], &name, &[0, 1, 0, 1]].concat();
            both(&zones, &query, "10.0.0.2", ".dns.podman", false, false);
        }
    }

    #[test]
    fn refusals() {
        let zones = world();
        let policy = Policy {
            domain: SearchDomain::new(".dns.podman"),
            forward: true,
            rotate: false,
            host_names: true,
        };
        let asker = zones.asker("10.0.0.2".parse().unwrap(), "10.0.0.1".parse().unwrap());
        let code = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut query =
                b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x02n2\x00\x00\x01\x00\x01"
                    .to_vec();
            change(&mut query);
            let mut out = Vec::new();
            let outcome = respond(
                &zones,
                &policy,
                &asker,
                &query,
                false,
                &mut Scratch::default(),
                &mut out,
            );
            (outcome == Outcome::Reply).then(|| out[3] & 15)
        };
        assert_eq!(code(&|_| {}), Some(0));
        assert_eq!(code(&|query| query[2] = 0x81), None, "an answer");
        assert_eq!(code(&|query| query[2] = 0x21), Some(4), "notify");
        assert_eq!(code(&|query| query[5] = 2), Some(1), "two questions");
        assert_eq!(code(&|query| query[5] = 0), Some(1), "no question");
        assert_eq!(code(&|query| query[19] = 3), Some(5), "class CH");
        assert_eq!(code(&|query| query.truncate(17)), None, "cut");
    }
}
