//! How findings look where they are printed.

use std::ffi::OsStr;
use std::io::IsTerminal;
use std::os::fd::AsFd;

use evenkeel_sources::diagnostic::Style;

/// What suits this stream and the environment.
pub(super) fn style(stream: &(impl AsFd + IsTerminal)) -> Style {
    let size = stream.is_terminal().then(|| rustix::termios::tcgetwinsize(stream));
    let terminal = size.map(|size| size.map_or(0, |size| usize::from(size.ws_col)));
    of(terminal, std::env::var_os("NO_COLOR").as_deref(), std::env::var_os("COLUMNS").as_deref())
}

/// Longest lines of sentences that are easy to read.
const MAX_WIDTH: usize = 120;

/// `terminal` is how many columns it has, 0 if it does not say. `NO_COLOR` speaks for those who want no colours
/// (no-color.org). `COLUMNS`, exported, is a wish that goes before the terminal's own number (POSIX, environment variables).
/// What is neither goes to a file or a program, where one sentence is one line.
fn of(terminal: Option<usize>, no_color: Option<&OsStr>, columns: Option<&OsStr>) -> Style {
    let uncoloured = no_color.is_some_and(|value| !value.is_empty());
    let wish = columns.and_then(OsStr::to_str).and_then(|text| text.parse().ok()).filter(|columns| *columns > 0);
    let own = terminal.filter(|columns| *columns > 0).map(|columns| columns.min(MAX_WIDTH));
    Style { coloured: terminal.is_some() && !uncoloured, width: wish.or(own) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_for_terminals_of_those_who_want_them() {
        let coloured = |terminal, no_color: Option<&str>| of(terminal, no_color.map(OsStr::new), None).coloured;
        assert!(coloured(Some(80), None));
        assert!(coloured(Some(80), Some("")));
        assert!(!coloured(Some(80), Some("1")));
        assert!(!coloured(None, None));
    }

    #[test]
    fn sentences_are_as_long_as_the_terminal_or_as_somebody_wants() {
        let width = |terminal, columns: Option<&str>| of(terminal, None, columns.map(OsStr::new)).width;
        assert_eq!(width(Some(80), None), Some(80));
        assert_eq!(width(Some(400), None), Some(120));
        assert_eq!(width(Some(0), None), None);
        assert_eq!(width(None, None), None);
        assert_eq!(width(None, Some("72")), Some(72));
        assert_eq!(width(Some(80), Some("200")), Some(200));
        assert_eq!(width(Some(80), Some("0")), Some(80));
        assert_eq!(width(None, Some("wide")), None);
    }
}
