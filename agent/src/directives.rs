//! What the collector may have this agent do: read faster for a while. Nothing that acts on the host.
//!
//! In: directives that the uplink has checked for epoch and repetition. Out: what they come to, in words.

use railwatch_sampling::Bursts;
use railwatch_uplink::Directives;
use railwatch_wire::v1::Burst;
use std::time::Duration;

/// Carries directives out.
pub struct Carrier(pub Bursts);

impl Directives for Carrier {
    fn burst(&self, burst: &Burst) -> Result<String, String> {
        let asked = Duration::from_millis(burst.duration_ms.into());
        if asked.is_zero() {
            return Err("a burst of no time: duration_ms must be above 0".to_owned());
        }
        let granted = self.0.request(asked).map_err(|refused| refused.to_string())?;
        tracing::info!(reason = burst.reason, ?asked, ?granted, "a burst on the collector's request");
        let shorter = if granted < asked { format!(", of {asked:?} asked for") } else { String::new() };
        Ok(format!("every source is read at its shortest cadence for {granted:?}{shorter}"))
    }
}
