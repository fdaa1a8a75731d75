//! What a wake-up is about, as the 64 bits that epoll keeps for us.

use crate::event::{FlowId, Side, SocketId};

/// Something that can wake us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Token {
    /// A socket of a flow.
    Flow(SocketId),
    /// A listening socket, by its place among those of the loop.
    Listener(u32),
    /// The tap, by the number of its queue.
    Tap(u32),
    /// Whoever makes sockets in the guest's namespace.
    Opener,
    /// A deadline has come.
    Timer,
    /// Something that is there once, by its number.
    Other(u32),
}

impl Token {
    /// Kind in the highest byte, then the generation's 24 bits, then the place.
    #[must_use]
    pub fn encode(self) -> u64 {
        let (kind, generation, place) = match self {
            Self::Flow(SocketId {
                flow,
                side: Side::Host,
            }) => (0, flow.generation, flow.index),
            Self::Flow(SocketId {
                flow,
                side: Side::Guest,
            }) => (1, flow.generation, flow.index),
            Self::Listener(place) => (2, 0, place),
            Self::Tap(queue) => (3, 0, queue),
            Self::Other(place) => (4, 0, place),
            Self::Opener => (5, 0, 0),
            Self::Timer => (6, 0, 0),
        };
        kind << 56 | u64::from(generation & 0xff_ffff) << 32 | u64::from(place)
    }

    /// The reverse.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "the halves of 64 bits")]
    pub fn decode(bits: u64) -> Self {
        let index = bits as u32;
        let generation = (bits >> 32) as u32 & 0xff_ffff;
        let flow = FlowId { index, generation };
        match bits >> 56 {
            0 => Self::Flow(SocketId {
                flow,
                side: Side::Host,
            }),
            1 => Self::Flow(SocketId {
                flow,
                side: Side::Guest,
            }),
            2 => Self::Listener(index),
            3 => Self::Tap(index),
            4 => Self::Other(index),
            5 => Self::Opener,
            _ => Self::Timer,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        let flow = FlowId {
            index: 0xffff_fffe,
            generation: 0xab_cdef,
        };
        for token in [
            Token::Flow(SocketId {
                flow,
                side: Side::Host,
            }),
            Token::Flow(SocketId {
                flow,
                side: Side::Guest,
            }),
            Token::Listener(7),
            Token::Tap(7),
            Token::Opener,
            Token::Other(3),
        ] {
            assert_eq!(Token::decode(token.encode()), token);
        }
    }
}
