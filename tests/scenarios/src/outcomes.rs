//! Which outcomes of packets a scenario explains.

use std::collections::BTreeMap;

use crate::case::Scenario;

/// Outcomes in which a client or a backend does not get its packet, and that the scenario does not explain; in words.
pub(crate) fn unexplained(scenario: Scenario, counters: &BTreeMap<String, u64>) -> Vec<String> {
    let expected = expected(scenario);
    let harms = |name: &str| {
        ["drop_", "reset_", "refused_", "rescue_e", "observed", "bypassed", "pass_malformed", "pass_unattended"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
    };
    counters
        .iter()
        .filter(|(name, count)| **count > 0 && harms(name) && !expected.contains(&name.as_str()))
        .map(|(name, count)| format!("unexplained outcome {name}: {count} packets"))
        .collect()
}

/// What each scenario leads to by its nature.
const fn expected(scenario: Scenario) -> &'static [&'static str] {
    match scenario {
        // Nobody ends before its connections.
        Scenario::S1 | Scenario::S9 | Scenario::S10 => &[],
        // Connections of a backend that has ended are reset, and resets of those clients that end them first have nobody to go to;
        // what it still says of those brought elsewhere goes nowhere.
        Scenario::S2 | Scenario::S3 | Scenario::S4 => {
            &["reset_backend_gone", "drop_backend_gone", "reset_late_answer", "drop_late_reset"]
        }
        Scenario::S5 => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drop_is_named_unless_the_scenario_leads_to_it() {
        let counters = BTreeMap::from([
            ("forward_flow".to_owned(), 7),
            ("drop_late_reset".to_owned(), 2),
            ("drop_fragment".to_owned(), 0),
        ]);
        assert!(unexplained(Scenario::S2, &counters).is_empty());
        assert_eq!(unexplained(Scenario::S1, &counters), ["unexplained outcome drop_late_reset: 2 packets"]);
    }
}
