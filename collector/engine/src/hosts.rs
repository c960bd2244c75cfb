//! Who speaks and who fell silent.
//!
//! In: connects, goodbyes, hearings, what kernels acknowledge, time. Out: [`Verdict`]s on silence, which the engine turns into incidents. One host silent is that
//! host's story; many silent at once have a common cause (the collector's network first of all), and never become a
//! list of accused hosts. Nobody is called silent while the collector itself has just started or stood still. A silent agent whose host's
//! kernel goes on acknowledging is stalled: it does not run, and its host is not down; that is told later than a silence of both.

use crate::model::{EndedBy, HostName, KnownHost, Timestamp};
use crate::options::{MS, Options};
use std::collections::BTreeMap;

/// A kernel is asked again once a second, and may miss one question: what it acknowledged is out of date so long after the time that a
/// running agent has to be heard.
const ASKED_AGAIN_MS: u64 = 1_500;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Silence {
    /// Its own incident.
    Alone,
    /// Part of the common one.
    Together,
}

#[derive(Clone, Debug)]
pub(crate) struct Host {
    pub boot_id: String,
    pub last_heard: Timestamp,
    /// Who ended its stream without a goodbye since it was last heard.
    pub broke_off: Option<EndedBy>,
    /// What its kernel acknowledged last, where it was asked since the stream opened.
    pub acknowledged: Option<Timestamp>,
    /// When it was judged last, its kernel answered and its agent did not.
    pub stalled: bool,
    connected: bool,
    /// It connected to this run of the collector.
    pub seen: bool,
    departed: bool,
    silence: Option<(Silence, Timestamp)>,
    /// The collector itself turned it away: its silence until then proves nothing.
    excused_until: Timestamp,
}

impl Host {
    fn new(boot_id: String, last_heard: Timestamp) -> Self {
        Self {
            boot_id,
            last_heard,
            broke_off: None,
            acknowledged: None,
            stalled: false,
            connected: false,
            seen: false,
            departed: false,
            silence: None,
            excused_until: Timestamp::default(),
        }
    }

    /// Its kernel acknowledged long after the agent should have spoken again, and of late. Without a connection nobody can ask: then what was
    /// so stays.
    fn is_stalled(&self, now: Timestamp, options: &Options) -> bool {
        if !self.connected {
            return self.stalled;
        }
        let Some(acknowledged) = self.acknowledged else { return false };
        let after_word = acknowledged.0.saturating_sub(self.last_heard.0);
        let ago = now.0.saturating_sub(acknowledged.0);
        after_word >= options.silent_after_ms * MS / 2
            && ago <= options.silent_after_ms.saturating_add(ASKED_AGAIN_MS) * MS
    }
}

/// What a tick found.
#[derive(Debug, PartialEq)]
pub(crate) enum Verdict {
    /// This host fell silent by itself.
    Alone(HostName),
    /// These fell silent together, out of so many watched.
    Together { hosts: Vec<HostName>, watched: usize },
    /// This host is silent by itself still, and for another reason: its kernel answers now, or no longer.
    Changed(HostName),
    /// Of those silent together, so many still are; `news`: most came back, or fell again.
    StillTogether { silent: usize, members: usize, news: bool },
    /// No longer watched: silent for too long.
    Forgotten(HostName),
}

/// Every host, by name.
#[derive(Debug, Default)]
pub(crate) struct Hosts {
    hosts: BTreeMap<HostName, Host>,
    /// Of them, so many did not say goodbye.
    watched: usize,
    /// Until then, a host that has not come back since the collector started may still do so.
    grace_until: Timestamp,
    /// Until then nobody is judged: the collector itself stood still.
    stalled_until: Timestamp,
    members: usize,
    grew_at: Timestamp,
    returned_at: Option<Timestamp>,
}

impl Hosts {
    pub(crate) fn restore(known: Vec<KnownHost>, at: Timestamp, options: &Options) -> Self {
        let hosts: BTreeMap<HostName, Host> = known
            .into_iter()
            .take(options.limits.hosts_max)
            .map(|known| {
                let KnownHost { host, boot_id, last_heard, departed } = known;
                let known = Host { departed, ..Host::new(boot_id, last_heard) };
                (host, known)
            })
            .collect();
        let watched = hosts.values().filter(|host| !host.departed).count();
        Self { hosts, watched, grace_until: after(at, options.restart_grace_ms), ..Self::default() }
    }

