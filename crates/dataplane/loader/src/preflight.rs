//! What the kernel and the process must offer, checked before anything is touched.

use std::{fmt, fs, path::Path};

use aya::util::KernelVersion;

use crate::{
    hook::{Hook, HookChoice},
    pins::BPFFS,
};

/// The oldest kernel the data plane runs on, and the first one with tcx links.
const FLOOR: (u8, u8) = (5, 15);
const TCX_SINCE: (u8, u8) = (6, 6);
/// The first kernel with XDP for frames in several buffers.
const XDP_SINCE: (u8, u8) = (5, 18);

/// `BPF_FS_MAGIC` of linux/magic.h.
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;

/// What is checked; the names appear in messages and in `-o json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// Kernel version.
    KernelVersion,
    /// Type information of the kernel.
    Btf,
    /// The file system that holds pins.
    Bpffs,
    /// tcx links, where they are asked for.
    Tcx,
    /// XDP, where it is asked for.
    Xdp,
    /// Root, or the capabilities that stand for it here.
    Privilege,
}

impl Check {
    /// The name in output.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::KernelVersion => "kernel_version",
            Self::Btf => "kernel_btf",
            Self::Bpffs => "bpffs",
            Self::Tcx => "tcx",
            Self::Xdp => "xdp",
            Self::Privilege => "privilege",
        }
    }
}

/// Something missing, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Which check failed.
    pub check: Check,
    /// What was found.
    pub found: String,
    /// What to do.
    pub remedy: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}. {}", self.check.name(), self.found, self.remedy)
    }
}

/// What this machine offers.
#[derive(Clone, Debug)]
pub struct Preflight {
    /// Kernel version, major and minor; `None` if it could not be read.
    pub kernel: Option<(u8, u8)>,
    /// `/sys/kernel/btf/vmlinux` is there.
    pub btf: bool,
    /// bpffs is mounted at its usual place.
    pub bpffs: bool,
    /// The process may load programs and change interfaces.
    pub privileged: bool,
}

impl Preflight {
    /// Looks at this machine. Changes nothing.
    #[must_use]
    pub fn look() -> Self {
        Self {
            kernel: kernel(),
            btf: Path::new("/sys/kernel/btf/vmlinux").exists(),
            bpffs: is_bpffs(Path::new(BPFFS)),
            privileged: has_capabilities(),
        }
    }

    /// Whether the kernel has tcx links; older ones get clsact filters.
    #[must_use]
    pub fn has_tcx(&self) -> bool {
        self.kernel >= Some(TCX_SINCE)
    }

    /// Whether the kernel runs the XDP program.
    #[must_use]
    pub fn has_xdp(&self) -> bool {
        self.kernel >= Some(XDP_SINCE)
    }

    /// Everything that is missing for this choice of hook.
    #[must_use]
    pub fn problems(&self, hooks: &HookChoice) -> Vec<Problem> {
        let mut problems = Vec::new();
        if self.kernel.is_none_or(|version| version < FLOOR) {
            problems.push(Problem {
                check: Check::KernelVersion,
                found: match self.kernel {
                    Some((major, minor)) => format!("this kernel is {major}.{minor}"),
                    None => "the kernel version cannot be read".to_owned(),
                },
                remedy: format!("Boot kernel {}.{} or newer", FLOOR.0, FLOOR.1),
            });
        }
        if !self.btf {
            problems.push(Problem {
                check: Check::Btf,
                found: "/sys/kernel/btf/vmlinux is missing".to_owned(),
                remedy: "Use a kernel built with CONFIG_DEBUG_INFO_BTF=y (those of Debian and Ubuntu are)".to_owned(),
            });
        }
        if hooks.has(Hook::Tcx) && !self.has_tcx() {
            problems.push(Problem {
                check: Check::Tcx,
                found: "this kernel has no tcx links, which came with 6.6".to_owned(),
                remedy: "Use --hook auto, which attaches clsact filters here".to_owned(),
            });
        }
        if (hooks.has(Hook::Xdp) || hooks.has(Hook::XdpGeneric)) && !self.has_xdp() {
            problems.push(Problem {
                check: Check::Xdp,
                found: "this kernel has no XDP for frames in several buffers, which came with 5.18".to_owned(),
                remedy: "Use --hook auto, which attaches clsact filters here".to_owned(),
            });
        }
        if !self.privileged {
            problems.push(Problem {
                check: Check::Privilege,
                found: "CAP_BPF, CAP_NET_ADMIN, CAP_NET_RAW or CAP_PERFMON is missing".to_owned(),
                remedy: "Run as root (sudo)".to_owned(),
            });
        } else if !self.bpffs {
            // Without privilege this cannot be known.
            problems.push(Problem {
                check: Check::Bpffs,
                found: format!("no bpf file system is mounted at {BPFFS}"),
                remedy: format!("mount -t bpf bpf {BPFFS}"),
            });
        }
        problems
    }
}

fn kernel() -> Option<(u8, u8)> {
    // `LINUX_VERSION_CODE`: one byte each for major, minor and patch.
    let [_, major, minor, _] = KernelVersion::current().ok()?.code().to_be_bytes();
    Some((major, minor))
}

/// Whether a bpf file system is mounted at `path`.
pub(crate) fn is_bpffs(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|status| status.f_type == BPF_FS_MAGIC)
}

/// Effective capabilities of this process, capabilities(7).
fn has_capabilities() -> bool {
    const NET_ADMIN: u32 = 12;
    const NET_RAW: u32 = 13;
    const PERFMON: u32 = 38;
    const BPF: u32 = 39;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0);
    [NET_ADMIN, NET_RAW, PERFMON, BPF].iter().all(|capability| effective & (1 << capability) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Preflight {
        Preflight { kernel: Some((6, 1)), btf: true, bpffs: true, privileged: true }
    }

    fn names(machine: &Preflight, hook: &HookChoice) -> Vec<&'static str> {
        let problems = machine.problems(hook);
        assert!(problems.iter().all(|problem| !problem.remedy.is_empty()));
        problems.iter().map(|problem| problem.check.name()).collect()
    }

    #[test]
    fn a_good_machine_has_no_problems() {
        assert_eq!(good().problems(&HookChoice::default()), []);
        assert!(!good().has_tcx());
        assert!(Preflight { kernel: Some((6, 6)), ..good() }.has_tcx());
    }

    #[test]
    fn everything_that_is_missing_is_named_with_a_remedy() {
        let bare = Preflight { kernel: Some((5, 10)), btf: false, bpffs: false, privileged: true };
        assert_eq!(names(&bare, &HookChoice::default()), ["kernel_version", "kernel_btf", "bpffs"]);
        assert_eq!(names(&Preflight { privileged: false, ..good() }, &HookChoice::default()), ["privilege"]);
        assert_eq!(names(&good(), &HookChoice::only(Hook::Tcx)), ["tcx"]);
        let old = Preflight { kernel: Some((5, 15)), ..good() };
        assert_eq!(names(&old, &HookChoice::only(Hook::Xdp)), ["xdp"]);
        assert_eq!(names(&good(), &HookChoice::only(Hook::Clsact)), [""; 0]);
    }

    #[test]
    fn this_machine_has_a_kernel_version() {
        assert!(Preflight::look().kernel > Some((3, 0)));
    }
}
