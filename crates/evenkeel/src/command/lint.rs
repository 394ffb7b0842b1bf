//! `evenkeel lint`: the downtime in manifests that can be seen before it happens.

mod cluster;
mod input;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::ValueEnum;
use evenkeel_lint::{Balancer, Config, Report, output, rules};
use evenkeel_sources::diagnostic::Severity;

use super::terminal;

/// Find what loses requests in rollouts, drains and failures.
///
/// All manifests given are taken for one cluster: the Services of one file are matched with the Deployments of another. With
/// --cluster, --kubeconfig, --context, -n or -A they come from an API server.
/// Exits with 0 when nothing is found, with 1 when something is that --fail-on names, and with 2 when input cannot be read.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Directories of manifests, single files, or - for standard input (`helm template CHART | evenkeel lint -`)
    #[arg(value_name = "PATH", required_unless_present_any = [
        "explain", "rules", "cluster", "kubeconfig", "context", "namespace", "all_namespaces",
    ])]
    roots: Vec<PathBuf>,

    #[command(flatten)]
    cluster: cluster::Api,

    /// Say more about one rule, such as ZD08
    #[arg(long, value_name = "RULE", conflicts_with_all = ["roots", "rules"])]
    explain: Option<String>,

    /// List all rules
    #[arg(long, conflicts_with = "roots")]
    rules: bool,

    /// Mend what is mechanical: print a patch (for `git apply`), or write the files
    #[arg(long, value_enum, value_name = "HOW", num_args = 0..=1, default_missing_value = "patch", require_equals = true)]
    fix: Option<Fix>,

    /// How to print what is found
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,

    /// From which severity on findings fail the run (default: warning)
    #[arg(long, value_enum)]
    fail_on: Option<FailOn>,

    /// What takes clients to the pods; decides how long it takes to notice that a pod leaves (default: kube-proxy)
    #[arg(long, value_enum, env = "EVENKEEL_LINT_BALANCER")]
    balancer: Option<BalancerArg>,

    /// Thresholds and rules that are off [default: ./evenkeel-lint.yaml, if there is one]
    #[arg(long, value_name = "FILE", env = "EVENKEEL_LINT_CONFIG")]
    config: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Fix {
    /// A unified diff on standard output
    Patch,
    /// The files themselves; standard input is written to standard output
    Write,
}

#[derive(Clone, Copy, ValueEnum)]
enum Output {
    /// For people
    Text,
    /// For programs
    Json,
    /// For code scanning services (SARIF 2.1.0)
    Sarif,
    /// For continuous integration
    Junit,
    /// Annotations of GitHub Actions
    Github,
}

#[derive(Clone, Copy, ValueEnum)]
enum FailOn {
    /// Errors only
    Error,
    /// Warnings and errors
    Warning,
    /// Everything
    Info,
}

#[derive(Clone, Copy, ValueEnum)]
enum BalancerArg {
    /// kube-proxy, whatever is in front of it: 10 s
    KubeProxy,
    /// Evenkeel: 1 s
    Evenkeel,
}

/// The exit code for input that cannot be read.
const INVALID_INPUT: u8 = 2;
const CONFIG: &str = "evenkeel-lint.yaml";

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if let Some(id) = &args.explain {
        let Some(rule) = rules::find(id) else {
            let meant = rules::close(id)
                .map_or_else(|| "--rules lists them".to_owned(), |close| format!("did you mean {close}?"));
            eprintln!("error: there is no rule {id}; {meant}");
            return Ok(ExitCode::from(INVALID_INPUT));
        };
        return print(&output::explain(rule, terminal::style(&std::io::stdout()))).map(|()| ExitCode::SUCCESS);
    }
    if args.rules {
        let rules: String = rules::all().iter().map(|rule| format!("{}  {}\n", rule.id, rule.title)).collect();
        return print(&rules).map(|()| ExitCode::SUCCESS);
    }
    match config(args).and_then(|config| check(args, &config)) {
        Ok(code) => Ok(code),
        Err(error) => {
            eprintln!("error: {error:#}");
            Ok(ExitCode::from(INVALID_INPUT))
        }
    }
}

