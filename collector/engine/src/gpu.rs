//! Detector of processes whose GPU allocations fail, told apart by error code.
//!
//! In: `gpu.alloc.failed`, with `code` and where known `layer`, `function`, `comm` as attributes. Out: what it changes in the process's incident.

use crate::case::{count, hypothesis, ranked, tally};
use crate::faults::code_meaning;
use crate::model::{Hypothesis, Incident, Signal, Timestamp};
use crate::options::Limits;
use std::collections::BTreeMap;

pub(crate) const FAILED: &str = "gpu.alloc.failed";
const CODE: &str = "code ";
const LAYER: &str = "layer ";

/// Applies a signal to the process's incident.
pub(crate) fn apply(incident: &mut Incident, signal: &Signal, observed: Timestamp, limits: &Limits) {
    incident.quiet_since = Some(observed);
    let failures = signal.suppressed.saturating_add(1);
    count(incident, FAILED, failures, limits);
    let code = signal.attributes.get("code").map_or("unknown", String::as_str);
    count(incident, &format!("{CODE}{code}"), failures, limits);
    if let Some(layer) = signal.attributes.get("layer") {
        count(incident, &format!("{LAYER}{layer}"), failures, limits);
    }
    describe(incident, signal.attributes.get("comm").map(String::as_str));
}

/// Says anew what is wrong, from what was counted. `comm` where the signal told it.
fn describe(incident: &mut Incident, comm: Option<&str>) {
    let failures = tally(incident, FAILED);
    let layers: Vec<&str> = incident.tally.keys().filter_map(|name| name.strip_prefix(LAYER)).collect();
    let mut modes: BTreeMap<&str, (u64, Vec<String>)> = BTreeMap::new();
    let mut worst = (0, String::new());
    for (code, &times) in incident.tally.iter().filter_map(|(name, times)| Some((name.strip_prefix(CODE)?, times))) {
        let (mode, meaning) =
            code_meaning(code).map_or(("gpu_allocation_failing", ""), |row| (row.fault_mode, row.meaning));
        let said = if meaning.is_empty() { format!("code {code}") } else { format!("code {code} ({meaning})") };
        let (failed, evidence) = modes.entry(mode).or_default();
        *failed += times;
        evidence.push(format!("{times} of {failures} failed allocations ended with {said}"));
        if times > worst.0 {
            worst = (times, said);
        }
    }
    let element = incident.element.clone();
    #[expect(clippy::cast_precision_loss, reason = "a share")]
    let weighted: Vec<(f64, Hypothesis)> = modes
        .into_iter()
        .map(|(mode, (failed, mut evidence))| {
            if layers.len() > 1 {
                evidence.push(format!("seen in {} layers independently: {}", layers.len(), layers.join(" and ")));
            }
            let mut against = Vec::new();
            if failed < failures {
                against.push(format!("{} of {failures} failures say something else", failures - failed));
            }
            if mode == "gpu_out_of_memory" && failed <= 2 {
                against.push("a caching allocator frees what it holds after a first failure, and goes on".to_owned());
            }
            (19.0 * failed as f64 / failures.max(1) as f64, hypothesis(mode, &element, evidence, against))
        })
        .collect();
    incident.hypotheses = ranked(1.0, weighted);
    let named = comm.map(|comm| format!(" ({comm})")).unwrap_or_default();
    let many = if failures == 1 { "a GPU allocation".to_owned() } else { format!("{failures} GPU allocations") };
    incident.title = format!("{}: {many} of process {}{named} failed: {}", element.host, element.name, worst.1);
}
