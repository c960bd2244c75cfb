//! What is told at once of a plan's probes: that a target's probes are lost, that nothing comes back at all, and the end of each.
//! Pure; times come in.
//!
//! In: what each flow learned, by target. Out: signals. The first loss that is certain is told, and its way once that is known; three within
//! [`QUIET`] are told as a fault; then one for each [`HOLD_OFF`], with how many were held back. [`IN_A_ROW`]
//! probes of a target without any answer are told as its being unreachable: nothing tells then whether it, its responder or
//! the way is gone. Never: a signal for what this host did not send or lost itself; more than [`PER_NIC_MAX`] signals a second
//! of one NIC, whatever is lost.

use crate::flow::Judged;
use crate::limit::Bucket;
use crate::plan::FlowSpec;
use railwatch_sampling::{HOLD_OFF, Severity};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// Names of the signals.
pub const SIGNALS: [&str; 4] = ["probe.loss", "probe.loss.over", "probe.unreachable", "probe.reachable"];
/// Without a loss for so long, it is over.
pub const QUIET: Duration = Duration::from_secs(10);
/// Losses within [`QUIET`] that make a fault of a chance.
const FAULT: u32 = 3;
/// Probes of a target in a row, over all its flows, that are judged without one being answered.
pub const IN_A_ROW: u32 = 5;
/// Signals of one NIC a second.
const PER_NIC_MAX: u32 = 16;
const HOLD_OFF_NS: u64 = HOLD_OFF.as_nanos() as u64;
const QUIET_NS: u64 = QUIET.as_nanos() as u64;

/// Something to tell.
#[derive(Clone, Debug, PartialEq)]
pub struct ProbeSignal {
    /// One of [`SIGNALS`].
    pub name: &'static str,
    /// Own NIC.
    pub interface: Arc<str>,
    /// How bad.
    pub severity: Severity,
    /// When it was known, CLOCK_MONOTONIC.
    pub at_ns: u64,
    /// Probes lost, of those judged since the episode began.
    pub lost: u64,
    /// One plain sentence.
    pub summary: String,
    /// What it is about.
    pub attributes: Vec<(&'static str, String)>,
    /// Losses that were held back since the last signal of this target.
    pub suppressed: u64,
}

/// Own NIC, and whose it probes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Target {
    pub(crate) interface: Arc<str>,
    pub(crate) host: Arc<str>,
    pub(crate) target_interface: Arc<str>,
}

impl Target {
    pub(crate) fn of(spec: &FlowSpec) -> Self {
        Self {
            interface: Arc::clone(&spec.interface),
            host: Arc::clone(&spec.target_host),
            target_interface: Arc::clone(&spec.target_interface),
        }
    }
}

#[derive(Debug, Default)]
struct Episode {
    judged: u64,
    lost: u64,
    there: u64,
    back: u64,
    is_fault: bool,
    held_until_ns: u64,
    last_ns: u64,
    is_told: bool,
    /// Losses since the last signal.
    suppressed: u64,
}

#[derive(Debug, Default)]
struct State {
    episode: Option<Episode>,
    in_a_row: u32,
    is_unreachable: bool,
}

/// All targets.
#[derive(Debug, Default)]
pub(crate) struct Alarm {
    targets: HashMap<Target, State>,
    nics: HashMap<Arc<str>, Bucket>,
}

