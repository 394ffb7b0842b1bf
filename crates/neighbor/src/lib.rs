//! Announcing VIPs to the neighbours on a link: ARP and Neighbour Discovery frames, and when to send them.
//!
//! Sans-IO: [`arp`] and [`ndp`] turn bytes into packets and back, [`announcer`] decides what is due at a time it is told.
//! Whoever drives them owns the socket and the clock. Requests and solicitations are not answered here but by the eBPF
//! program, so that a VIP stays reachable while no agent runs.

pub mod announcer;
pub mod arp;
pub mod ndp;

pub use announcer::{Announcer, Due};
pub use arp::{ArpFrame, Operation};
pub use ndp::NdpFrame;

/// An Ethernet hardware address.
pub type Mac = [u8; 6];
