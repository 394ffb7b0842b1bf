//! Names for addresses, so that a text reads `client > vip`.

use std::{
    fmt::Display,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// Names for hardware, IPv4 and IPv6 addresses; one name can stand for one of each.
#[derive(Clone, Debug, Default)]
pub struct Names {
    macs: Vec<(String, [u8; 6])>,
    addresses: Vec<(String, IpAddr)>,
}

impl Names {
    /// Names a hardware address. The first name of an address is the one shown.
    #[must_use]
    pub fn mac(mut self, name: &str, mac: [u8; 6]) -> Self {
        self.macs.push((name.to_owned(), mac));
        self
    }

    /// Names an IP address. The first name of an address is the one shown.
    #[must_use]
    pub fn address(mut self, name: &str, address: impl Into<IpAddr>) -> Self {
        self.addresses.push((name.to_owned(), address.into()));
        self
    }

    /// The hardware address that `word` names or spells.
    #[must_use]
    pub fn find_mac(&self, word: &str) -> Option<[u8; 6]> {
        if let Some((_, mac)) = self.macs.iter().find(|(name, _)| name == word) {
            return Some(*mac);
        }
        let mut mac = [0; 6];
        let mut parts = word.split(':');
        for byte in &mut mac {
            let part = parts.next().filter(|part| part.len() == 2)?;
            *byte = u8::from_str_radix(part, 16).ok()?;
        }
        parts.next().is_none().then_some(mac)
    }

    /// The IPv4 address that `word` names or spells.
    #[must_use]
    pub fn find_ipv4(&self, word: &str) -> Option<Ipv4Addr> {
        let named = self.addresses.iter().find_map(|(name, address)| match address {
            IpAddr::V4(address) if name == word => Some(*address),
            _ => None,
        });
        named.or_else(|| word.parse().ok())
    }

    /// The IPv6 address that `word` names or spells.
    #[must_use]
    pub fn find_ipv6(&self, word: &str) -> Option<Ipv6Addr> {
        let named = self.addresses.iter().find_map(|(name, address)| match address {
            IpAddr::V6(address) if name == word => Some(*address),
            _ => None,
        });
        named.or_else(|| word.parse().ok())
    }

    /// A hardware address by name, or spelt out.
    #[must_use]
    pub fn show_mac(&self, mac: [u8; 6]) -> String {
        match self.macs.iter().find(|(_, known)| *known == mac) {
            Some((name, _)) => name.clone(),
            None => mac.map(|byte| format!("{byte:02x}")).join(":"),
        }
    }

    /// An IP address by name, or spelt out.
    #[must_use]
    pub fn show(&self, address: impl Into<IpAddr> + Display + Copy) -> String {
        let wanted = address.into();
        match self.addresses.iter().find(|(_, known)| *known == wanted) {
            Some((name, _)) => name.clone(),
            None => address.to_string(),
        }
    }
}
