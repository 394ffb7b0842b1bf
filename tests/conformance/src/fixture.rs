//! The files of packet fixtures.
//!
//! ```text
//! # Lines that begin with a hash sign are comments.
//! case a reply carries the VIP
//! forwarding direct stack
//! service vip:80/tcp -> backend1:8080
//! in uplink eth client > node / ip client > vip / tcp 40000 > 80 S
//!   -> forward_new redirect
//!      eth gateway > backend1 / ip client > backend1 ttl 63 / tcp 40000 > 8080 S
//! ```
//!
//! | Line | Meaning |
//! |---|---|
//! | `case TITLE` | begins a case: an empty node that owns `vip` and `vip2` |
//! | `hooks tc xdp` | the hooks whose ingress program the case applies to; both if not said |
//! | `forwarding direct stack` | the ways of forwarding it is run with; `direct` if not said |
//! | `service VIP:PORT/PROTOCOL [with OPTION, …] -> [BACKEND:PORT [drain\|down], …]` | carries a service from here on, in both families; said again, it changes it |
//! | `no service VIP:PORT/PROTOCOL` | carries it no longer |
//! | `vip NAME owned\|carried\|elsewhere\|gone` | answers for the VIP, or does not, or on another interface, or does not know it |
//! | `mode active\|observe\|bypass` | the data plane's mode |
//! | `withdraws` | answers only those who know where a VIP is |
//! | `yields` | stops answering for a VIP that another host claims, as in a cluster |
//! | `settle NAME` | answers for the VIP again, whoever claims it |
//! | `unattended` | as if no agent had attended to the data plane for longer than it may |
//! | `age SECONDS` | as if no packet had come for so long |
//! | `reap` | what the agent does every second: frees what no flow uses |
//! | `restart` | the agent ends, and another one begins |
//! | `in INTERFACE FRAME`, `out INTERFACE FRAME` | a frame arrives or leaves; indented lines go on with it |
//! | `-> [tc\|xdp\|direct\|stack …:] OUTCOME VERDICT [unchanged]` | what is expected, and below it the frame that comes out; the first line whose words apply counts |

use std::{
    collections::HashSet,
    fs,
    ops::Range,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail, ensure};
use evenkeel_frames::{Frame, Names};
use evenkeel_maps::{TCP, UDP};

/// Which program runs at ingress.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hook {
    /// `evenkeel_in`, for tcx and clsact.
    Tc,
    /// `evenkeel_xdp`.
    Xdp,
}

/// How packets leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Forwarding {
    /// To the next hop.
    Direct,
    /// By the kernel's routing.
    Stack,
}

/// One way to run a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Variant {
    /// Which program.
    pub hook: Hook,
    /// Which way.
    pub forwarding: Forwarding,
}

impl Variant {
    /// The words by which expectations refer to it.
    #[must_use]
    pub const fn words(self) -> [&'static str; 2] {
        let hook = match self.hook {
            Hook::Tc => "tc",
            Hook::Xdp => "xdp",
        };
        let forwarding = match self.forwarding {
            Forwarding::Direct => "direct",
            Forwarding::Stack => "stack",
        };
        [hook, forwarding]
    }
}

/// A file of cases.
#[derive(Clone, Debug)]
pub struct Fixture {
    /// Where it lies.
    pub path: PathBuf,
    /// Its lines as they stand.
    pub lines: Vec<String>,
    /// Its cases.
    pub cases: Vec<Case>,
}

/// A case.
#[derive(Clone, Debug)]
pub struct Case {
    /// What it shows; unique in its file.
    pub title: String,
    /// Its first line, counted from 1.
    pub line: usize,
    /// The ways to run it.
    pub variants: Vec<Variant>,
    /// What happens, in order, each with its line.
    pub actions: Vec<(usize, Action)>,
}

