//! What `evenkeel plan` says about BGP.

use std::collections::BTreeMap;
use std::sync::Arc;

use evenkeel_plan::Plan;
use evenkeel_plan::bgp::{
    AdjRibOut, Attributes, Bfd, BgpAnnouncement, NoSession, PasswordSource, Route, Session, SessionKind, ToldRoute,
    is_used,
};
use evenkeel_plan::world::{BgpPeer, Community, Neighbor, World};
use serde::Serialize;

/// The port of BGP (RFC 4271, section 8).
const PORT: u16 = 179;

/// The part of the JSON about BGP, absent where nothing is said about it.
#[derive(Serialize)]
pub(super) struct Json<'a> {
    bgp_sessions: Vec<JsonSession<'a>>,
    bgp_without_session: &'a [NoSession],
}

/// A session with what is told over it.
#[derive(Serialize)]
struct JsonSession<'a> {
    #[serde(flatten)]
    session: &'a Session,
    routes: Vec<ToldRoute>,
}

impl<'a> Json<'a> {
    pub(super) fn of(plan: &'a Plan, world: &World) -> Option<Self> {
        let rib = AdjRibOut::of_all(plan.bgp.announcements.values().map(|announcement| &**announcement));
        let with_routes =
            |session: &'a Session| JsonSession { session, routes: rib.told(&session.node, &session.peer) };
        is_used(world).then(|| Self {
            bgp_sessions: plan.bgp.sessions.iter().map(with_routes).collect(),
            bgp_without_session: &plan.bgp.without_session,
        })
    }
}

/// An address, what is announced for it, and who does not.
pub(super) fn announcement(announcement: &BgpAnnouncement, nobody: &str) -> Vec<Vec<String>> {
    let by = match announcement.nodes.as_slice() {
        [] => nobody.to_owned(),
        nodes => format!("by {}", nodes.join(", ")),
    };
    let mut rows = vec![vec![announcement.address.to_string(), announcement.protocol.to_string(), by]];
    let mut note = |text| rows.push(vec![String::new(), String::new(), text]);
    for route in &announcement.routes {
        note(shown_route(route, &announcement.nodes));
    }
    for exclusion in &announcement.excluded {
        note(format!("not by {}: {}", exclusion.node, exclusion.reason));
    }
    rows
}

fn shown_route(route: &Route, all: &[Arc<str>]) -> String {
    let by = if route.nodes == all { String::new() } else { format!(" by {}", route.nodes.join(", ")) };
    let to = route.peers.join(", ");
    let attributes = shown(route.local_pref, &route.communities);
    let attributes = attributes.map_or_else(String::new, |attributes| format!(", {attributes}"));
    format!("{} to {to}{by}{attributes} (advertisement {})", route.prefix, route.advertisement)
}

fn shown(local_pref: Option<u32>, communities: &[Community]) -> Option<String> {
    let mut shown: Vec<String> = local_pref.iter().map(|value| format!("local preference {value}")).collect();
    let communities: Vec<String> = communities.iter().map(ToString::to_string).collect();
    match communities.as_slice() {
        [] => {}
        [one] => shown.push(format!("community {one}")),
        several => shown.push(format!("communities {}", several.join(" "))),
    }
    (!shown.is_empty()).then(|| shown.join(", "))
}

/// Every peer: how it is reached, and which node tells it what.
pub(super) fn peers(plan: &Plan, world: &World) -> Vec<Vec<String>> {
    let rib = AdjRibOut::of_all(plan.bgp.announcements.values().map(|announcement| &**announcement));
    let mut rows = Vec::new();
    let mut peers: BTreeMap<&str, &BgpPeer> = BTreeMap::new();
    for peer in world.bgp_peers.values() {
        peers.entry(&peer.name.name).or_insert(peer);
    }
    for (peer, described) in peers {
        let sessions = of_peer(&plan.bgp.sessions, |session| &session.peer, peer);
        let mut notes = sessions.first().map_or_else(Vec::new, notes);
        let told = sessions.iter().map(|session| (told_by(session, &rib), &*session.node));
        for (told, nodes) in grouped(told) {
            notes.extend(told.iter().map(|told| format!("on {}: {told}", nodes.join(", "))));
        }
        let without = of_peer(&plan.bgp.without_session, |without| &without.peer, peer);
        for (reason, nodes) in grouped(without.iter().map(|without| (without.reason, &*without.node))) {
            notes.push(format!("not on {}: {reason}", nodes.join(", ")));
        }
        if world.nodes.is_empty() {
            notes.push("on no node: none is known (give --node, or Node objects)".to_owned());
        }
        let mut cells = (peer.to_owned(), neighbor(described));
        for note in notes {
            rows.push(vec![std::mem::take(&mut cells.0), std::mem::take(&mut cells.1), note]);
        }
    }
    rows
}

/// The entries of a peer, out of those sorted by peer.
fn of_peer<'a, T>(entries: &'a [T], peer_of: impl Fn(&T) -> &str, peer: &str) -> &'a [T] {
    let from = entries.partition_point(|entry| peer_of(entry) < peer);
    let to = entries.partition_point(|entry| peer_of(entry) <= peer);
    entries.get(from..to).unwrap_or_default()
}

