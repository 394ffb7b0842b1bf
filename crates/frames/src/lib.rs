//! Ethernet frames as readable text, and back: the notation of the packet fixtures.
//!
//! ```
//! use evenkeel_frames::{Frame, Names};
//!
//! let names = Names::default();
//! let text = r#"eth 02:00:00:00:00:c1 > 02:00:00:00:00:01 / ip 10.0.1.2 > 10.0.9.9 ttl 63 / udp 40000 > 53 / "question""#;
//! let frame = Frame::parse(text, &names)?;
//! let bytes = frame.to_bytes();
//! assert_eq!(Frame::read(&bytes).text(&names), text);
//! # Ok::<(), evenkeel_frames::TextError>(())
//! ```
//!
//! Lengths, protocol numbers and checksums are computed when a frame is built, unless the text says otherwise. Reading
//! turns that round: a field is said only where leaving it out would give other bytes. So a wrong checksum shows up as
//! `checksum bad`, a wrong length as `len 30`, and whatever was read is built again to the last bit.
//!
//! This shares no code with the data plane, whose frames it judges.
//!
//! # The layers
//!
//! Separated by ` / `; what is in brackets is optional, and so is, in every layer, what would be computed.
//!
//! | Layer | Words |
//! |---|---|
//! | `eth FROM > TO` | `type N` |
//! | `vlan ID`, `qinq ID` | 802.1Q, 802.1ad: `pcp N`, `dei`, `type N` |
//! | `arp request\|reply IP at MAC > IP [at MAC]` | `htype`, `ptype`, `hlen`, `plen` |
//! | `ip FROM > TO` | `ttl N` (64), `tos`, `id`, `df`, `mf`, `reserved`, `offset BYTES`, `options HEX`; `version`, `ihl`, `len`, `proto`, `checksum` |
//! | `ip6 FROM > TO` | `hlim N` (64), `class`, `flow`; `version`, `len`, `next` |
//! | `hopopts [HEX]`, `dstopts [HEX]`, `routing [HEX]` | what follows the length; `len`, `next` |
//! | `frag offset BYTES id N` | `mf`, `reserved N`; `next` |
//! | `tcp PORT > PORT FLAGS` | `seq`, `ack`, `win` (65535), `urg`, `reserved`; options in their order: `mss N`, `wscale N`, `sackok`, `ts VALUE ECHO`, `sack A-B`, `nop`, `opt HEX`; `doff`, `checksum` |
//! | `udp PORT > PORT` | `len`, `checksum none` |
//! | `icmp KIND` | `echo-request id N seq N`, `unreachable port`, `unreachable frag-needed mtu N`, `time-exceeded transit`, …; or `type N code N rest HEX` |
//! | `icmp6 KIND` | likewise, with `too-big mtu N`, `neighbor-solicitation TARGET`, `slla MAC`, `tlla MAC` |
//! | `sctp PORT > PORT` | `tag N`, `checksum` |
//! | `[ip … / …]` | the packet that an ICMP error quotes |
//! | `"text"`, `0x1234`, `bytes N`, `zeros N` | a payload; `bytes` counts from 0 to 255 and again |
//! | `trailer HEX` | what follows the end of the ARP or IP packet, such as padding |
//! | `cut N` | the frame (or quoted packet) ends after N bytes, whatever its headers say |

mod build;
mod checksum;
mod frame;
mod icmp;
mod names;
mod parse;
mod read;
mod render;
mod verify;

pub use frame::{
    Arp, Ethernet, Extension, Fragment, Frame, Icmp, Ipv4, Ipv6, Layer, NdOption, Neighbor, Override, Sctp, Tcp,
    TcpOption, Udp, Vlan, WRONG,
};
pub use names::Names;
pub use parse::TextError;
pub use verify::{Sums, sums};