/// Something that happens in a case.
#[derive(Clone, Debug)]
pub enum Action {
    /// A service is carried from now on.
    Service(Service),
    /// A service is carried no longer.
    NoService(Port),
    /// A VIP's place changes.
    Vip(String, Ownership),
    /// The data plane's mode changes.
    Mode(Mode),
    /// Claims by others are yielded to from now on.
    Yields,
    /// Only those are answered from now on who know where a VIP is.
    Withdraws,
    /// A claim to a VIP is settled.
    Settle(String),
    /// Nobody has attended to the data plane for longer than it may be.
    Unattended,
    /// So many seconds pass without a packet.
    Age(u32),
    /// What no flow uses is freed.
    Reap,
    /// The agent starts anew.
    Restart,
    /// A packet.
    Packet(Box<Packet>),
}

/// Whether the node answers for a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// On the uplink.
    Owned,
    /// Packets are balanced, nothing is answered.
    Carried,
    /// On another interface than the uplink.
    Elsewhere,
    /// It is no VIP.
    Gone,
}

/// The data plane's mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Balances.
    Active,
    /// Counts only.
    Observe,
    /// Passes everything.
    Bypass,
}

/// A port of a VIP.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Port {
    /// The VIP's name or address.
    pub vip: String,
    /// The port.
    pub port: u16,
    /// IP protocol number.
    pub protocol: u8,
}

/// A service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Where clients find it.
    pub at: Port,
    /// What is special about it, such as `affinity`.
    pub options: Vec<String>,
    /// Name, port and state of each backend.
    pub backends: Vec<(String, u16, BackendState)>,
}

/// Which flows a backend gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendState {
    /// New ones too.
    Active,
    /// Those it has.
    Drain,
    /// Established TCP.
    Down,
}

/// A packet, and what is expected of it.
#[derive(Clone, Debug)]
pub struct Packet {
    /// Arriving or leaving.
    pub arrives: bool,
    /// The interface's name.
    pub interface: String,
    /// The frame.
    pub frame: Vec<u8>,
    /// What is expected, the first that applies.
    pub expectations: Vec<Expectation>,
    /// Indices of the lines of the expectations.
    pub lines: Range<usize>,
}

/// What is expected of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expectation {
    /// The words that a variant must have.
    pub when: Vec<String>,
    /// What happened.
    pub seen: Seen,
}

/// What happened to a packet, or should.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Seen {
    /// Name of the counted outcome.
    pub outcome: String,
    /// `pass`, `redirect` or `drop`.
    pub verdict: String,
    /// The frame that came out; `None` if it is as it went in.
    pub frame: Option<Vec<u8>>,
}

impl Fixture {
    /// The file's name.
    #[must_use]
    pub fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// A line of the file, as people are told.
    #[must_use]
    pub fn place(&self, line: usize) -> String {
        format!("tests/packets/{}:{line}", self.name())
    }

    /// Reads a file.
    ///
    /// # Errors
    /// File, line and what is wrong with it.
    pub fn read(path: &Path, names: &Names) -> anyhow::Result<Self> {
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let mut fixture =
            Self { path: path.to_owned(), lines: text.lines().map(str::to_owned).collect(), cases: Vec::new() };
        let mut reader = Reader { lines: &fixture.lines, at: 0, names };
        let mut cases: Vec<Case> = Vec::new();
        while let Some(line) = reader.next() {
            let number = reader.at;
            let place = || fixture.place(number);
            match line.split_once(' ') {
                Some(("case", title)) => cases.push(Case {
                    title: title.trim().to_owned(),
                    line: number,
                    variants: variants(&[Hook::Tc, Hook::Xdp], &[Forwarding::Direct]),
                    actions: Vec::new(),
                }),
                _ => {
                    let case = cases.last_mut().with_context(place).context("a file begins with `case TITLE`")?;
                    reader.line(case, line).with_context(place)?;
                }
            }
        }
        let mut titles = HashSet::new();
        for case in &cases {
            let place = fixture.place(case.line);
            ensure!(titles.insert(&case.title), "{place}: there is a case of this title already");
            let packets = case.actions.iter().any(|(_, action)| matches!(action, Action::Packet(_)));
            ensure!(packets, "{place}: a case without a packet shows nothing");
        }
        fixture.cases = cases;
        Ok(fixture)
    }
}

