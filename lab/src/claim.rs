//! What the product claims to see, beside what it saw: `railwatch coverage` for the very fault that is about to be injected.
//!
//! In: an [`Injection`], the collector's coverage just before it, what was found after it. Out: a [`Coverage`] of the report. Never: a claim
//! asked for after the injection, or a fault mode stretched to fit: where coverage has no row for it there is no claim.

use crate::{
    daemons,
    lab::Lab,
    observe::{Found, same},
    scenario::{Act, Injection},
};
use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::Value;

/// "Within a second" of a claim, ms.
const SENSED_WITHIN_MS: f64 = 1_000.0;
/// A loss of so many of a million packets is one of all.
const BLACK_HOLE_PER_MILLION: u32 = 900_000;

/// What was claimed of a fault before it was there.
#[derive(Clone, Debug, PartialEq)]
pub struct Claim {
    sensed: bool,
    set: Vec<String>,
}

/// The claim beside what came of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Coverage {
    /// It would be sensed within a second.
    pub claimed_sensed: bool,
    /// To which elements it would be located; empty where to none.
    pub claimed_set: Vec<String>,
    /// The element at fault is among them; null where none were claimed.
    pub holds_truth: Option<bool>,
    /// All that incidents blame is among them, or is the element at fault; null where nothing is blamed, or none were claimed.
    pub reported_within: Option<bool>,
    /// It was sensed within a second; null where that was not claimed.
    pub sensed_as_claimed: Option<bool>,
}

impl Coverage {
    /// What of it turned out false, in words.
    #[must_use]
    pub fn falsehoods(&self) -> Vec<&'static str> {
        [
            (self.holds_truth, "the claimed set does not hold the element at fault"),
            (self.reported_within, "something is blamed that is not in the claimed set"),
            (self.sensed_as_claimed, "it was not sensed within a second"),
        ]
        .into_iter()
        .filter(|(holds, _)| *holds == Some(false))
        .map(|(_, what)| what)
        .collect()
    }
}

/// Under which name, fault mode and loss (of 1) coverage knows a fault.
fn asked(injection: &Injection) -> Option<(String, &'static str, Option<f64>)> {
    let host = || injection.element.split('/').next().unwrap_or_default().to_owned();
    let element = || injection.element.clone();
    Some(match &injection.act {
        Act::Loss { config, .. } => {
            let loss = f64::from(config.loss_per_million) / 1e6;
            let mode = match (config.length_min, config.loss_per_million) {
                (1.., _) => "large_packets",
                (0, BLACK_HOLE_PER_MILLION..) => "black_hole",
                (0, _) => "silent_loss",
            };
            (element(), mode, (loss > 0.0).then_some(loss))
        }
        Act::Rate { .. } => (element(), "slow_port", None),
        Act::Flap { downs, .. } => (element(), if downs.len() > 1 { "link_flapping" } else { "link_down" }, None),
        Act::DirtyOptic { link, .. } => (link.clone(), "dirty_optic", None),
        Act::PauseStorm { .. } => (element(), "pfc_storm", None),
        Act::RankHang { .. } => (host(), "rank_hang", None),
        Act::SlowRank { .. } => (host(), "slow_rank", None),
        Act::GpuMemory { .. } => (host(), "gpu_out_of_memory", None),
        Act::AgentDeath { .. } => (host(), "agent_death", None),
        Act::CollectorRestart => (element(), "collector_restart", None),
    })
}

/// Asks the collector what it would see of this fault.
///
/// # Errors
/// It does not answer.
pub fn claim(lab: &Lab, injection: &Injection) -> Result<Option<Claim>> {
    let Some((element, mode, loss)) = asked(injection) else { return Ok(None) };
    let loss = loss.map(|loss| format!("&loss={loss}")).unwrap_or_default();
    let rows = daemons::get(lab, &format!("/v1/coverage?element={}{loss}", element.replace('>', "%3E")))?;
    of_rows(&rows, &element, mode)
}

