//! The eBPF programs of `crates/dataplane/harness`, from user space: frames to feed, and running them.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, bail, ensure};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap, MapInfo, PerCpuArray, ProgramArray},
    programs::{ProgramFd, SchedClassifier, TestRun as _, TestRunAttrs, TestRunOptions, Xdp, loaded_programs},
};
use etherparse::{NetHeaders, PacketBuilder, PacketHeaders};
use evenkeel_builder::{INSTALL_HINT, Toolchain, build_harness};
use rustix::{
    thread::{CpuSet, sched_setaffinity},
    time::{ClockId, clock_gettime},
};

/// The words of a frame, as the programs write it.
const LONGEST: usize = 10;
/// Offset of `ifindex` in the kernel's `struct __sk_buff`, and the structure's part that a test run takes.
const SKB_IFINDEX: usize = 40;
const SKB_SIZE: usize = 192;
/// Frames that the generator sends at a time, between which its processor does other work.
const BATCH: u32 = 64;

/// Builds the object, or reads the one at `given`.
pub(super) fn object(given: Option<&Path>) -> Result<Vec<u8>> {
    let path = match given {
        Some(path) => path.to_owned(),
        None => build()?,
    };
    fs::read(&path).with_context(|| format!("reading {}", path.display()))
}

/// Builds the object unless it is newer than its sources, and returns where it lies.
pub(crate) fn build() -> Result<PathBuf> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize()?;
    let target = super::target_directory()?.join("bpf");
    // `make bench` builds it as the calling user before it raises privilege: root would leave files that are not his.
    let present = target.join("bpfel-unknown-none/release/evenkeel-harness");
    let sources = newest(&workspace.join("crates/dataplane/harness"))?;
    if fs::metadata(&present).and_then(|file| file.modified()).is_ok_and(|built| built > sources) {
        return Ok(present);
    }
    let toolchain = Toolchain::find().context(INSTALL_HINT)?;
    Ok(build_harness(&workspace, &target, &toolchain)?.path)
}

/// When something below `path` was changed last.
fn newest(path: &Path) -> Result<SystemTime> {
    let mut newest = fs::metadata(path)?.modified()?;
    if path.is_dir() {
        for entry in fs::read_dir(path)? {
            newest = newest.max(self::newest(&entry?.path())?);
        }
    }
    Ok(newest)
}

/// Where a program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(super) enum Hook {
    Xdp,
    Tc,
}

/// The version of the Internet protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(super) enum Family {
    Ipv4,
    Ipv6,
}

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Segment {
    /// TCP that opens a connection.
    Syn,
    /// TCP within one.
    Ack,
    /// TCP that answers an opening one.
    SynAck,
    Udp,
}

/// Which end of the frame is another one for each flow. Its address ends in sixteen zero bits, and its port is zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Varying {
    Source,
    Destination,
}

/// A frame whose one end varies.
#[derive(Debug, Clone)]
pub(super) struct Frame {
    bytes: Vec<u8>,
    family: Family,
    header_sum: u32,
    transport_sum: u32,
    address_at: u32,
    port_at: u32,
    checksum_at: u32,
}

/// Source and destination of a frame's Ethernet header.
#[derive(Debug, Clone, Copy)]
pub(super) struct Macs {
    pub(super) source: [u8; 6],
    pub(super) destination: [u8; 6],
}

impl Frame {
    pub(super) fn new(
        macs: Macs,
        source: SocketAddr,
        destination: SocketAddr,
        segment: Segment,
        varying: Varying,
    ) -> Result<Self> {
        const ETHERNET: usize = 14;
        let ethernet = PacketBuilder::ethernet2(macs.source, macs.destination);
        let (ip, family, header, length) = match (source.ip(), destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                (ethernet.ipv4(source.octets(), destination.octets(), 64), Family::Ipv4, 20, 64)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                (ethernet.ipv6(source.octets(), destination.octets(), 64), Family::Ipv6, 40, 80)
            }
            _ => bail!("{source} and {destination} are of two families"),
        };
        let transport = ETHERNET + header;
        let (from, to) = (source.port(), destination.port());
        let mut bytes = Vec::with_capacity(length);
        let payload = |used: usize| vec![b'x'; length - transport - used];
        let checksum_at = match segment {
            Segment::Udp => {
                ip.udp(from, to).write(&mut bytes, &payload(8))?;
                transport + 6
            }
            Segment::Syn | Segment::Ack | Segment::SynAck => {
                let tcp = ip.tcp(from, to, 1, 64_000);
                let tcp = if segment == Segment::Ack { tcp } else { tcp.syn() };
                let tcp = if segment == Segment::Syn { tcp } else { tcp.ack(2) };
                tcp.write(&mut bytes, &payload(20))?;
                transport + 16
            }
        };
        let address_length = if family == Family::Ipv4 { 4 } else { 16 };
        // Addresses are the last thing in both headers.
        let (address_at, port_at) = match varying {
            Varying::Source => (transport - address_length - 2, transport),
            Varying::Destination => (transport - 2, transport + 2),
        };
        // What a checksum covers, seen from the checksum.
        let sum = |at: usize| u32::from(!u16::from_ne_bytes([bytes[at], bytes[at + 1]]));
        let (header_sum, transport_sum) = (if family == Family::Ipv4 { sum(24) } else { 0 }, sum(checksum_at));
        ensure!(
            bytes[address_at..address_at + 2] == [0; 2] && bytes[port_at..port_at + 2] == [0; 2],
            "nothing to vary"
        );
        Ok(Self {
            bytes,
            family,
            header_sum,
            transport_sum,
            address_at: u32::try_from(address_at)?,
            port_at: u32::try_from(port_at)?,
            checksum_at: u32::try_from(checksum_at)?,
        })
    }

    fn words(&self) -> [u64; LONGEST] {
        let mut words = [0; LONGEST];
        for (word, bytes) in words.iter_mut().zip(self.bytes.chunks_exact(8)) {
            *word = bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
        }
        words
    }
}

