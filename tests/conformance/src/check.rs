//! Runs the cases of a file and shows what differs from what they expect; or writes it into the file.

use std::{
    collections::HashMap,
    fmt::Write as _,
    fs,
    ops::Range,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use evenkeel_frames::{Frame, Names};

use crate::{
    fixture::{Action, Case, Fixture, Packet, Seen, Variant},
    node::Node,
};

/// Frames that fit are written in one line.
const WIDTH: usize = 118;

/// The programs' clock cannot be stopped: a case that takes longer may meet a timeout, and is run again if it fails.
const SLOW: Duration = Duration::from_millis(200);
/// So many times.
const AGAIN: usize = 5;

/// What the packets of a file met, by the lines of their expectations.
type Observed = Vec<(Range<usize>, Vec<u8>, Vec<(Variant, Seen)>)>;

/// Runs every case of a file in every variant. The result is what differs, for people; empty if nothing does.
///
/// # Errors
/// When a case cannot be run at all.
pub fn run(node: &mut Node, fixture: &Fixture, names: &Names) -> anyhow::Result<String> {
    let mut report = String::new();
    for case in &fixture.cases {
        for variant in &case.variants {
            let mut different = run_case(node, fixture, case, *variant, names)?;
            for _ in 0..AGAIN {
                match &different {
                    Some((_, took)) if *took > SLOW => different = run_case(node, fixture, case, *variant, names)?,
                    _ => break,
                }
            }
            report.extend(different.map(|(difference, _)| difference));
        }
    }
    Ok(report)
}

/// What differs in one case, and how long it took.
fn run_case(
    node: &mut Node,
    fixture: &Fixture,
    case: &Case,
    variant: Variant,
    names: &Names,
) -> anyhow::Result<Option<(String, Duration)>> {
    let start = Instant::now();
    let mut found = None;
    each_packet(node, case, variant, |line, packet, seen| {
        let expected = packet.expectations.iter().find(|expectation| applies(&expectation.when, variant));
        let difference = match expected {
            Some(expected) => difference(&expected.seen, &seen, &packet.frame, names),
            None => Some(format!("  nothing is expected, but there is\n{}", shown(&seen, &packet.frame, names))),
        };
        found = difference.map(|difference| {
            let [hook, forwarding] = variant.words();
            let sent = Frame::read(&packet.frame).text(names);
            let way = if packet.arrives { "in" } else { "out" };
            let (place, title, interface) = (fixture.place(line), &case.title, &packet.interface);
            format!("\n{place}: {title} [{hook}, {forwarding}]\n  {way} {interface} {sent}\n{difference}")
        });
        found.is_none()
    })
    .with_context(|| format!("{}: {}", fixture.place(case.line), case.title))?;
    Ok(found.map(|difference| (difference, start.elapsed())))
}

/// Runs every case and writes what happens into the file as what is expected.
///
/// # Errors
/// When a case cannot be run, or the file not be written.
pub fn update(node: &mut Node, fixture: &Fixture, names: &Names) -> anyhow::Result<()> {
    let mut observed: Observed = Vec::new();
    let mut by_line: HashMap<usize, usize> = HashMap::new();
    for case in &fixture.cases {
        for variant in &case.variants {
            each_packet(node, case, *variant, |line, packet, seen| {
                let index = *by_line.entry(line).or_insert_with(|| {
                    observed.push((packet.lines.clone(), packet.frame.clone(), Vec::new()));
                    observed.len() - 1
                });
                observed[index].2.push((*variant, seen));
                true
            })
            .with_context(|| format!("{}: {}", fixture.place(case.line), case.title))?;
        }
    }
    observed.sort_by_key(|(lines, ..)| lines.start);
    let mut lines: Vec<String> = Vec::new();
    let mut copied = 0;
    for (old, sent, seen) in observed {
        lines.extend_from_slice(&fixture.lines[copied..old.start]);
        copied = old.end;
        for (when, seen) in grouped(&seen) {
            lines.extend(written(&when, seen, &sent, names));
        }
    }
    lines.extend_from_slice(&fixture.lines[copied..]);
    fs::write(&fixture.path, lines.join("\n") + "\n").with_context(|| fixture.path.display().to_string())
}

/// Runs one case from its beginning; `each` tells whether to go on.
fn each_packet(
    node: &mut Node,
    case: &Case,
    variant: Variant,
    mut each: impl FnMut(usize, &Packet, Seen) -> bool,
) -> anyhow::Result<()> {
    node.begin(variant)?;
    for (line, action) in &case.actions {
        let Action::Packet(packet) = action else {
            node.act(action).with_context(|| format!("line {line}"))?;
            continue;
        };
        let seen =
            node.run(packet.arrives, &packet.interface, &packet.frame).with_context(|| format!("line {line}"))?;
        if !each(*line, packet, seen) {
            return Ok(());
        }
    }
    Ok(())
}

fn applies(when: &[String], variant: Variant) -> bool {
    when.iter().all(|word| variant.words().contains(&word.as_str()))
}

/// What happened, said with as few words about the variant as will do.
fn grouped(seen: &[(Variant, Seen)]) -> Vec<(String, &Seen)> {
    let by = |choose: fn(Variant) -> String| -> Option<Vec<(String, &Seen)>> {
        let mut groups: Vec<(String, &Seen)> = Vec::new();
        for (variant, seen) in seen {
            let words = choose(*variant);
            match groups.iter().find(|(known, _)| *known == words) {
                Some((_, known)) if *known != seen => return None,
                Some(_) => {}
                None => groups.push((words, seen)),
            }
        }
        Some(groups)
    };
    by(|_| String::new())
        .or_else(|| by(|variant| variant.words()[0].to_owned()))
        .or_else(|| by(|variant| variant.words()[1].to_owned()))
        .or_else(|| by(|variant| variant.words().join(" ")))
        .unwrap_or_default()
}

/// The lines of an expectation.
fn written(when: &str, seen: &Seen, sent: &[u8], names: &Names) -> Vec<String> {
    let condition = if when.is_empty() { String::new() } else { format!("{when}: ") };
    let mut line = format!("  -> {condition}{} {}", seen.outcome, seen.verdict);
    let frame = came_out(seen, sent);
    if frame == Some(sent) {
        line.push_str(" unchanged");
        return vec![line];
    }
    let mut lines = vec![line];
    if let Some(frame) = frame {
        lines.extend(wrapped(&Frame::read(frame).segments(names)).iter().map(|line| format!("     {line}")));
    }
    lines
}

/// Layers in one line if they fit, else with as few breaks as will do, before a ` / `.
fn wrapped(segments: &[String]) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for segment in segments {
        match lines.last_mut() {
            Some(line) if line.len() + 3 + segment.len() <= WIDTH - 5 => *line = format!("{line} / {segment}"),
            Some(_) => lines.push(format!("/ {segment}")),
            None => lines.push(segment.clone()),
        }
    }
    lines
}

