//! Builds the eBPF object with a matching toolchain, or falls back to the committed one.
//!
//! The kernel side needs `core` compiled for `bpfel-unknown-none` from the sources of the very compiler that builds it.
//! Few machines have that, so a stripped object is committed beside its source. It carries two notes of its own, in
//! sections that the kernel ignores: the compiler that built it and a digest of the sources it was built from. An object
//! whose digest does not match the sources is never used.

mod object_file;
mod toolchain;

use std::{
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use sha2::{Digest, Sha256};

pub use object_file::{Notes, notes};
pub use toolchain::{INSTALL_HINT, Toolchain};

/// Where the committed object lies, from the workspace root.
pub const COMMITTED: &str = "crates/dataplane/loader/object/evenkeel.bpf.o";

/// Directories and files the object depends on, from the workspace root.
pub const SOURCES: [&str; 4] = [
    "crates/dataplane/maps/Cargo.toml",
    "crates/dataplane/maps/src",
    "crates/dataplane/programs/Cargo.toml",
    "crates/dataplane/programs/src",
];

/// Environment variable that forces a choice: `build` or `committed`.
pub const CHOICE: &str = "EVENKEEL_BPF";

/// Why there is no object.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A program of the toolchain could not be started.
    #[error("cannot run {program}: {source}")]
    Run {
        /// The program.
        program: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The compiler refused the sources.
    #[error("the eBPF programs do not compile with {compiler}:\n{output}")]
    Compile {
        /// The compiler's version line.
        compiler: String,
        /// What it printed.
        output: String,
    },
    /// What came out is no object we know.
    #[error("{path} is not an eBPF object of this project: {reason}")]
    NotAnObject {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The committed object is older than its sources, and nothing here can build a new one.
    #[error(
        "the eBPF sources have changed since {COMMITTED} was built, and this machine has no toolchain that can rebuild \
         it.\n{INSTALL_HINT}"
    )]
    Stale,
    /// [`CHOICE`] asks for a build, and nothing here can build.
    #[error("{CHOICE}=build, but this machine has no matching toolchain.\n{INSTALL_HINT}")]
    NoToolchain,
    /// [`CHOICE`] holds something else.
    #[error("{CHOICE}={0}: expected `build` or `committed`")]
    BadChoice(String),
}

/// An object ready to be embedded.
#[derive(Debug)]
pub struct Object {
    /// The file.
    pub path: PathBuf,
    /// The compiler's version line.
    pub compiler: String,
    /// Whether it was built just now, and not taken from the tree.
    pub built: bool,
}

/// The object for the sources under `workspace`: built below `target_directory` with a matching toolchain if there is
/// one, else the committed one.
///
/// # Errors
/// When neither can be had; the message names the remedy.
pub fn object(workspace: &Path, target_directory: &Path, choice: Option<&str>) -> Result<Object, Error> {
    let may_build = match choice {
        None | Some("") => true,
        Some("build") => true,
        Some("committed") => false,
        Some(other) => return Err(Error::BadChoice(other.to_owned())),
    };
    if may_build && let Some(toolchain) = Toolchain::find() {
        return build(workspace, target_directory, &toolchain);
    }
    if choice == Some("build") {
        return Err(Error::NoToolchain);
    }
    let path = workspace.join(COMMITTED);
    let notes = notes(&path)?;
    if notes.sources != sources_digest(workspace)? {
        return Err(Error::Stale);
    }
    Ok(Object { path, compiler: notes.compiler, built: false })
}

/// Builds the object and strips its debug information, which leaves BTF.
///
/// # Errors
/// When the toolchain cannot be run or refuses the sources.
pub fn build(workspace: &Path, target_directory: &Path, toolchain: &Toolchain) -> Result<Object, Error> {
    let notes =
        [("EVENKEEL_BPF_COMPILER", toolchain.version.clone()), ("EVENKEEL_BPF_SOURCES", sources_digest(workspace)?)];
    let linked = compile(workspace, target_directory, toolchain, "evenkeel-programs", &notes)?;
    let path = target_directory.join("evenkeel.bpf.o");
    object_file::strip(&linked, &path)?;
    Ok(Object { path, compiler: toolchain.version.clone(), built: true })
}

/// Builds the programs of the benchmarks, which are never committed nor shipped.
///
/// # Errors
/// When the toolchain cannot be run or refuses the sources.
pub fn build_harness(workspace: &Path, target_directory: &Path, toolchain: &Toolchain) -> Result<Object, Error> {
    let path = compile(workspace, target_directory, toolchain, "evenkeel-harness", &[])?;
    Ok(Object { path, compiler: toolchain.version.clone(), built: true })
}