impl Alarm {
    /// What a flow to this target learned at `now_ns`.
    pub(crate) fn take(
        &mut self,
        target: &Target,
        spec: &FlowSpec,
        judged: &Judged,
        now_ns: u64,
        mut tell: impl FnMut(ProbeSignal),
    ) {
        let Judged { answered, lost, certain, there, back, unsent: _ } = *judged;
        if answered == 0 && lost == 0 {
            return;
        }
        if !self.targets.contains_key(target) {
            self.targets.insert(target.clone(), State::default());
        }
        let Some(state) = self.targets.get_mut(target) else { return };
        let nic = self.nics.entry(Arc::clone(&target.interface)).or_insert_with(|| Bucket::full(PER_NIC_MAX, now_ns));
        let mut may_tell = || nic.take(PER_NIC_MAX, PER_NIC_MAX, now_ns);
        if answered > 0 {
            state.in_a_row = 0;
            if std::mem::take(&mut state.is_unreachable) {
                tell(signal(target, SIGNALS[3], Severity::Info, now_ns, 0, "answers probes again", vec![], 0));
            }
        } else {
            state.in_a_row = state.in_a_row.saturating_add(lost);
            if state.in_a_row >= IN_A_ROW && !state.is_unreachable && may_tell() {
                state.is_unreachable = true;
                let text = format!("answered none of the last {} probes", state.in_a_row);
                let more = vec![("lost", state.in_a_row.to_string())];
                let lost = state.in_a_row.into();
                tell(signal(target, SIGNALS[2], Severity::Error, now_ns, lost, &text, more, 0));
            }
        }
        if let Some(episode) = &mut state.episode {
            episode.judged += u64::from(answered) + u64::from(lost);
        }
        if certain == 0 && state.episode.is_none() {
            return;
        }
        let judged_now = u64::from(answered) + u64::from(lost.max(certain));
        let episode = state.episode.get_or_insert_with(|| Episode { judged: judged_now, ..Episode::default() });
        let knew_way = episode.there + episode.back > 0;
        episode.lost += u64::from(certain);
        episode.there += u64::from(there);
        episode.back += u64::from(back);
        // The way may be known only by the next answer of the flow itself, after its loss was told.
        let is_way_news = !knew_way && there + back > 0 && episode.is_told;
        if certain > 0 {
            episode.last_ns = now_ns;
        } else if !is_way_news {
            return;
        }
        let becomes_fault = !episode.is_fault && episode.lost >= FAULT.into();
        if (now_ns < episode.held_until_ns && !becomes_fault && !is_way_news) || !may_tell() {
            episode.suppressed += u64::from(certain);
            return;
        }
        episode.is_fault |= becomes_fault;
        episode.held_until_ns = now_ns + HOLD_OFF_NS;
        let severity = if episode.is_fault { Severity::Error } else { Severity::Warning };
        let direction = match (episode.there, episode.back) {
            (0, 0) => None,
            (_, 0) => Some("there"),
            (0, _) => Some("back"),
            _ => Some("both"),
        };
        let way = match direction {
            Some("there") => ", on the way there",
            Some("back") => ", on the way back",
            Some(_) => ", on both ways",
            None => "",
        };
        let Episode { judged, lost, there, back, suppressed, .. } = *episode;
        (episode.suppressed, episode.is_told) = (0, true);
        let text = format!("lost {lost} of {judged} probes{way}");
        let counts = (there + back > 0).then(|| [("lost_there", there.to_string()), ("lost_back", back.to_string())]);
        let more = [
            ("transport", spec.transport.name().to_owned()),
            ("source_port", spec.source_port.to_string()),
            ("size_bytes", spec.size_bytes.to_string()),
            ("lost", lost.to_string()),
            ("sent", judged.to_string()),
        ];
        let direction = direction.map(|direction| ("direction", direction.to_owned()));
        let more = more.into_iter().chain(direction).chain(counts.into_iter().flatten()).collect();
        tell(signal(target, SIGNALS[0], severity, now_ns, lost, &text, more, suppressed));
    }

    /// Time has passed: what is over is told.
    pub(crate) fn tick(&mut self, now_ns: u64, mut tell: impl FnMut(ProbeSignal)) {
        for (target, state) in &mut self.targets {
            // While nothing comes back nothing is known of losses.
            let is_over = |episode: &Episode| now_ns.saturating_sub(episode.last_ns) >= QUIET_NS;
            if !state.is_unreachable && state.in_a_row == 0 && state.episode.as_ref().is_some_and(is_over) {
                tell_end(target, state.episode.take(), now_ns, "loses no probes any more", None, &mut tell);
            }
        }
    }

    /// Of targets that are probed no more, what was told is taken back.
    pub(crate) fn keep(&mut self, probed: impl Fn(&Target) -> bool, now_ns: u64, mut tell: impl FnMut(ProbeSignal)) {
        self.targets.retain(|target, state| {
            let stays = probed(target);
            if !stays {
                let cause = Some("not_probed");
                tell_end(target, state.episode.take(), now_ns, "is probed no more", cause, &mut tell);
                if state.is_unreachable {
                    let more = vec![("cause", "not_probed".to_owned())];
                    tell(signal(target, SIGNALS[3], Severity::Info, now_ns, 0, "is probed no more", more, 0));
                }
            }
            stays
        });
    }
}

fn tell_end(
    target: &Target,
    episode: Option<Episode>,
    now_ns: u64,
    text: &str,
    cause: Option<&str>,
    tell: &mut impl FnMut(ProbeSignal),
) {
    // What never found room to be told does not end either.
    if let Some(Episode { judged, lost, suppressed, .. }) = episode.filter(|episode| episode.is_told) {
        let more = [("lost", lost.to_string()), ("sent", judged.to_string())];
        let cause = cause.map(|cause| ("cause", cause.to_owned()));
        let more = more.into_iter().chain(cause).collect();
        tell(signal(target, SIGNALS[1], Severity::Info, now_ns, lost, text, more, suppressed));
    }
}

