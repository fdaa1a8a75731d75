//! The forwarder under events that somebody else chooses: a fuzzer, or a seed.
//!
//! The guest sends what it likes, the kernel answers as kernels may (short writes, full buffers, errors, sockets that
//! end), time passes. After every event the machine does what it is asked for, as the shell would, and checks:
//!
//! - no panic, and no more outputs than the event can account for; a deadline that has passed is gone after few rounds;
//! - what is held is within its limits, and sums are what they are the sum of;
//! - sockets are made once, used while they are there, closed once; an accepted connection is adopted or refused; a place
//!   in the table has the next generation when it is used again; what is told of flows that have ended changes nothing;
//! - frames can be parsed, fit the link or say how they are to be cut, and their checksums fit;
//! - no flow of the guest reaches the host's loopback, in whatever clothes its address comes;
//! - when the guest falls silent and the kernel's sockets end, the table becomes empty.
//!
//! The same files are the targets of `usernet/fuzz` and the test that CI runs.

mod choices;
mod guest;
mod kernel;
mod machine;

use choices::Choices;
use machine::Machine;
use usernet::event::{Offload, Segments};

/// Any series of events.
pub(crate) fn events(input: &[u8]) {
    let mut choices = Choices(input);
    let mut machine = Machine::new(&mut choices);
    while choices.more() {
        machine.event(&mut choices);
    }
    machine.end();
}

/// Frames, byte by byte: each a control byte, a length of two bytes, and its bytes. The kernel is as obliging as can be.
pub(crate) fn packets(input: &[u8]) {
    let mut choices = Choices(input);
    let mut machine = Machine::new(&mut choices);
    while choices.more() {
        let control = choices.byte();
        let len = usize::from(choices.word());
        let mut frame = choices.bytes(len).to_vec();
        if control & 1 == 0 {
            guest::mend(&mut frame);
        }
        let segments = match control >> 2 & 3 {
            0 | 1 => Segments::One,
            2 => Segments::Tcp(u16::from(control)),
            _ => Segments::Udp(u16::from(control)),
        };
        let offload = Offload {
            partial_checksum: control & 2 == 0,
            segments,
        };
        machine.frame((frame, offload), &mut Choices(&[]));
        machine.obliges();
        if control & 0x10 != 0 {
            machine.passes(u64::from(control >> 5) * 100);
        }
    }
    machine.end();
}

/// A frame that follows from these bytes.
pub(crate) fn frame(choices: &[u8]) -> Vec<u8> {
    guest::Guest::default().frame(&mut Choices(choices)).0
}

/// Inputs of [`packets`] with well-formed frames of every kind, one alone and several in a row.
pub(crate) fn seeds() -> Vec<(String, Vec<u8>)> {
    let record = |input: &mut Vec<u8>, frame: &[u8], control: u8| {
        let len = u16::try_from(frame.len()).unwrap_or(u16::MAX);
        input.push(control);
        input.extend(len.to_le_bytes());
        input.extend(&frame[..len.into()]);
    };
    let mut seeds = Vec::new();
    for kind in 0..=15_u8 {
        let mut row = vec![kind % 20];
        for variety in 0..6_u8 {
            let varied = [
                kind,
                variety * 37,
                variety * 11,
                variety,
                variety * 5,
                0,
                1,
                60,
                0,
                7,
            ];
            let frame = frame(&varied);
            let frame = &frame[..frame.len().min(1600)];
            let mut one = vec![0];
            record(&mut one, frame, 0);
            record(&mut row, frame, 0x30);
            seeds.push((format!("{kind}-{variety}"), one));
        }
        seeds.push((format!("{kind}-row"), row));
    }
    seeds
}
