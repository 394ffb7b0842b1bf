//! `--events`: follows a file of events while the run goes on.

use std::{
    fs::OpenOptions,
    io::{self, Read},
    os::{fd::AsFd, unix::fs::OpenOptionsExt},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    thread::{self, JoinHandle},
    time::{Duration, SystemTime},
};

use anyhow::Context;
use evenkeel_probe::report::{EventLog, Happening, MAX_LINE};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// How often a file is looked at for more.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Events as they come; the display and the command add to and read them, too.
#[derive(Clone, Default)]
pub(super) struct Events(Arc<Mutex<EventLog>>);

impl Events {
    /// Adds an event of this moment.
    pub(super) fn add(&self, text: String) {
        self.lock().add(Happening { at: SystemTime::now(), text });
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, EventLog> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A thread that reads events from a file, a FIFO or stdin.
pub(super) struct Follower {
    stop: mpsc::Sender<()>,
    thread: JoinHandle<io::Result<()>>,
    path: String,
}

impl Follower {
    /// Starts to read; `-` is stdin.
    pub(super) fn start(path: &Path, events: Events) -> anyhow::Result<Self> {
        let name = if path == Path::new("-") { "stdin".to_owned() } else { path.display().to_string() };
        let source: Box<dyn Source> = if path == Path::new("-") {
            Box::new(io::stdin())
        } else {
            // A FIFO without a writer must not hold up the run.
            let nonblocking = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or_default();
            let file = OpenOptions::new().read(true).custom_flags(nonblocking).open(path);
            Box::new(file.with_context(|| format!("cannot read --events {name}"))?)
        };
        let (stop, stopped) = mpsc::channel();
        let thread = thread::Builder::new()
            .name("events".to_owned())
            .spawn(move || follow(source, &mut Lines::default(), &events, &stopped))?;
        Ok(Self { stop, thread, path: name })
    }

    /// Reads what there is by now, and ends.
    pub(super) fn finish(self) -> anyhow::Result<()> {
        drop(self.stop);
        let ended = self.thread.join().unwrap_or_else(|_| Err(io::Error::other("the reader failed")));
        ended.with_context(|| format!("cannot read --events {}", self.path))
    }
}

trait Source: Read + AsFd + Send {}
impl<T: Read + AsFd + Send> Source for T {}

fn follow(
    mut source: Box<dyn Source>,
    lines: &mut Lines,
    events: &Events,
    stopped: &mpsc::Receiver<()>,
) -> io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    let mut stopping = false;
    loop {
        let read = if is_readable(&source)? { source.read(&mut buffer) } else { Ok(0) };
        match read {
            Ok(0) if stopping => {
                // The last line may lack its end.
                lines.take(b"\n", events);
                return Ok(());
            }
            // The end of a file that may grow, or of a FIFO that may get another writer.
            Ok(0) => stopping = stopped.recv_timeout(LOOK_EVERY) != Err(mpsc::RecvTimeoutError::Timeout),
            Ok(length) => lines.take(&buffer[..length], events),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
    }
}

fn is_readable(source: &dyn Source) -> io::Result<bool> {
    let mut descriptors = [PollFd::from_borrowed_fd(source.as_fd(), PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    match poll(&mut descriptors, Some(&now)) {
        Ok(ready) => Ok(ready > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Bytes into lines of bounded length.
#[derive(Default)]
struct Lines {
    line: Vec<u8>,
    too_long: bool,
}

impl Lines {
    fn take(&mut self, bytes: &[u8], events: &Events) {
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            let (content, ends) = match piece.strip_suffix(b"\n") {
                Some(content) => (content, true),
                None => (piece, false),
            };
            if self.line.len() + content.len() > MAX_LINE {
                self.too_long = true;
                self.line.clear();
            }
            if !self.too_long {
                self.line.extend_from_slice(content);
            }
            if ends {
                let mut log = events.lock();
                if self.too_long {
                    log.refuse_long_line();
                } else {
                    // What is refused is counted, and shown in the report.
                    _ = log.add_line(&self.line);
                }
                self.line.clear();
                self.too_long = false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write, time::Instant};

    use evenkeel_probe::report::EventError;
    use proptest::prelude::*;

    use super::*;

    const EVENT: &str = "{\"time\":1,\"msg\":\"x\"}";

    fn count(events: &Events) -> usize {
        events.lock().events().len()
    }

    fn wait_for(events: &Events, wanted: usize) {
        let start = Instant::now();
        while count(events) < wanted {
            assert!(start.elapsed() < Duration::from_secs(20), "{} of {wanted} events", count(events));
            thread::yield_now();
        }
    }

    #[test]
    fn a_growing_file_is_followed_to_its_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events");
        fs::write(&path, format!("{EVENT}\n{{\"time\"")).unwrap();
        let events = Events::default();
        let follower = Follower::start(&path, events.clone()).unwrap();
        wait_for(&events, 1);
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        write!(file, ":1,\"msg\":\"y\"}}\n{EVENT}\n").unwrap();
        wait_for(&events, 3);
        // Without an end of line, and written just before the end.
        write!(file, "{EVENT}").unwrap();
        follower.finish().unwrap();
        assert_eq!((count(&events), events.lock().refused().len()), (4, 0));
    }

    #[test]
    fn a_fifo_without_a_writer_holds_nothing_up() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("fifo");
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, 0o600.into()).unwrap();
        let events = Events::default();
        let follower = Follower::start(&path, events.clone()).unwrap();
        for written in 1..3 {
            fs::write(&path, format!("{EVENT}\n")).unwrap();
            wait_for(&events, written);
        }
        follower.finish().unwrap();
    }

    #[test]
    fn a_line_without_end_takes_bounded_memory() {
        let (mut lines, events) = (Lines::default(), Events::default());
        for _ in 0..100 {
            lines.take(&[b'x'; 10_000], &events);
            assert!(lines.line.len() <= MAX_LINE);
        }
        lines.take(format!("\n{EVENT}\n").as_bytes(), &events);
        assert_eq!(count(&events), 1);
        assert_eq!(events.lock().refused()[&EventError::TooLong], 1);
    }

    #[test]
    fn a_missing_file_is_refused_at_once() {
        let error = Follower::start(Path::new("/no/such/file"), Events::default()).err().unwrap();
        assert!(format!("{error:#}").contains("--events /no/such/file"), "{error:#}");
    }

    proptest! {
        #[test]
        fn it_does_not_matter_in_which_pieces_the_bytes_come(
            lines in proptest::collection::vec(prop_oneof![Just(EVENT.to_owned()), ".{0,20}"], 0..20),
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..20),
        ) {
            let text = lines.join("\n") + "\n";
            let (mut whole, mut pieces) = (Lines::default(), Lines::default());
            let (expected, actual) = (Events::default(), Events::default());
            whole.take(text.as_bytes(), &expected);
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len())).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            for cut in cuts.windows(2) {
                pieces.take(&text.as_bytes()[cut[0]..cut[1]], &actual);
            }
            prop_assert_eq!(count(&actual), count(&expected));
            let (actual, expected) = (actual.lock(), expected.lock());
            prop_assert_eq!(actual.refused(), expected.refused());
        }
    }
}
