//! Plans as hosts are told of them, on a lab of eight hosts.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
use super::view::HostsOnly;
use super::view::tests::{lab_host, lab_peers};
use super::*;
use railwatch_engine::cover::{Scope, Shape};

const SECOND: u64 = 1_000_000_000;

struct Lab {
    probes: Probes,
    live: Live,
    plans: HashMap<String, watch::Receiver<Arc<v1::ProbePlan>>>,
}

/// Eight hosts that are connected; host3 does not answer.
fn lab() -> Lab {
    let live = Live::new(Duration::from_secs(60));
    (0..8).for_each(|number| lab_host(&live, number, number != 3));
    let probes = Probes::new(7, live.clone(), Arc::new(HostsOnly(live.clone())));
    let plans = lab_peers().into_iter().map(|(host, peer)| {
        let plan = probes.open(&host.as_str().into(), 1, peer);
        (host, plan)
    });
    let plans = plans.collect();
    Lab { probes, live, plans }
}

impl Lab {
    fn look(&self, second: u64) {
        self.probes.look(Timestamp(second * SECOND));
    }

    /// What was sent since this was asked last.
    fn sent(&mut self, host: &str) -> Option<Arc<v1::ProbePlan>> {
        let plans = self.plans.get_mut(host).unwrap();
        plans.has_changed().unwrap().then(|| Arc::clone(&plans.borrow_and_update()))
    }
}

#[test]
fn every_host_is_told_its_flows_once_and_again_before_its_lease_ends() {
    let mut lab = lab();
    lab.look(100);
    let first = lab.sent("host0").unwrap();
    assert!(!first.flows.is_empty() && first.collector_epoch == 7 && first.revision > 0);
    assert!(first.flows.iter().all(|flow| flow.target_host != "host0" && flow.target_host != "host3"));
    let own: Vec<_> = first.flows.iter().map(|flow| (flow.interface.as_str(), flow.source.as_str())).collect();
    assert!(own.iter().all(|end| [("eth0", "10.0.0.1"), ("eth1", "10.1.0.1")].contains(end)), "{own:?}");
    lab.look(101);
    assert_eq!(lab.sent("host0"), None, "nothing is new and nothing is due");
    lab.look(104);
    assert_eq!(lab.sent("host0").unwrap(), first, "a renewal keeps its revision");
    // It reconnects: its plan goes to it again, as a later one, also where it is the same.
    let plan = lab.probes.open(&"host0".into(), 2, [172, 16, 0, 1].into());
    lab.plans.insert("host0".to_owned(), plan);
    lab.look(105);
    let again = lab.sent("host0").unwrap();
    assert!(again.flows == first.flows && again.revision > first.revision);
}

#[test]
fn a_host_that_leaves_is_no_target_any_more_and_switching_off_ends_all_probing() {
    let mut lab = lab();
    lab.look(100);
    lab.sent("host0");
    lab.probes.close(&"host5".into(), 1);
    lab.look(101);
    let without = lab.sent("host0").unwrap();
    assert!(without.flows.iter().all(|flow| flow.target_host != "host5"));
    lab.probes
        .configure(ProbeOptions { enabled: false, ..ProbeOptions::default() }, &railwatch_engine::Options::default());
    lab.look(102);
    assert!(lab.probes.planned().plan.flows.is_empty());
    assert!(lab.sent("host0").unwrap().flows.is_empty());
}

