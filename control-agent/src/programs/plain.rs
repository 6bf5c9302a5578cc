//! Tables and counters as the words that maps hold.
#![allow(unsafe_code, reason = "maps hold words; that a table is nothing else is said here, once")]

use berth_steer::counters::{SocketCounters, XdpCounters};
use berth_steer::table::Table;

/// The value of a map.
pub(super) type Words<const N: usize> = [u64; N];

/// Words of a table.
pub(super) const TABLE_WORDS: usize = size_of::<Table>() / 8;
const XDP_WORDS: usize = size_of::<XdpCounters>() / 8;
const SOCKET_WORDS: usize = size_of::<SocketCounters>() / 8;

const _: () = assert!(align_of::<Table>() == 8 && size_of::<Table>().is_multiple_of(8));

/// A table as a map holds it.
pub(super) fn words_of(table: &Table) -> &Words<TABLE_WORDS> {
    // SAFETY: a table is `repr(C)`, of integers and of structs and arrays of them, without a byte of padding (asserted
    // where it is declared), so every byte of it is written; its size and alignment are those of the words.
    unsafe { &*std::ptr::from_ref(table).cast() }
}

/// What a map holds as a table, in its place: it is large.
pub(super) fn table_of(words: Box<Words<TABLE_WORDS>>) -> Box<Table> {
    // SAFETY: a table is made of integers, of which any bytes are some, and the words have its size and alignment; they
    // come from a map that a table of this layout was written to, by the version in the name of its folder.
    unsafe { Box::from_raw(Box::into_raw(words).cast()) }
}

/// Counters as a map holds them.
pub(super) fn xdp_counters(words: Words<XDP_WORDS>) -> XdpCounters {
    // SAFETY: the struct is `repr(C)` and of as many `u64` and nothing else: any words are one.
    unsafe { std::mem::transmute(words) }
}

/// The same of the reuseport program.
pub(super) fn socket_counters(words: Words<SOCKET_WORDS>) -> SocketCounters {
    // SAFETY: as above.
    unsafe { std::mem::transmute(words) }
}
