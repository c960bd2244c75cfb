//! Which differences from peers are told as signals, and when they are over. Pure: rows in, signals out.
//!
//! A difference is told when two looks in a row found it, and over when two in a row did not, so that a host that is being changed
//! is left alone. The same value of the same key on many hosts is one matter: a few of its hosts are told each by its own, further
//! ones by a single signal that says how many there are. A look makes only so many signals; what waits is told at the next. What the
//! store has of an earlier run ([`Teller::recall`]) is not told again. Never: a word about a host that is away, whose settings may be
//! others by now.

use super::drift::DriftRow;
use railwatch_engine::{Element, Severity, Signal, Timestamp};
use std::collections::{BTreeMap, HashMap, HashSet};

/// A difference began, and is over.
pub const SIGNALS: [&str; 2] = ["config.drift", "config.drift.over"];

/// Looks in a row that must find a difference, or miss it.
const LOOKS_MIN: u32 = 2;
/// Hosts of one matter that are told each by its own.
const ALONE_MAX: usize = 3;
/// Signals of one look.
const SIGNALS_MAX: usize = 32;
/// Differences that are followed; further ones are not.
const FOLLOWED_MAX: usize = 65_536;
/// Of a value, in attributes and summaries.
const TEXT_CHARS_MAX: usize = 120;

/// The same value of the same key: what a rollout makes of many hosts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Matter {
    kind: String,
    role: String,
    key: String,
    value: String,
}

/// One host that has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Deviation {
    matter: Matter,
    host: String,
}

/// How a host stands to a value now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Now {
    /// Nobody knows that host any more.
    Forgotten,
    /// It is not connected.
    Away,
    /// It has the value.
    Has,
    /// It has another.
    HasNot,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    No,
    /// By a signal on this host.
    Spoken,
    /// Within the count of another host's signal.
    WithOthers,
}

#[derive(Clone, Debug)]
struct Followed {
    /// Looks in a row that found it, and that did not.
    found: u32,
    missed: u32,
    told: Told,
    /// The entity that was told of.
    entity: String,
}

/// What all hosts of a matter share.
#[derive(Clone, Copy, Debug, Default)]
struct Together {
    /// One signal speaks for all of it.
    is_one: bool,
    /// Hosts counted since the last signal of it.
    suppressed: u64,
}

/// Follows differences from look to look.
#[derive(Debug, Default)]
pub struct Teller {
    followed: BTreeMap<Deviation, Followed>,
    together: HashMap<Matter, Together>,
}

impl Teller {
    /// What signals of earlier runs said, the newest first.
    pub fn recall(signals: &[Signal]) -> Self {
        let (mut teller, mut known) = (Self::default(), HashSet::new());
        for signal in signals.iter().filter(|signal| SIGNALS.contains(&signal.name.as_str())) {
            let of = |key: &str| signal.attributes.get(key).cloned().unwrap_or_default();
            let matter =
                Matter { kind: signal.element.kind.clone(), role: of("role"), key: of("key"), value: of("value") };
            let deviation = Deviation { matter, host: signal.element.host.clone() };
            if !known.insert(deviation.clone()) || signal.name != SIGNALS[0] {
                continue;
            }
            if signal.attributes.contains_key("hosts") {
                teller.together.entry(deviation.matter.clone()).or_default().is_one = true;
            }
            let entity = signal.element.name.clone();
            teller.followed.insert(deviation, Followed { found: LOOKS_MIN, missed: 0, told: Told::Spoken, entity });
        }
        teller
    }