#[test]
fn loss_makes_what_shares_a_way_with_it_denser_at_once_and_a_quiet_minute_thins_it_out() {
    let mut lab = lab();
    lab.look(100);
    let calm = lab.sent("host0").unwrap();
    let flow = calm.flows.iter().find(|flow| flow.interface == "eth0").unwrap().clone();
    let per_s = |plan: &v1::ProbePlan| {
        let own = plan.flows.iter().filter(|flow| flow.interface == "eth0");
        own.map(|flow| 1e6 / f64::from(flow.interval_us)).sum::<f64>()
    };
    let result = v1::ProbeFlowResult { id: flow.id, sent: 5, answered: 4, lost: 1, ..v1::ProbeFlowResult::default() };
    let results = v1::ProbeResults { to_mono_ns: SECOND, flows: vec![result], ..v1::ProbeResults::default() };
    lab.probes.results("host0", &results, Timestamp(101 * SECOND));
    lab.look(101);
    let dense = lab.sent("host0").unwrap();
    assert!(per_s(&dense) > 2.0 * per_s(&calm), "{} to {}", per_s(&calm), per_s(&dense));
    let ids = |plan: &v1::ProbePlan| plan.flows.iter().map(|flow| flow.id).collect::<BTreeSet<_>>();
    assert_eq!(ids(&dense), ids(&calm));
    lab.look(160);
    assert_eq!(lab.probes.suspects(), lab.probes.planned().suspects);
    assert!(!lab.probes.suspects().is_empty());
    lab.look(162);
    assert!(lab.probes.suspects().is_empty());
    assert_eq!(lab.sent("host0").unwrap().flows, calm.flows);
    // A signal does the same, sooner.
    let attributes = [
        ("target_host".to_owned(), flow.target_host.clone()),
        ("target_interface".to_owned(), flow.target_interface.clone()),
        ("source_port".to_owned(), flow.source_port.to_string()),
    ];
    let signal = v1::Signal {
        name: "probe.loss".into(),
        entity: Some(v1::Entity { kind: "nic".into(), name: "eth0".into() }),
        attributes: attributes.into(),
        ..v1::Signal::default()
    };
    lab.probes.signal("host0", &signal, Timestamp(163 * SECOND));
    lab.look(163);
    assert!(per_s(&lab.sent("host0").unwrap()) > 2.0 * per_s(&calm));
}

#[test]
fn a_job_that_starts_is_probed_by_its_ranks_at_once_and_its_flows_end_with_it() {
    let mut lab = lab();
    lab.look(100);
    let calm = lab.sent("host0").unwrap();
    let run = |lab: &Lab, has_ended: bool| {
        for (rank, host) in [(0, "host5"), (1, "host0"), (2, "host6")] {
            let exited_unix_ns = has_ended.then_some(1);
            let (scheduler, job) = ("slurm".to_owned(), "42".to_owned());
            let task = v1::Task { pid: 9, scheduler, job, rank: Some(rank), exited_unix_ns, ..v1::Task::default() };
            lab.live.host(host).lock().placement.tasks = vec![task];
        }
        lab.probes.placed();
    };
    run(&lab, false);
    lab.look(101);
    assert_eq!(lab.sent("host0"), None, "rails alone are asked for");
    let options = ProbeOptions { scopes: vec![Scope::Rail, Scope::Job], shape: Shape::Ring, ..ProbeOptions::default() };
    lab.probes.configure(options.clone(), &railwatch_engine::Options::default());
    lab.look(102);
    let planned = lab.probes.planned();
    let of_job = planned.plan.flows.iter().filter(|flow| flow.job.as_deref() == Some("42"));
    let pairs: BTreeSet<_> = of_job
        .map(|flow| {
            let ends = [flow.from, flow.to].map(|end| planned.endpoints[end].port.node.as_str());
            (ends, flow.size_bytes, planned.endpoints[flow.from].port.port.as_str())
        })
        .collect();
    let ring = [["host5", "host0"], ["host0", "host6"], ["host6", "host5"]];
    let expected = ring.into_iter().flat_map(|ends| {
        [64, 1458].into_iter().flat_map(move |size| ["eth0", "eth1"].map(|interface| (ends, size, interface)))
    });
    assert_eq!(pairs, expected.collect());
    let figures = lab.probes.figures();
    assert_eq!((figures.job_pairs, figures.job_pairs_left_out, figures.jobs_left_out), (6, 0, 0));
    assert!(lab.sent("host0").unwrap().flows.iter().any(|flow| flow.target_host == "host6"));
    run(&lab, true);
    lab.look(103);
    assert!(lab.probes.planned().plan.flows.iter().all(|flow| flow.job.is_none()));
    lab.probes.configure(ProbeOptions::default(), &railwatch_engine::Options::default());
    lab.look(104);
    let count = |plan: &v1::ProbePlan| plan.flows.len();
    assert_eq!(count(&lab.sent("host0").unwrap()), count(&calm));
}

