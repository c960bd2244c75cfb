//! Probes one target over TCP for a while, and says what it took: what [`crate::run`] does over UDP.
//!
//! In: a plan. Out: each outcome as it is known, and a report. A flow is a connection, made before its first probe; while one is made the flow's
//! turn waits. Never more probes on the wire than the plan's interval lets.

use super::judge::{Fate, Verdict, Way};
use super::link::{Link, Route, Turn};
use crate::packet::{Key, SIZE_MAX};
use crate::prober::{Failure, FlowReport, Plan, Report, Sums, Times, io_failure, local, random, wait};
use crate::session::{Answered, Outcome};
use nix::poll::{PollFd, PollFlags};
use railwatch_sampling::clock::{monotonic_ns, nanoseconds};
use std::sync::Arc;
use std::time::Duration;

/// How often time-outs are looked at.
const SWEEP_NS: u64 = 10_000_000;
/// More probes at most, one after the other, that tell what is still to be learned of a flow's last: what was sent again on the way back
/// comes with the first, and whether it was for nothing with the second.
const CLOSING_MAX: u8 = 3;
/// How often a flow whose connection is being made is asked again.
const RETRY_NS: u64 = 1_000_000;

struct Flow {
    link: Link,
    port: u16,
    /// Probes given to a connection; those after them close the flow, and count for nothing.
    probes: u64,
    /// A turn waits for its connection.
    is_being_made: bool,
    closing: u8,
    alive_ns: u64,
    sent: u64,
    lost: u64,
    fabric: Times,
}

impl Flow {
    /// All its probes have their verdicts.
    fn is_done(&self) -> bool {
        self.link.first().is_none_or(|first| first >= self.probes)
    }
}

/// Carries the plan out, and hands over each outcome with its source port.
///
/// # Errors
/// Sockets that the kernel refused.
pub(crate) fn run(plan: &Plan, key: &Key, mut each: impl FnMut(u16, &Outcome)) -> Result<Report, Failure> {
    let mut flows = (0..plan.flows).map(|n| flow(plan, n)).collect::<Result<Vec<_>, _>>()?;
    let mut report = Report { transport: plan.transport, lost_there: Some(0), lost_back: Some(0), ..Report::default() };
    let mut sums = Sums::new()?;
    let mut buffer = vec![0; SIZE_MAX];
    let interval_ns = nanoseconds(plan.interval);
    let (mut next, mut due_ns, mut sweep_ns) = (0u64, monotonic_ns(), 0);
    loop {
        let now_ns = monotonic_ns();
        if now_ns >= due_ns && next < plan.count {
            let at = usize::try_from(next % u64::from(plan.flows)).unwrap_or(0);
            let flow = &mut flows[at];
            let turn = flow.link.turn(key);
            flow.port = flow.link.port().unwrap_or(flow.port);
            flow.is_being_made = flow.link.is_being_made();
            match turn {
                Turn::Sent => {
                    flow.probes += 1;
                    flow.sent += 1;
                    report.sent += 1;
                }
                Turn::Refused(error) => report.unsent_reason = Some(error.to_string()),
                Turn::Began | Turn::Idle => {}
            }
            if flow.is_being_made {
                due_ns = now_ns + RETRY_NS;
            } else {
                next += 1;
                // Late is late: no burst makes up for it.
                due_ns = (due_ns + interval_ns).max(now_ns);
            }
        }
        let is_sending = next < plan.count;
        for flow in &mut flows {
            if let Some(sent_ns) = flow.link.ready(key, &mut buffer, flow.alive_ns) {
                flow.alive_ns = flow.alive_ns.max(sent_ns);
            }
            if now_ns >= sweep_ns {
                flow.link.sweep(flow.alive_ns);
            }
            let mut unsent = u64::from(flow.link.unsent());
            // What is still to be learned of the last answer comes with more.
            if !is_sending && flow.closing < CLOSING_MAX && !flow.link.waits() && !flow.is_done() {
                if !flow.link.is_up() {
                    flow.closing = CLOSING_MAX;
                } else if matches!(flow.link.turn(key), Turn::Sent) {
                    flow.closing += 1;
                }
                // They count for nothing.
                let _ = flow.link.unsent();
            }
            unsent += u64::from(flow.link.unsent());
            // The first packet of a connection that is not made stands for the probe that waited for it.
            next += u64::from(flow.is_being_made && flow.link.watched().is_none());
            flow.is_being_made = flow.link.is_being_made();
            let verdicts: Vec<_> = flow.link.verdicts().collect();
            for verdict in verdicts {
                if verdict.sequence.is_none() {
                    flow.sent += 1;
                    report.sent += 1;
                }
                if verdict.sequence.is_none_or(|sequence| sequence < flow.probes) {
                    take(flow, &verdict, &mut report, &mut sums, &mut each);
                }
            }
            report.unsent += unsent;
            if unsent > 0
                && let Some(why) = flow.link.why()
            {
                report.unsent_reason = Some(why.to_owned());
            }
        }
        if now_ns >= sweep_ns {
            sweep_ns = now_ns + SWEEP_NS;
        }
        if next >= plan.count && flows.iter().all(Flow::is_done) {
            break;
        }
        let until_ns = if next < plan.count { due_ns.min(sweep_ns) } else { sweep_ns };
        wait(&mut watched(&flows), Duration::from_nanos(until_ns.saturating_sub(monotonic_ns())))?;
    }
    sums.tell(&mut report);
    report.flows =
        flows.iter().map(|flow| FlowReport::of_port(flow.port, flow.sent, flow.lost, &flow.fabric)).collect();
    Ok(report)
}