    /// Takes what a look found, and how hosts stand now (asked with host, kind, key and value).
    pub fn look(
        &mut self,
        rows: &[DriftRow],
        now: Timestamp,
        half_width_ns: u64,
        stands: impl Fn(&str, &str, &str, &str) -> Now,
    ) -> Vec<Signal> {
        let mut current: BTreeMap<Deviation, Vec<&DriftRow>> = BTreeMap::new();
        for row in rows {
            let matter = Matter {
                kind: row.entity_kind.clone(),
                role: row.role.clone(),
                key: row.key.to_owned(),
                value: cut(&row.value),
            };
            current.entry(Deviation { matter, host: row.host.clone() }).or_default().push(row);
        }
        let mut signals = Vec::new();
        let mut over = Vec::new();
        for (deviation, followed) in self.followed.iter_mut().filter(|(deviation, _)| !current.contains_key(*deviation))
        {
            let Deviation { matter: Matter { kind, key, value, .. }, host } = deviation;
            let stand = stands(host, kind, key, value);
            match stand {
                Now::Away => continue,
                Now::Forgotten => followed.told = Told::No,
                Now::Has | Now::HasNot => {}
            }
            (followed.found, followed.missed) = (0, followed.missed + 1);
            let is_over = followed.told == Told::No || followed.missed >= LOOKS_MIN;
            if is_over && (followed.told != Told::Spoken || signals.len() < SIGNALS_MAX) {
                if followed.told == Told::Spoken {
                    let suppressed = self
                        .together
                        .get_mut(&deviation.matter)
                        .map_or(0, |together| std::mem::take(&mut together.suppressed));
                    signals.push(ended(deviation, followed, stand, suppressed, now, half_width_ns));
                }
                over.push(deviation.clone());
            }
        }
        for deviation in over {
            self.followed.remove(&deviation);
        }
        for deviation in current.keys() {
            let is_known = self.followed.contains_key(deviation);
            if is_known || self.followed.len() < FOLLOWED_MAX {
                let new = || Followed { found: 0, missed: 0, told: Told::No, entity: String::new() };
                let followed = self.followed.entry(deviation.clone()).or_insert_with(new);
                (followed.found, followed.missed) = (followed.found.saturating_add(1), 0);
            }
        }
        self.tell_new(&current, now, half_width_ns, &mut signals);
        let alive: HashSet<&Matter> = self.followed.keys().map(|deviation| &deviation.matter).collect();
        self.together.retain(|matter, _| alive.contains(matter));
        signals
    }

    fn tell_new(
        &mut self,
        current: &BTreeMap<Deviation, Vec<&DriftRow>>,
        now: Timestamp,
        half_width_ns: u64,
        signals: &mut Vec<Signal>,
    ) {
        // Of each matter, in the order of both: hosts told of, and those that are news.
        let mut matters: BTreeMap<Matter, (usize, Vec<Deviation>)> = BTreeMap::new();
        for (deviation, followed) in &self.followed {
            let (told, new) = matters.entry(deviation.matter.clone()).or_default();
            match followed.told {
                Told::No if followed.found >= LOOKS_MIN => new.push(deviation.clone()),
                Told::No => {}
                Told::Spoken | Told::WithOthers => *told += 1,
            }
        }
        for (matter, (told, new)) in matters {
            let hosts = told + new.len();
            for (place, deviation) in new.iter().enumerate() {
                let together = self.together.entry(matter.clone()).or_default();
                let Some(followed) = self.followed.get_mut(deviation) else { continue };
                if together.is_one {
                    followed.told = Told::WithOthers;
                    together.suppressed += 1;
                    continue;
                }
                let Some(rows) = current.get(deviation) else { continue };
                if signals.len() >= SIGNALS_MAX {
                    return;
                }
                let speaks_for = (hosts > ALONE_MAX).then_some(hosts);
                together.is_one = speaks_for.is_some();
                let suppressed = std::mem::take(&mut together.suppressed)
                    + if together.is_one { (new.len() - place - 1) as u64 } else { 0 };
                followed.told = Told::Spoken;
                followed.entity.clone_from(&rows[0].entity);
                signals.push(began(deviation, rows, speaks_for, suppressed, now, half_width_ns));
                if together.is_one {
                    // Those are in the count of this signal.
                    for other in &new[place + 1..] {
                        if let Some(followed) = self.followed.get_mut(other) {
                            followed.told = Told::WithOthers;
                        }
                    }
                    break;
                }
            }
        }
    }
}

