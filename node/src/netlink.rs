//! What every netlink message has in common (linux/netlink.h), for the families that no crate of ours speaks.

use std::io;

/// Bytes of `struct nlmsghdr`.
pub(crate) const HEADER: usize = 16;
/// Message types.
pub(crate) const NLMSG_ERROR: u16 = 2;
pub(crate) const NLMSG_DONE: u16 = 3;
/// Flags of a request.
pub(crate) const NLM_F_REQUEST: u16 = 1;
pub(crate) const NLM_F_ACK: u16 = 4;
pub(crate) const NLM_F_DUMP: u16 = 0x300;

/// A message: header and body. Sequence number and port stay 0: one question at a time needs neither.
pub(crate) fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let length = HEADER + body.len();
    let mut message = Vec::with_capacity(length);
    message.extend((length as u32).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend([0; 8]);
    message.extend(body);
    message
}

/// The messages of one read: type and what follows the header.
pub(crate) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let &[l0, l1, l2, l3, k0, k1, ..] = bytes else { return None };
        let length = u32::from_ne_bytes([l0, l1, l2, l3]) as usize;
        let body = bytes.get(HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([k0, k1]), body))
    })
}

/// The attributes behind a family's own header: type and value.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let &[l0, l1, k0, k1, ..] = bytes else { return None };
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([k0, k1]), value))
    })
}

/// The error number of an `NLMSG_ERROR`; `None`: it is an acknowledgement, or too short.
pub(crate) fn error(body: &[u8]) -> Option<i32> {
    let number = i32::from_ne_bytes(*body.first_chunk()?).wrapping_neg();
    (number != 0).then_some(number)
}

/// What an answer is that ends too early.
pub(crate) fn truncated() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the kernel's answer is too short")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_that_make_no_sense_are_no_messages() {
        for bytes in [&[][..], &[1; 5], &[0xff; 40], &[0; 40]] {
            assert_eq!(messages(bytes).count(), 0, "{bytes:?}");
            assert_eq!(attributes(bytes).count(), 0, "{bytes:?}");
        }
        assert_eq!(error(&[1]), None);
        assert_eq!(error(&i32::MIN.to_ne_bytes()), Some(i32::MIN), "no kernel says so, and it is no panic");
    }

    #[test]
    fn a_message_reads_back_and_so_does_what_follows_it() {
        let two = [message(7, NLM_F_REQUEST, &[1, 2, 3, 4]), message(8, 0, &[])].concat();
        assert_eq!(messages(&two).collect::<Vec<_>>(), [(7, &[1, 2, 3, 4][..]), (8, &[][..])]);
    }
}
