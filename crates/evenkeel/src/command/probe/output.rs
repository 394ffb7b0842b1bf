//! Where the report goes: one format to stdout, any number to files, some of them while the run goes on.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    str::FromStr,
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, anyhow};
use clap::ValueEnum;
use evenkeel_probe::{
    Progress, Report, Results,
    measure::RequestResult,
    report::{ResultLines, write_hdr_log},
};

/// Results queued between the prober and a slow file: some seconds of a fast run.
pub(super) const QUEUE: usize = 1 << 17;
/// How long a line may stay in the buffer, for those who follow the file.
const FLUSH_EVERY: Duration = Duration::from_millis(500);

/// How a report is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people: vegeta's lines, then lanes, outages, objectives.
    Text,
    /// Everything, versioned.
    Json,
    /// A line per request, while the run goes on.
    Ndjson,
    /// HdrHistogram interval log: a histogram per second and lane.
    Hdr,
    /// JUnit XML: a test case per objective.
    Junit,
    /// Text exposition, for a textfile collector.
    Prometheus,
    /// One self-contained page.
    Html,
}

impl Format {
    const fn is_stream(self) -> bool {
        matches!(self, Self::Ndjson | Self::Hdr)
    }

    /// `None` for streams.
    fn render(self, report: &Report) -> serde_json::Result<Option<String>> {
        Ok(match self {
            Self::Text => Some(report.to_string()),
            Self::Json => Some(serde_json::to_string_pretty(report)? + "\n"),
            Self::Junit => Some(report.to_junit()),
            Self::Prometheus => Some(report.to_prometheus()),
            Self::Html => Some(report.to_html()),
            Self::Ndjson | Self::Hdr => None,
        })
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.to_possible_value().as_ref().map_or("", |value| value.get_name()))
    }
}

/// `FORMAT=FILE` of the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ReportFile {
    format: Format,
    path: PathBuf,
}

/// Why a `--report` was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum ReportFileError {
    #[error("`{0}` is not FORMAT=FILE, such as html=report.html")]
    Form(String),
    #[error("`{0}` is not a format; there are {formats}", formats = formats())]
    Format(String),
    #[error("stdout has one report: choose its format with -o {0}")]
    Stdout(Format),
}

fn formats() -> String {
    Format::value_variants().iter().map(Format::to_string).collect::<Vec<_>>().join(", ")
}

impl FromStr for ReportFile {
    type Err = ReportFileError;

    fn from_str(text: &str) -> Result<Self, ReportFileError> {
        let (format, path) = text
            .split_once('=')
            .filter(|(_, path)| !path.is_empty())
            .ok_or_else(|| ReportFileError::Form(text.to_owned()))?;
        let format = Format::from_str(format, false).map_err(|_| ReportFileError::Format(format.to_owned()))?;
        if path == "-" {
            return Err(ReportFileError::Stdout(format));
        }
        Ok(Self { format, path: path.into() })
    }
}

/// The destinations of a run's reports, open before it starts: a run must not be lost to a mistyped path.
pub(super) struct Outputs {
    stdout: Format,
    streams: Vec<(Format, Box<dyn Write + Send>, String)>,
    files: Vec<(Format, Destination)>,
}

impl Outputs {
    pub(super) fn open(stdout: Format, reports: &[ReportFile]) -> anyhow::Result<Self> {
        let mut outputs = Self { stdout, streams: Vec::new(), files: Vec::new() };
        if stdout.is_stream() {
            outputs.streams.push((stdout, Box::new(io::stdout()), "stdout".to_owned()));
        }
        for ReportFile { format, path } in reports {
            let cannot = || format!("cannot write --report {format}={}", path.display());
            if format.is_stream() {
                let file = File::create(path).with_context(cannot)?;
                outputs.streams.push((*format, Box::new(file), path.display().to_string()));
            } else {
                outputs.files.push((*format, Destination::open(path).with_context(cannot)?));
            }
        }
        Ok(outputs)
    }

    pub(super) fn has_streams(&self) -> bool {
        !self.streams.is_empty()
    }

    /// Starts to write what is written while the run goes on.
    pub(super) fn start_streams(
        &mut self,
        results: Results,
        lanes: &[String],
        progress: &Arc<Progress>,
    ) -> anyhow::Result<Streams> {
        let outputs = std::mem::take(&mut self.streams);
        let (lanes, progress) = (lanes.to_vec(), Arc::clone(progress));
        let thread = thread::Builder::new()
            .name("results".to_owned())
            .spawn(move || write_streams(results, outputs, lanes, &progress))?;
        Ok(Streams(thread))
    }

    /// Writes the report wherever it goes, and fails with the first destination that could not be written.
    pub(super) fn finish(self, report: &Report) -> anyhow::Result<()> {
        let mut failure = None;
        for (format, destination) in self.files {
            let path = destination.path.display().to_string();
            let written = format
                .render(report)
                .map_err(anyhow::Error::from)
                .and_then(|text| destination.write(text.unwrap_or_default().as_bytes()).map_err(anyhow::Error::from));
            failure = failure.or(written.with_context(|| format!("cannot write {path}")).err());
        }
        if let Some(text) = self.stdout.render(report)? {
            let mut stdout = io::stdout().lock();
            stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).context("cannot write the report")?;
        }
        failure.map_or(Ok(()), Err)
    }
}