    /// The collector stood still: everyone gets the time to be heard again.
    pub(crate) fn stalled(&mut self, now: Timestamp, options: &Options) {
        self.stalled_until = self.stalled_until.max(after(now, options.silent_after_ms));
    }

    /// A host's incident was open when the collector last ran.
    pub(crate) fn restore_silence(&mut self, host: &str, stalled: bool) {
        if let Some(host) = self.hosts.get_mut(host) {
            (host.silence, host.stalled) = (Some((Silence::Alone, host.last_heard)), stalled);
        }
    }

    /// Hosts that should be heard.
    pub(crate) fn watched(&self) -> usize {
        self.watched
    }

    pub(crate) fn get(&self, host: &str) -> Option<&Host> {
        self.hosts.get(host)
    }

    /// A stream opened. Returns false where there are too many hosts to watch one more, and the earlier boot where it changed.
    pub(crate) fn connected(
        &mut self,
        host: &str,
        boot_id: &str,
        now: Timestamp,
        options: &Options,
    ) -> (bool, Option<String>) {
        if !self.hosts.contains_key(host) {
            if self.hosts.len() >= options.limits.hosts_max {
                return (false, None);
            }
            let new = Host { seen: true, connected: true, ..Host::new(boot_id.to_owned(), now) };
            self.hosts.insert(host.to_owned(), new);
            self.watched += 1;
            return (true, None);
        }
        let Some(known) = self.hosts.get_mut(host) else { return (false, None) };
        self.watched += usize::from(known.departed);
        (known.broke_off, known.seen, known.departed) = (None, true, false);
        (known.connected, known.acknowledged) = (true, None);
        known.excused_until = Timestamp::default();
        let earlier = std::mem::replace(&mut known.boot_id, boot_id.to_owned());
        (true, (earlier != boot_id).then_some(earlier))
    }

    /// The host was told to come back at `until`: it gets as long as any to be heard from then on.
    pub(crate) fn excuse(&mut self, host: &str, until: Timestamp, options: &Options) {
        if let Some(known) = self.hosts.get_mut(host) {
            known.excused_until = after(until, options.silent_after_ms);
        }
    }

    /// Returns whether the host had fallen silent, and how.
    pub(crate) fn heard(&mut self, host: &str, at: Timestamp) -> Option<Silence> {
        let known = self.hosts.get_mut(host)?;
        if at <= known.last_heard && known.silence.is_some() {
            return None;
        }
        known.last_heard = known.last_heard.max(at);
        known.silence.take().map(|(how, _)| how)
    }

    /// What the host's kernel acknowledged last.
    pub(crate) fn acknowledged(&mut self, host: &str, at: Timestamp) {
        if let Some(known) = self.hosts.get_mut(host) {
            known.acknowledged = known.acknowledged.max(Some(at));
        }
    }

    /// A stream ended with a goodbye, which ends a silence too: the host leaves by intent.
    pub(crate) fn departed(&mut self, host: &str) -> Option<Silence> {
        let known = self.hosts.get_mut(host)?;
        self.watched -= usize::from(!known.departed);
        (known.departed, known.connected) = (true, false);
        known.silence.take().map(|(how, _)| how)
    }

    /// A stream ended without one. Returns how the host is silent, where it was before.
    pub(crate) fn broke_off(&mut self, host: &str, by: EndedBy) -> Option<Silence> {
        let known = self.hosts.get_mut(host)?;
        (known.broke_off, known.connected) = (Some(by), false);
        // Where the collector ended it nobody knows any better than before.
        known.stalled &= by == EndedBy::Collector;
        known.silence.map(|(how, _)| how)
    }

