//! The status as a text for people.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use evenkeel_agent::status::{Backend, Frontend, Health, Status, Traffic, Vip};

/// Outcomes with which a flow begins.
const NEW_FLOWS: [&str; 2] = ["forward_new", "stack_new"];

/// Whether packets by outcome are shown for each interface.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Details {
    Shown,
    Hidden,
}

/// An earlier status of the node, to tell what happens a second.
#[derive(Clone, Copy)]
pub(super) struct Before<'a> {
    pub(super) status: &'a Status,
    /// How long ago that was.
    pub(super) seconds: f64,
}

impl Before<'_> {
    /// How much a count rose a second. One that is lower than before began anew.
    fn rate(&self, before: u64, now: u64) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "for display")]
        let rise = now.checked_sub(before).unwrap_or(now) as f64;
        rise / self.seconds.max(f64::MIN_POSITIVE)
    }
}

/// What `evenkeel status` prints. With an earlier status, traffic is given a second instead of since it began.
pub(super) fn text(status: &Status, details: Details, before: Option<Before<'_>>) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write_text(&mut out, status, details, before);
    out
}

fn write_text(out: &mut String, status: &Status, details: Details, before: Option<Before<'_>>) -> std::fmt::Result {
    let ready = if status.ready { "ready" } else { "not ready" };
    write!(out, "{}: {ready}, {}", status.node, status.mode)?;
    if let Some(before) = before {
        let new = |status: &Status| NEW_FLOWS.iter().filter_map(|name| status.counters.get(*name)).sum();
        write!(out, ", {}/s new flows", short(before.rate(new(before.status), new(status))))?;
    }
    writeln!(out)?;
    let table = &status.flow_table;
    writeln!(
        out,
        "flow table: {} of {} flows ({} %), {} MiB",
        table.flows,
        table.capacity,
        table.flows.saturating_mul(100).checked_div(table.capacity).unwrap_or(0),
        table.bytes >> 20
    )?;
    let changes = &status.changes;
    if changes.count > 0 {
        let [p50, p99, max] =
            [changes.p50_us, changes.p99_us, changes.max_us].map(|us| Duration::from_micros(us).as_secs_f64() * 1e3);
        writeln!(out, "changes: {}, p50 {p50:.2} ms, p99 {p99:.2} ms, max {max:.2} ms until in force", changes.count)?;
    }

    writeln!(out, "\nInterfaces")?;
    for interface in &status.interfaces {
        let hook = interface.hook.as_deref().unwrap_or("not attached");
        writeln!(out, "  {:<16} {hook:<12} {}", interface.name, interface.mac)?;
        if details == Details::Shown {
            let former = before.and_then(|before| {
                let mut interfaces = before.status.interfaces.iter();
                Some((before, &interfaces.find(|former| former.index == interface.index)?.counters))
            });
            write_counters(out, "    ", &interface.counters, former)?;
        }
    }

    writeln!(out, "\nVIPs")?;
    if status.vips.is_empty() {
        writeln!(out, "  none: no service of type LoadBalancer has an address")?;
    }
    for vip in &status.vips {
        write_vip(out, vip, before)?;
    }

    writeln!(out, "\nFrontends")?;
    for frontend in &status.frontends {
        write_frontend(out, frontend, before)?;
    }

    writeln!(out, "\nPackets by outcome")?;
    write_counters(out, "  ", &status.counters, before.map(|before| (before, &before.status.counters)))?;
    if !status.problems.is_empty() {
        writeln!(out, "\nProblems")?;
        for problem in &status.problems {
            writeln!(out, "  {}", problem.trim_end().replace('\n', "\n  "))?;
        }
    }
    Ok(())
}

fn write_vip(out: &mut String, vip: &Vip, before: Option<Before<'_>>) -> std::fmt::Result {
    let owner = match (&vip.owner, vip.announced) {
        (Some(_), true) => "announced here".to_owned(),
        (Some(owner), false) => format!("owned by {owner}"),
        (None, _) => "announced by no node".to_owned(),
    };
    let former = before.and_then(|before| {
        Some((before, before.status.vips.iter().find(|former| former.address == vip.address)?.traffic))
    });
    writeln!(out, "  {:<40} {owner:<24} {:>8} flows   {}", vip.address, vip.flows, traffic(vip.traffic, former))
}