fn load(object: &[u8], frame: &Frame, flow_bits: u32) -> Result<Ebpf> {
    EbpfLoader::new()
        .override_global("FRAME", &frame.words(), true)
        .override_global("HEADER_SUM", &frame.header_sum, true)
        .override_global("TRANSPORT_SUM", &frame.transport_sum, true)
        .override_global("ADDRESS_AT", &frame.address_at, true)
        .override_global("PORT_AT", &frame.port_at, true)
        .override_global("CHECKSUM_AT", &frame.checksum_at, true)
        .override_global("FLOW_BITS", &flow_bits, true)
        .load(object)
        .context("loading the harness")
}

/// Feeds frames to a program.
pub(super) struct Feeder {
    object: Ebpf,
    hook: Hook,
    frame: Frame,
    context: Vec<u8>,
}

impl Feeder {
    /// Two to the power of `flow_bits` flows of `frame` for `target`, as if they arrived on `interface`; without a target
    /// they pass at once, which is what the harness itself costs.
    pub(super) fn new(
        object: &[u8],
        hook: Hook,
        frame: &Frame,
        flow_bits: u32,
        interface: u32,
        target: Option<&ProgramFd>,
    ) -> Result<Self> {
        let mut object = load(object, frame, flow_bits)?;
        let pass = match hook {
            Hook::Xdp => {
                xdp(&mut object, feeder(hook, frame.family))?.load()?;
                let pass = xdp(&mut object, "xdp_pass")?;
                pass.load()?;
                pass.fd()?.try_clone()?
            }
            Hook::Tc => {
                classifier(&mut object, feeder(hook, frame.family))?.load()?;
                let pass = classifier(&mut object, "tc_pass")?;
                pass.load()?;
                pass.fd()?.try_clone()?
            }
        };
        let mut targets: ProgramArray<_> = object.map_mut("TARGET").context("no map TARGET")?.try_into()?;
        targets.set(0, target.unwrap_or(&pass), 0).context("making the program the target of a tail call")?;
        let context = match hook {
            Hook::Xdp => xdp_context(frame, interface)?,
            Hook::Tc => {
                let mut context = vec![0; SKB_SIZE];
                context[SKB_IFINDEX..SKB_IFINDEX + 4].copy_from_slice(&interface.to_ne_bytes());
                context
            }
        };
        Ok(Self { object, hook, frame: frame.clone(), context })
    }

    /// Feeds this many frames and returns the processor time that one took, in nanoseconds.
    pub(super) fn feed(&mut self, count: u32) -> Result<f64> {
        let mut options = TestRunOptions::new();
        options.data_in = Some(&self.frame.bytes);
        options.ctx_in = Some(&self.context);
        options.repeat = count;
        let name = feeder(self.hook, self.frame.family);
        // The time of this thread: others that take its processor away do not count.
        let before = clock_gettime(ClockId::ThreadCPUTime);
        match self.hook {
            Hook::Xdp => xdp(&mut self.object, name)?.test_run(options),
            Hook::Tc => classifier(&mut self.object, name)?.test_run(options),
        }
        .context("a test run of the harness")?;
        let after = clock_gettime(ClockId::ThreadCPUTime);
        let seconds = (after.tv_sec - before.tv_sec) as f64;
        Ok((seconds * 1e9 + (after.tv_nsec - before.tv_nsec) as f64) / f64::from(count))
    }

