//! The programs that run in the kernel: thin shells around [`berth_steer`], which decides.
//!
//! - `berth_xdp` sees each frame that a network card receives, and sends those of our cores on to their CPUs.
//! - `berth_socket` sees each datagram and each new connection at the door of a group of sockets that share an address,
//!   and gives it to the socket of its core.
//!
//! Both look at the same table. Whatever they cannot do they leave to the kernel: no packet is dropped here.
#![no_std]
#![no_main]

mod object;
mod socket;
mod xdp;

use aya_ebpf::btf_maps::{Array, ArrayOfMaps};
use aya_ebpf::macros::btf_map;
use berth_steer::table::Table;

/// The bytes of a table, as a type that BTF can name: [`Table`] has an enum with data in it.
type TableBytes = [u64; size_of::<Table>() / 8];

/// The table in use, alone in its array, which is replaced as a whole.
#[btf_map(name = "TABLES")]
static TABLES: ArrayOfMaps<Array<TableBytes, 1>, 1> = ArrayOfMaps::new();

#[inline(always)]
fn table() -> Option<&'static Table> {
    let bytes: &TableBytes = TABLES.get_value(0, &0)?;
    let table: *const Table = core::ptr::from_ref(bytes).cast();
    // SAFETY: it has the size of a table, the kernel aligns values to 8 bytes, and whoever writes it writes a `Table`
    // of this layout. An inner map is freed after the programs that saw it have ended, and its one value is never
    // written again.
    Some(unsafe { &*table })
}
