//! The ClientHello of a first flight, put together from pieces in any order, and the host name in it.
//!
//! Clients cut a ClientHello to packets, some on purpose into many small pieces out of order, and send pieces again.
//! The message is read by rustls, as the handshake reads it later: there is no second parser that could differ.
//!
//! # Invariants
//!
//! - No more than [`HELLO_BYTES_MAX`] bytes are kept, and adding a piece costs no more than the room up to its end.
//! - The name does not depend on how the message is cut, nor on the order of its pieces. Where two pieces differ, the
//!   first one counts; the handshake may see it otherwise, and then the connection is on another core than its host's
//!   would have been. A name found here places a connection, and permits nothing.

use rustls::server::Acceptor;

/// Most bytes of a ClientHello. What is longer does not fit into one TLS record, and is more than the handshake keeps
/// (`CRYPTO_BUFFER` of the endpoint); with post-quantum key shares and a session ticket it has 2 KB.
pub(super) const HELLO_BYTES_MAX: usize = 1 << 14;
/// Type and length of a handshake message.
const HEAD: usize = 4;
/// The type of a ClientHello.
const CLIENT_HELLO: u8 = 1;

/// A piece reaches beyond [`HELLO_BYTES_MAX`].
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLong;

/// The pieces that came so far.
#[derive(Debug, Default)]
pub(super) struct Hello {
    bytes: Vec<Option<u8>>,
    /// So many are there from the first one on, without a gap.
    whole: usize,
}

/// What the pieces say.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// More of them have to come.
    Incomplete,
    /// This is the host that the client asks for, if it asks for one.
    Name(Option<String>),
    /// It is no ClientHello that the handshake could go on with.
    Nonsense,
}

impl Hello {
    /// Takes a piece in.
    pub(super) fn add(&mut self, offset: u64, piece: &[u8]) -> Result<(), TooLong> {
        let offset = usize::try_from(offset).map_err(|_| TooLong)?;
        let end = offset.checked_add(piece.len()).filter(|end| *end <= HELLO_BYTES_MAX).ok_or(TooLong)?;
        if self.bytes.len() < end {
            self.bytes.resize(end, None);
        }
        for (place, byte) in self.bytes[offset..end].iter_mut().zip(piece) {
            place.get_or_insert(*byte);
        }
        self.whole += self.bytes[self.whole..].iter().take_while(|byte| byte.is_some()).count();
        Ok(())
    }

    /// Reads what is there.
    pub(super) fn read(&self) -> Said {
        let whole: Vec<u8> = self.bytes[..self.whole].iter().flatten().copied().collect();
        if whole.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
            return Said::Nonsense;
        }
        let Some((&[_, high, middle, low], body)) = whole.split_first_chunk::<HEAD>() else {
            return Said::Incomplete;
        };
        let length = usize::try_from(u32::from_be_bytes([0, high, middle, low])).unwrap_or(usize::MAX);
        if length > HELLO_BYTES_MAX - HEAD {
            return Said::Nonsense;
        }
        if body.len() < length {
            return Said::Incomplete;
        }
        server_name(&whole[..HEAD + length]).map_or(Said::Nonsense, Said::Name)
    }
}