#[expect(clippy::too_many_arguments, reason = "each is a part of the signal")]
fn signal(
    target: &Target,
    name: &'static str,
    severity: Severity,
    at_ns: u64,
    lost: u64,
    text: &str,
    more: Vec<(&'static str, String)>,
    suppressed: u64,
) -> ProbeSignal {
    let Target { interface, host, target_interface } = target;
    let whose = [("target_host", host.to_string()), ("target_interface", target_interface.to_string())];
    ProbeSignal {
        name,
        interface: Arc::clone(interface),
        severity,
        at_ns,
        lost,
        summary: format!("{interface} to {host} {target_interface}: {text}"),
        attributes: whose.into_iter().chain(more).collect(),
        suppressed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::spec;

    const SECOND: u64 = 1_000_000_000;

    struct Bench {
        alarm: Alarm,
        told: Vec<ProbeSignal>,
    }

    impl Bench {
        fn new() -> Self {
            Self { alarm: Alarm::default(), told: Vec::new() }
        }

        /// Names and severities of what is told.
        fn take(&mut self, now_ns: u64, judged: Judged) -> Vec<(&'static str, Severity)> {
            let from = self.told.len();
            let spec = spec(1);
            self.alarm.tick(now_ns, |signal| self.told.push(signal));
            self.alarm.take(&Target::of(&spec), &spec, &judged, now_ns, |signal| self.told.push(signal));
            self.told[from..].iter().map(|signal| (signal.name, signal.severity)).collect()
        }
    }

    fn answered(answered: u32) -> Judged {
        Judged { answered, ..Judged::default() }
    }

    fn lost(lost: u32) -> Judged {
        Judged { answered: 1, lost, certain: lost, there: lost, ..Judged::default() }
    }

    #[test]
    fn the_first_loss_is_told_more_make_a_fault_and_a_flood_is_held_back() {
        let mut bench = Bench::new();
        assert_eq!(bench.take(SECOND, answered(100)), []);
        assert_eq!(bench.take(2 * SECOND, lost(1)), [("probe.loss", Severity::Warning)]);
        assert_eq!(bench.take(2 * SECOND + 1, lost(1)), [], "within the hold-off");
        assert_eq!(bench.take(2 * SECOND + 2, lost(1)), [("probe.loss", Severity::Error)], "three are no chance");
        assert_eq!(bench.take(2 * SECOND + 3, lost(5)), []);
        assert_eq!(bench.take(4 * SECOND, lost(1)), [("probe.loss", Severity::Error)]);
        let last = &bench.told[2];
        assert_eq!((last.suppressed, last.lost, &*last.interface), (5, 9, "eth0"));
        let attribute = |key| last.attributes.iter().find(|(of, _)| *of == key).map(|(_, value)| value.as_str());
        assert_eq!((attribute("target_host"), attribute("target_interface")), (Some("b"), Some("eth1")));
        assert_eq!(
            (attribute("direction"), attribute("lost"), attribute("sent")),
            (Some("there"), Some("9"), Some("14"))
        );
        assert_eq!(bench.take(13 * SECOND, answered(1)), []);
        assert_eq!(bench.take(14 * SECOND, answered(1)), [("probe.loss.over", Severity::Info)]);
        assert_eq!(bench.take(15 * SECOND, lost(1)), [("probe.loss", Severity::Warning)], "an episode of its own");
    }

    #[test]
    fn the_way_is_told_when_the_flows_next_answer_tells_it() {
        let mut bench = Bench::new();
        let unknown = Judged { lost: 1, certain: 1, ..Judged::default() };
        assert_eq!(bench.take(SECOND, unknown), [("probe.loss", Severity::Warning)]);
        let known = Judged { answered: 1, back: 1, ..Judged::default() };
        assert_eq!(bench.take(SECOND + 1, known), [("probe.loss", Severity::Warning)]);
        assert_eq!(bench.told[1].lost, 1, "the same one");
        assert!(bench.told[1].attributes.contains(&("direction", "back".into())), "{:?}", bench.told);
        assert_eq!(bench.take(SECOND + 2, known), [], "it is news once");
    }

    #[test]
    fn silence_is_unreachable_not_loss_and_ends_with_an_answer() {
        let mut bench = Bench::new();
        let silent = Judged { lost: 1, ..Judged::default() };
        for n in 1..u64::from(IN_A_ROW) {
            assert_eq!(bench.take(n * SECOND, silent), []);
        }
        assert_eq!(bench.take(9 * SECOND, silent), [("probe.unreachable", Severity::Error)]);
        assert_eq!(bench.take(10 * SECOND, silent), []);
        assert_eq!(bench.take(11 * SECOND, answered(1)), [("probe.reachable", Severity::Info)]);
        // What of the silence was a loss is told by the answer after it.
        let afterwards = Judged { answered: 1, certain: 2, back: 2, ..Judged::default() };
        assert_eq!(bench.take(12 * SECOND, afterwards), [("probe.loss", Severity::Warning)]);
    }

    #[test]
    fn a_nic_that_loses_everything_raises_no_flood_and_what_is_probed_no_more_is_taken_back() {
        let mut bench = Bench::new();
        for n in 0..100 {
            let spec = FlowSpec { target_host: format!("h{n}").into(), ..spec(n) };
            let told = &mut bench.told;
            bench.alarm.take(&Target::of(&spec), &spec, &lost(1), SECOND, |signal| told.push(signal));
        }
        assert_eq!(bench.told.len(), PER_NIC_MAX as usize);
        bench.told.clear();
        let told = &mut bench.told;
        bench.alarm.keep(|target| &*target.host != "h7", 2 * SECOND, |signal| told.push(signal));
        assert_eq!(bench.told.iter().map(|signal| signal.name).collect::<Vec<_>>(), ["probe.loss.over"]);
        assert!(bench.told[0].attributes.contains(&("cause", "not_probed".into())), "{:?}", bench.told);
    }
}
