//! Rolling addresses up into prefixes.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::range::{self, IpFamily, IpRange};
use crate::world::{BgpAdvertisement, IpAddressPool};

/// What the advertisement rolls the address up into. Not where its range has no room for such a prefix: that would draw
/// traffic for others' addresses, so the address goes out alone. At the ends of a range that has room, a prefix may reach
/// over, as it may in MetalLB.
pub(super) fn aggregate(address: IpAddr, advertisement: &BgpAdvertisement, pool: Option<&IpAddressPool>) -> IpNet {
    let length = length(advertisement, IpFamily::of(address));
    let range = pool.and_then(|pool| pool.ranges.iter().find(|range| range.contains(address)));
    let fits = range.is_none_or(|range| has_room(range, length));
    let net = IpNet::new(address, length).ok().filter(|_| fits);
    net.map_or_else(|| IpNet::from(address), |net| net.trunc())
}

/// The prefix length an advertisement asks for.
pub(super) fn length(advertisement: &BgpAdvertisement, family: IpFamily) -> u8 {
    match family {
        IpFamily::V4 => advertisement.aggregation.v4,
        IpFamily::V6 => advertisement.aggregation.v6,
    }
}

/// Whether any whole prefix of this length lies within the range.
pub(super) fn has_room(addresses: &IpRange, length: u8) -> bool {
    let Ok(first) = IpNet::new(addresses.first(), length).map(|net| net.trunc()) else { return true };
    let next = || range::successor(first.broadcast()).and_then(|next| IpNet::new(next, length).ok());
    let within = |net: IpNet| addresses.contains(net.network()) && addresses.contains(net.broadcast());
    within(first) || next().is_some_and(within)
}
