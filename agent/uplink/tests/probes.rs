//! Plans of probes and traces over real mTLS: handed over, fenced by epoch, answered; and results, which may be lost and are counted.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]

mod collector;

use collector::*;
use railwatch_uplink::{Probes, Uplink};
use railwatch_wire::v1::{ProbePlan, ProbeResults, TraceRequest, TraceResult, Traced};
use std::sync::{Arc, Mutex};

/// Remembers plans, and finds as many ways as it is asked for.
#[derive(Default)]
struct Double {
    plans: Mutex<Vec<u64>>,
}

impl Probes for Double {
    fn plan(&self, plan: ProbePlan) {
        self.plans.lock().unwrap().push(plan.revision);
    }

    fn trace(&self, request: &TraceRequest) -> TraceResult {
        let flows = request.flows.iter().map(|_| Traced { reached: true, ..Traced::default() }).collect();
        TraceResult { id: request.id, flows, refused: String::new() }
    }

    fn forget(&self) {
        self.plans.lock().unwrap().clear();
    }
}

fn plan(collector_epoch: u64, revision: u64) -> ProbePlan {
    ProbePlan { collector_epoch, revision, ..ProbePlan::default() }
}

fn trace(id: u64) -> TraceRequest {
    TraceRequest { id, flows: vec![Default::default(); 2], ..TraceRequest::default() }
}

#[test]
fn plans_are_fenced_by_epoch_traces_answered_and_results_sent() {
    let site = Site::new();
    site.faults(|faults| {
        // The collector's own epoch is 1.
        faults.probe_plans = vec![plan(1, 7), plan(0, 99), plan(2, 1), plan(1, 8)];
        faults.traces = vec![trace(4), trace(5)];
    });
    let running = site.listen("127.0.0.1:0");
    let address = running.address.clone();
    running.kill();
    let (uplink, thread) = Uplink::start(site.options(&address)).unwrap();
    let double = Arc::new(Double::default());
    uplink.set_probes(double.clone());
    uplink.probe_results(ProbeResults { plan_revision: 1, ..ProbeResults::default() }).unwrap();
    eventually("results without a collector are lost", || uplink.state().lost_probe_results == 1);
    let _running = site.listen(&address);
    eventually("both traces", || site.stored(|stored| stored.traced.len() == 2));
    let traced = site.stored(|stored| stored.traced.clone());
    assert_eq!(traced.iter().map(|result| (result.id, result.flows.len())).collect::<Vec<_>>(), [(4, 2), (5, 2)]);
    assert_eq!(*double.plans.lock().unwrap(), [7, 1], "those of replaced collectors are refused");
    uplink.probe_results(ProbeResults { plan_revision: 2, ..ProbeResults::default() }).unwrap();
    eventually("results", || site.stored(|stored| !stored.results.is_empty()));
    assert_eq!(site.stored(|stored| stored.results[0].plan_revision), 2, "what was lost does not come later");
    uplink.stop();
    thread.join().unwrap();
}

#[test]
fn without_probes_the_collector_is_told_so() {
    let site = Site::new();
    site.faults(|faults| faults.traces = vec![trace(9)]);
    let running = site.listen("127.0.0.1:0");
    let (uplink, thread) = Uplink::start(site.options(&running.address)).unwrap();
    eventually("the refusal", || site.stored(|stored| !stored.traced.is_empty()));
    let result = site.stored(|stored| stored.traced[0].clone());
    assert!(result.id == 9 && result.refused.contains("[probe]"), "{result:?}");
    uplink.stop();
    thread.join().unwrap();
}

#[test]
fn a_plan_that_comes_before_whoever_probes_is_kept_for_it() {
    let site = Site::new();
    site.faults(|faults| {
        faults.probe_plans = vec![plan(1, 3), plan(1, 4)];
        faults.traces = vec![trace(9)];
    });
    let running = site.listen("127.0.0.1:0");
    let (uplink, thread) = Uplink::start(site.options(&running.address)).unwrap();
    eventually("all has come", || site.stored(|stored| !stored.traced.is_empty()));
    let double = Arc::new(Double::default());
    uplink.set_probes(double.clone());
    assert_eq!(*double.plans.lock().unwrap(), [4], "the latest one");
    uplink.stop();
    thread.join().unwrap();
}