/// Compiles and links a package of programs, with `notes` in its environment.
fn compile(
    workspace: &Path,
    target_directory: &Path,
    toolchain: &Toolchain,
    package: &str,
    notes: &[(&str, String)],
) -> Result<PathBuf, Error> {
    let mut command = Command::new(&toolchain.cargo);
    command
        .current_dir(workspace)
        .args(["build", "--release", "--locked", "--package", package])
        .args(["--target", "bpfel-unknown-none", "-Z", "build-std=core", "--target-dir"])
        .arg(target_directory);
    // A build script inherits the outer cargo's choices; none of them is meant for this target.
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("CARGO") && name != "CARGO_HOME" || name.starts_with("RUST") && name != "RUSTUP_HOME" {
            command.env_remove(name.as_ref());
        }
    }
    // `core` is built from source, which stable compilers allow only under this name. It must not reach host crates.
    command.env("RUSTC_BOOTSTRAP", "1");
    command.env("CARGO_ENCODED_RUSTFLAGS", toolchain.flags(workspace).join("\u{1f}"));
    command.envs(notes.iter().map(|(name, value)| (name, value)));
    command.env("RUSTC", &toolchain.rustc);
    let output = command.output().map_err(|source| Error::Run { program: toolchain.cargo.clone(), source })?;
    if !output.status.success() {
        return Err(Error::Compile {
            compiler: toolchain.version.clone(),
            output: String::from_utf8_lossy(&output.stderr).into_owned(),
        });
    }
    Ok(target_directory.join("bpfel-unknown-none/release").join(package))
}

/// SHA-256 over the paths and contents of [`SOURCES`], in hexadecimal.
///
/// # Errors
/// When a source cannot be read.
pub fn sources_digest(workspace: &Path) -> Result<String, Error> {
    let mut files = Vec::new();
    for source in SOURCES {
        collect(&workspace.join(source), &mut files)?;
    }
    files.sort();
    let mut digest = Sha256::new();
    for file in files {
        let relative = file.strip_prefix(workspace).unwrap_or(&file).to_string_lossy().into_owned();
        let contents = read(&file)?;
        digest.update(relative.as_bytes());
        digest.update([0]);
        digest.update((contents.len() as u64).to_le_bytes());
        digest.update(&contents);
    }
    Ok(hexadecimal(digest))
}

/// SHA-256 over a file, in hexadecimal.
///
/// # Errors
/// When it cannot be read.
pub fn file_digest(path: &Path) -> Result<String, Error> {
    let mut digest = Sha256::new();
    digest.update(read(path)?);
    Ok(hexadecimal(digest))
}

fn hexadecimal(digest: Sha256) -> String {
    let mut text = String::new();
    for byte in digest.finalize() {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) -> Result<(), Error> {
    if !path.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    let file_error = |source| Error::File { path: path.to_owned(), source };
    for entry in fs::read_dir(path).map_err(file_error)? {
        collect(&entry.map_err(file_error)?.path(), files)?;
    }
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|source| Error::File { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workspace() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..")
    }

    /// A workspace with the sources and the committed object, and nothing else.
    fn copy() -> tempfile::TempDir {
        let copy = tempfile::tempdir().unwrap();
        let mut files = vec![workspace().join(COMMITTED)];
        for source in SOURCES {
            collect(&workspace().join(source), &mut files).unwrap();
        }
        for file in files {
            let to = copy.path().join(file.strip_prefix(workspace()).unwrap());
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(file, to).unwrap();
        }
        copy
    }

    fn committed(workspace: &Path) -> Result<Object, Error> {
        object(workspace, &workspace.join("target"), Some("committed"))
    }

    #[test]
    fn the_committed_object_is_that_of_its_sources() {
        let object = committed(&workspace()).unwrap();
        assert!(!object.built);
        assert!(object.compiler.starts_with("rustc "), "{}", object.compiler);
    }

    #[test]
    fn an_object_older_than_its_sources_is_refused_with_a_remedy() {
        let workspace = copy();
        committed(workspace.path()).unwrap();
        let source = workspace.path().join("crates/dataplane/programs/src/main.rs");
        fs::write(&source, fs::read_to_string(&source).unwrap() + "\n").unwrap();
        let error = committed(workspace.path()).unwrap_err();
        assert!(matches!(error, Error::Stale), "{error}");
        assert!(error.to_string().contains("bpf-linker"), "{error}");
    }

    #[test]
    fn a_new_source_file_changes_the_digest() {
        let workspace = copy();
        let before = sources_digest(workspace.path()).unwrap();
        fs::write(workspace.path().join("crates/dataplane/maps/src/new.rs"), "").unwrap();
        assert_ne!(sources_digest(workspace.path()).unwrap(), before);
    }

    #[test]
    fn what_is_no_object_of_ours_is_refused() {
        let workspace = copy();
        fs::write(workspace.path().join(COMMITTED), b"not an ELF file").unwrap();
        assert!(matches!(committed(workspace.path()), Err(Error::NotAnObject { .. })));
        assert!(matches!(object(workspace.path(), workspace.path(), Some("maybe")), Err(Error::BadChoice(_))));
    }
}
