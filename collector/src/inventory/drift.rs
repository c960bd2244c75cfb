//! Who differs from its peers. Pure: inventories in, rows out, the same for the same input.
//!
//! For each key, hosts are compared within a group (the fleet, or the hosts of one job). A host's answer is the list of its values over all
//! entities of one kind and role, so that a host with eight fast ports and two slow ones agrees with one that has the same, whatever
//! their names. Where a majority of enough hosts agree, the others are told value by value. Without a majority nobody is wrong: a tie, or a
//! fleet half way through an upgrade, tells nothing. Never: a word about a value that is missing where it may (a count has its own key).

use super::Compact;
use railwatch_wire::inventory::{Class, Key};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// When a majority is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DriftOptions {
    /// Hosts that must have a key for it to be compared, 3 to 10,000.
    pub peers_min: u64,
    /// Share of them that must agree, percent, 51 to 100.
    pub majority_percent: u64,
}

impl Default for DriftOptions {
    fn default() -> Self {
        Self { peers_min: 4, majority_percent: 60 }
    }
}

impl DriftOptions {
    /// Why they cannot be used.
    pub fn check(&self) -> Result<(), String> {
        if !(3..=10_000).contains(&self.peers_min) {
            return Err(format!("drift.peers_min = {}: expected 3 to 10000", self.peers_min));
        }
        if !(51..=100).contains(&self.majority_percent) {
            return Err(format!("drift.majority_percent = {}: expected 51 to 100", self.majority_percent));
        }
        Ok(())
    }
}

/// Hosts that are compared with each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// All.
    #[default]
    Fleet,
    /// Those that run the same job.
    Job,
}

/// A host as it is compared.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its name.
    pub host: String,
    /// Its inventory.
    pub inventory: Arc<Compact>,
    /// Jobs that it runs.
    pub jobs: Vec<String>,
}

/// A value that differs from the majority's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct DriftRow {
    /// The host that differs.
    pub host: String,
    /// Kind of the entity.
    pub entity_kind: String,
    /// Its name.
    pub entity: String,
    /// The key.
    pub key: &'static str,
    /// What the host has.
    pub value: String,
    /// What the majority has; several values, joined by " | ", where its entities differ among themselves.
    pub expected: String,
    /// What was compared with: "fleet", or "job NAME".
    pub group: String,
    /// Role of the entities compared; empty where all of a kind are.
    pub role: String,
    /// Hosts compared.
    pub peers: u64,
    /// Of them: those that agree with the majority.
    pub agree: u64,
    /// How much it matters: "info", "warning".
    pub severity: &'static str,
    /// What the key says.
    pub meaning: &'static str,
}

/// Values of one host for one question, with the entities that have them.
type Answer<'p> = Vec<(&'p str, &'p str)>;

/// What is asked of all hosts: group, kind, role, key.
type Question<'p> = (&'p str, &'p str, &'p str, &'static str);

/// All differences, by host, entity and key.
pub fn drift(peers: &[Peer], by: By, options: &DriftOptions) -> Vec<DriftRow> {
    let mut questions: HashMap<Question<'_>, (&'static Key, BTreeMap<usize, Answer<'_>>)> = HashMap::new();
    for (at, peer) in peers.iter().enumerate() {
        let groups: BTreeSet<&str> = match by {
            By::Fleet => [""].into(),
            By::Job => peer.jobs.iter().map(String::as_str).collect(),
        };
        for entity in peer.inventory.entities() {
            for (key, value) in entity.values() {
                let role = match key.class {
                    Class::Role => &*entity.role,
                    Class::Fleet => "",
                    // Jobs of one fleet need not agree.
                    Class::Job if by == By::Job => "",
                    Class::Job | Class::Host => continue,
                };
                for group in &groups {
                    let (_, answers) = questions
                        .entry((group, &entity.kind, role, key.name))
                        .or_insert_with(|| (key, BTreeMap::new()));
                    answers.entry(at).or_default().push((value, &entity.name));
                }
            }
        }
    }
    let mut rows = Vec::new();
    for ((group, kind, role, _), (key, answers)) in questions {
        let Some(majority) = Majority::of(answers, options) else { continue };
        for (at, entity, value, expected) in majority.differences() {
            rows.push(DriftRow {
                host: peers[at].host.clone(),
                entity_kind: kind.to_owned(),
                entity: entity.to_owned(),
                key: key.name,
                value: value.to_owned(),
                expected,
                group: if by == By::Fleet { "fleet".to_owned() } else { format!("job {group}") },
                role: role.to_owned(),
                peers: majority.answers.len() as u64,
                agree: majority.agree,
                severity: key.weight.name(),
                meaning: key.meaning,
            });
        }
    }
    rows.sort_unstable();
    rows
}