/// The name in a whole ClientHello; nothing if rustls refuses the message.
fn server_name(message: &[u8]) -> Option<Option<String>> {
    let length = u16::try_from(message.len()).ok()?.to_be_bytes();
    let record = [&[22, 3, 1], length.as_slice(), message].concat();
    let mut acceptor = Acceptor::default();
    let mut rest = record.as_slice();
    while !rest.is_empty() {
        acceptor.read_tls(&mut rest).ok().filter(|taken| *taken > 0)?;
    }
    let accepted = acceptor.accept().ok().flatten()?;
    Some(accepted.client_hello().server_name().map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::hello_message;
    use super::*;

    fn whole(message: &[u8]) -> Said {
        let mut hello = Hello::default();
        hello.add(0, message).unwrap();
        hello.read()
    }

    #[test]
    fn the_name_is_known_with_the_last_byte_and_not_before() {
        for name in ["one.example", "with-post-quantum-shares.example"] {
            let message = hello_message(name);
            for length in 0..message.len() {
                assert_eq!(whole(&message[..length]), Said::Incomplete, "{length}");
            }
            assert_eq!(whole(&message), Said::Name(Some(name.to_owned())));
            let more = [message.as_slice(), b"what follows"].concat();
            assert_eq!(whole(&more), Said::Name(Some(name.to_owned())), "more is not looked at");
        }
    }

    #[test]
    fn what_is_no_client_hello_is_nonsense() {
        let message = hello_message("one.example");
        let changed = |at: usize, byte: u8| {
            let mut message = message.clone();
            message[at] = byte;
            whole(&message)
        };
        assert_eq!(whole(b""), Said::Incomplete);
        assert_eq!(changed(0, 2), Said::Nonsense, "another message");
        assert_eq!(changed(1, 1), Said::Nonsense, "longer than anybody keeps");
        assert_eq!(changed(HEAD + 34, 255), Said::Nonsense, "a session id of 255 bytes");
        assert_eq!(whole(&[CLIENT_HELLO, 0, 0, 0]), Said::Nonsense, "empty");
    }

    #[test]
    fn a_client_hello_has_at_most_its_bound() {
        let mut hello = Hello::default();
        assert_eq!(hello.add(HELLO_BYTES_MAX as u64 - 1, b"x"), Ok(()));
        assert_eq!(hello.add(HELLO_BYTES_MAX as u64 - 1, b"xy"), Err(TooLong));
        assert_eq!(hello.add(u64::MAX, b"x"), Err(TooLong));
        assert_eq!(hello.add(HELLO_BYTES_MAX as u64, b""), Ok(()));
        assert_eq!(hello.read(), Said::Incomplete);
        let longest = |length: usize| [CLIENT_HELLO, 0, (length >> 8) as u8, length as u8];
        assert_eq!(whole(&longest(HELLO_BYTES_MAX - HEAD)), Said::Incomplete);
        assert_eq!(whole(&longest(HELLO_BYTES_MAX - HEAD + 1)), Said::Nonsense);
    }

    #[test]
    fn of_two_pieces_that_differ_the_first_counts() {
        let message = hello_message("one.example");
        let mut hello = Hello::default();
        hello.add(0, &message).unwrap();
        hello.add(0, &hello_message("two.example")).unwrap();
        assert_eq!(hello.read(), Said::Name(Some("one.example".to_owned())));
    }

    proptest! {
        #[test]
        fn the_name_does_not_depend_on_the_cut_and_the_order(
            mut pieces in prop::collection::vec((0usize..2000, 1usize..400), 0..40),
            seed: u64,
        ) {
            let message = hello_message("with-post-quantum-shares.example");
            pieces.extend((0..message.len()).step_by(100).map(|start| (start, 130)));
            let order = |piece: &(usize, usize)| (piece.0 as u64 ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            pieces.sort_by_key(order);
            let mut hello = Hello::default();
            for (start, length) in pieces {
                let start = start.min(message.len());
                let end = (start + length).min(message.len());
                hello.add(start as u64, &message[start..end]).unwrap();
            }
            prop_assert_eq!(hello.read(), Said::Name(Some("with-post-quantum-shares.example".to_owned())));
        }

        #[test]
        fn any_pieces_are_read_without_a_panic(pieces in prop::collection::vec((any::<u64>(), any::<Vec<u8>>()), 0..9)) {
            let mut hello = Hello::default();
            for (offset, piece) in pieces {
                let _ = hello.add(offset % (2 * HELLO_BYTES_MAX as u64), &piece);
                let _ = hello.add(0, &piece);
                let _ = hello.read();
            }
        }
    }
}
