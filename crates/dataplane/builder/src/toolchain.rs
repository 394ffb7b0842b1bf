//! Finding a compiler together with the sources of its own `core`, and the linker.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

/// How to get a toolchain that can build the eBPF programs.
pub const INSTALL_HINT: &str = "\
To build the eBPF programs, install one of
  rustup:  rustup toolchain install nightly --component rust-src
  Debian:  apt-get install --no-install-recommends rustc-web cargo-web rust-web-src llvm-22-dev
and the linker:
  cargo install bpf-linker --version 0.13.0 --locked
  (with Debian's LLVM: LLVM_PREFIX=/usr/lib/llvm-22 and --no-default-features --features llvm-22)";

/// A compiler that comes with the sources of its `core`, and a linker for eBPF.
#[derive(Clone, Debug)]
pub struct Toolchain {
    /// Its cargo.
    pub cargo: PathBuf,
    /// Its compiler.
    pub rustc: PathBuf,
    /// The compiler's version line, as `rustc -V` prints it.
    pub version: String,
    /// The compiler's installation root.
    pub sysroot: PathBuf,
    /// `bpf-linker`.
    pub linker: PathBuf,
}

impl Toolchain {
    /// The first complete toolchain: a distribution's compiler with matching sources, else rustup's nightly.
    #[must_use]
    pub fn find() -> Option<Self> {
        let linker = find_linker()?;
        let nightly = || {
            let path = output(Command::new("rustup").args(["which", "--toolchain", "nightly", "rustc"]))?;
            Some(PathBuf::from(path).parent()?.to_owned())
        };
        Self::in_directory(Path::new("/usr/bin"), &linker).or_else(|| Self::in_directory(&nightly()?, &linker))
    }

    fn in_directory(directory: &Path, linker: &Path) -> Option<Self> {
        let (cargo, rustc) = (directory.join("cargo"), directory.join("rustc"));
        if !cargo.is_file() || !rustc.is_file() {
            return None;
        }
        let version = output(Command::new(&rustc).arg("-V"))?;
        let sysroot = PathBuf::from(output(Command::new(&rustc).args(["--print", "sysroot"]))?);
        // The lock file of the standard library's own workspace: without it `-Z build-std` cannot start.
        if !sysroot.join("lib/rustlib/src/rust/library/Cargo.lock").is_file() {
            return None;
        }
        Some(Self { cargo, rustc, version, sysroot, linker: linker.to_owned() })
    }

    /// Compiler flags: BTF, and paths that do not tell where the build ran, so that it can be repeated elsewhere.
    pub(crate) fn flags(&self, workspace: &Path) -> Vec<String> {
        let remap = |from: &Path, to: &str| format!("--remap-path-prefix={}={to}", from.display());
        let mut flags = vec![
            "-Cdebuginfo=2".to_owned(),
            // Atomic exchange, and jumps on 32 bits; kernel 5.12.
            "-Ctarget-cpu=v3".to_owned(),
            "-Clink-arg=--btf".to_owned(),
            format!("-Clinker={}", self.linker.display()),
            // aya's bindings to the kernel's headers are generated a CPU architecture each.
            format!("--cfg=bpf_target_arch=\"{}\"", env::consts::ARCH),
            remap(workspace, "evenkeel"),
            remap(&self.sysroot, "rust"),
        ];
        if let Some(home) = cargo_home() {
            flags.push(remap(&home, "cargo"));
        }
        flags
    }
}

fn cargo_home() -> Option<PathBuf> {
    env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")))
}

fn find_linker() -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    let mut directories: Vec<PathBuf> = env::split_paths(&path).collect();
    directories.extend(cargo_home().map(|home| home.join("bin")));
    directories.into_iter().map(|directory| directory.join("bpf-linker")).find(|file| file.is_file())
}

fn output(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}