/// Every combination.
fn variants(hooks: &[Hook], forwardings: &[Forwarding]) -> Vec<Variant> {
    let of = |hook: &Hook| {
        forwardings.iter().map(|forwarding| Variant { hook: *hook, forwarding: *forwarding }).collect::<Vec<_>>()
    };
    hooks.iter().flat_map(of).collect()
}

/// The lines of a file, one by one.
struct Reader<'a> {
    lines: &'a [String],
    at: usize,
    names: &'a Names,
}

impl<'a> Reader<'a> {
    /// The next line that says something; [`Self::at`] is its number then.
    fn next(&mut self) -> Option<&'a str> {
        loop {
            let line = self.lines.get(self.at)?.trim();
            self.at += 1;
            if !line.is_empty() && !line.starts_with('#') {
                return Some(line);
            }
        }
    }

    /// The lines that are indented and belong to the one before.
    fn indented(&mut self) -> Option<&'a str> {
        let line = self.lines.get(self.at)?;
        if !line.starts_with(' ') || line.trim().is_empty() {
            return None;
        }
        self.at += 1;
        Some(line.trim())
    }

    fn line(&mut self, case: &mut Case, line: &str) -> anyhow::Result<()> {
        let number = self.at;
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let rest = rest.trim();
        let action = match word {
            "hooks" => {
                let hooks = rest.split_whitespace().map(hook).collect::<anyhow::Result<Vec<_>>>()?;
                let mut forwardings: Vec<Forwarding> = case.variants.iter().map(|variant| variant.forwarding).collect();
                forwardings.dedup();
                case.variants = variants(&hooks, &forwardings);
                return Ok(());
            }
            "forwarding" => {
                let forwardings = rest.split_whitespace().map(forwarding).collect::<anyhow::Result<Vec<_>>>()?;
                let mut hooks: Vec<Hook> = case.variants.iter().map(|variant| variant.hook).collect();
                hooks.dedup();
                case.variants = variants(&hooks, &forwardings);
                return Ok(());
            }
            "service" => Action::Service(service(rest)?),
            "no" => {
                let at = rest.strip_prefix("service ").context("`no service VIP:PORT/PROTOCOL`")?;
                Action::NoService(port(at.trim())?)
            }
            "vip" => {
                let (vip, place) = rest.split_once(' ').context("`vip NAME owned|carried|elsewhere|gone`")?;
                Action::Vip(vip.to_owned(), ownership(place.trim())?)
            }
            "mode" => Action::Mode(mode(rest)?),
            "yields" if rest.is_empty() => Action::Yields,
            "withdraws" if rest.is_empty() => Action::Withdraws,
            "settle" => Action::Settle(rest.to_owned()),
            "unattended" if rest.is_empty() => Action::Unattended,
            "age" => Action::Age(rest.parse().context("`age SECONDS`")?),
            "reap" if rest.is_empty() => Action::Reap,
            "restart" if rest.is_empty() => Action::Restart,
            "in" | "out" => Action::Packet(Box::new(self.packet(word == "in", rest)?)),
            "->" => bail!("nothing has arrived or left that this could be expected of"),
            other => bail!("`{other}` is no line of a case"),
        };
        case.actions.push((number, action));
        Ok(())
    }

    fn packet(&mut self, arrives: bool, rest: &str) -> anyhow::Result<Packet> {
        let (interface, start) = rest.split_once(' ').context("`in INTERFACE FRAME`")?;
        let mut text = start.to_owned();
        let mut expectations: Vec<Expectation> = Vec::new();
        // The frame that a line began, until it is complete.
        let mut frames: Vec<String> = Vec::new();
        let mut first = self.at;
        while let Some(line) = self.indented() {
            match (line.strip_prefix("->"), frames.last_mut()) {
                (Some(expected), _) => {
                    expectations.push(expectation(expected)?);
                    frames.push(String::new());
                }
                (None, Some(frame)) => *frame = format!("{frame} {line}"),
                (None, None) => {
                    text = format!("{text} {line}");
                    first = self.at;
                }
            }
        }
        for (expectation, frame) in expectations.iter_mut().zip(&frames) {
            let unchanged = expectation.seen.frame.is_none();
            ensure!(unchanged || !frame.trim().is_empty() || expectation.seen.verdict == "drop", "`->` lacks a frame");
            if !frame.trim().is_empty() {
                ensure!(!unchanged, "what is unchanged needs no frame");
                let frame = Frame::parse(frame, self.names).with_context(|| format!("in `{}`", frame.trim()))?;
                expectation.seen.frame = Some(frame.to_bytes());
            }
        }
        let frame = Frame::parse(&text, self.names).with_context(|| format!("in `{text}`"))?.to_bytes();
        Ok(Packet { arrives, interface: interface.to_owned(), frame, expectations, lines: first..self.at })
    }
}

