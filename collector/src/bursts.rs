//! Bursts from afar: agents read at their shortest cadences for a while, because a person asks or an incident opened.
//!
//! In: requests of the API; new incidents, from the core. Out: directives to the agents ([`crate::directives`]), and a line
//! of the audit for each request and each incident. An incident's host is asked, and hosts near it: those that share a
//! communicator or a job with it as far as live state knows, [`NEAR_MAX`] at most, spread over them all rather than the
//! first of them. Rate-limited: a host is asked by itself once in [`HOST_REST`], all hosts together [`PER_MINUTE_MAX`]
//! times a minute; the agent has bounds of its own. Never: a burst of an incident that is history.

use crate::clock::{Timeline, nanoseconds};
use crate::core::CoreHandle;
use crate::core::incidents::{News, is_history};
use crate::directives::{Directives, NotDone};
use crate::live::{Host, Live};
use railwatch_engine::{Incident, IncidentState, Timestamp};
use railwatch_wire::v1::{Burst, directive::Act};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Longest burst that can be asked for; the agents' own bound.
pub const TIME_MAX: Duration = Duration::from_secs(60);
/// How long a burst lasts that an incident is the reason of.
const OF_INCIDENT: Duration = Duration::from_secs(10);
/// Hosts asked because they are near another.
const NEAR_MAX: usize = 8;
/// Between two bursts of one host for incidents.
const HOST_REST: Duration = Duration::from_secs(60);
/// Bursts for incidents over all hosts.
const PER_MINUTE_MAX: usize = 64;
const MINUTE_NS: u64 = 60_000_000_000;
/// Incidents that began this long ago are history: a late story, or one of before a restart.
const OLD_NS: u64 = 60_000_000_000;

/// Who has bursts made. Clone it freely.
#[derive(Clone)]
pub struct Bursts {
    core: CoreHandle,
    live: Live,
    directives: Directives,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    by_person: AtomicU64,
    by_incident: AtomicU64,
    not_done: AtomicU64,
    held_back: AtomicU64,
}

/// What became of bursts so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Begun or made longer because a person asked.
    pub by_person: u64,
    /// Because of an incident.
    pub by_incident: u64,
    /// Hosts that were away, gave no answer or refused.
    pub not_done: u64,
    /// Not sent, to stay within the limits.
    pub held_back: u64,
}

impl Bursts {
    /// Nothing is asked yet.
    pub fn new(core: CoreHandle, live: Live, directives: Directives) -> Self {
        Self { core, live, directives, counts: Arc::default() }
    }

    /// So far.
    pub fn figures(&self) -> Figures {
        let Counts { by_person, by_incident, not_done, held_back } = &*self.counts;
        Figures {
            by_person: by_person.load(Relaxed),
            by_incident: by_incident.load(Relaxed),
            not_done: not_done.load(Relaxed),
            held_back: held_back.load(Relaxed),
        }
    }

    /// A person wants to see a host closely. Returns what its agent says of it.
    pub async fn ask(&self, actor: &str, host: &str, time: Duration, reason: &str) -> Result<String, NotDone> {
        let why = if reason.is_empty() { actor.to_owned() } else { format!("{actor}: {reason}") };
        let sent = self.send(host, time, why).await;
        if sent.is_ok() {
            self.counts.by_person.fetch_add(1, Relaxed);
        }
        let outcome = sent.as_ref().map_or_else(ToString::to_string, Clone::clone);
        let reason = if reason.is_empty() { String::new() } else { format!(" ({reason})") };
        let detail = format!("{host} for {} ms{reason}: {outcome}", time.as_millis());
        if let Err(error) = self.core.note(actor, "burst", detail).await {
            tracing::warn!(actor, host, %error, "a burst that a person asked for is not in the audit");
        }
        sent
    }

    async fn send(&self, host: &str, time: Duration, reason: String) -> Result<String, NotDone> {
        let duration_ms = u32::try_from(time.min(TIME_MAX).as_millis()).unwrap_or(u32::MAX);
        let reason = reason.chars().take(200).collect();
        let sent = self.directives.send(host, Act::Burst(Burst { duration_ms, reason })).await;
        if sent.is_err() {
            self.counts.not_done.fetch_add(1, Relaxed);
        }
        sent
    }

    /// Asks the hosts of new incidents and those near them, until `stop`.
    pub async fn follow(self, stop: CancellationToken) {
        let mut incidents = self.core.new_incidents();
        let mut limits = Limits::default();
        loop {
            let news = tokio::select! {
                () = stop.cancelled() => return,
                news = incidents.next() => news,
            };
            match news {
                Some(News::Incident(incident)) => {
                    let now = Timeline::now();
                    if is_fresh(&incident, now) {
                        self.around(&incident, &mut limits, now);
                    }
                }
                Some(News::Missed(missed)) => _ = self.counts.held_back.fetch_add(missed, Relaxed),
                None => return,
            }
        }
    }

    /// Asks an incident's host, and those near it.
    fn around(&self, incident: &Incident, limits: &mut Limits, now: Timestamp) {
        let host = &incident.element.host;
        let near = spread(&near(&self.live, host), NEAR_MAX);
        let (asked, held_back): (Vec<_>, Vec<_>) =
            std::iter::once(host.clone()).chain(near).partition(|host| limits.allow(host, now));
        self.counts.held_back.fetch_add(held_back.len() as u64, Relaxed);
        if asked.is_empty() {
            return;
        }
        let (this, id) = (self.clone(), incident.id);
        tokio::spawn(async move {
            let sent = asked.iter().map(|host| {
                let (this, host) = (this.clone(), host.clone());
                tokio::spawn(async move { this.send(&host, OF_INCIDENT, format!("incident {id}")).await.is_ok() })
            });
            let mut done = 0;
            for one in sent.collect::<Vec<_>>() {
                done += u64::from(one.await.unwrap_or(false));
            }
            this.counts.by_incident.fetch_add(done, Relaxed);
            let detail = format!("incident {id}: {} for {OF_INCIDENT:?}, {done} of {}", asked.join(", "), asked.len());
            if let Err(error) = this.core.note("collector", "burst", detail).await {
                tracing::warn!(incident = id, %error, "the bursts for an incident are not in the audit");
            }
        });
    }
}

