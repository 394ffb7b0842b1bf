//! What must hold of every packet, whatever it is.

use evenkeel_frames::{Frame, Sums, sums};
use evenkeel_maps::{Outcome, Verdict};

use crate::{
    fixture::Hook,
    node::{Ran, verdict_of},
};

/// Longest frames that refuse a packet, in bytes: RFC 1812 section 4.3.2.3 and RFC 4443 section 3.1, with Ethernet.
const LONGEST_REFUSAL: [usize; 2] = [14 + 576, 14 + 1280];

/// What is wrong with the way a packet was treated, if anything.
#[must_use]
pub(super) fn judge(hook: Hook, arrives: bool, sent: &[u8], ran: &Ran) -> Option<String> {
    let outcome = ran.outcome;
    let allowed = verdict_of(hook, arrives, outcome.verdict());
    if !allowed.contains(&ran.verdict) {
        return Some(format!("{} came with verdict {}, not one of {allowed:?}", outcome.name(), ran.verdict));
    }
    if outcome.verdict() == Verdict::Drop {
        return None;
    }
    length(outcome, sent, &ran.frame).or_else(|| content(outcome, sent, &ran.frame))
}

fn length(outcome: Outcome, sent: &[u8], out: &[u8]) -> Option<String> {
    let ipv6 = sent.get(12..14) == Some(&[0x86, 0xdd]);
    let allowed = match outcome.name() {
        "refused_reset" | "reset_backend_gone" | "reset_late_answer" => {
            let length = if ipv6 { 14 + 40 + 20 } else { 14 + 20 + 20 };
            length..=length
        }
        "refused_unreachable" => {
            let header = if ipv6 { 40 } else { 20 };
            14 + header + 8..=LONGEST_REFUSAL[usize::from(ipv6)].min(sent.len() + header + 8)
        }
        "rescued_syn" | "rescued_syn_stack" => {
            let length = if ipv6 { 14 + 40 + 20 } else { 14 + 20 + 20 };
            length..=length + 40
        }
        // Without the error's own headers, and what lay behind its end.
        "rescued_datagram" | "rescued_datagram_stack" => {
            let header = if ipv6 { 40 } else { 20 };
            14 + header + 8..=sent.len().saturating_sub(header + 8)
        }
        // The option with our hardware address may have to be added.
        "ndp_answered" => 14 + 40 + 32..=sent.len().max(14 + 40 + 32),
        _ => sent.len()..=sent.len(),
    };
    (!allowed.contains(&out.len()))
        .then(|| format!("{} made {} bytes of {}, allowed are {allowed:?}", outcome.name(), out.len(), sent.len()))
}

fn content(outcome: Outcome, sent: &[u8], out: &[u8]) -> Option<String> {
    let name = outcome.name();
    let untouched = name.starts_with("pass_") || matches!(name, "observed" | "bypassed");
    if untouched {
        return (sent != out).then(|| format!("{name} changed the frame"));
    }
    let (before, after) = (sums(sent), sums(out));
    // What the program has written itself is right whatever it was asked.
    let written = matches!(
        name,
        "refused_reset"
            | "reset_backend_gone"
            | "reset_late_answer"
            | "refused_unreachable"
            | "rescued_syn"
            | "rescued_syn_stack"
            | "rescued_datagram"
            | "rescued_datagram_stack"
            | "ndp_answered"
    );
    // But for what it quotes.
    let quoted = if before.network == Some(false) { None } else { after.quoted };
    if written && !(Sums { quoted, ..after }).hold() {
        return Some(format!("{name} wrote a wrong checksum: {after:?}"));
    }
    let spoilt = |before: Option<bool>, after: Option<bool>| before == Some(true) && after == Some(false);
    let Sums { network, transport, quoted } = after;
    if spoilt(before.network, network) || spoilt(before.transport, transport) || spoilt(before.quoted, quoted) {
        return Some(format!("{name} spoilt a checksum: {before:?} became {after:?}"));
    }
    // A datagram without a checksum gets none.
    let is_other_packet = name.starts_with("rescued_datagram");
    let lost = !is_other_packet && before.transport == Some(true) && transport.is_none() && before.network.is_some();
    lost.then(|| format!("{name} lost the transport checksum: {before:?} became {after:?}, {:?}", Frame::read(out)))
}