fn write_frontend(out: &mut String, frontend: &Frontend, before: Option<Before<'_>>) -> std::fmt::Result {
    let Frontend { address, port, protocol, service, forwarding, .. } = frontend;
    writeln!(out, "  {address} {port}/{protocol}  {service} ({forwarding})")?;
    let former = before.and_then(|before| {
        let is_same =
            |former: &&Frontend| former.address == *address && former.port == *port && former.protocol == *protocol;
        Some((before, before.status.frontends.iter().find(is_same)?))
    });
    if !frontend.refused.is_empty() {
        let refused = frontend.refused.iter().map(|(name, packets)| {
            let rate =
                former.map(|(before, former)| before.rate(former.refused.get(name).copied().unwrap_or(0), *packets));
            let rate = rate.map(|rate| format!(" ({}/s)", short(rate))).unwrap_or_default();
            format!("{name} {packets}{rate}")
        });
        writeln!(out, "      refused: {}", refused.collect::<Vec<_>>().join(", "))?;
    }
    if frontend.backends.is_empty() {
        writeln!(out, "      no endpoints")?;
    }
    for backend in &frontend.backends {
        let is_same = |former: &&Backend| former.address == backend.address && former.port == backend.port;
        let former = former.and_then(|(before, former)| Some((before, former.backends.iter().find(is_same)?.traffic)));
        let address = format!("{}:{}", backend.address, backend.port);
        let node = backend.node.as_deref().unwrap_or("-");
        let traffic = traffic(backend.traffic, former);
        write!(out, "      {address:<24} {:<8} {:>8} flows   {traffic}   {node}", backend.state, backend.flows)?;
        if let Some(health) = &backend.health {
            write!(out, "  {}", health_text(health))?;
        }
        writeln!(out)?;
    }
    Ok(())
}

