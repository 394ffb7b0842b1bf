//! Defects that programs of this kind really had, and the cases that hold each.

use crate::fixture::Fixture;

/// A defect: its name in the titles of cases (`defect: NAME: …`), what it did, and tests that are no fixtures.
pub struct Defect {
    /// The name.
    pub name: &'static str,
    /// What went wrong.
    pub what: &'static str,
    /// Tests elsewhere that hold it too, or alone.
    pub tests: &'static [&'static str],
}

const fn defect(name: &'static str, what: &'static str, tests: &'static [&'static str]) -> Defect {
    Defect { name, what, tests }
}

/// Every known defect.
pub const DEFECTS: &[Defect] = &[
    defect(
        "flow keys",
        "flows with colliding keys, or of one client port to two service ports, were taken for one",
        &[],
    ),
    defect("retransmitted syn", "a retransmitted SYN picked another backend than the first", &[]),
    defect("half-deleted pairs", "of the two entries of a flow, one was given up and the other remained", &[]),
    defect(
        "udp checksum",
        "the UDP checksum was wrong after the port was rewritten, or appeared where there was none",
        &[],
    ),
    defect("icmp checksums", "an ICMP error had a wrong checksum, outside or in the packet it quotes", &[]),
    defect(
        "too big",
        "an ICMP error about packet size, sent to a VIP, never reached the backend that has the flow",
        &[],
    ),
    defect("later fragments", "a later fragment, which carries no ports, was read as if it did", &[]),
    defect("ip header length", "an IP header with options was read as if it had none", &[]),
    defect("vlan", "a VLAN tag was taken for part of the packet", &[]),
    defect("ttl", "the time to live was not counted down, or an exhausted one sent on", &[]),
    defect("udp repinned", "a UDP flow stayed with a backend that was deleted", &[]),
    defect("stale entry", "an entry of a finished connection dropped the next SYN of the same ports", &[]),
    defect("reset answered", "an RST was answered with an RST", &[]),
    defect("port exhaustion", "with all ports in use, packets vanished without a reason", &[]),
    defect("restart", "a restart of the agent lost the flows", &[]),
];

/// The page that tells which cases hold which defect.
///
/// # Errors
/// A defect that nothing holds, or a case of a defect that is not known.
pub fn page(fixtures: &[Fixture]) -> anyhow::Result<String> {
    let mut page = String::from(
        "# Conformance of the packet path\n\n\
         The cases in `tests/packets` run through the real eBPF object, on every hook and way of forwarding that they name:\n\
         `make lab LAB=conformance`. `UPDATE_PACKETS=1` writes what happens into them instead: read the difference before\n\
         committing it. `tests/conformance/src/fixture.rs` describes their lines, `crates/frames` the notation of frames.\n\
         `make fuzz-packets` tries any packet at all. `make soak` has millions of flows while endpoints come and go, holds every packet\n\
         against a model, and looks at the end whether anything is left.\n\n\
         This page is generated from the titles (`UPDATE_PACKETS=1 cargo test -p evenkeel-conformance`). Each line of the\n\
         table is a defect that load balancers really had, with the cases that would fail if this one had it.\n\n\
         | Defect | Held by |\n|---|---|\n",
    );
    let mut named = 0;
    for defect in DEFECTS {
        let prefix = format!("defect: {}:", defect.name);
        let mut held: Vec<String> = Vec::new();
        for fixture in fixtures {
            let file = fixture.name();
            for case in &fixture.cases {
                if let Some(title) = case.title.strip_prefix(&prefix) {
                    held.push(format!("`{file}`: {}", title.trim()));
                }
            }
        }
        named += held.len();
        held.extend(defect.tests.iter().map(|test| format!("test `{test}`")));
        anyhow::ensure!(!held.is_empty(), "nothing holds the defect `{}`: a case `{prefix} …` should", defect.name);
        page.push_str(&format!("| {}: {} | {} |\n", defect.name, defect.what, held.join("<br>")));
    }
    let titled = fixtures.iter().flat_map(|fixture| &fixture.cases).filter(|case| case.title.starts_with("defect:"));
    let all = titled.count();
    anyhow::ensure!(all == named, "{} cases are titled after defects that src/index.rs does not know", all - named);
    page.push_str("\n## All cases\n\n");
    for fixture in fixtures {
        let file = fixture.name();
        page.push_str(&format!("- `{file}`\n"));
        for case in &fixture.cases {
            page.push_str(&format!("  - {}\n", case.title));
        }
    }
    Ok(page)
}