    /// Judges everyone's silence at `now`.
    pub(crate) fn judge(&mut self, now: Timestamp, together_open: bool, options: &Options) -> Vec<Verdict> {
        if now < self.stalled_until {
            return vec![];
        }
        let limit = options.silent_after_ms * MS;
        let mut verdicts = Vec::new();
        let watched = self.watched;
        let (mut newly, mut suspects, mut forgotten) = (Vec::new(), 0, Vec::new());
        let mut longest_new = 0;
        for (name, host) in &mut self.hosts {
            if host.departed {
                continue;
            }
            if (!host.seen && now < self.grace_until) || now < host.excused_until {
                continue;
            }
            let silent_for = now.0.saturating_sub(host.last_heard.0);
            match host.silence {
                // The host is up, and most often its agent only waits for a processor.
                None if silent_for <= options.stalled_after_ms * MS && host.is_stalled(now, options) => {}
                None => {
                    suspects += usize::from(silent_for > limit / 2);
                    if silent_for > limit {
                        longest_new = longest_new.max(silent_for);
                        newly.push(name.clone());
                    }
                }
                Some((how, since)) => {
                    if how == Silence::Alone && host.is_stalled(now, options) != host.stalled {
                        host.stalled = !host.stalled;
                        verdicts.push(Verdict::Changed(name.clone()));
                    }
                    suspects += usize::from(now.0.saturating_sub(since.0) < 2 * limit);
                    if silent_for > options.silent_forget_after_ms * MS {
                        forgotten.push(name.clone());
                    }
                }
            }
        }
        for name in forgotten {
            self.hosts.remove(&name);
            self.watched -= 1;
            verdicts.push(Verdict::Forgotten(name));
        }
        self.judge_new(now, newly, suspects, watched, longest_new, together_open, options, &mut verdicts);
        if together_open {
            self.judge_together(now, options, &mut verdicts);
        }
        verdicts
    }

    #[expect(clippy::too_many_arguments, reason = "the second half of `judge`, which alone calls it")]
    fn judge_new(
        &mut self,
        now: Timestamp,
        newly: Vec<HostName>,
        suspects: usize,
        watched: usize,
        longest_new: u64,
        together_open: bool,
        options: &Options,
        verdicts: &mut Vec<Verdict>,
    ) {
        if newly.is_empty() {
            return;
        }
        let limit = options.silent_after_ms * MS;
        let many = |count: usize| count >= options.silent_together_min || (count >= 2 && count * 2 > watched);
        let growing = together_open && now.0.saturating_sub(self.grew_at.0) < 2 * limit;
        let just_fell = suspects - newly.len().min(suspects);
        if growing || many(newly.len()) {
            for name in &newly {
                self.fall(name, Silence::Together, now, options);
            }
            self.members += newly.len();
            (self.grew_at, self.returned_at) = (now, None);
            verdicts.push(Verdict::Together { hosts: newly, watched });
        } else if many(suspects) && just_fell > 0 && longest_new < limit + limit / 2 {
            // Others hesitate too: half a limit more tells whether this is one host's story.
        } else {
            for name in newly {
                self.fall(&name, Silence::Alone, now, options);
                verdicts.push(Verdict::Alone(name));
            }
        }
    }

    /// Most came back and some did not: those have their own story now.
    fn judge_together(&mut self, now: Timestamp, options: &Options, verdicts: &mut Vec<Verdict>) {
        let silent: Vec<HostName> = self
            .hosts
            .iter()
            .filter(|(_, host)| matches!(host.silence, Some((Silence::Together, _))))
            .map(|(name, _)| name.clone())
            .collect();
        if silent.is_empty() || silent.len() * 2 > self.members {
            let news = self.returned_at.take().is_some();
            verdicts.push(Verdict::StillTogether { silent: silent.len(), members: self.members, news });
            return;
        }
        let news = self.returned_at.is_none();
        let returned_at = *self.returned_at.get_or_insert(now);
        if now < after(returned_at, options.restart_grace_ms) {
            verdicts.push(Verdict::StillTogether { silent: silent.len(), members: self.members, news });
            return;
        }
        verdicts.push(Verdict::StillTogether { silent: 0, members: self.members, news });
        for name in silent {
            self.fall(&name, Silence::Alone, now, options);
            verdicts.push(Verdict::Alone(name));
        }
    }

    pub(crate) fn together_ended(&mut self) {
        (self.members, self.returned_at) = (0, None);
    }

    fn fall(&mut self, name: &str, how: Silence, now: Timestamp, options: &Options) {
        if let Some(host) = self.hosts.get_mut(name) {
            // What was said of an earlier silence says nothing of this one.
            host.stalled &= host.silence.is_some();
            host.stalled = host.is_stalled(now, options);
            host.silence = Some((how, now));
        }
    }
}

fn after(at: Timestamp, ms: u64) -> Timestamp {
    Timestamp(at.0.saturating_add(ms * MS))
}
