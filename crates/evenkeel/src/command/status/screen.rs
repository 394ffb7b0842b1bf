//! A terminal that shows one text after the other in the same place.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
};

use rustix::termios::tcgetwinsize;

/// The alternate screen, without cursor and without wrapping lines.
const OPEN: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l";
const CLOSE: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";
const TOP: &str = "\x1b[H";
const CLEAR_LINE: &str = "\x1b[K";
const CLEAR_BELOW: &str = "\x1b[J";

/// The terminal on standard output. Dropping it shows what was there before.
pub(super) struct Screen(());

impl Screen {
    pub(super) fn open() -> Self {
        // Whether it worked shows when something is shown.
        let _ = io::stdout().write_all(OPEN.as_bytes());
        Self(())
    }

    /// Shows a text, or as much of it as there is room for.
    pub(super) fn show(&mut self, text: &str) -> io::Result<()> {
        let rows = tcgetwinsize(io::stdout()).map_or(0, |size| usize::from(size.ws_row));
        let mut out = io::stdout().lock();
        out.write_all(frame(text, rows).as_bytes())?;
        out.flush()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let mut out = io::stdout().lock();
        let _ = out.write_all(CLOSE.as_bytes()).and_then(|()| out.flush());
    }
}

/// What to write so that `text` takes the place of what is shown. Without blanks in between, so that nothing flickers. Zero
/// rows: the terminal does not say how many it has.
fn frame(text: &str, rows: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let shown = if rows == 0 || lines.len() <= rows { lines.len() } else { rows - 1 };
    let mut out = TOP.to_owned();
    for (row, line) in lines.iter().take(shown).enumerate() {
        // A line break after the last row would scroll.
        let end = if row + 1 == rows { "" } else { "\r\n" };
        // Writing to a string cannot fail.
        let _ = write!(out, "{line}{CLEAR_LINE}{end}");
    }
    if shown < lines.len() {
        let _ = write!(out, "({} more lines){CLEAR_LINE}", lines.len() - shown);
    }
    out + CLEAR_BELOW
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_is_too_long_never_scrolls() {
        assert_eq!(frame("a\nb\n", 0), "\x1b[Ha\x1b[K\r\nb\x1b[K\r\n\x1b[J");
        assert_eq!(frame("a\nb\n", 2), "\x1b[Ha\x1b[K\r\nb\x1b[K\x1b[J");
        assert_eq!(frame("a\nb\nc\n", 2), "\x1b[Ha\x1b[K\r\n(2 more lines)\x1b[K\x1b[J");
        assert_eq!(frame("", 2), "\x1b[H\x1b[J");
    }
}