    /// One frame, as it comes out of the target; for telling where it goes.
    pub(super) fn feed_one(&mut self) -> Result<Vec<u8>> {
        let mut out = vec![0; 256];
        let mut options = TestRunOptions::new();
        options.data_in = Some(&self.frame.bytes);
        options.data_out = Some(&mut out);
        options.ctx_in = Some(&self.context);
        let name = feeder(self.hook, self.frame.family);
        let result = match self.hook {
            Hook::Xdp => xdp(&mut self.object, name)?.test_run(options),
            Hook::Tc => classifier(&mut self.object, name)?.test_run(options),
        }?;
        out.truncate(result.data_size_out as usize);
        Ok(out)
    }

    /// The next frame is that of the flow in this place of the permutation.
    pub(super) fn rewind(&mut self, place: u64) -> Result<()> {
        let mut fed: Array<_, u64> = self.object.map_mut("FED").context("no map FED")?.try_into()?;
        Ok(fed.set(0, place, 0)?)
    }
}

/// Targets that do one thing each, their maps filled.
pub(super) struct Parts {
    object: Ebpf,
}

impl Parts {
    pub(super) fn load(object: &[u8], names: &[&str]) -> Result<Self> {
        let mut object = EbpfLoader::new().load(object).context("loading the harness")?;
        for name in names {
            xdp(&mut object, name)?.load()?;
        }
        let entries = 0..5_000_u64;
        let mut small: HashMap<_, u64, u64> = object.map_mut("PART_SMALL").context("no map PART_SMALL")?.try_into()?;
        for key in entries.clone() {
            small.insert(key, key, 0)?;
        }
        for name in ["PART_WIDE", "PART_LRU"] {
            let mut wide: HashMap<_, [u64; 3], u64> = object.map_mut(name).context("no wide map")?.try_into()?;
            for key in entries.clone() {
                wide.insert([key; 3], key, 0)?;
            }
        }
        Ok(Self { object })
    }

    pub(super) fn program(&self, name: &str) -> Result<&ProgramFd> {
        let program: &Xdp = self.object.program(name).with_context(|| format!("no program {name}"))?.try_into()?;
        Ok(program.fd()?)
    }
}

/// Sends frames out of an interface as fast as it goes.
pub(super) struct Generator {
    object: Ebpf,
    frame: Frame,
    context: Vec<u8>,
}

impl Generator {
    pub(super) fn new(object: &[u8], frame: &Frame, flow_bits: u32, interface: u32) -> Result<Self> {
        let mut object = load(object, frame, flow_bits)?;
        xdp(&mut object, generator(frame.family))?.load()?;
        Ok(Self { object, frame: frame.clone(), context: xdp_context(frame, interface)? })
    }

    /// Sends this many frames.
    pub(super) fn send(&mut self, count: u32) -> Result<()> {
        let mut options = TestRunOptions::new();
        options.data_in = Some(&self.frame.bytes);
        options.ctx_in = Some(&self.context);
        options.repeat = count;
        options.attrs = TestRunAttrs::new().xdp_live_frames(BATCH);
        xdp(&mut self.object, generator(self.frame.family))?.test_run(options).context("sending live frames")?;
        Ok(())
    }
}

/// Counts and drops what arrives on an interface, as long as it lives.
pub(super) struct Sink {
    object: Ebpf,
}

impl Sink {
    /// The driver's own XDP, which also makes a virtual device take frames from another's XDP.
    pub(super) fn attach(object: &[u8], interface: &str) -> Result<Self> {
        Ok(Self { object: attach(object, "xdp_count", interface)? })
    }

    pub(super) fn arrived(&self) -> Result<u64> {
        let arrived: PerCpuArray<_, u64> = self.object.map("ARRIVED").context("no map ARRIVED")?.try_into()?;
        Ok(arrived.get(&0, 0)?.iter().sum())
    }
}

fn attach(object: &[u8], program: &str, interface: &str) -> Result<Ebpf> {
    let mut object = EbpfLoader::new().load(object).context("loading the harness")?;
    let program = xdp(&mut object, program)?;
    program.load()?;
    program.attach(interface, aya::programs::XdpMode::Driver).with_context(|| format!("attaching to {interface}"))?;
    Ok(object)
}

fn xdp<'a>(object: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    Ok(object.program_mut(name).with_context(|| format!("no program {name}"))?.try_into()?)
}

fn classifier<'a>(object: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier> {
    Ok(object.program_mut(name).with_context(|| format!("no program {name}"))?.try_into()?)
}

const fn feeder(hook: Hook, family: Family) -> &'static str {
    match (hook, family) {
        (Hook::Xdp, Family::Ipv4) => "feed_xdp4",
        (Hook::Xdp, Family::Ipv6) => "feed_xdp6",
        (Hook::Tc, Family::Ipv4) => "feed_tc4",
        (Hook::Tc, Family::Ipv6) => "feed_tc6",
    }
}