/// It opened just now, and its element is a host's that may answer.
fn is_fresh(incident: &Incident, now: Timestamp) -> bool {
    incident.state == IncidentState::Open && !is_history(incident, now, OLD_NS) && !incident.element.host.is_empty()
}

/// What ties hosts together: communicators by their identity, jobs by scheduler and name.
fn ties(host: &Host) -> BTreeSet<(String, String)> {
    let alive = host.gpu.processes.iter().filter(|process| process.exited_unix_ns.is_none());
    let communicators = alive
        .flat_map(|process| &process.communicators)
        .filter(|communicator| communicator.state == "alive" && communicator.identity != 0)
        .map(|communicator| (communicator.library.clone(), format!("{:x}", communicator.identity)));
    let running = host.placement.tasks.iter().filter(|task| task.exited_unix_ns.is_none() && !task.job.is_empty());
    let jobs = running.map(|task| (format!("job of {}", task.scheduler), task.job.clone()));
    communicators.chain(jobs).collect()
}

/// Connected hosts that share a communicator or a job with this one, in order of their names.
fn near(live: &Live, host: &str) -> Vec<String> {
    let Some(own) = live.find(host).map(|cell| ties(&cell.lock())).filter(|own| !own.is_empty()) else {
        return Vec::new();
    };
    let mut near = Vec::new();
    for cell in live.cells() {
        let other = cell.lock();
        if other.connected && other.name != host && !own.is_disjoint(&ties(&other)) {
            near.push(other.name.clone());
        }
    }
    near.sort_unstable();
    near
}

/// At most so many of them, at even distances.
fn spread(all: &[String], most: usize) -> Vec<String> {
    let count = all.len().min(most);
    (0..count).map(|place| all[place * all.len() / count].clone()).collect()
}

/// When hosts were asked for incidents.
#[derive(Debug, Default)]
struct Limits {
    by_host: HashMap<String, Timestamp>,
    all: VecDeque<Timestamp>,
}

impl Limits {
    /// Whether the host may be asked now; if so, it counts as asked.
    fn allow(&mut self, host: &str, now: Timestamp) -> bool {
        let rest_ns = nanoseconds(HOST_REST);
        // Bounded by what is allowed within the rest.
        self.by_host.retain(|_, at| now.0.saturating_sub(at.0) < rest_ns);
        while self.all.pop_front_if(|at| now.0.saturating_sub(at.0) >= MINUTE_NS).is_some() {}
        if self.all.len() >= PER_MINUTE_MAX || self.by_host.contains_key(host) {
            return false;
        }
        self.by_host.insert(host.to_owned(), now);
        self.all.push_back(now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use railwatch_wire::v1;

    fn process(communicator: u64, exited: bool) -> v1::GpuProcess {
        let communicator = v1::Communicator {
            library: "nccl".into(),
            identity: communicator,
            state: "alive".into(),
            ..Default::default()
        };
        v1::GpuProcess { communicators: vec![communicator], exited_unix_ns: exited.then_some(1), ..Default::default() }
    }

    #[test]
    fn near_are_connected_hosts_of_one_communicator_or_job() {
        let live = Live::new(Duration::from_secs(60));
        let host = |name: &str, connected: bool, processes: Vec<v1::GpuProcess>, job: &str| {
            let cell = live.host(name);
            let mut host = cell.lock();
            host.connected = connected;
            host.gpu.processes = processes;
            if !job.is_empty() {
                let task = v1::Task { scheduler: "slurm".into(), job: job.into(), ..Default::default() };
                host.placement.tasks = vec![task];
            }
        };
        host("self", true, vec![process(7, false), process(8, true)], "train");
        host("same-communicator", true, vec![process(7, false)], "");
        host("same-job", true, vec![], "train");
        host("other", true, vec![process(9, false)], "else");
        host("ended", true, vec![process(7, true), process(8, false)], "");
        host("away", false, vec![process(7, false)], "train");
        host("nothing", true, vec![], "");
        assert_eq!(near(&live, "self"), ["same-communicator", "same-job"]);
        assert!(near(&live, "nothing").is_empty() && near(&live, "unknown").is_empty());
    }

    #[test]
    fn those_asked_lie_over_all_that_are_near() {
        let all: Vec<String> = (0..100).map(|n| n.to_string()).collect();
        assert_eq!(spread(&all, 4), ["0", "25", "50", "75"]);
        assert_eq!(spread(&all[..3], 4), ["0", "1", "2"]);
        assert!(spread(&[], 4).is_empty());
    }

    #[test]
    fn a_host_is_asked_once_in_its_rest_and_all_together_so_often_a_minute() {
        let mut limits = Limits::default();
        let second = |s: u64| Timestamp(s * 1_000_000_000);
        assert!(limits.allow("a", second(100)) && !limits.allow("a", second(159)) && limits.allow("a", second(160)));
        let allowed = (0..200).filter(|n| limits.allow(&format!("h{n}"), second(161))).count();
        assert_eq!(allowed, PER_MINUTE_MAX - 1);
        assert!(limits.allow("late", second(230)));
        assert!(limits.by_host.len() <= PER_MINUTE_MAX && limits.all.len() <= PER_MINUTE_MAX);
    }
}