fn check(args: &Args, config: &Config) -> anyhow::Result<ExitCode> {
    if args.cluster.given() {
        anyhow::ensure!(args.fix.is_none(), "--fix mends files; what a cluster has is mended where it is applied from");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let read = runtime.block_on(cluster::read(&args.cluster))?;
        let mut report = evenkeel_lint::lint_cluster(&read.cluster, config);
        report.unreadable.extend(read.unreadable);
        report.notes = read.notes;
        return show(args.output, &report, config);
    }
    let read = input::read(&args.roots)?;
    if let Some(how) = args.fix {
        return fix(how, read, config);
    }
    let mut report = evenkeel_lint::lint(&read.inputs, config);
    report.unreadable.extend(read.unreadable);
    show(args.output, &report, config)
}

fn show(output: Output, report: &Report, config: &Config) -> anyhow::Result<ExitCode> {
    let shown = match output {
        Output::Text => output::text(report, terminal::style(&std::io::stdout())),
        Output::Json => output::json(report),
        Output::Sarif => output::sarif(report, env!("CARGO_PKG_VERSION")),
        Output::Junit => output::junit(report, config.fail_on),
        Output::Github => output::github(report),
    };
    print(&shown)?;
    Ok(ExitCode::from(report.exit_code(config.fail_on)))
}

/// The file's thresholds, where the command line does not say otherwise.
fn config(args: &Args) -> anyhow::Result<Config> {
    let path = args.config.clone().or_else(|| Some(PathBuf::from(CONFIG)).filter(|path| path.exists()));
    let mut config = match path {
        Some(path) => {
            let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            Config::parse(&text).with_context(|| path.display().to_string())?
        }
        None => Config::default(),
    };
    match args.balancer {
        Some(BalancerArg::KubeProxy) if config.balancer != Balancer::KubeProxy => {
            config.set_balancer(Balancer::KubeProxy);
        }
        Some(BalancerArg::Evenkeel) if config.balancer != Balancer::Evenkeel => {
            config.set_balancer(Balancer::Evenkeel);
        }
        _ => {}
    }
    if let Some(fail_on) = args.fail_on {
        config.fail_on = match fail_on {
            FailOn::Error => Severity::Error,
            FailOn::Warning => Severity::Warning,
            FailOn::Info => Severity::Info,
        };
    }
    Ok(config)
}

/// The patch or the files, and what a person still has to do.
fn fix(how: Fix, read: input::Read, config: &Config) -> anyhow::Result<ExitCode> {
    let inputs = &read.inputs;
    let fixed = evenkeel_lint::fix(inputs, config);
    match how {
        Fix::Patch => print(&evenkeel_lint::patch(inputs, &fixed))?,
        Fix::Write => {
            for (before, after) in inputs.iter().zip(&fixed) {
                if before.name == input::STDIN {
                    print(&after.text)?;
                } else if before.text != after.text {
                    std::fs::write(&after.name, &after.text).with_context(|| format!("cannot write {}", after.name))?;
                    eprintln!("mended {}", after.name);
                }
            }
        }
    }
    let mut rest = evenkeel_lint::lint(&fixed, config);
    rest.unreadable.extend(read.unreadable);
    for diagnostic in &rest.unreadable {
        eprintln!("{diagnostic}\n");
    }
    let left = rest.findings.iter().filter(|finding| finding.diagnostic.severity <= config.fail_on).count();
    if left > 0 {
        eprintln!("{left} findings are left that a person must decide about");
    }
    Ok(ExitCode::from(rest.exit_code(config.fail_on)))
}

/// To stdout. A reader that has seen enough is no failure.
fn print(text: &str) -> anyhow::Result<()> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}