#[test]
fn pairs_of_the_fleet_go_with_the_setting_that_asked_for_them() {
    let mut lab = lab();
    let crossing = |lab: &Lab| {
        let planned = lab.probes.planned();
        planned.plan.flows.iter().filter(|flow| flow.scope(&planned.endpoints) == Scope::Fleet).count()
    };
    lab.look(100);
    let calm = lab.sent("host0").unwrap();
    assert_eq!(crossing(&lab), 0);
    lab.probes.configure(
        ProbeOptions { scopes: vec![Scope::Fleet], ..ProbeOptions::default() },
        &railwatch_engine::Options::default(),
    );
    lab.look(101);
    assert!(crossing(&lab) > 0);
    lab.probes.configure(ProbeOptions::default(), &railwatch_engine::Options::default());
    lab.look(102);
    assert_eq!((crossing(&lab), &lab.sent("host0").unwrap().flows), (0, &calm.flows));
}

#[test]
fn an_agent_that_says_nothing_of_probes_is_sent_nothing() {
    let mut lab = lab();
    lab.live.host("host6").lock().probe = None;
    lab.look(100);
    assert_eq!(lab.sent("host6"), None);
    assert!(lab.probes.planned().left_out.contains_key("host6"));
    let sent = lab.probes.planned();
    assert!(sent.plan.flows.iter().all(|flow| sent.endpoints[flow.to].port.node != "host6"));
}

#[test]
fn flows_over_both_transports_are_keyed_apart_and_a_signal_is_of_one_of_them() {
    let mut lab = lab();
    let transports = vec![Transport::Udp, Transport::Tcp];
    lab.probes.configure(ProbeOptions { transports, ..ProbeOptions::default() }, &railwatch_engine::Options::default());
    lab.look(100);
    let calm = lab.sent("host0").unwrap();
    let of = |transport: v1::ProbeTransport| calm.flows.iter().filter(move |flow| flow.transport() == transport);
    assert!(of(v1::ProbeTransport::Udp).count() > 0 && of(v1::ProbeTransport::Tcp).count() > 0);
    assert!(of(v1::ProbeTransport::Tcp).all(|flow| flow.target_host != "host6"), "its agent knows no TCP");
    let ids: BTreeSet<_> = calm.flows.iter().map(|flow| flow.id).collect();
    let ports: BTreeSet<_> = calm.flows.iter().map(|flow| (&flow.source, flow.source_port)).collect();
    assert_eq!((ids.len(), ports.len()), (calm.flows.len(), calm.flows.len()));
    // A signal of a flow over UDP with a port that only one over TCP has is of none.
    let flow = of(v1::ProbeTransport::Tcp).next().unwrap();
    let signal = |transport: &str| v1::Signal {
        name: "probe.loss".into(),
        entity: Some(v1::Entity { kind: "port".into(), name: flow.interface.clone() }),
        attributes: [
            ("target_host", flow.target_host.clone()),
            ("target_interface", flow.target_interface.clone()),
            ("transport", transport.to_owned()),
            ("source_port", flow.source_port.to_string()),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into(),
        ..v1::Signal::default()
    };
    lab.probes.signal("host0", &signal("udp"), Timestamp(101 * SECOND));
    assert!(lab.probes.suspects().directions.is_empty());
    lab.probes.signal("host0", &signal("tcp"), Timestamp(101 * SECOND));
    assert!(!lab.probes.suspects().directions.is_empty());
    // Without TCP its flows are gone, and the others are as they were.
    lab.probes.configure(ProbeOptions::default(), &railwatch_engine::Options::default());
    lab.look(102);
    let udp = lab.sent("host0").unwrap();
    assert!(udp.flows.iter().all(|flow| flow.transport() == v1::ProbeTransport::Udp));
    assert!(udp.flows.iter().any(|flow| ids.contains(&flow.id)));
}
