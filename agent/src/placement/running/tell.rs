//! What is told of a process that does not run: the words and attributes of `process.stopped`, `process.starved`, and of their ends.

use crate::gpu::Who;
use crate::placement::SIGNALS;
use crate::placement::tasks::{belongs, subject};
use railwatch_placement::sched::{self, Competitor, Stat};
use railwatch_placement::starved;
use railwatch_placement::stopped::{self, Held};
use railwatch_placement::task::Task;
use railwatch_sampling::{Entity, Moment, SeriesId, Severity, Signal};
use std::path::Path;
use std::time::Duration;

/// Tells of one process.
pub(super) struct Teller<'a> {
    pub(super) pid: u32,
    pub(super) who: &'a Who,
    pub(super) task: Option<Task>,
    pub(super) now_ns: u64,
}

impl Teller<'_> {
    /// Attributes besides those of where it belongs: `state`, `since_s`, `thread`, `wchan`, `tracer`.
    pub(super) fn stopped(&self, proc: &Path, change: stopped::Change) -> Signal {
        let seconds = |ns: u64| Duration::from_nanos(ns).as_secs_f64();
        match change {
            stopped::Change::Stopped { tid, held, still_ns } => {
                let still_s = seconds(still_ns);
                let tracer = sched::tracer(proc, self.pid);
                let wchan = sched::wait_channel(proc, self.pid, tid);
                let (severity, why) = match (held, &tracer) {
                    (Held::Stopped, _) => (Severity::Error, "is stopped by a signal".to_owned()),
                    (Held::Traced, Some((tracer, comm))) => {
                        (Severity::Warning, format!("is held by {comm} (pid {tracer}), which traces it"))
                    }
                    (Held::Traced, None) => (Severity::Warning, "is held by a tracer".to_owned()),
                    (Held::Uninterruptible, _) => {
                        let at = wchan.as_ref().map(|name| format!(", in {name},")).unwrap_or_default();
                        (Severity::Error, format!("waits in the kernel{at} and hears no signal"))
                    }
                };
                let more = [
                    ("state", Some(held.name().to_owned())),
                    ("since_s", Some(format!("{still_s:.1}"))),
                    ("thread", (tid != self.pid).then(|| tid.to_string())),
                    ("wchan", wchan),
                    ("tracer", tracer.map(|(tracer, comm)| format!("{comm} (pid {tracer})"))),
                ];
                let which = if tid == self.pid { String::new() } else { format!("thread {tid} ") };
                self.signal(
                    (SIGNALS[5], severity),
                    (still_s, None, "s"),
                    &format!("{which}{why}: it has not run for {still_s:.1} s"),
                    more,
                )
            }
            stopped::Change::Resumed { held, still_ns } => self.signal(
                (SIGNALS[6], Severity::Info),
                (seconds(still_ns), None, "s"),
                &format!("runs again after {:.1} s", seconds(still_ns)),
                [("state", Some(held.name().to_owned()))],
            ),
        }
    }

    /// Attributes besides those of where it belongs: `cause` (`quota`, `competition`), `thread`, `thread_name`, `processor`,
    /// `competitors`.
    pub(super) fn starved(
        &self,
        change: starved::Change,
        quota: bool,
        tid: u32,
        stat: Option<&Stat>,
        others: Option<&[Competitor]>,
    ) -> Signal {
        let percent = |share: f64| format!("{:.0} %", share * 100.0);
        match change {
            starved::Change::Starved { share, usual } => {
                let named: Vec<_> =
                    others.unwrap_or_default().iter().map(|one| format!("{} (pid {})", one.comm, one.pid)).collect();
                let named = (!named.is_empty()).then(|| named.join(", "));
                let why = match (quota, &named, stat) {
                    (true, ..) => ": the quota of its control group holds it back".to_owned(),
                    (false, Some(named), Some(stat)) => {
                        format!(": processor {} is wanted by {named}, too", stat.processor)
                    }
                    _ => ": others use its processors".to_owned(),
                };
                let text = format!(
                    "could run, and waits for a processor {} of the time; {} was the most lately{why}",
                    percent(share),
                    percent(usual)
                );
                let more = [
                    ("cause", Some(if quota { "quota" } else { "competition" }.to_owned())),
                    ("thread", Some(tid.to_string())),
                    ("thread_name", stat.map(|stat| stat.comm.clone())),
                    ("processor", stat.map(|stat| stat.processor.to_string())),
                    ("competitors", named),
                ];
                self.signal((SIGNALS[7], Severity::Warning), (share, Some(usual), "1"), &text, more)
            }
            starved::Change::Over { share } => {
                let text = format!("waits for a processor {} of the time, no more than it used to", percent(share));
                self.signal((SIGNALS[8], Severity::Info), (share, None, "1"), &text, [])
            }
        }
    }

    fn signal<const N: usize>(
        &self,
        (name, severity): (&'static str, Severity),
        (value, previous, unit): (f64, Option<f64>, &'static str),
        text: &str,
        more: [(&'static str, Option<String>); N],
    ) -> Signal {
        let task = self.task.as_ref();
        let more = more.into_iter().filter_map(|(key, value)| Some((key, value?)));
        Signal {
            name,
            // Of no one series.
            series: SeriesId(0),
            entity: Entity { kind: "process", name: self.pid.to_string() },
            severity,
            moment: Moment::between(self.now_ns, self.now_ns),
            value,
            previous,
            unit,
            summary: format!("{} {text}", subject(self.pid, task, self.who)),
            attributes: more.chain(belongs(task, self.who)).collect(),
            incomplete_since_mono_ns: None,
            suppressed: 0,
        }
    }
}