/// Answers of all hosts, and the one that most gave.
struct Majority<'p> {
    answers: BTreeMap<usize, Answer<'p>>,
    /// Values, sorted; with each as often as it is there.
    values: Vec<&'p str>,
    /// The first host that gave it.
    model: Answer<'p>,
    agree: u64,
}

impl<'p> Majority<'p> {
    fn of(mut answers: BTreeMap<usize, Answer<'p>>, options: &DriftOptions) -> Option<Self> {
        let peers = answers.len() as u64;
        if peers < options.peers_min {
            return None;
        }
        let mut votes: HashMap<Vec<&str>, (u64, usize)> = HashMap::new();
        for (at, answer) in &mut answers {
            answer.sort_unstable();
            votes.entry(answer.iter().map(|(value, _)| *value).collect()).or_insert((0, *at)).0 += 1;
        }
        let (values, (agree, model)) = votes.into_iter().max_by_key(|(_, (count, _))| *count)?;
        // Above a half by the options' own bound: there is one such answer at most.
        if agree == peers || agree * 100 < options.majority_percent * peers {
            return None;
        }
        let model = answers.get(&model)?.clone();
        Some(Self { answers, values, model, agree })
    }

    /// Host, entity, its value, and the one expected.
    fn differences(&self) -> Vec<(usize, &'p str, &'p str, String)> {
        let mut distinct = self.values.clone();
        distinct.dedup();
        let all = distinct.join(" | ");
        let of_model = |entity: &str| self.model.iter().find(|(_, name)| *name == entity).map(|(value, _)| *value);
        let mut found = Vec::new();
        for (at, answer) in &self.answers {
            for (value, entity) in answer {
                let expected = of_model(entity);
                let is_strange = !distinct.contains(value);
                // A value that belongs here, on an entity that has another elsewhere: where as many are there, one of them moved.
                let has_moved = !is_strange
                    && answer.len() == self.values.len()
                    && expected.is_some_and(|expected| expected != *value)
                    && answer.iter().filter(|(v, _)| v == value).count()
                        > self.values.iter().filter(|v| *v == value).count();
                if is_strange || has_moved {
                    found.push((*at, *entity, *value, expected.map_or_else(|| all.clone(), str::to_owned)));
                }
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::Inventories;
    use railwatch_wire::v1;

    /// (entity kind, entity, role, key, value)
    type Item = (&'static str, &'static str, &'static str, &'static str, &'static str);

    fn peer(inventories: &Inventories, host: &str, items: &[Item]) -> Peer {
        let item = |(kind, entity, role, key, value): &Item| v1::InventoryItem {
            entity_kind: (*kind).into(),
            entity: (*entity).into(),
            role: (*role).into(),
            key: (*key).into(),
            value: (*value).into(),
            source: "test".into(),
        };
        let inventory = inventories.share(&v1::InventoryState { items: items.iter().map(item).collect() });
        Peer { host: host.into(), inventory, jobs: Vec::new() }
    }

    /// One host for each list of items, `h0`, `h1`, …; (host, entity, key, value, expected).
    fn told(hosts: &[Vec<Item>], options: DriftOptions) -> Vec<(String, String, &'static str, String, String)> {
        let inventories = Inventories::default();
        let peers: Vec<_> =
            hosts.iter().enumerate().map(|(n, items)| peer(&inventories, &format!("h{n}"), items)).collect();
        let row = |row: DriftRow| (row.host, row.entity, row.key, row.value, row.expected);
        drift(&peers, By::Fleet, &options).into_iter().map(row).collect()
    }

    fn mtu(value: &'static str) -> Vec<Item> {
        vec![("port", "eth0", "rdma", "mtu", value)]
    }

    fn row(host: &str, entity: &str, value: &str, expected: &str) -> (String, String, &'static str, String, String) {
        (host.into(), entity.into(), "mtu", value.into(), expected.into())
    }

    #[test]
    fn of_eight_hosts_the_one_that_differs_is_told_and_without_a_majority_nobody() {
        let hosts =
            |odd: usize, of: usize| -> Vec<_> { (0..of).map(|n| mtu(if n < odd { "1500" } else { "9000" })).collect() };
        let options = DriftOptions::default();
        assert_eq!(told(&hosts(1, 8), options), [row("h0", "eth0", "1500", "9000")]);
        for (what, odd, of) in [("all agree", 0, 8), ("a tie", 4, 8), ("five of nine", 4, 9), ("too few peers", 1, 3)] {
            assert_eq!(told(&hosts(odd, of), options), [], "{what}");
        }
        assert_eq!(told(&hosts(1, 3), DriftOptions { peers_min: 3, ..options }).len(), 1);
        assert_eq!(told(&hosts(1, 8), DriftOptions { majority_percent: 90, ..options }), []);
        assert_eq!(told(&hosts(3, 8), options).len(), 3);
    }

    #[test]
    fn a_host_with_fast_and_slow_ports_agrees_with_its_like_whatever_their_names() {
        let of = |fast: &'static str, slow: &'static str| -> Vec<Item> {
            vec![("port", fast, "rdma", "mtu", "9000"), ("port", slow, "rdma", "mtu", "1500")]
        };
        let mut hosts = vec![of("eth0", "eth1"); 5];
        hosts[3] = of("ens1", "ens2");
        assert_eq!(told(&hosts, DriftOptions::default()), []);
        hosts[4] = of("eth0", "eth1").into_iter().map(|(k, e, r, key, _)| (k, e, r, key, "9000")).collect();
        assert_eq!(told(&hosts, DriftOptions::default()), [row("h4", "eth1", "9000", "1500")]);
        // One port fewer is the business of the count.
        hosts[4] = of("eth0", "eth1")[..1].to_vec();
        assert_eq!(told(&hosts, DriftOptions::default()), []);
    }

    #[test]
    fn roles_are_apart_and_what_compares_with_nothing_is_not_compared() {
        let mut hosts = vec![mtu("9000"); 4];
        hosts.push(vec![("port", "eth0", "plain", "mtu", "1500")]);
        let addresses = ["a", "b", "b", "b", "b"];
        for (host, address) in hosts.iter_mut().zip(addresses) {
            host.push(("module", "eth0", "", "serial.number", address));
        }
        assert_eq!(told(&hosts, DriftOptions::default()), []);
        for host in &mut hosts[..2] {
            host.push(("host", "", "x", "kernel.release", "6.1"));
        }
        for host in &mut hosts[2..] {
            host.push(("host", "", "y", "kernel.release", "6.12"));
        }
        let told: Vec<_> = told(&hosts, DriftOptions::default()).into_iter().map(|row| (row.0, row.3)).collect();
        assert_eq!(
            told,
            [("h0".into(), "6.1".into()), ("h1".into(), "6.1".into())],
            "the fleet's are compared over roles"
        );
    }

    #[test]
    fn libraries_are_compared_within_a_job_alone() {
        let inventories = Inventories::default();
        let mut peers: Vec<_> = ["2.18", "2.21", "2.21", "2.21", "2.19", "2.19", "2.19", "2.19"]
            .into_iter()
            .enumerate()
            .map(|(n, nccl)| peer(&inventories, &format!("h{n}"), &[("host", "", "", "library.nccl", nccl)]))
            .collect();
        for (n, peer) in peers.iter_mut().enumerate() {
            peer.jobs = vec![if n < 4 { "17".into() } else { "18".into() }];
        }
        assert_eq!(drift(&peers, By::Fleet, &DriftOptions::default()), []);
        let rows = drift(&peers, By::Job, &DriftOptions::default());
        let told: Vec<_> = rows.iter().map(|row| (&*row.host, &*row.value, &*row.expected, &*row.group)).collect();
        assert_eq!(told, [("h0", "2.18", "2.21", "job 17")]);
        assert_eq!((rows[0].peers, rows[0].agree), (4, 3));
    }

    /// Prints what the specification's figure rests on.
    #[test]
    #[ignore = "a measurement: cargo test -p railwatch-collector --lib drift -- --ignored --nocapture"]
    fn cost_of_ten_thousand_hosts() {
        const HOSTS: usize = 10_000;
        let inventories = Inventories::default();
        let keys: Vec<&str> = railwatch_wire::inventory::KEYS
            .iter()
            .filter(|key| key.entities.contains("port") && key.class == Class::Role)
            .map(|key| key.name)
            .take(20)
            .collect();
        let peers: Vec<_> = (0..HOSTS)
            .map(|n| {
                let item = |at: usize| v1::InventoryItem {
                    entity_kind: "port".into(),
                    entity: format!("eth{}", at / keys.len()),
                    role: "rdma mlx5_core".into(),
                    key: keys[at % keys.len()].into(),
                    value: if n % 100 == 0 && at == 7 { "odd".into() } else { format!("value {}", at % keys.len()) },
                    source: "test".into(),
                };
                let inventory = inventories.share(&v1::InventoryState { items: (0..200).map(item).collect() });
                Peer { host: format!("h{n}"), inventory, jobs: Vec::new() }
            })
            .collect();
        let begun = std::time::Instant::now();
        let rows = drift(&peers, By::Fleet, &DriftOptions::default());
        eprintln!("{HOSTS} hosts of 200 values compared in {:?}; {} texts", begun.elapsed(), inventories.texts());
        assert_eq!(rows.len(), HOSTS / 100);
    }
}