fn write_counters(
    out: &mut String,
    indent: &str,
    counters: &BTreeMap<String, u64>,
    former: Option<(Before<'_>, &BTreeMap<String, u64>)>,
) -> std::fmt::Result {
    for (name, packets) in counters {
        write!(out, "{indent}{name:<24} {packets:>14}")?;
        if let Some((before, former)) = former {
            let rate = before.rate(former.get(name).copied().unwrap_or(0), *packets);
            write!(out, " {:>10}/s", short(rate))?;
        }
        writeln!(out)?;
    }
    Ok(())
}

/// Packets and bytes in both directions, a second if there is an earlier count.
fn traffic(now: Traffic, former: Option<(Before<'_>, Traffic)>) -> String {
    let counts = |traffic: Traffic| [traffic.packets_in, traffic.bytes_in, traffic.packets_out, traffic.bytes_out];
    let mut cells = counts(now).map(whole);
    let mut a_second = "";
    if let Some((before, then)) = former {
        a_second = "/s";
        for (cell, (then, now)) in cells.iter_mut().zip(counts(then).into_iter().zip(counts(now))) {
            *cell = before.rate(then, now);
        }
    }
    let [packets_in, bytes_in, packets_out, bytes_out] = cells.map(short);
    format!(
        "in {packets_in:>6} packets{a_second} {bytes_in:>6}B{a_second}   out {packets_out:>6} packets{a_second} {bytes_out:>6}B{a_second}"
    )
}

#[expect(clippy::cast_precision_loss, reason = "for display")]
const fn whole(count: u64) -> f64 {
    count as f64
}

/// A number with three digits and the prefix of its thousands.
fn short(number: f64) -> String {
    const PREFIXES: [&str; 7] = ["", "k", "M", "G", "T", "P", "E"];
    let mut number = number;
    let mut prefixes = PREFIXES.iter().peekable();
    let mut prefix = "";
    while let Some(next) = prefixes.next() {
        prefix = next;
        // What would be rounded to 1000 is written with the next prefix.
        if number < 999.5 || prefixes.peek().is_none() {
            break;
        }
        number /= 1_000.0;
    }
    let digits = match number {
        _ if prefix.is_empty() && number.fract() == 0.0 => 0,
        _ if number >= 99.95 => 0,
        _ if number >= 9.995 => 1,
        _ => 2,
    };
    format!("{number:.digits$}{prefix}")
}

/// What health checks say of a backend, in short.
fn health_text(health: &Health) -> String {
    let mut parts = vec![format!("takes {} %", u32::from(health.share) * 100 / 255)];
    if health.last_resort {
        parts.push("as the last resort".to_owned());
    }
    if health.ejected {
        parts.push("ejected".to_owned());
    }
    if let Some(reason) = &health.reason {
        let error = health.error.as_deref().unwrap_or_default();
        parts.push(format!("[{reason}] {error}"));
    }
    parts.extend(health.not_checked.as_ref().map(|because| format!("not checked: {because}")));
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use evenkeel_agent::status::{Changes, FlowTable, Interface};

    use super::*;

    fn status(packets: u64) -> Status {
        let traffic = Traffic {
            packets_in: packets,
            bytes_in: packets * 100,
            packets_out: packets * 2,
            bytes_out: packets * 3000,
        };
        let counters = BTreeMap::from([
            ("forward_flow".to_owned(), packets),
            ("forward_new".to_owned(), packets / 2),
            ("stack_new".to_owned(), packets / 2),
        ]);
        let backend = Backend {
            address: "10.1.0.1".to_owned(),
            port: 8080,
            node: Some("worker-1".to_owned()),
            state: "active".to_owned(),
            health: None,
            flows: 3,
            traffic,
        };
        Status {
            node: "node-1".to_owned(),
            ready: true,
            mode: "observe".to_owned(),
            flow_table: FlowTable { flows: 256, capacity: 1024, bytes: 3 << 20 },
            changes: Changes { count: 12, p50_us: 410, p99_us: 4_000, max_us: 31_256, histogram: Vec::new() },
            next_hop_epoch: 1,
            interfaces: vec![Interface {
                name: "up0".to_owned(),
                index: 2,
                mac: "02:00:00:00:00:01".to_owned(),
                hook: Some("tcx".to_owned()),
                counters: BTreeMap::from([("arp_replied".to_owned(), packets)]),
            }],
            vips: vec![Vip {
                address: "192.0.2.1".to_owned(),
                owner: Some("node-1".to_owned()),
                announced: true,
                claimed_by: None,
                epoch: None,
                flows: 3,
                traffic,
            }],
            frontends: vec![Frontend {
                address: "192.0.2.1".to_owned(),
                port: 80,
                protocol: "TCP".to_owned(),
                service: "shop/web".to_owned(),
                forwarding: "direct".to_owned(),
                per_packet: false,
                refused: BTreeMap::from([("refused_reset".to_owned(), packets)]),
                backends: vec![backend],
            }],
            counters,
            problems: vec!["[no_interface] wrong".to_owned()],
        }
    }

    fn has(text: &str, lines: &[&str]) {
        let squeezed: Vec<String> =
            text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        for line in lines {
            assert!(squeezed.iter().any(|text| text == line), "{line:?} is not in\n{text}");
        }
    }

    #[test]
    fn everything_is_told_once() {
        let text = text(&status(1000), Details::Hidden, None);
        has(
            &text,
            &[
                "node-1: ready, observe",
                "flow table: 256 of 1024 flows (25 %), 3 MiB",
                "changes: 12, p50 0.41 ms, p99 4.00 ms, max 31.26 ms until in force",
                "up0 tcx 02:00:00:00:00:01",
                "192.0.2.1 announced here 3 flows in 1.00k packets 100kB out 2.00k packets 3.00MB",
                "192.0.2.1 80/TCP shop/web (direct)",
                "refused: refused_reset 1000",
                "10.1.0.1:8080 active 3 flows in 1.00k packets 100kB out 2.00k packets 3.00MB worker-1",
                "forward_flow 1000",
                "[no_interface] wrong",
            ],
        );
        assert!(!text.contains("arp_replied"), "{text}");
        has(&super::text(&status(1000), Details::Shown, None), &["arp_replied 1000"]);
    }

    #[test]
    fn two_answers_give_what_happened_a_second() {
        let before = status(1000);
        let text = text(&status(1500), Details::Shown, Some(Before { status: &before, seconds: 2.0 }));
        has(
            &text,
            &[
                "node-1: ready, observe, 250/s new flows",
                "192.0.2.1 announced here 3 flows in 250 packets/s 25.0kB/s out 500 packets/s 750kB/s",
                "refused: refused_reset 1500 (250/s)",
                "forward_flow 1500 250/s",
                "arp_replied 1500 250/s",
            ],
        );
    }

    #[test]
    fn a_count_that_began_anew_is_no_overflow() {
        let before = status(1000);
        let text = text(&status(10), Details::Hidden, Some(Before { status: &before, seconds: 1.0 }));
        has(&text, &["forward_flow 10 10/s"]);
    }

    #[test]
    fn what_is_new_counts_from_zero() {
        let mut before = status(1000);
        before.counters.clear();
        before.frontends.clear();
        before.vips.clear();
        let text = text(&status(10), Details::Hidden, Some(Before { status: &before, seconds: 1.0 }));
        has(&text, &["forward_flow 10 10/s", "refused: refused_reset 10"]);
    }

    #[test]
    fn numbers_are_short() {
        for (number, expected) in [
            (0.0, "0"),
            (0.25, "0.25"),
            (7.0, "7"),
            (999.0, "999"),
            (999.7, "1.00k"),
            (1_234.0, "1.23k"),
            (12_345.0, "12.3k"),
            (123_456.0, "123k"),
            (999_900.0, "1.00M"),
            (9.99e11, "999G"),
            (1e25, "10000000E"),
        ] {
            assert_eq!(short(number), expected, "{number}");
        }
    }
}
