//! What a lane's requests send and expect, prepared once.

use std::rc::Rc;

use super::{h2, tls};
use crate::{
    config::{Lane, LaneKind},
    dns, pattern,
};

/// What a lane's requests send and expect, prepared once.
pub(super) enum Recipe {
    /// Nothing but the handshake.
    Connect,
    Line {
        echo: bool,
    },
    Long,
    Tls(tls::Client),
    Http1 {
        request: Rc<[u8]>,
        keep: bool,
        /// The length of the body that the path asks our own server for.
        wanted: Option<u64>,
    },
    H2(h2::Request),
    Dns {
        question: dns::Question,
        query: Vec<u8>,
    },
    Datagram,
    /// The configuration was checked before: not to be met.
    Broken,
}

impl Recipe {
    pub(super) fn new(lane: &Lane) -> Self {
        match lane.kind {
            LaneKind::Tcp => Self::Connect,
            LaneKind::TcpBanner => Self::Line { echo: false },
            LaneKind::TcpEcho => Self::Line { echo: true },
            LaneKind::TcpLong => Self::Long,
            LaneKind::Tls => tls::Client::new(lane).map_or(Self::Broken, Self::Tls),
            LaneKind::Http | LaneKind::HttpKeepalive => {
                let keep = lane.kind == LaneKind::HttpKeepalive;
                let close = if keep { "" } else { "connection: close\r\n" };
                let request = format!(
                    "GET {} HTTP/1.1\r\nhost: {}\r\nuser-agent: evenkeel-probe\r\n{close}\r\n",
                    lane.path, lane.authority
                );
                Self::Http1 { request: request.into_bytes().into(), keep, wanted: pattern::length_of(&lane.path) }
            }
            LaneKind::H2 | LaneKind::H2Keepalive => h2::Request::new(lane).map_or(Self::Broken, Self::H2),
            LaneKind::Udp | LaneKind::UdpFixed => Self::Datagram,
            LaneKind::Dns | LaneKind::DnsFixed | LaneKind::DnsTcp => {
                lane.path.parse().map_or(Self::Broken, |question: dns::Question| {
                    let query = question.query();
                    Self::Dns { question, query }
                })
            }
        }
    }
}