fn began(
    deviation: &Deviation,
    rows: &[&DriftRow],
    speaks_for: Option<usize>,
    suppressed: u64,
    now: Timestamp,
    half_width_ns: u64,
) -> Signal {
    let Deviation { matter: Matter { kind, role, key, value }, host } = deviation;
    let DriftRow { entity, expected, group, peers, agree, severity, .. } = rows[0];
    let expected = cut(expected);
    let more = match (rows.len(), speaks_for) {
        (1, None) => String::new(),
        (entities, None) => format!(" (and {} more of this host)", entities - 1),
        (_, Some(hosts)) => format!(" (and so it is on {} more hosts)", hosts - 1),
    };
    let mut attributes: BTreeMap<String, String> = [
        ("key", key.clone()),
        ("value", value.clone()),
        ("expected", expected.clone()),
        ("group", group.clone()),
        ("role", role.clone()),
        ("peers", peers.to_string()),
        ("agree", agree.to_string()),
        ("entities", rows.len().to_string()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into();
    attributes.extend(speaks_for.map(|hosts| ("hosts".to_owned(), hosts.to_string())));
    Signal {
        name: SIGNALS[0].to_owned(),
        element: Element { host: host.clone(), kind: kind.clone(), name: entity.clone() },
        severity: if *severity == "warning" { Severity::Warning } else { Severity::Info },
        observed: now,
        half_width_ns,
        #[expect(clippy::cast_precision_loss, reason = "entities of a host, few")]
        value: rows.len() as f64,
        previous: None,
        unit: "{entity}".to_owned(),
        summary: format!(
            "{key} of {} is {value}, and {expected} on {agree} of {peers} peers{more}",
            called(kind, entity)
        ),
        attributes,
        incomplete_since: None,
        suppressed,
    }
}

fn ended(
    deviation: &Deviation,
    followed: &Followed,
    stand: Now,
    suppressed: u64,
    now: Timestamp,
    half_width_ns: u64,
) -> Signal {
    let Deviation { matter: Matter { kind, role, key, value }, host } = deviation;
    let (cause, text) = match stand {
        // Its peers changed, or they no longer agree among themselves.
        Now::Has => ("peers", format!("is {value} still, and no clear majority of its peers has another")),
        _ => ("value", format!("is no longer {value}")),
    };
    let cause = cause.to_owned();
    let attributes = [("key", key), ("value", value), ("role", role), ("cause", &cause)];
    Signal {
        name: SIGNALS[1].to_owned(),
        element: Element { host: host.clone(), kind: kind.clone(), name: followed.entity.clone() },
        severity: Severity::Info,
        observed: now,
        half_width_ns,
        value: 0.0,
        previous: None,
        unit: "{entity}".to_owned(),
        summary: format!("{key} of {} {text}", called(kind, &followed.entity)),
        attributes: attributes.map(|(key, value)| (key.to_owned(), value.clone())).into(),
        incomplete_since: None,
        suppressed,
    }
}

fn called(kind: &str, entity: &str) -> String {
    if entity.is_empty() { format!("the {kind}") } else { format!("{kind} {entity}") }
}

/// At most so much of a text.
fn cut(text: &str) -> String {
    match text.char_indices().nth(TEXT_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Whether a value is the one that was told of, which may have been cut.
pub fn is_told(value: &str, told: &str) -> bool {
    value == told || cut(value) == told
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(host: usize, key: &'static str, value: &str) -> DriftRow {
        DriftRow {
            host: format!("h{host:04}"),
            entity_kind: "port".into(),
            entity: "eth0".into(),
            key,
            value: value.into(),
            expected: "9000".into(),
            group: "fleet".into(),
            role: "rdma".into(),
            peers: 1_000,
            agree: 900,
            severity: "warning",
            meaning: "",
        }
    }

    /// Name, host, `hosts` and `suppressed` of each signal, look by look.
    fn told(teller: &mut Teller, looks: &[Vec<DriftRow>], now: Now) -> Vec<Vec<(String, String, String, u64)>> {
        let of = |signal: Signal| {
            let hosts = signal.attributes.get("hosts").cloned().unwrap_or_default();
            (signal.name, signal.element.host, hosts, signal.suppressed)
        };
        let mut look = |rows: &Vec<DriftRow>| teller.look(rows, Timestamp(1), 1, |_, _, _, _| now);
        looks.iter().map(|rows| look(rows).into_iter().map(of).collect()).collect()
    }

    fn one(name: &str, host: usize) -> Vec<(String, String, String, u64)> {
        vec![(name.into(), format!("h{host:04}"), String::new(), 0)]
    }

    #[test]
    fn a_difference_is_told_once_when_it_stands_and_once_when_it_is_over() {
        let is = || vec![row(1, "mtu", "1500")];
        for (what, looks, now, expected) in [
            ("stands", vec![is(), is(), is(), is()], Now::Has, vec![vec![], one("config.drift", 1), vec![], vec![]]),
            ("passes", vec![is(), vec![], is(), vec![]], Now::HasNot, vec![vec![]; 4]),
            (
                "ends",
                vec![is(), is(), vec![], vec![], vec![]],
                Now::HasNot,
                vec![vec![], one("config.drift", 1), vec![], one("config.drift.over", 1), vec![]],
            ),
            (
                "is missed once",
                vec![is(), is(), vec![], is(), is()],
                Now::Has,
                vec![vec![], one("config.drift", 1), vec![], vec![], vec![]],
            ),
            (
                "its host is away",
                vec![is(), is(), vec![], vec![], is(), is()],
                Now::Away,
                vec![vec![], one("config.drift", 1), vec![], vec![], vec![], vec![]],
            ),
            (
                "its host is forgotten",
                vec![is(), is(), vec![], vec![]],
                Now::Forgotten,
                vec![vec![], one("config.drift", 1), vec![], vec![]],
            ),
        ] {
            assert_eq!(told(&mut Teller::default(), &looks, now), expected, "{what}");
        }
    }

    #[test]
    fn a_rollout_is_one_matter_however_many_hosts_it_reaches() {
        let to = |hosts: usize| (0..hosts).map(|host| row(host, "driver", "new")).collect::<Vec<_>>();
        // 2 hosts, then 20, then 400; then the majority turns, and 300 that are late have another value than it.
        let late: Vec<_> = (600..900).map(|host| row(host, "driver", "old")).collect();
        let looks =
            [to(2), to(2), to(20), to(20), to(400), to(400), vec![], vec![], late.clone(), late, vec![], vec![]];
        let found = told(&mut Teller::default(), &looks, Now::Has);
        let counts: Vec<_> = found.iter().map(Vec::len).collect();
        assert_eq!(counts, [0, 2, 0, 1, 0, 0, 0, 3, 0, 1, 0, 1]);
        assert_eq!(found[3][0].2, "20");
        assert_eq!(found[3][0].3, 17, "those are in the count of the signal");
        assert_eq!(found[7].iter().map(|over| over.3).sum::<u64>(), 380, "and those that came later");
        assert_eq!((found[9][0].2.as_str(), found[9][0].3), ("300", 299));
    }

    #[test]
    fn what_is_beyond_the_bound_of_a_look_is_told_at_the_next() {
        let keys = ["mtu", "link.speed", "driver"];
        let rows: Vec<_> = (0..60).map(|n| row(n, keys[n % 3], &format!("value {n}"))).collect();
        let found = told(&mut Teller::default(), &vec![rows; 5], Now::Has);
        assert_eq!(found.iter().map(Vec::len).collect::<Vec<_>>(), [0, 32, 28, 0, 0]);
    }

    #[test]
    fn after_a_restart_nothing_is_told_again_and_its_end_still_is() {
        let (mut teller, mut stored) = (Teller::default(), Vec::new());
        let rows = vec![row(1, "mtu", "1500"), row(2, "driver", "old")];
        let many: Vec<_> = (10..30).map(|host| row(host, "link.speed", "100")).collect();
        let all = [rows.clone(), many.clone()].concat();
        for look in [&all, &all, &[row(1, "mtu", "1500")].to_vec(), &rows[..1].to_vec()] {
            stored.extend(teller.look(look, Timestamp(1), 1, |_, _, _, _| Now::HasNot));
        }
        stored.reverse();
        let mut teller = Teller::recall(&stored);
        let again = told(&mut teller, &[all.clone(), all.clone()], Now::Has);
        let names: Vec<_> = again.concat().into_iter().map(|(name, host, ..)| (name, host)).collect();
        assert_eq!(
            names,
            [("config.drift".into(), "h0002".into()), ("config.drift".into(), "h0010".into())],
            "those were over, and came again"
        );
        let over = told(&mut teller, &[vec![], vec![]], Now::HasNot).concat();
        assert_eq!(over.len(), 3, "{over:?}");
    }
}