/// The frame that came out, or nothing if the packet was dropped: then nobody sees it.
fn came_out<'a>(seen: &'a Seen, sent: &'a [u8]) -> Option<&'a [u8]> {
    if seen.verdict == "drop" { None } else { Some(seen.frame.as_deref().unwrap_or(sent)) }
}

fn shown(seen: &Seen, sent: &[u8], names: &Names) -> String {
    let mut text = format!("    {} {}\n", seen.outcome, seen.verdict);
    for segment in came_out(seen, sent).map(|frame| Frame::read(frame).segments(names)).unwrap_or_default() {
        let _ = writeln!(text, "      {segment}");
    }
    text
}

/// What differs, layer by layer.
fn difference(expected: &Seen, seen: &Seen, sent: &[u8], names: &Names) -> Option<String> {
    let (wanted, got) = (came_out(expected, sent), came_out(seen, sent));
    let same_end = expected.outcome == seen.outcome && expected.verdict == seen.verdict;
    if same_end && wanted == got {
        return None;
    }
    let mut text = String::new();
    if !same_end {
        let _ = writeln!(text, "  - {} {}\n  + {} {}", expected.outcome, expected.verdict, seen.outcome, seen.verdict);
    }
    let layers = |frame: Option<&[u8]>| frame.map(|frame| Frame::read(frame).segments(names)).unwrap_or_default();
    let (wanted, got) = (layers(wanted), layers(got));
    // What is the same at the beginning and at the end, and what lies between.
    let start = wanted.iter().zip(&got).take_while(|(wanted, got)| wanted == got).count();
    let end =
        wanted[start..].iter().rev().zip(got[start..].iter().rev()).take_while(|(wanted, got)| wanted == got).count();
    for segment in &got[..start] {
        let _ = writeln!(text, "      {segment}");
    }
    for segment in &wanted[start..wanted.len() - end] {
        let _ = writeln!(text, "    - {segment}");
    }
    for segment in &got[start..got.len() - end] {
        let _ = writeln!(text, "    + {segment}");
    }
    for segment in &got[got.len() - end..] {
        let _ = writeln!(text, "      {segment}");
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        fixture::{Forwarding, Hook},
        node::names,
    };

    fn seen(outcome: &str, verdict: &str, text: &str) -> Seen {
        let frame = Frame::parse(text, &names().unwrap()).unwrap().to_bytes();
        Seen { outcome: outcome.to_owned(), verdict: verdict.to_owned(), frame: Some(frame) }
    }

    const SENT: &str = "eth client > node / ip client > vip / tcp 1 > 80 S";
    const OUT: &str = "eth gateway > backend1 / ip client > backend1 ttl 63 / tcp 1 > 8080 S";

    #[test]
    fn a_difference_shows_the_layers_that_differ() {
        let names = names().unwrap();
        let expected = seen("forward_new", "redirect", OUT);
        let sent = seen("", "", SENT).frame.unwrap();
        assert_eq!(difference(&expected, &expected, &sent, &names), None);
        let got = seen("forward_new", "redirect", &format!("{OUT} checksum bad 0x1234"));
        assert_eq!(
            difference(&expected, &got, &sent, &names).unwrap(),
            "      eth gateway > backend1\n      ip client > backend1 ttl 63\n    - tcp 1 > 8080 S\n    \
             + tcp 1 > 8080 S checksum bad 0x1234\n"
        );
        let dropped = seen("drop_ttl", "drop", SENT);
        let shown = difference(&expected, &dropped, &sent, &names).unwrap();
        assert!(shown.starts_with("  - forward_new redirect\n  + drop_ttl drop\n    - eth gateway"), "{shown}");
    }

    #[test]
    fn what_is_dropped_has_no_frame_to_compare() {
        let names = names().unwrap();
        let sent = seen("", "", SENT).frame.unwrap();
        let expected = Seen { outcome: "drop_ttl".to_owned(), verdict: "drop".to_owned(), frame: None };
        assert_eq!(difference(&expected, &seen("drop_ttl", "drop", OUT), &sent, &names), None);
    }

    #[test]
    fn an_expectation_names_only_the_variants_that_differ() {
        let variant = |hook, forwarding| Variant { hook, forwarding };
        let (direct, stack) = (seen("forward_new", "redirect", OUT), seen("stack_new", "pass", OUT));
        let mut all = vec![
            (variant(Hook::Tc, Forwarding::Direct), direct.clone()),
            (variant(Hook::Xdp, Forwarding::Direct), direct.clone()),
        ];
        let words = |all: &[(Variant, Seen)]| grouped(all).into_iter().map(|(words, _)| words).collect::<Vec<_>>();
        assert_eq!(words(&all), [""]);
        all.push((variant(Hook::Tc, Forwarding::Stack), stack.clone()));
        all.push((variant(Hook::Xdp, Forwarding::Stack), stack));
        assert_eq!(words(&all), ["direct", "stack"]);
        all[3].1 = direct;
        assert_eq!(words(&all), ["tc direct", "xdp direct", "tc stack", "xdp stack"]);
    }

    #[test]
    fn what_is_written_is_read_again() {
        let names = names().unwrap();
        let out = seen(
            "forward_new",
            "redirect",
            &format!("{OUT} mss 1460 sackok ts 7 0 nop wscale 7 / bytes 999 / trailer 0x00"),
        );
        let sent = seen("", "", SENT).frame.unwrap();
        let lines = written("direct", &out, &sent, &names);
        assert!(lines.len() == 3 && lines.iter().all(|line| line.len() <= WIDTH), "{lines:#?}");
        let text = format!("case x\nin uplink {SENT}\n{}\n", lines.join("\n"));
        let file = std::env::temp_dir().join(format!("evenkeel-fixture-{}.txt", std::process::id()));
        fs::write(&file, text).unwrap();
        let fixture = Fixture::read(&file, &names);
        fs::remove_file(&file).unwrap();
        let Action::Packet(packet) = &fixture.unwrap().cases[0].actions[0].1 else { panic!("no packet") };
        assert_eq!(packet.expectations[0].seen, out);
        assert_eq!(packet.expectations[0].when, ["direct"]);
    }
}
