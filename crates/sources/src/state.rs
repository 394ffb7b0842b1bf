//! The file that remembers a [`Memory`] between runs: `state.json` in the state directory.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use evenkeel_plan::Memory;
use evenkeel_plan::memory::{OLDEST_VERSION, VERSION};

/// The file's name within the state directory.
pub const FILE_NAME: &str = "state.json";

/// Why the memory cannot be loaded or stored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// Reading or writing failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file is not what [`store`] writes. It is left in place: it may be all that is known of held addresses.
    #[error(
        "{} is damaged ({source}); restore it, or move it away to start without held addresses and owners",
        path.display()
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The file was written by another version of the program.
    #[error("{} has version {found}, but this program reads versions {OLDEST_VERSION} to {VERSION}; use the program that wrote it", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// The version it has.
        found: u64,
    },
}

impl StateError {
    /// The named reason.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Io { .. } => "state_unreadable",
            Self::Corrupt { .. } => "state_corrupt",
            Self::Version { .. } => "state_version",
        }
    }
}

/// Load the memory from a state directory. Without a file there is nothing to remember, which is how every first run
/// starts.
///
/// # Errors
/// [`StateError`] when the file exists but cannot be read as a memory of our version.
pub fn load(directory: &Path) -> Result<Memory, StateError> {
    let path = directory.join(FILE_NAME);
    let content = match fs::read(&path) {
        Ok(content) => content,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Memory::default()),
        Err(source) => return Err(StateError::Io { action: "read", path, source }),
    };
    let corrupt = |source| StateError::Corrupt { path: path.clone(), source };
    let value: serde_json::Value = serde_json::from_slice(&content).map_err(corrupt)?;
    // The version is looked at first: another version may have another shape.
    match value.get("version").and_then(serde_json::Value::as_u64) {
        Some(found) if !(OLDEST_VERSION.into()..=VERSION.into()).contains(&found) => {
            Err(StateError::Version { path, found })
        }
        // What is stored next is of our version.
        _ => Ok(Memory { version: VERSION, ..serde_json::from_value(value).map_err(corrupt)? }),
    }
}

/// Store the memory in a state directory, which is created if need be. A crash at any moment leaves the old file or
/// the new one.
///
/// # Errors
/// [`StateError::Io`] when the disk does not take it.
pub fn store(directory: &Path, memory: &Memory) -> Result<(), StateError> {
    let path = directory.join(FILE_NAME);
    let temporary = directory.join(format!(".{FILE_NAME}.new"));
    let io = |action, path: &Path| {
        let path = path.to_owned();
        move |source| StateError::Io { action, path, source }
    };
    let mut content = serde_json::to_vec_pretty(memory).map_err(|error| io("write", &path)(io::Error::other(error)))?;
    content.push(b'\n');
    fs::create_dir_all(directory).map_err(io("create", directory))?;
    let mut file = File::create(&temporary).map_err(io("create", &temporary))?;
    file.write_all(&content).and_then(|()| file.sync_all()).map_err(io("write", &temporary))?;
    fs::rename(&temporary, &path).map_err(io("replace", &path))?;
    // The rename itself is only on the disk once the directory is.
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(io("write", directory))
}

#[cfg(test)]
mod tests {
    use super::*;
    use evenkeel_plan::memory::Holding;
    use evenkeel_plan::world::ObjectName;

    #[test]
    fn what_is_stored_is_loaded() {
        let directory = tempfile::tempdir().unwrap();
        let below = directory.path().join("not/there/yet");
        assert_eq!(load(&below).unwrap(), Memory::default());
        let mut memory = Memory::default();
        let holding = Holding { addresses: vec!["10.0.0.53".parse().unwrap()], sharing: None };
        memory.allocations.insert(ObjectName::new("default", "dns"), holding.into());
        memory.owners.insert("10.0.0.53".parse().unwrap(), "a".into());
        store(&below, &memory).unwrap();
        assert_eq!(load(&below).unwrap(), memory);
        store(&below, &Memory::default()).unwrap();
        assert_eq!(load(&below).unwrap(), Memory::default());
        let left: Vec<_> = fs::read_dir(&below).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, [FILE_NAME]);
    }

    #[test]
    fn a_file_that_is_no_memory_is_refused_with_a_reason() {
        let directory = tempfile::tempdir().unwrap();
        let reason = |content: &str| {
            fs::write(directory.path().join(FILE_NAME), content).unwrap();
            let error = load(directory.path()).unwrap_err();
            assert!(error.to_string().contains(FILE_NAME), "{error}");
            error.reason()
        };
        assert_eq!(reason(""), "state_corrupt");
        assert_eq!(reason("{\"version\":1,\"allocations\":{\"no-slash\":[]}}"), "state_corrupt");
        assert_eq!(reason("[]"), "state_corrupt");
        assert_eq!(reason("{\"version\":3,\"something\":\"else\"}"), "state_version");
    }
}