const fn generator(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "generate4",
        Family::Ipv6 => "generate6",
    }
}

/// `struct xdp_md` for a frame that arrives on `interface`: start, end, metadata, interface, queue, way out.
fn xdp_context(frame: &Frame, interface: u32) -> Result<Vec<u8>> {
    let length = u32::try_from(frame.bytes.len())?;
    Ok([0, length, 0, interface, 0, 0].into_iter().flat_map(u32::to_ne_bytes).collect())
}

/// The loaded program of this name that uses the map pinned at `pin`: that of one data plane among those on the machine.
pub(super) fn program_on(pin: &Path, name: &str) -> Result<ProgramFd> {
    let map = MapInfo::from_pin(pin).with_context(|| format!("no map is pinned at {}", pin.display()))?.id();
    let mut found = None;
    for program in loaded_programs() {
        let Ok(program) = program else { continue };
        if program.name_as_str() == Some(name) && program.map_ids()?.is_some_and(|maps| maps.contains(&map)) {
            found = Some(program.fd()?);
        }
    }
    found.with_context(|| format!("no program {name} uses the map at {}", pin.display()))
}

/// Whether a frame is whole, its checksums right.
pub(super) fn check(frame: &[u8]) -> Result<()> {
    let headers = PacketHeaders::from_ethernet_slice(frame)?;
    let transport = headers.transport.context("neither TCP nor UDP")?;
    let mut right = transport.clone();
    match headers.net.context("no IP")? {
        NetHeaders::Ipv4(ip, _) => {
            ensure!(ip.calc_header_checksum() == ip.header_checksum, "the checksum of the header is wrong");
            right.update_checksum_ipv4(&ip, headers.payload.slice())?;
        }
        NetHeaders::Ipv6(ip, _) => right.update_checksum_ipv6(&ip, headers.payload.slice())?,
        NetHeaders::Arp(_) => bail!("ARP"),
    }
    ensure!(transport == right, "the checksum of {transport:?} is wrong");
    Ok(())
}

/// Keeps the calling thread on one processor.
pub(super) fn pin_to(processor: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(processor);
    sched_setaffinity(None, &set).with_context(|| format!("staying on processor {processor}"))
}

/// How long something may take that should take no time, such as the kernel's deferred work.
pub(super) const GRACE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    const MACS: Macs = Macs { source: [2, 0, 0, 0, 0, 1], destination: [2, 0, 0, 0, 0, 2] };

    /// The frame of the flow whose address ends in 1.2 and whose port is 40,000, as the programs complete it.
    fn completed(template: &Frame) -> Vec<u8> {
        let mut bytes = template.bytes.clone();
        let mut put = |at: u32, value: [u8; 2]| bytes[at as usize..at as usize + 2].copy_from_slice(&value);
        let (address, port) = ([1, 2], 40_000_u16.to_be_bytes());
        let checksum = |sum: u32, words: &[[u8; 2]]| {
            let sum = words.iter().fold(sum, |sum, word| sum + u32::from(u16::from_ne_bytes(*word)));
            let sum = (sum & 0xffff) + (sum >> 16);
            (!u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap()).to_ne_bytes()
        };
        put(template.address_at, address);
        put(template.port_at, port);
        put(template.checksum_at, checksum(template.transport_sum, &[address, port]));
        if template.family == Family::Ipv4 {
            put(24, checksum(template.header_sum, &[address]));
        }
        bytes
    }

    #[test]
    fn the_sums_are_those_of_the_frame_without_what_varies() {
        for (base, other) in [("10.128.0.0:0", "10.0.0.1:80"), ("[fd00::]:0", "[fd01::1]:80")] {
            let (base, other): (SocketAddr, SocketAddr) = (base.parse().unwrap(), other.parse().unwrap());
            for segment in [Segment::Syn, Segment::Ack, Segment::SynAck, Segment::Udp] {
                for (from, to, varying) in [(base, other, Varying::Source), (other, base, Varying::Destination)] {
                    let template = Frame::new(MACS, from, to, segment, varying).unwrap();
                    let bytes = completed(&template);
                    assert_eq!(bytes.len() % 8, 0);
                    check(&bytes).unwrap();
                    bytes.iter().enumerate().skip(template.checksum_at as usize + 2).for_each(|(at, byte)| {
                        let mut broken = bytes.clone();
                        broken[at] = !byte;
                        assert!(check(&broken).is_err(), "{segment:?}: byte {at} is not covered");
                    });
                }
            }
        }
    }

    #[test]
    fn an_end_that_does_not_vary_is_refused() {
        let (from, to) = ("10.0.0.1:5".parse().unwrap(), "10.0.0.2:80".parse().unwrap());
        assert!(Frame::new(MACS, from, to, Segment::Syn, Varying::Source).is_err());
    }
}
