//! Running the system's configuration tools.

use std::{
    env, io,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use tracing::debug;

use crate::Error;

/// Where to look besides `PATH`: a user's `PATH` (kept by some `sudo` set-ups) lacks the administrator's programs.
const ADMIN_DIRECTORIES: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// The path of `program`, looked up in `PATH` and the administrator's directories.
///
/// # Errors
/// [`Error::ToolMissing`] that names `package`, the Debian package to install.
pub fn find_program(program: &str, package: &str) -> Result<PathBuf, Error> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(ADMIN_DIRECTORIES.iter().map(PathBuf::from))
        .map(|directory| directory.join(program))
        .find(|candidate| is_executable(candidate))
        .ok_or_else(|| Error::ToolMissing { program: program.to_owned(), package: package.to_owned() })
}

fn is_executable(path: &Path) -> bool {
    path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
}

/// Runs a command to its end; a failure shows the command and what it said.
pub(crate) fn run(command: &mut Command) -> Result<String, Error> {
    finish(command_line(command), || captured(command).spawn())
}

/// The same, with its output in pipes and nothing to read.
pub(crate) fn captured(command: &mut Command) -> &mut Command {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped())
}

/// Waits for the end of what `start` starts: the command `line`, captured.
pub(crate) fn finish(line: String, start: impl FnOnce() -> io::Result<Child>) -> Result<String, Error> {
    debug!(command = line, "configuring the lab");
    let output = start()
        .and_then(Child::wait_with_output)
        .map_err(|source| Error::Io { action: format!("run `{line}`"), source })?;
    if !output.status.success() {
        return Err(Error::Command {
            command: line,
            status: output.status,
            stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs `ip` with these arguments.
pub(crate) fn ip<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Result<String, Error> {
    run(Command::new(find_program("ip", "iproute2")?).args(arguments))
}

/// A command as a person would type it.
pub(crate) fn command_line(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let mut line = program.to_string_lossy().into_owned();
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&argument.to_string_lossy());
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_command_is_shown_with_what_it_said() {
        let error = run(Command::new("/bin/sh").args(["-c", "echo no such thing >&2; exit 3"])).unwrap_err();
        let Error::Command { command, status, stderr } = error else { panic!("{error}") };
        assert_eq!(command, "sh -c echo no such thing >&2; exit 3");
        assert_eq!(status.code(), Some(3));
        assert_eq!(stderr, "no such thing");
    }

    #[test]
    fn output_of_a_command_is_returned() {
        assert_eq!(run(Command::new("/bin/sh").args(["-c", "echo fine"])).unwrap(), "fine\n");
    }

    #[test]
    fn a_missing_program_names_its_package() {
        let error = find_program("evenkeel-no-such-program", "no-such-package").unwrap_err();
        assert!(error.to_string().ends_with("install the package no-such-package"), "{error}");
    }

    #[test]
    fn a_program_is_found_by_name() {
        assert!(find_program("sh", "dash").unwrap().ends_with("sh"));
    }
}
