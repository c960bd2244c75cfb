//! Which one element loses packets, by what probes lost on ways that are known or only likely.
//!
//! In: [`Observation`]s, each of which says how many probes of one flow were sent and lost, and how likely each element lies on their
//! way. Out: the elements that explain it, the likeliest first, each with its share of all explanations. For every element and a
//! few rates of loss the likelihood of all observations is compared with that of no fault (the single-fault case of Flock,
//! CoNEXT 2023, with flows whose way is one of a set); the loss that is there without a fault is taken from the flows that do
//! not cross the element. Pure, nothing to tune per fabric. Never: a name where two elements explain the same equally well: both are
//! given, with the same share.

use std::collections::{BTreeMap, BTreeSet};

/// Rates of loss that a fault is tried with.
const RATES: [f64; 9] = [0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.6, 0.999];
/// Loss without any fault: at least, and at most, as far as it is taken from healthy flows.
const BACKGROUND: (f64, f64) = (1e-6, 1e-3);
/// Explanations beyond these are not listed.
const LISTED_MAX: usize = 16;

/// What one flow's probes met.
#[derive(Clone, Debug, PartialEq)]
pub struct Observation {
    /// Judged, that left the prober.
    pub sent: u32,
    /// Of them.
    pub lost: u32,
    /// They are longer than a kilobyte: some faults hit these alone.
    pub is_long: bool,
    /// The host that probes: an element that only one host complains of may be that host's own fault.
    pub prober: u32,
    /// Elements on the way, and how likely each lies on it: there, and back. A way that is not part of what was counted is zero.
    pub crosses: Vec<Crossing>,
}

/// How likely an element lies on the way.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Crossing {
    /// Number of the element, as the caller counts them.
    pub element: u32,
    /// On the way of the probe, 0 to 1.
    pub there: f64,
    /// On the way of its answer.
    pub back: f64,
}

/// What a fault takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Takes {
    /// Packets of any length.
    Any,
    /// Long ones alone.
    LongAlone,
}

/// An explanation.
#[derive(Clone, Debug, PartialEq)]
pub struct Explanation {
    /// The element.
    pub element: u32,
    /// Which packets it loses.
    pub takes: Takes,
    /// How many of them, 0 to 1.
    pub rate: f64,
    /// Its share of all explanations, no fault among them.
    pub posterior: f64,
    /// By how much it explains the observations better than no fault does, natural logarithm.
    pub log_ratio: f64,
    /// Lossy flows that may cross it, and those that do not.
    pub lossy: (u32, u32),
    /// Hosts that probe by the lossy flows that may cross it.
    pub hosts: u32,
}

/// How likely an element is at fault before anything was observed, against none being so.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prior(pub f64);

impl Default for Prior {
    fn default() -> Self {
        Self(1e-4)
    }
}

/// Explains observations by one element at fault: likeliest first, those that explain equally well by number. Empty where nothing was
/// lost.
#[must_use]
pub fn locate(observations: &[Observation], prior: Prior) -> Vec<Explanation> {
    let lossy: BTreeSet<u32> = observations
        .iter()
        .filter(|seen| seen.lost > 0)
        .flat_map(|seen| seen.crosses.iter().map(|crossing| crossing.element))
        .collect();
    let mut by_element: BTreeMap<u32, Vec<(usize, Crossing)>> =
        lossy.iter().map(|element| (*element, Vec::new())).collect();
    for (number, seen) in observations.iter().enumerate() {
        for crossing in &seen.crosses {
            if let Some(over) = by_element.get_mut(&crossing.element) {
                over.push((number, *crossing));
            }
        }
    }
    let all = Sum::of(observations.iter());
    let mut found: Vec<Explanation> = by_element
        .iter()
        .flat_map(|(element, over)| {
            [Takes::Any, Takes::LongAlone].map(|takes| explain(*element, takes, over, observations, &all))
        })
        .filter(|explanation| explanation.log_ratio > 0.0)
        .collect();
    share(&mut found, prior);
    found.truncate(LISTED_MAX);
    found
}

/// Probes sent and lost, and flows that lost some.
#[derive(Clone, Copy, Default)]
struct Sum {
    sent: f64,
    lost: f64,
    lossy: u32,
}

impl Sum {
    fn of<'a>(observations: impl Iterator<Item = &'a Observation>) -> Self {
        observations.fold(Self::default(), |sum, seen| Self {
            sent: sum.sent + f64::from(seen.sent),
            lost: sum.lost + f64::from(seen.lost),
            lossy: sum.lossy + u32::from(seen.lost > 0),
        })
    }
}

