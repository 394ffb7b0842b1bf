//! Announcing VIPs to the neighbours on a link: ARP frames, and when to send them.
//!
//! Sans-IO: [`arp`] turns bytes into packets and back, [`announcer`] decides what is due at a time it is told. Whoever
//! drives them owns the socket and the clock. Requests are not answered here but by the eBPF program, so that a VIP stays
//! reachable while no agent runs.

pub mod announcer;
pub mod arp;

pub use announcer::{Announcer, Due};
pub use arp::{ArpFrame, Operation, ParseError};

/// An Ethernet hardware address.
pub type Mac = [u8; 6];
