//! Lookup tables in the manner of Maglev (Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer",
//! NSDI 2016, section 3.4): every backend gets a share of the slots in proportion to its weight, exact to one slot, and
//! when a backend comes or goes few slots of the others change. A table is a function of the set of backends, their
//! weights and the seed alone, so all nodes agree.
//!
//! Two things differ from the paper, for the sake of what changes (measured in `docs/decisions`): contested slots go to
//! the backend that prefers them most, and sizes are powers of two, each table the refinement of the next smaller one,
//! so that growing beyond a size moves little more than any other change does.

mod fill;
mod hash;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use serde::{Serialize, Serializer};
use sha2::{Digest as _, Sha256};

use self::fill::Claimant;
pub use self::hash::Seed;

/// Fewest slots for each unit of the smallest weight, until [`LARGEST`] is reached: the share of a backend is exact to
/// two per cent.
const SLOTS_PER_BACKEND: u64 = 50;

/// Slots of the smallest table for more than one backend: enough for ten. With 5,000 of these in use at once, the data
/// plane has room left to write new ones beside them.
pub const SMALLEST: u32 = 512;

/// Slots of the largest table: beyond 2,621 backends shares become coarser.
pub const LARGEST: u32 = 131_072;

/// A backend in a table: who it is and how much it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member {
    /// Its address and port: its identity.
    pub address: SocketAddr,
    /// Its weight in proportion to the others'; 0 counts as 1.
    pub weight: u32,
}

/// What a table depends on besides the seed: members sorted by address, none twice, their weights without a common
/// divisor. Equal rosters have equal tables.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Roster(Vec<Member>);

impl Roster {
    /// Of these members in any order; one given twice counts once, with the larger weight.
    pub fn new(members: impl IntoIterator<Item = Member>) -> Self {
        let positive = |member: Member| Member { weight: member.weight.max(1), ..member };
        let mut members: Vec<Member> = members.into_iter().map(positive).collect();
        members.sort_unstable_by_key(|member| (member.address, std::cmp::Reverse(member.weight)));
        members.dedup_by_key(|member| member.address);
        let divisor = members.iter().fold(0, |divisor, member| greatest_common_divisor(member.weight, divisor)).max(1);
        members.iter_mut().for_each(|member| member.weight /= divisor);
        Self(members)
    }

    /// The members, by address.
    pub fn members(&self) -> &[Member] {
        &self.0
    }

    /// The size of their table, a power of two: none without members, a single slot for a single one.
    pub fn size(&self) -> u32 {
        let Some(least) = self.0.iter().map(|member| u64::from(member.weight)).min() else { return 0 };
        if self.0.len() == 1 {
            return 1;
        }
        let total: u64 = self.0.iter().map(|member| u64::from(member.weight)).sum();
        let wanted = (total * SLOTS_PER_BACKEND).div_ceil(least).next_power_of_two();
        u32::try_from(wanted).map_or(LARGEST, |wanted| wanted.clamp(SMALLEST, LARGEST))
    }
}

fn greatest_common_divisor(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

/// A lookup table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    roster: Roster,
    slots: Vec<u32>,
}

impl Table {
    /// The table for these members.
    pub fn new(roster: Roster, seed: Seed) -> Self {
        let size = roster.size();
        // In an order that has nothing to do with the addresses: it settles ties, and ties should favour no subnet.
        let mut claimants: Vec<(Claimant, u32)> =
            roster.0.iter().zip(0..).map(|(m, n)| (claimant(m, seed), n)).collect();
        claimants.sort_by_key(|(claimant, index)| (claimant.skip, *index));
        let (claimants, members): (Vec<Claimant>, Vec<u32>) = claimants.into_iter().unzip();
        let owners = if members.is_empty() { Vec::new() } else { fill::fill(&claimants, SMALLEST, size) };
        let slots = owners.into_iter().filter_map(|owner| members.get(owner as usize).copied()).collect();
        Self { roster, slots }
    }

    /// The members, by address.
    pub fn members(&self) -> &[Member] {
        self.roster.members()
    }

    /// The slots: indices into [`Self::members`]. A packet belongs to the slot of its hash modulo their number.
    pub fn slots(&self) -> &[u32] {
        &self.slots
    }

    /// What two nodes compare to know that they spread new flows alike.
    pub fn digest(&self) -> Digest {
        let mut bytes = Vec::with_capacity(20 * self.members().len() + 4 * self.slots.len());
        for member in self.members() {
            hash::identity_bytes(member.address, &mut bytes);
        }
        for slot in &self.slots {
            bytes.extend(slot.to_be_bytes());
        }
        let [a, b, c, d, e, f, g, h, ..] = <[u8; 32]>::from(Sha256::digest(&bytes));
        Digest(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
    }
}

fn claimant(member: &Member, seed: Seed) -> Claimant {
    let hash = |which| hash::identity(member.address, which, seed);
    Claimant { offset: hash(0), skip: hash(1), weight: member.weight }
}

/// The digest of a [`Table`]: the first 64 bits of SHA-256 over its members (each as the hash of its identity takes them)
/// and its slots (as 32-bit integers in network byte order). Shown as 16 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(u64);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Tables by what they depend on, so that each is computed once: for all frontends with the same backends, and until
/// these change.
#[derive(Debug, Default)]
pub struct Tables {
    seed: Seed,
    known: BTreeMap<Roster, Arc<Table>>,
    computed: u64,
}

impl Tables {
    /// None yet.
    pub fn new(seed: Seed) -> Self {
        Self { seed, ..Self::default() }
    }

    /// The table for these members.
    pub fn get(&mut self, roster: Roster) -> Arc<Table> {
        if let Some(table) = self.known.get(&roster) {
            return Arc::clone(table);
        }
        self.computed += 1;
        let table = Arc::new(Table::new(roster.clone(), self.seed));
        self.known.insert(roster, Arc::clone(&table));
        table
    }

    /// Forget the tables that nobody holds any more.
    pub fn forget_unused(&mut self) {
        self.known.retain(|_, table| Arc::strong_count(table) > 1);
    }

    /// How many tables were computed so far.
    pub fn computed(&self) -> u64 {
        self.computed
    }
}