/// The best that one element at fault can say.
fn explain(
    element: u32,
    takes: Takes,
    over: &[(usize, Crossing)],
    observations: &[Observation],
    all: &Sum,
) -> Explanation {
    let hit = |seen: &Observation| takes == Takes::Any || seen.is_long;
    let crossing = Sum::of(over.iter().map(|(number, _)| &observations[*number]).filter(|seen| hit(seen)));
    let (elsewhere_sent, elsewhere_lost) = (all.sent - crossing.sent, all.lost - crossing.lost);
    let healthy = if elsewhere_sent > 0.0 { elsewhere_lost / elsewhere_sent } else { 0.0 };
    let background = healthy.clamp(BACKGROUND.0, BACKGROUND.1);
    // Without a fault the loss that there is everywhere is the background.
    let no_fault = if all.sent > 0.0 { all.lost / all.sent } else { 0.0 }.clamp(BACKGROUND.0, BACKGROUND.1);
    let elsewhere =
        binomial(elsewhere_sent, elsewhere_lost, background) - binomial(elsewhere_sent, elsewhere_lost, no_fault);
    let (mut rate, mut best) = (0.0, f64::NEG_INFINITY);
    for tried in RATES {
        let on_it: f64 = over
            .iter()
            .map(|(number, crossing)| (&observations[*number], crossing))
            .filter(|(seen, _)| hit(seen))
            .map(|(seen, crossing)| {
                let (sent, lost) = (f64::from(seen.sent), f64::from(seen.lost));
                crossed(sent, lost, crossing, tried, background) - binomial(sent, lost, no_fault)
            })
            .sum();
        if on_it > best {
            (rate, best) = (tried, on_it);
        }
    }
    let hosts: BTreeSet<u32> = over
        .iter()
        .map(|(number, _)| &observations[*number])
        .filter(|seen| seen.lost > 0 && hit(seen))
        .map(|seen| seen.prober)
        .collect();
    Explanation {
        element,
        takes,
        rate,
        posterior: 0.0,
        log_ratio: best + elsewhere,
        lossy: (crossing.lossy, all.lossy - crossing.lossy),
        hosts: u32::try_from(hosts.len()).unwrap_or(u32::MAX),
    }
}

/// Logarithm of the likelihood of a flow's losses where an element on its likely ways loses at this rate. A flow's way is one and
/// fixed, and only not known: the mixture is over ways, not over packets.
fn crossed(sent: f64, lost: f64, crossing: &Crossing, rate: f64, background: f64) -> f64 {
    let Crossing { there, back, .. } = *crossing;
    let once = there * (1.0 - back) + back * (1.0 - there);
    let cases = [
        ((1.0 - there) * (1.0 - back), background),
        (once, 1.0 - (1.0 - rate) * (1.0 - background)),
        (there * back, 1.0 - (1.0 - rate) * (1.0 - rate) * (1.0 - background)),
    ];
    let terms = cases.map(
        |(weight, loss)| {
            if weight > 0.0 { weight.ln() + binomial(sent, lost, loss) } else { f64::NEG_INFINITY }
        },
    );
    let most = terms.into_iter().fold(f64::NEG_INFINITY, f64::max);
    most + terms.iter().map(|term| (term - most).exp()).sum::<f64>().ln()
}

/// Of the binomial distribution, the part that the rate decides.
fn binomial(sent: f64, lost: f64, rate: f64) -> f64 {
    lost * rate.ln() + (sent - lost) * (-rate).ln_1p()
}

/// Gives every explanation its share of all, no fault among them, and sorts them.
fn share(found: &mut [Explanation], prior: Prior) {
    // That a fault spares short packets is the rarer case, and needs evidence of its own.
    let weight =
        |it: &Explanation| it.log_ratio + prior.0.ln() + if it.takes == Takes::LongAlone { 0.1_f64.ln() } else { 0.0 };
    let most = found.iter().map(weight).fold(0.0, f64::max);
    let total = (-most).exp() + found.iter().map(|it| (weight(it) - most).exp()).sum::<f64>();
    for it in found.iter_mut() {
        it.posterior = (weight(it) - most).exp() / total;
    }
    found.sort_by(|a, b| b.posterior.total_cmp(&a.posterior).then((a.element, a.takes).cmp(&(b.element, b.takes))));
}

#[cfg(test)]
mod tests;
