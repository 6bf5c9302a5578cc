//! How many object workers may live in this process: what the kernel's limits leave, with a quarter of each kept free.
//!
//! At the limit of mappings no memory can be had any more, not even by the allocator, and the process ends. So the bound is
//! computed before the first instance is made, and no number of instances can come near the limit.

use std::fs;

use rustix::process::{Resource, getrlimit};

use crate::engine::{MEMORY_GUARD, MEMORY_RESERVED, PLACES_MIN, memories};
use crate::memory::Memory;

/// Mappings of one place: of its memory the stack and globals before the image of its data, the image, what the guest takes
/// behind it, and the rest that nobody may touch; of the guest's own stack the stack and its guard page.
const MAPPINGS_PER_PLACE: u64 = 6;
/// Of the memory alone.
const MAPPINGS_PER_MEMORY: u64 = 4;
/// Of the stack alone: they are there from the start.
const MAPPINGS_PER_STACK: u64 = 2;
/// Memory that one object worker takes between two turns, if its class is small. What larger ones take, the pressure on the
/// memory that there is shows.
const BYTES_PER_PLACE: u64 = 56 << 10;
/// Addresses that a process can have on the processors that there are.
const ADDRESSES: u64 = 1 << 47;

/// What the kernel lets this process have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Machine {
    /// `vm.max_map_count`.
    pub mappings: u64,
    /// Mappings that there are already.
    pub mapped: u64,
    /// Bytes of addresses.
    pub addresses: u64,
    /// Bytes of memory, of the machine or of the control group.
    pub memory: u64,
}

/// What bounds the number of places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// The kernel's limit of mappings.
    Mappings,
    /// Addresses.
    Addresses,
    /// Memory.
    Memory,
    /// What the operator wants.
    Wish,
}

/// Places for object workers, and why they are no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// How many.
    pub places: u32,
    /// Why no more.
    pub bound: Bound,
}

impl Machine {
    /// This one, now. What cannot be read does not bound, except the mappings, of which the kernel's default is assumed.
    pub fn look() -> Self {
        let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse().ok();
        let maps = fs::read("/proc/self/maps").unwrap_or_default();
        Self {
            mappings: number("/proc/sys/vm/max_map_count").unwrap_or(65_530),
            mapped: maps.iter().filter(|byte| **byte == b'\n').count() as u64,
            addresses: getrlimit(Resource::As).current.map_or(ADDRESSES, |bytes| bytes.min(ADDRESSES)),
            memory: Memory::look().most,
        }
    }

    /// How many places there may be beside those of `calls` calls of workers; `wish` of them, if that is fewer.
    pub fn room(&self, calls: u32, wish: Option<u32>) -> Room {
        let mappings = (self.mappings / 4 * 3).saturating_sub(self.mapped_with(calls)) / MAPPINGS_PER_PLACE;
        let reserved = MEMORY_RESERVED + MEMORY_GUARD;
        let addresses = (self.addresses / 4 * 3 / reserved).saturating_sub(memories(calls).into());
        // The other half is for the store, for connections, and for what guests take beyond.
        let memory = self.memory / 2 / BYTES_PER_PLACE;
        let bounds = [
            (wish.map_or(u64::MAX, u64::from), Bound::Wish),
            (addresses, Bound::Addresses),
            (memory, Bound::Memory),
            (mappings, Bound::Mappings),
        ];
        let (places, bound) = bounds.into_iter().min_by_key(|(places, _)| *places).unwrap_or(bounds[0]);
        Room { places: u32::try_from(places).unwrap_or(u32::MAX).max(PLACES_MIN), bound }
    }

    /// How many there could be with more mappings, and the `vm.max_map_count` that it takes.
    pub fn with_more_mappings(&self, calls: u32, wish: Option<u32>) -> (u32, u64) {
        let Room { places, .. } = Self { mappings: u64::MAX, ..*self }.room(calls, wish);
        let mapped = u64::from(places) * MAPPINGS_PER_PLACE + self.mapped_with(calls);
        (places, mapped.div_ceil(3) * 4)
    }

    /// Mappings without any object.
    fn mapped_with(&self, calls: u32) -> u64 {
        let (stacks, memories) = (u64::from(calls), u64::from(memories(calls)));
        self.mapped + stacks * MAPPINGS_PER_STACK + memories * MAPPINGS_PER_MEMORY
    }
}

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Mappings => "the kernel's limit of mappings (vm.max_map_count)",
            Self::Addresses => "the addresses of a process (47 bits, or its limit RLIMIT_AS)",
            Self::Memory => "the memory of the machine or of the control group",
            Self::Wish => "objects.resident of the configuration",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;
    const LARGE: Machine = Machine { mappings: 65_530, mapped: 400, addresses: ADDRESSES, memory: 64 * GIB };

    #[test]
    fn a_quarter_of_each_limit_stays_free_and_the_smallest_bounds() {
        let room = |machine: Machine, wish| {
            let room = machine.room(1000, wish);
            (room.places, room.bound)
        };
        assert_eq!(room(LARGE, None), (6791, Bound::Mappings), "the kernel's default");
        let raised = Machine { mappings: 262_144, ..LARGE };
        assert_eq!(room(raised, None), (22_885, Bound::Addresses), "more than twenty thousand");
        assert_eq!(room(Machine { memory: GIB, ..raised }, None), (9362, Bound::Memory));
        assert_eq!(room(LARGE, Some(100)), (100, Bound::Wish));
        assert_eq!(room(LARGE, Some(100_000)), (6791, Bound::Mappings), "a wish is no way past the kernel");
        for machine in [LARGE, raised] {
            let Room { places, .. } = machine.room(1000, None);
            let taken = u64::from(places) * MAPPINGS_PER_PLACE + 8000 + machine.mapped;
            assert!(taken <= machine.mappings / 4 * 3, "{taken} of {}", machine.mappings);
        }
    }

    #[test]
    fn there_is_room_for_the_largest_component_whatever_the_limits() {
        let none = Machine { mappings: 0, mapped: 400, addresses: 0, memory: 0 };
        assert_eq!(none.room(1000, None).places, PLACES_MIN);
        assert_eq!(LARGE.room(1000, Some(1)).places, PLACES_MIN);
    }

    #[test]
    fn with_the_mappings_that_are_advised_something_else_bounds() {
        let (places, mappings) = LARGE.with_more_mappings(1000, None);
        let advised = Machine { mappings, ..LARGE };
        assert_eq!(advised.room(1000, None), Room { places, bound: Bound::Addresses });
        let fewer = Machine { mappings: mappings - 100, ..LARGE };
        assert_eq!(fewer.room(1000, None).bound, Bound::Mappings);
    }

    #[test]
    fn this_machine_says_what_it_has() {
        let machine = Machine::look();
        assert!(machine.mapped > 10 && machine.mapped < machine.mappings, "{machine:?}");
        assert!(machine.memory > 64 << 20, "{machine:?}");
    }
}