fn neighbor(peer: &BgpPeer) -> String {
    let at = match &peer.neighbor {
        Neighbor::Address(address) => address.to_string(),
        Neighbor::Interface(interface) => format!("interface {interface}"),
    };
    if peer.port == PORT { at } else { format!("{at} port {}", peer.port) }
}

/// The session on any of its nodes, a line for each matter.
fn notes(session: &Session) -> Vec<String> {
    let ours = match (session.local_asn, session.my_asn) {
        (local, my) if local == my => format!("AS {my}"),
        (local, my) => format!("AS {local} (in place of {my})"),
    };
    let kind = session.kind;
    let parties = match (kind, session.peer_asn) {
        (SessionKind::Ibgp, _) => format!("{kind} in {ours}"),
        (SessionKind::Ebgp, Some(theirs)) => format!("{kind} from {ours} to AS {theirs}"),
        (SessionKind::Ebgp, None) => format!("{kind} from {ours} to any other AS"),
    };
    let families: Vec<String> = session.families.iter().map(ToString::to_string).collect();
    let mut traits = vec![parties, format!("for {}", families.join(" and "))];
    traits.extend(session.multihop.then(|| "over several hops".to_owned()));
    traits.extend(session.source_address.map(|source| format!("from {source}")));
    traits.extend(session.vrf.as_ref().map(|vrf| format!("in VRF {vrf}")));
    traits.extend(session.router_id.map(|id| format!("router ID {id}")));
    traits.extend(session.password.as_ref().map(|password| match password {
        PasswordSource::Manifest => "password from the manifest".to_owned(),
        PasswordSource::Secret(secret) => format!("password from secret {secret}"),
    }));
    let mut timers = match session.hold_time.as_secs() {
        0 => vec!["no hold time".to_owned()],
        hold => vec![format!("hold {hold}s"), format!("keepalive {}s", session.keepalive_time.as_secs())],
    };
    timers.push(format!("connect {}s", session.connect_time.as_secs()));
    timers.extend(session.graceful_restart.then(|| "graceful restart".to_owned()));
    timers.extend(session.bfd.as_ref().map(shown_bfd));
    vec![traits.join(", "), timers.join(", ")]
}

fn shown_bfd(bfd: &Bfd) -> String {
    let milliseconds = |time: std::time::Duration| format!("{}ms", time.as_millis());
    let mut shown = format!(
        "BFD {} (receive {}, transmit {}, times {}",
        bfd.profile,
        milliseconds(bfd.receive_interval),
        milliseconds(bfd.transmit_interval),
        bfd.detect_multiplier
    );
    shown.extend(bfd.echo_interval.map(|echo| format!(", echo {}", milliseconds(echo))));
    shown.extend(bfd.passive.then_some(", passive"));
    shown + ")"
}

/// The nodes of which the same is to be said, in the order of the first of each.
fn grouped<'a, T: PartialEq>(said: impl Iterator<Item = (T, &'a str)>) -> Vec<(T, Vec<&'a str>)> {
    let mut groups: Vec<(T, Vec<&str>)> = Vec::new();
    for (what, node) in said {
        match groups.iter_mut().find(|(known, _)| *known == what) {
            Some((_, nodes)) => nodes.push(node),
            None => groups.push((what, vec![node])),
        }
    }
    groups
}

/// What a node tells its peer, a line for each set of attributes.
fn told_by(session: &Session, rib: &AdjRibOut) -> Vec<String> {
    let mut by_attributes: BTreeMap<Attributes, Vec<String>> = BTreeMap::new();
    for ToldRoute { prefix, attributes, .. } in rib.told(&session.node, &session.peer) {
        by_attributes.entry(attributes).or_default().push(prefix.to_string());
    }
    let line = |(attributes, prefixes): (Attributes, Vec<String>)| {
        let with = shown(attributes.local_pref, &attributes.communities);
        few(&prefixes) + &with.map_or_else(String::new, |attributes| format!(" with {attributes}"))
    };
    match by_attributes.is_empty() {
        true => vec!["nothing is announced".to_owned()],
        false => by_attributes.into_iter().map(line).collect(),
    }
}

/// The first few of a list, and how many more there are.
fn few(all: &[String]) -> String {
    const FEW: usize = 8;
    match all.split_at_checked(FEW) {
        Some((first, more)) if !more.is_empty() => format!("{} and {} more", first.join(", "), more.len()),
        _ => all.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_the_first_few_are_shown() {
        let names = |count: usize| (1..=count).map(|n| n.to_string()).collect::<Vec<_>>();
        assert_eq!(few(&names(2)), "1, 2");
        assert_eq!(few(&names(8)), "1, 2, 3, 4, 5, 6, 7, 8");
        assert_eq!(few(&names(10)), "1, 2, 3, 4, 5, 6, 7, 8 and 2 more");
    }

    #[test]
    fn nodes_of_which_the_same_is_said_are_named_together() {
        let said = [("x", "a"), ("y", "b"), ("x", "c")];
        assert_eq!(grouped(said.into_iter()), [("x", vec!["a", "c"]), ("y", vec!["b"])]);
    }
}
