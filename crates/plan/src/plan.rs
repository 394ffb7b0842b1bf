//! The Plan: all decisions together.

use crate::allocate::{self, ServicePlan};
use crate::diagnostic::Diagnostic;
use crate::elect::{self, Announcement};
use crate::frontends::{self, Frontend};
use crate::memory::Memory;
use crate::world::World;

/// What is to be carried out. Every list is sorted, so equal Worlds give equal Plans.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Every load balancer service of ours with its addresses, or the reason why it has none; by name.
    pub services: Vec<ServicePlan>,
    /// Every allocated address with its announcers, and the reason why the other nodes are none; by address.
    pub announcements: Vec<Announcement>,
    /// Every frontend with its backends; by address, port and protocol.
    pub frontends: Vec<Frontend>,
    /// What is wrong, or worth knowing, about the objects taken together.
    pub diagnostics: Vec<Diagnostic>,
    memory: Memory,
}

impl Plan {
    /// What to remember for the next [`plan`].
    pub fn memory(&self) -> &Memory {
        &self.memory
    }
}

/// Decide everything.
pub fn plan(world: &World, memory: &Memory) -> Plan {
    let mut diagnostics = Vec::new();
    let allocation = allocate::allocate(world, &memory.allocations, &mut diagnostics);
    let announcements = elect::elect(world, &allocation, &memory.owners, &mut diagnostics);
    let frontends = frontends::frontends(world, &allocation, &mut diagnostics);
    let memory = Memory {
        allocations: allocation.held(),
        owners: elect::owners(&announcements, &memory.owners),
        ..Memory::default()
    };
    Plan { services: allocation.services, announcements, frontends, diagnostics, memory }
}