/// The writing of results under way.
pub(super) struct Streams(JoinHandle<anyhow::Result<()>>);

impl Streams {
    /// Waits until everything is written.
    pub(super) fn finish(self) -> anyhow::Result<()> {
        self.0.join().map_err(|_| anyhow!("the results' writer failed"))?
    }
}

type Stream = (Format, Box<dyn Write + Send>, String);

/// Hands each result to each stream. Whichever fails is given up, the others go on; the first failure is returned.
fn write_streams(
    results: Results,
    outputs: Vec<Stream>,
    lanes: Vec<String>,
    progress: &Progress,
) -> anyhow::Result<()> {
    let mut results = results.peekable();
    // With the first result, the run has begun.
    results.peek();
    let started = SystemTime::now().checked_sub(progress.elapsed()).unwrap_or(SystemTime::UNIX_EPOCH);
    thread::scope(|scope| {
        let mut writers = Vec::new();
        let mut queues = Vec::new();
        for (format, out, name) in outputs {
            // A slow stream holds up the others, then the prober's queue fills and counts what it drops.
            let (queue, received) = mpsc::sync_channel::<RequestResult>(1024);
            let lanes = &lanes;
            queues.push(Some(queue));
            writers.push(scope.spawn(move || {
                let mut out = BufWriter::with_capacity(1 << 16, out);
                let written = match format {
                    Format::Hdr => write_hdr_log(&mut out, lanes, started, received).and_then(|()| out.flush()),
                    _ => write_lines(out, lanes.clone(), started, &received),
                };
                written.with_context(|| format!("cannot write {name}"))
            }));
        }
        for result in results {
            for queue in &mut queues {
                if queue.as_ref().is_some_and(|queue| queue.send(result.clone()).is_err()) {
                    *queue = None;
                }
            }
        }
        drop(queues);
        let written =
            writers.into_iter().map(|writer| writer.join().unwrap_or_else(|_| Err(anyhow!("a writer failed"))));
        written.fold(Ok(()), anyhow::Result::and)
    })
}

fn write_lines(
    out: impl Write,
    lanes: Vec<String>,
    started: SystemTime,
    results: &mpsc::Receiver<RequestResult>,
) -> io::Result<()> {
    let mut lines = ResultLines::new(out, lanes, started);
    let mut flushed = Instant::now();
    for result in results {
        lines.add(&result)?;
        if flushed.elapsed() >= FLUSH_EVERY {
            lines.flush()?;
            flushed = Instant::now();
        }
    }
    lines.flush()
}

/// A file that is either as it was or complete: what is written goes into a new one beside it, renamed at the end.
/// What is no regular file, such as a FIFO or a terminal, is written as it is.
struct Destination {
    path: PathBuf,
    file: File,
    partial: Option<PathBuf>,
}

impl Destination {
    fn open(path: &Path) -> io::Result<Self> {
        if fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
            let file = OpenOptions::new().write(true).open(path)?;
            return Ok(Self { path: path.to_owned(), file, partial: None });
        }
        let name = path.file_name().ok_or(io::ErrorKind::IsADirectory)?;
        let mut partial = std::ffi::OsString::from(".");
        partial.push(name);
        partial.push(format!(".{}.partial", std::process::id()));
        let partial = path.with_file_name(partial);
        let file = File::create_new(&partial)?;
        Ok(Self { path: path.to_owned(), file, partial: Some(partial) })
    }

    fn write(mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        if let Some(partial) = &self.partial {
            fs::rename(partial, &self.path)?;
            self.partial = None;
        }
        Ok(())
    }
}

impl Drop for Destination {
    fn drop(&mut self) {
        if let Some(partial) = &self.partial {
            drop(fs::remove_file(partial));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_files_have_a_format_and_a_path() {
        let parsed: ReportFile = "junit=out/a=b.xml".parse().unwrap();
        assert_eq!(parsed, ReportFile { format: Format::Junit, path: "out/a=b.xml".into() });
        let error = |text: &str| text.parse::<ReportFile>().unwrap_err().to_string();
        assert!(error("report.html").contains("such as html=report.html"));
        assert!(error("html=").contains("FORMAT=FILE"));
        assert!(error("pdf=x").contains("text, json, ndjson, hdr, junit, prometheus, html"), "{}", error("pdf=x"));
        assert!(error("json=-").contains("-o json"));
    }

    #[test]
    fn a_file_is_as_it_was_or_complete() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("report");
        fs::write(&path, "old").unwrap();
        drop(Destination::open(&path).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        Destination::open(&path).unwrap().write(b"new").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing else is left");
        assert!(Destination::open(&directory.path().join("no/such/directory")).is_err());
    }
}
