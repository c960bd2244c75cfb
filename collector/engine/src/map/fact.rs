//! One fact and those who say it.
//!
//! In: claims, each by a reporter and a source. Out: how likely the fact is, since when it is known, and until when. Those that
//! agree raise the likelihood, never to certainty; a reporter that went away counts half until its word has run out.

use super::statement::Source;
use crate::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Nothing is more certain than this.
const CONFIDENCE_MAX: f64 = 0.9999;
/// Reporters that are named of one fact.
const NAMED_MAX: usize = 8;

/// Who says something.
pub(super) type Voice = (Arc<str>, Source);

/// One reporter's word on a fact.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Claim<T> {
    pub said: T,
    /// When it stops counting; `None` while its reporter is there.
    pub until: Option<Timestamp>,
}

/// What a claim may say.
pub(super) trait Word: PartialEq {
    /// It says how it is, not how it was.
    fn is_of_now(&self) -> bool {
        true
    }
}

impl Word for () {}

/// What is said of a cable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    Now,
    /// At a port that is dark since, or not heard at again yet.
    Before,
}

impl Word for Heard {
    fn is_of_now(&self) -> bool {
        *self == Self::Now
    }
}

/// A fact by all who say it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Fact<T> {
    pub claims: BTreeMap<Voice, Claim<T>>,
    pub since: Timestamp,
    pub changed: Timestamp,
}

/// What is known about the word on a fact.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Standing {
    /// How likely it is true, between 0 and 1, neither of them.
    pub confidence: f64,
    /// Where it comes from, the most believed first.
    pub sources: Vec<Source>,
    /// Who says so; eight of them are named.
    pub reporters: Vec<String>,
    /// Since when it is known, Unix ns.
    pub since: Timestamp,
    /// When somebody last said something else of it, began to, or ceased.
    pub changed: Timestamp,
    /// When the last word on it runs out; `None` while one of its reporters is there.
    pub valid_until: Option<Timestamp>,
}

/// What decides between facts that cannot both be true: those still said come before those of reporters that went, then the source, then the
/// likelihood.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub(super) struct Belief(bool, Source, f64);

impl<T: Word> Fact<T> {
    pub fn new(at: Timestamp) -> Self {
        Self { claims: BTreeMap::new(), since: at, changed: at }
    }

    /// A reporter says it. Returns whether that is news.
    pub fn say(&mut self, voice: Voice, said: T, at: Timestamp) -> bool {
        self.since = self.since.min(at);
        let before = self.claims.get(&voice);
        let is_news = before.is_none_or(|claim| claim.said != said || claim.until.is_some());
        if before.is_none_or(|claim| claim.said != said) {
            self.changed = self.changed.max(at);
        }
        self.claims.insert(voice, Claim { said, until: None });
        is_news
    }

    /// A reporter no longer says it.
    pub fn unsay(&mut self, voice: &Voice, at: Timestamp) {
        if self.claims.remove(voice).is_some() {
            self.changed = self.changed.max(at);
        }
    }

    /// Somebody who is there says it.
    pub fn is_said(&self) -> bool {
        self.claims.values().any(|claim| claim.until.is_none())
    }

    /// Somebody who is there says that it is so now.
    pub fn is_so_now(&self) -> bool {
        self.claims.values().any(|claim| claim.until.is_none() && claim.said.is_of_now())
    }

    /// Nobody says, or said last, that it is so: all who speak of it remember it.
    pub fn is_remembered(&self) -> bool {
        self.claims.values().all(|claim| !claim.said.is_of_now())
    }

    /// Somebody who is there says it by this source.
    pub fn is_said_by(&self, source: Source) -> bool {
        self.claims.iter().any(|((_, by), claim)| *by == source && claim.until.is_none())
    }

    pub fn belief(&self) -> Belief {
        self.belief_of(|_| true)
    }

    /// In what those claims say that are taken.
    fn belief_of(&self, takes: impl Fn(&T) -> bool) -> Belief {
        let claims = || self.claims.iter().filter(|(_, claim)| takes(&claim.said));
        let is_said = claims().any(|(_, claim)| claim.until.is_none());
        let counts = claims().filter(|(_, claim)| claim.until.is_none() == is_said);
        let source = counts.map(|((_, source), _)| *source).max().unwrap_or(Source::Trace);
        let doubt: f64 = claims().map(|((_, source), claim)| 1.0 - source.confidence() * weight(claim)).product();
        Belief(is_said, source, (1.0 - doubt).min(CONFIDENCE_MAX))
    }

    pub fn standing(&self) -> Standing {
        let Belief(_, _, confidence) = self.belief();
        let mut sources: Vec<Source> = self.claims.keys().map(|(_, source)| *source).collect();
        sources.sort_unstable_by(|a, b| b.cmp(a));
        sources.dedup();
        let mut reporters: Vec<String> = self.claims.keys().map(|(reporter, _)| reporter.to_string()).collect();
        reporters.dedup();
        reporters.truncate(NAMED_MAX);
        let is_said = self.is_said();
        let last = self.claims.values().filter_map(|claim| claim.until).max();
        Standing {
            confidence,
            sources,
            reporters,
            since: self.since,
            changed: self.changed,
            valid_until: last.filter(|_| !is_said),
        }
    }

    /// What is believed of something that each may say otherwise, and what else those say who are there. Nothing where nobody says anything of it.
    pub fn believed<V: Ord + Clone>(&self, of: impl Fn(&T) -> Option<V>) -> Option<(V, Vec<V>)> {
        let mut values: Vec<V> = self.claims.values().filter_map(|claim| of(&claim.said)).collect();
        values.sort();
        values.dedup();
        let belief = |value: &V| self.belief_of(|said| of(said).as_ref() == Some(value));
        // Of equally believed ones the least, so that the order of telling does not matter.
        let first = values.iter().rev().max_by(|a, b| belief(a).total_cmp(&belief(b)))?.clone();
        let others = values.into_iter().filter(|value| *value != first && belief(value).0).collect();
        Some((first, others))
    }
}

impl Belief {
    pub fn total_cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0, self.1).cmp(&(other.0, other.1)).then(self.2.total_cmp(&other.2))
    }
}

/// A reporter that went away counts half, and so does what was so before.
fn weight<T: Word>(claim: &Claim<T>) -> f64 {
    if claim.until.is_some() || !claim.said.is_of_now() { 0.5 } else { 1.0 }
}
