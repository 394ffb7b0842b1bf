//! `evenkeel import`: configuration of other load balancers as manifests.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::ValueEnum;
use evenkeel_import::{Format, Imported, MAX_BYTES, Options};
use evenkeel_sources::Diagnostic;
use evenkeel_sources::diagnostic::summary;

use super::terminal;

/// Turn another load balancer's configuration into manifests.
///
/// The manifests go to stdout, with the command that runs them as a comment; every key that has no counterpart is named on
/// stderr with what to do instead. Exits with 0, or with 2 when the configuration is wrong; then there are no manifests.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Whose configuration it is
    #[arg(value_enum)]
    format: FormatArg,

    /// The configuration, or - for standard input
    file: PathBuf,

    /// Serve at these addresses, one of each family at most, in place of the node's own
    #[arg(long = "vip", value_name = "IP", value_delimiter = ',')]
    vips: Vec<IpAddr>,

    /// Somebody else, such as MetalLB, announces those addresses: carry them here without answering for them
    #[arg(long, requires = "vips")]
    announced_elsewhere: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum FormatArg {
    /// xlb.yaml, or the values of XLB's chart
    Xlb,
    /// udp-fanout's config.yaml
    UdpFanout,
}

/// The exit code for input that cannot be read.
const INVALID_INPUT: u8 = 2;

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let more_than_one = |of: fn(&IpAddr) -> bool| args.vips.iter().filter(|vip| of(vip)).count() > 1;
    if more_than_one(IpAddr::is_ipv4) || more_than_one(IpAddr::is_ipv6) {
        eprintln!("error: --vip takes one IPv4 and one IPv6 address at most");
        return Ok(ExitCode::from(INVALID_INPUT));
    }
    let format = match args.format {
        FormatArg::Xlb => Format::Xlb,
        FormatArg::UdpFanout => Format::UdpFanout,
    };
    let options = Options { vips: args.vips.clone(), announced_elsewhere: args.announced_elsewhere };
    let (name, content) = match read(&args.file) {
        Ok(read) => read,
        Err(error) => {
            eprintln!("error: {error:#}");
            return Ok(ExitCode::from(INVALID_INPUT));
        }
    };
    let Imported { manifests, diagnostics } = evenkeel_import::import(format, Path::new(&name), &content, &options);
    tell(&diagnostics)?;
    let Some(manifests) = manifests else { return Ok(ExitCode::from(INVALID_INPUT)) };
    match std::io::stdout().lock().write_all(manifests.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// The content, of which one byte more than may be is enough, and what to call it.
fn read(file: &Path) -> anyhow::Result<(String, Vec<u8>)> {
    let most = u64::try_from(MAX_BYTES).unwrap_or(u64::MAX).saturating_add(1);
    let mut content = Vec::new();
    if file.as_os_str() == "-" {
        std::io::stdin().lock().take(most).read_to_end(&mut content).context("cannot read standard input")?;
        return Ok(("<stdin>".to_owned(), content));
    }
    let cannot = || format!("cannot read {}", file.display());
    File::open(file).with_context(cannot)?.take(most).read_to_end(&mut content).with_context(cannot)?;
    Ok((file.display().to_string(), content))
}

fn tell(diagnostics: &[Diagnostic]) -> anyhow::Result<()> {
    let mut stderr = std::io::stderr().lock();
    let style = terminal::style(&stderr);
    for diagnostic in diagnostics {
        writeln!(stderr, "{}\n", diagnostic.render(style))?;
    }
    if let Some(summary) = summary(diagnostics) {
        writeln!(stderr, "{summary}")?;
    }
    Ok(())
}
