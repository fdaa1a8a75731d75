//! ARP for IPv4 over Ethernet (RFC 826).

use std::net::Ipv4Addr;

use super::Mac;
use crate::event::Drop;

/// Length of a message, bytes.
pub const LEN: usize = 28;

/// Ethernet, IPv4, six and four bytes: the only kind there is here.
const KIND: [u8; 6] = [0, 1, 0x08, 0x00, 6, 4];

/// What a message is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Who has the target address?
    Request,
    /// The sender address is at the sender's link-layer address.
    Reply,
}

/// A message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    /// Question or answer.
    pub operation: Operation,
    /// Link-layer address of the sender.
    pub sender_mac: Mac,
    /// Address of the sender; unspecified in a probe (RFC 5227).
    pub sender: Ipv4Addr,
    /// Link-layer address of the target; meaningless in a request.
    pub target_mac: Mac,
    /// The address in question.
    pub target: Ipv4Addr,
}

impl Message {
    /// The message as the link has it.
    #[must_use]
    pub fn to_bytes(self) -> [u8; LEN] {
        let operation = match self.operation {
            Operation::Request => [0, 1],
            Operation::Reply => [0, 2],
        };
        let parts: [&[u8]; 6] = [
            &KIND,
            &operation,
            &self.sender_mac,
            &self.sender.octets(),
            &self.target_mac,
            &self.target.octets(),
        ];
        let mut bytes = [0; LEN];
        for (to, from) in bytes.iter_mut().zip(parts.into_iter().flatten()) {
            *to = *from;
        }
        bytes
    }
}

/// The message in a frame; what follows is padding.
///
/// # Errors
///
/// [`Drop::Malformed`] for a short one, [`Drop::Protocol`] for other kinds of links and addresses.
pub fn parse(bytes: &[u8]) -> Result<Message, Drop> {
    let (kind, rest) = bytes.split_first_chunk::<6>().ok_or(Drop::Malformed)?;
    if *kind != KIND {
        return Err(Drop::Protocol);
    }
    let (operation, rest) = rest.split_first_chunk::<2>().ok_or(Drop::Malformed)?;
    let (sender_mac, rest) = rest.split_first_chunk::<6>().ok_or(Drop::Malformed)?;
    let (sender, rest) = rest.split_first_chunk::<4>().ok_or(Drop::Malformed)?;
    let (target_mac, rest) = rest.split_first_chunk::<6>().ok_or(Drop::Malformed)?;
    let (target, _) = rest.split_first_chunk::<4>().ok_or(Drop::Malformed)?;
    let operation = match operation {
        [0, 1] => Operation::Request,
        [0, 2] => Operation::Reply,
        _ => return Err(Drop::Protocol),
    };
    Ok(Message {
        operation,
        sender_mac: *sender_mac,
        sender: Ipv4Addr::from(*sender),
        target_mac: *target_mac,
        target: Ipv4Addr::from(*target),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn there_and_back(
            request: bool,
            sender_mac: [u8; 6],
            sender: [u8; 4],
            target_mac: [u8; 6],
            target: [u8; 4],
        ) {
            let message = Message {
                operation: if request { Operation::Request } else { Operation::Reply },
                sender_mac,
                sender: sender.into(),
                target_mac,
                target: target.into(),
            };
            let bytes = message.to_bytes();
            prop_assert_eq!(parse(&bytes), Ok(message));
            prop_assert_eq!(parse(&bytes[..LEN - 1]), Err(Drop::Malformed));
        }
    }
}
