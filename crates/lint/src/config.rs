//! What the rules take for granted about the world around the manifests.

use std::collections::BTreeMap;

use evenkeel_manifest::Severity;
use evenkeel_manifest::words::close_to;
use evenkeel_manifest::yaml;

use crate::rules;
use crate::view::View;

/// What takes clients to the pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Balancer {
    /// kube-proxy's rules, behind MetalLB, a cloud's balancer or node ports.
    #[default]
    KubeProxy,
    /// Evenkeel.
    Evenkeel,
}

/// Thresholds, and which rules hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// What takes clients to the pods.
    pub balancer: Balancer,
    /// Seconds until whatever balances no longer sends anything to a pod that leaves.
    pub detection: i64,
    /// Seconds for which clients keep an address that DNS gave them.
    pub dns_ttl: i64,
    /// Seconds an application takes to end after SIGTERM.
    pub shutdown: i64,
    /// Seconds an application may take to start.
    pub startup: i64,
    /// The fewest pods that survive a drain and a crash at once.
    pub min_replicas: i64,
    /// How many nodes may run pods, if that is known.
    pub nodes: Option<i64>,
    /// From which severity on findings fail the run.
    pub fail_on: Severity,
    /// Rules that are switched off, each with the reason.
    pub off: BTreeMap<String, String>,
    /// Severities other than a rule's own.
    pub severity: BTreeMap<String, Severity>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            balancer: Balancer::default(),
            detection: 10,
            dns_ttl: 30,
            shutdown: 10,
            startup: 60,
            min_replicas: 3,
            nodes: None,
            fail_on: Severity::Warning,
            off: BTreeMap::new(),
            severity: BTreeMap::new(),
        }
    }
}

/// Why a configuration is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct ConfigError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong, and what would be right.
    pub message: String,
}

const KEYS: [&str; 10] = [
    "balancer",
    "detectionSeconds",
    "dnsTtlSeconds",
    "shutdownSeconds",
    "startupSeconds",
    "minReplicas",
    "nodes",
    "failOn",
    "off",
    "severity",
];

impl Config {
    /// The thresholds that go with a balancer: Evenkeel follows an endpoint within milliseconds, kube-proxy and the health
    /// checks in front of it take up to 10 s.
    pub fn set_balancer(&mut self, balancer: Balancer) {
        self.balancer = balancer;
        self.detection = match balancer {
            Balancer::KubeProxy => 10,
            Balancer::Evenkeel => 1,
        };
    }

    /// Read `evenkeel-lint.yaml`.
    ///
    /// # Errors
    ///
    /// The first thing in it that is not understood.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let mut config = Self::default();
        for chunk in yaml::chunks(text) {
            let root = chunk.parse().map_err(|error| ConfigError { line: error.at.line, message: error.message })?;
            let Some(root) = root else { continue };
            let view = View::root(&root);
            let fail = |view: &View<'_>, message: String| ConfigError { line: view.path.position(&root).line, message };
            // First, because it decides what other thresholds are when they are not given.
            if let Some(balancer) = view.key("balancer").text() {
                config.set_balancer(match balancer {
                    "kube-proxy" => Balancer::KubeProxy,
                    "evenkeel" => Balancer::Evenkeel,
                    _ => return Err(fail(&view.key("balancer"), "balancer is kube-proxy or evenkeel".to_owned())),
                });
            }
            for (key, value) in view.entries() {
                let number = |least| {
                    value
                        .int()
                        .filter(|n| (least..=86_400).contains(n))
                        .ok_or_else(|| fail(&value, format!("{key} takes a whole number from {least} to 86400")))
                };
                match key {
                    "balancer" => {}
                    "detectionSeconds" => config.detection = number(0)?,
                    "dnsTtlSeconds" => config.dns_ttl = number(0)?,
                    "shutdownSeconds" => config.shutdown = number(0)?,
                    "startupSeconds" => config.startup = number(1)?,
                    "minReplicas" => config.min_replicas = number(1)?,
                    "nodes" => config.nodes = Some(number(1)?),
                    "failOn" => config.fail_on = severity(&value).ok_or_else(|| fail(&value, SEVERITIES.to_owned()))?,
                    "off" => {
                        for (id, reason) in value.entries() {
                            let reason_text = reason.text().map(str::trim).filter(|text| !text.is_empty());
                            let reason_text = reason_text
                                .ok_or_else(|| fail(&reason, format!("say why {id} is off: `{id}: \"the reason\"`")))?;
                            let rule = rules::find(id).ok_or_else(|| fail(&reason, no_rule(id)))?;
                            config.off.insert(rule.id.to_owned(), reason_text.to_owned());
                        }
                    }
                    "severity" => {
                        for (id, level) in value.entries() {
                            let rule = rules::find(id).ok_or_else(|| fail(&level, no_rule(id)))?;
                            let level = severity(&level).ok_or_else(|| fail(&level, SEVERITIES.to_owned()))?;
                            config.severity.insert(rule.id.to_owned(), level);
                        }
                    }
                    _ => {
                        let remedy = match close_to(key, &KEYS) {
                            Some(close) => format!("did you mean `{close}`?"),
                            None => format!("known here: {}", KEYS.join(", ")),
                        };
                        return Err(fail(&value, format!("unknown field `{key}`; {remedy}")));
                    }
                }
            }
        }
        Ok(config)
    }
}

fn no_rule(id: &str) -> String {
    match rules::close(id) {
        Some(close) => format!("there is no rule {id}; did you mean {close}?"),
        None => format!("there is no rule {id}; `evenkeel lint --rules` lists them"),
    }
}

const SEVERITIES: &str = "a severity is error, warning or info";

fn severity(view: &View<'_>) -> Option<Severity> {
    match view.text()? {
        "error" => Some(Severity::Error),
        "warning" => Some(Severity::Warning),
        "info" => Some(Severity::Info),
        _ => None,
    }
}