fn of_rows(rows: &Value, element: &str, mode: &str) -> Result<Option<Claim>> {
    let mut rows = rows.as_array().context("coverage is an array")?.iter();
    let Some(row) = rows.find(|row| row["element"] == element && row["fault_mode"] == mode) else { return Ok(None) };
    let set = row["located_to"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let sensed = row["sensed"].as_bool().context("a row of coverage says whether it is sensed")?;
    Ok(Some(Claim { sensed, set: set.map(str::to_owned).collect() }))
}

/// Whether an element is one of a set: by its name, as a direction or an end of a link, or as a part of a host.
fn is_among(element: &str, set: &[String]) -> bool {
    let is_part = |of: &str| element.strip_prefix(of).is_some_and(|rest| rest.starts_with('/'));
    set.iter().any(|member| same(member, element) || same(element, member) || is_part(member))
}

impl Claim {
    /// Beside what was found.
    #[must_use]
    pub fn judge(self, injection: &Injection, found: &Found) -> Coverage {
        let at_fault = &injection.element;
        let is_set = !self.set.is_empty();
        let is_explained = |blamed: &str| is_among(blamed, &self.set) || same(at_fault, blamed);
        let within = found.reported.iter().all(|blame| is_explained(&blame.element));
        let was_sensed = found.sensed_ms.is_some_and(|ms| ms <= SENSED_WITHIN_MS);
        Coverage {
            claimed_sensed: self.sensed,
            holds_truth: is_set.then(|| is_among(at_fault, &self.set)),
            reported_within: (is_set && !found.reported.is_empty()).then_some(within),
            sensed_as_claimed: self.sensed.then_some(was_sensed),
            claimed_set: self.set,
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use super::*;
    use crate::{
        plan::{Plan, Sizes},
        run::Blame,
        scenario::{BUILT_IN, Scenario},
    };
    use serde_json::json;

    fn injection(scenario: &str) -> Option<Injection> {
        let (name, scenario) = Scenario::find(scenario).unwrap();
        scenario.draw(&name, &Plan::new(Sizes::default()).unwrap(), 1).unwrap()
    }

    fn found(sensed_ms: Option<f64>, blamed: &[&str]) -> Found {
        let blame =
            |element: &&str| Blame { element: (*element).to_owned(), fault_mode: "path_loss".into(), posterior: 0.9 };
        Found {
            sensed_ms,
            sensed_by: None,
            located_ms: None,
            reported: blamed.iter().map(blame).collect(),
            correct: None,
            wrong: Vec::new(),
        }
    }

    #[test]
    fn every_fault_is_asked_for_under_the_name_that_coverage_has_for_it() {
        let asked: Vec<_> = BUILT_IN
            .iter()
            .filter_map(|(name, _)| injection(name))
            .map(|injection| asked(&injection).map_or("", |(_, mode, _)| mode))
            .collect();
        let expected = [
            "silent_loss",
            "black_hole",
            "large_packets",
            "slow_port",
            "link_flapping",
            "link_down",
            "dirty_optic",
            "pfc_storm",
            "rank_hang",
            "slow_rank",
            "gpu_out_of_memory",
            "link_down",
            "agent_death",
            "collector_restart",
        ];
        assert_eq!(asked, expected);
    }

    #[test]
    fn a_claim_is_the_row_of_the_element_and_the_fault_mode() {
        let row = |element: &str, mode: &str| json!({"element": element, "fault_mode": mode, "sensed": true, "located_to": [element, "other"]});
        let rows = json!([row("a>b", "black_hole"), row("a>bc", "silent_loss"), row("a>b", "silent_loss")]);
        let claim = of_rows(&rows, "a>b", "silent_loss").unwrap().unwrap();
        assert_eq!(claim, Claim { sensed: true, set: vec!["a>b".into(), "other".into()] });
        assert_eq!(of_rows(&rows, "a>b", "rank_hang").unwrap(), None);
    }

    #[test]
    fn a_claim_is_false_where_the_truth_or_a_blame_is_outside_or_it_comes_late() {
        let injection = injection("silent-drop").unwrap();
        let own = injection.element.clone();
        let link = own.replace('>', "-");
        let other = "host0:eth0-leaf0:eth0";
        for (set, sensed, found, holds, within, as_claimed) in [
            (vec![own.as_str()], true, found(Some(400.0), &[&own]), Some(true), Some(true), Some(true)),
            (vec![&own, other], true, found(Some(1400.0), &[&own, other]), Some(true), Some(true), Some(false)),
            (vec![&own], true, found(None, &[&own, other]), Some(true), Some(false), Some(false)),
            (vec![other], false, found(Some(9.0), &[]), Some(false), None, None),
            (vec![&link], false, found(None, &[&own]), Some(true), Some(true), None),
            (vec![], false, found(None, &[other]), None, None, None),
        ] {
            let claim = Claim { sensed, set: set.iter().map(ToString::to_string).collect() };
            let judged = claim.judge(&injection, &found);
            let said = (judged.holds_truth, judged.reported_within, judged.sensed_as_claimed);
            assert_eq!(said, (holds, within, as_claimed), "{set:?} {found:?}");
            let falsehoods = [holds, within, as_claimed].iter().filter(|holds| **holds == Some(false)).count();
            assert_eq!(judged.falsehoods().len(), falsehoods);
        }
        assert!(is_among("host3/rank3", &["host3".to_owned()]) && !is_among("host31/rank31", &["host3".to_owned()]));
    }
}