/// `[WORDS:] OUTCOME VERDICT [unchanged]`.
fn expectation(text: &str) -> anyhow::Result<Expectation> {
    let (when, what) = text.split_once(':').unwrap_or(("", text));
    let when: Vec<String> = when.split_whitespace().map(str::to_owned).collect();
    for word in &when {
        ensure!(["tc", "xdp", "direct", "stack"].contains(&word.as_str()), "`{word}` is no hook and no forwarding");
    }
    let words: Vec<&str> = what.split_whitespace().collect();
    let (outcome, verdict, unchanged) = match words[..] {
        [outcome, verdict] => (outcome, verdict, verdict == "drop"),
        [outcome, verdict, "unchanged"] => (outcome, verdict, true),
        _ => bail!("`-> OUTCOME VERDICT [unchanged]`"),
    };
    ensure!(["pass", "redirect", "drop"].contains(&verdict), "`{verdict}` is none of pass, redirect, drop");
    let frame = (!unchanged).then(Vec::new);
    Ok(Expectation { when, seen: Seen { outcome: outcome.to_owned(), verdict: verdict.to_owned(), frame } })
}

fn hook(word: &str) -> anyhow::Result<Hook> {
    match word {
        "tc" => Ok(Hook::Tc),
        "xdp" => Ok(Hook::Xdp),
        other => bail!("`{other}` is no hook: tc, xdp"),
    }
}

fn forwarding(word: &str) -> anyhow::Result<Forwarding> {
    match word {
        "direct" => Ok(Forwarding::Direct),
        "stack" => Ok(Forwarding::Stack),
        other => bail!("`{other}` is no way of forwarding: direct, stack"),
    }
}

fn ownership(word: &str) -> anyhow::Result<Ownership> {
    match word {
        "owned" => Ok(Ownership::Owned),
        "carried" => Ok(Ownership::Carried),
        "elsewhere" => Ok(Ownership::Elsewhere),
        "gone" => Ok(Ownership::Gone),
        other => bail!("a VIP is owned, carried, elsewhere or gone, not `{other}`"),
    }
}

fn mode(word: &str) -> anyhow::Result<Mode> {
    match word {
        "active" => Ok(Mode::Active),
        "observe" => Ok(Mode::Observe),
        "bypass" => Ok(Mode::Bypass),
        other => bail!("`{other}` is no mode: active, observe, bypass"),
    }
}

/// `VIP:PORT/PROTOCOL`.
fn port(text: &str) -> anyhow::Result<Port> {
    let form = || format!("`{text}` is not VIP:PORT/PROTOCOL");
    let (vip, rest) = text.split_once(':').with_context(form)?;
    let (port, protocol) = rest.split_once('/').with_context(form)?;
    let protocol = match protocol {
        "tcp" => TCP,
        "udp" => UDP,
        other => bail!("`{other}` is neither tcp nor udp"),
    };
    Ok(Port { vip: vip.to_owned(), port: port.parse().with_context(form)?, protocol })
}

