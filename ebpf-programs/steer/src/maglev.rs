//! The ring: which core of which server takes a flow that no connection id places.
//!
//! Maglev's way to fill a table (Eisenbud and others, NSDI 2016): each member has an order of all slots of its own,
//! and the members take turns, each taking the first slot in its order that is still free. So all have equally many
//! slots, but for one; a change of the members moves few slots but those of members that left; and nodes that agree
//! on the members have the same ring, whatever the order in which they learned of them.

use crate::flow::{Addresses, Flow, HashKey};

/// Slots of a ring. A prime, so that every stride visits every slot; with 655 members or fewer all have the same
/// share within one part in a hundred.
pub const RING_LEN: usize = 65_537;

/// Members that a ring can have: more would leave some of them without their hundred slots.
pub const MEMBERS_MAX: usize = 655;

/// A server and a core of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)] // A part of the ring.
pub struct Place {
    /// The number of the node in its site.
    pub server: u16,
    /// The core of the node.
    pub core: u16,
}

/// The slots, filled by [`Ring::fill`].
///
/// Each slot has the number of its member, which is half as long as the member itself: what flows read at random places
/// then has 128 KiB, and fits into the second cache beside all else that a core does.
#[derive(Clone)]
#[repr(C)] // A part of `table::Table`.
pub struct Ring {
    /// One more than there can be, for a size without odd bytes.
    members: [Place; MEMBERS_MAX + 1],
    slots: [u16; RING_LEN],
    /// Never read. The verifier knows the last slot's place only up to a byte.
    behind: [u16; 1],
}

/// Why a ring cannot be filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadMembers {
    /// There is none.
    None,
    /// There are more than [`MEMBERS_MAX`].
    TooMany,
    /// One stands twice, or they are not in ascending order.
    Unsorted,
}

impl Default for Ring {
    fn default() -> Self {
        Self::new()
    }
}

impl Ring {
    /// A ring whose slots are all core 0 of server 0.
    pub const fn new() -> Self {
        const NOWHERE: Place = Place { server: 0, core: 0 };
        Self { members: [NOWHERE; MEMBERS_MAX + 1], slots: [0; RING_LEN], behind: [0; 1] }
    }

    /// The place of a flow with this hash.
    #[inline(always)]
    pub fn place(&self, hash: u64) -> Option<Place> {
        // Scaling takes the high bits, which are as good as the low ones, and needs no division.
        let slot = ((hash >> 32) * RING_LEN as u64) >> 32;
        let member = self.slots.get(slot as usize)?;
        self.members.get(usize::from(*member)).copied()
    }

    /// Gives the slots to `members`, which are sorted. On an error the ring is as it was.
    pub fn fill(&mut self, members: &[Place]) -> Result<(), BadMembers> {
        if members.is_empty() {
            return Err(BadMembers::None);
        }
        if members.len() > MEMBERS_MAX {
            return Err(BadMembers::TooMany);
        }
        if !members.is_sorted_by(|one, other| one < other) {
            return Err(BadMembers::Unsorted);
        }
        let mut orders = [Order { next: 0, stride: 0 }; MEMBERS_MAX];
        for ((order, kept), member) in orders.iter_mut().zip(&mut self.members).zip(members) {
            *order = Order::of(*member);
            *kept = *member;
        }
        self.slots = [FREE; RING_LEN];
        let mut free = RING_LEN;
        loop {
            for (member, order) in (0..).zip(&mut orders[..members.len()]) {
                let mut slot = order.take();
                while self.slots[slot] != FREE {
                    slot = order.take();
                }
                self.slots[slot] = member;
                free -= 1;
                if free == 0 {
                    return Ok(());
                }
            }
        }
    }

    /// Whose each slot is.
    pub fn slots(&self) -> impl ExactSizeIterator<Item = Place> + '_ {
        self.slots.iter().map(|member| self.members[usize::from(*member)])
    }
}

/// A slot that nobody has; no member has such a number.
const FREE: u16 = u16::MAX;

/// The order in which one member takes slots.
#[derive(Clone, Copy)]
struct Order {
    next: usize,
    stride: usize,
}

impl Order {
    fn of(member: Place) -> Self {
        // Of the member alone and under no secret, so that all nodes of a site agree. Any hash would do: this one is
        // here already.
        let flow = Flow {
            addresses: Addresses::V4 { source: [0; 4], destination: [0; 4] },
            source_port: member.server,
            destination_port: member.core,
            protocol: 0,
        };
        let hash = flow.hash(&HashKey::new(*b"berth, ring 0001"));
        let (low, high) = (hash & 0xffff_ffff, hash >> 32);
        Self { next: low as usize % RING_LEN, stride: 1 + high as usize % (RING_LEN - 1) }
    }

    fn take(&mut self) -> usize {
        let slot = self.next;
        self.next = (slot + self.stride) % RING_LEN;
        slot
    }
}