fn take(
    flow: &mut Flow,
    verdict: &Verdict,
    report: &mut Report,
    sums: &mut Sums,
    each: &mut impl FnMut(u16, &Outcome),
) {
    let answer = match verdict.fate {
        Fate::Answered { round_trip_ns, parts, is_clean } => {
            let answered = Answered { round_trip_ns, parts };
            report.answered += 1;
            if is_clean {
                sums.take(&answered);
                parts.iter().for_each(|parts| flow.fabric.take(parts.fabric_ns));
            }
            Some(answered)
        }
        Fate::Lost { way, .. } => {
            flow.lost += 1;
            report.lost += 1;
            let count = match way {
                Some(Way::There) => &mut report.lost_there,
                Some(Way::Back) => &mut report.lost_back,
                None => &mut None,
            };
            *count = count.map(|count| count + 1);
            None
        }
        Fate::Unsent => {
            flow.sent -= 1;
            report.sent -= 1;
            report.unsent += 1;
            report.unsent_reason = flow.link.why().map(str::to_owned);
            return;
        }
    };
    if let Some(sequence) = verdict.sequence {
        each(flow.port, &Outcome { sequence, sent_unix_ns: verdict.sent.unix_ns, answer });
    }
}

fn flow(plan: &Plan, n: u16) -> Result<Flow, Failure> {
    let route = Route {
        local: local(plan, n)?,
        to: plan.target,
        tos: plan.dscp << 2,
        length: plan.size_bytes,
        timeout: plan.timeout,
        // Of one flow.
        interval: plan.interval.saturating_mul(plan.flows.into()),
    };
    let session = random().map_err(|error| io_failure("draw a number", error))?;
    let link = Link::new(route, session, Arc::default());
    let fabric = Times::new()?;
    let port = route.local.port();
    Ok(Flow { link, port, probes: 0, is_being_made: false, closing: 0, alive_ns: 0, sent: 0, lost: 0, fabric })
}

/// What the flows' connections wait for.
fn watched(flows: &[Flow]) -> Vec<PollFd<'_>> {
    flows
        .iter()
        .filter_map(|flow| flow.link.watched())
        .map(|(fd, _, wants_room)| {
            let room = if wants_room { PollFlags::POLLOUT } else { PollFlags::empty() };
            PollFd::new(fd, PollFlags::POLLIN | room)
        })
        .collect()
}