/// `VIP:PORT/PROTOCOL [with OPTION, …] -> [BACKEND:PORT [drain|down], …]`.
fn service(text: &str) -> anyhow::Result<Service> {
    let (at, backends) = text.split_once("->").context("`service VIP:PORT/PROTOCOL -> BACKEND:PORT, …`")?;
    let (at, options) = at.split_once(" with ").unwrap_or((at, ""));
    let list = |text: &str| -> Vec<String> {
        text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
    };
    let backends = list(backends).iter().map(|text| backend(text)).collect::<anyhow::Result<_>>()?;
    Ok(Service { at: port(at.trim())?, options: list(options), backends })
}

fn backend(text: &str) -> anyhow::Result<(String, u16, BackendState)> {
    let (place, state) = text.split_once(' ').unwrap_or((text, "active"));
    let state = match state.trim() {
        "active" => BackendState::Active,
        "drain" => BackendState::Drain,
        "down" => BackendState::Down,
        other => bail!("a backend is active, drain or down, not `{other}`"),
    };
    let (name, port) = place.split_once(':').with_context(|| format!("`{place}` is not BACKEND:PORT"))?;
    Ok((name.to_owned(), port.parse().with_context(|| format!("`{port}` is no port"))?, state))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> anyhow::Result<Fixture> {
        static FILES: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = FILES.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("evenkeel-{}-{number}.txt", std::process::id()));
        fs::write(&path, text)?;
        let fixture = Fixture::read(&path, &crate::node::names()?);
        fs::remove_file(&path)?;
        fixture
    }

    const PACKET: &str = "in uplink eth client > node / ip client > vip / tcp 1 > 80 S";

    #[test]
    fn a_case_has_its_variants_and_actions() {
        let text = format!(
            "# comment\ncase one\nhooks xdp\nforwarding direct stack\nservice vip:80/tcp with affinity, flows 2 -> \
             backend1:8080 drain, backend2:81\n{PACKET}\n  / \"more\"\n  -> tc: drop_ttl drop\n  -> drop_no_backend drop\n"
        );
        let fixture = read(&text).unwrap();
        let case = &fixture.cases[0];
        assert_eq!(case.title, "one");
        assert_eq!(case.variants, variants(&[Hook::Xdp], &[Forwarding::Direct, Forwarding::Stack]));
        let Action::Service(service) = &case.actions[0].1 else { panic!("no service") };
        assert_eq!(service.options, ["affinity", "flows 2"]);
        assert_eq!(service.backends[0], ("backend1".to_owned(), 8080, BackendState::Drain));
        assert_eq!(service.backends[1], ("backend2".to_owned(), 81, BackendState::Active));
        let Action::Packet(packet) = &case.actions[1].1 else { panic!("no packet") };
        assert!(packet.arrives && packet.frame.ends_with(b"more"));
        assert_eq!(packet.expectations.len(), 2);
        assert_eq!(packet.lines, 7..9);
    }

    #[test]
    fn errors_name_file_and_line() {
        for (text, wanted) in [
            ("service vip:80/tcp -> backend1:80", "a file begins with `case TITLE`"),
            ("case x", "a case without a packet shows nothing"),
            (&format!("case x\n{PACKET}\ncase x\n{PACKET}"), "there is a case of this title already"),
            ("case x\nservice vip:80/sctp -> backend1:80", "`sctp` is neither tcp nor udp"),
            ("case x\nservice vip:80/tcp -> backend1:80 gone", "a backend is active, drain or down, not `gone`"),
            ("case x\nin uplink eth client > node / ipx", "there is no layer `ipx`"),
            (&format!("case x\n{PACKET}\n  -> forward_new redirect"), "`->` lacks a frame"),
            (&format!("case x\n{PACKET}\n  -> forward_new sent"), "`sent` is none of pass, redirect, drop"),
            (&format!("case x\n{PACKET}\n  -> ipv6: pass_arp pass unchanged"), "`ipv6` is no hook and no forwarding"),
            ("case x\nhooks tcx", "`tcx` is no hook"),
            ("case x\nagee 3", "`agee` is no line of a case"),
        ] {
            let error = format!("{:#}", read(text).unwrap_err());
            assert!(error.contains(wanted) && error.contains(".txt:"), "{text}: {error}");
        }
    }
}
