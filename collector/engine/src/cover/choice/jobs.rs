//! Flows among the NICs of each job, in the steps of the shape, by rank.
//!
//! In: the jobs of a [`World`](super::World). Out: flows of each size for each pair, and for each job how many pairs there are and how many are
//! probed. NICs of one rail are a group, since that is how collectives pair them. Rounds of all groups are taken in turn, of each group spread
//! evenly over all its rounds, so that a job too large for the budget has an even part of its pairs, and no job takes what others need. A pair
//! that two jobs share is probed once, for the first. Pure. Never: more of a NIC's budget, or of a host's flows, than [`Room`] allows.

use super::{Builder, Phase};
use crate::cover::plan::JobPlan;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

/// Flows of all jobs together: a plan is made within a second, and the collector keeps minutes of each flow.
const FLOWS_MAX: usize = 131_072;

/// What jobs may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cover) enum Room {
    /// Half of each NIC's budget and of each host's flows, before links are covered: what is among a job's NICs covers links, too.
    Half,
    /// What is left after links are covered.
    Rest,
}

/// The NICs of a job on one rail, by rank.
struct Group {
    job: usize,
    members: Vec<usize>,
    /// Those to come, the next one last.
    rounds: Vec<usize>,
    rounds_all: usize,
}

/// What becomes of jobs' pairs.
#[derive(Default)]
struct Progress {
    /// Pairs that are probed already, for whichever job.
    have: HashSet<(usize, usize)>,
    flows: usize,
    /// Of the plan before, by ends and size: the one that was a job's, where there is one.
    before: HashMap<(usize, usize, usize), usize>,
}

impl Builder<'_> {
    pub(super) fn among_jobs(&mut self, room: Room) {
        let mut groups = self.groups();
        let mut progress = self.progress(!groups.is_empty());
        while !groups.is_empty() {
            groups.retain_mut(|group| {
                let Some(round) = group.rounds.pop() else { return false };
                self.round(group, round, room, &mut progress)
            });
        }
        self.reserved.iter_mut().for_each(BTreeSet::clear);
    }

    /// By job and rail; tells at once how many pairs each job has.
    fn groups(&mut self) -> Vec<Group> {
        let world = self.world;
        let jobs = world.jobs;
        let mut of_host: HashMap<&str, Vec<usize>> = HashMap::new();
        if !jobs.is_empty() {
            for (at, endpoint) in world.endpoints.iter().enumerate().filter(|(at, _)| !self.ways.is_down(*at)) {
                of_host.entry(endpoint.port.node.as_str()).or_default().push(at);
            }
        }
        let mut groups = Vec::new();
        for (job, running) in jobs.iter().enumerate() {
            let mut rails: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
            let mut plan = JobPlan { name: running.name.clone(), ..JobPlan::default() };
            for host in &running.hosts {
                let nics = of_host.get(host.as_str()).map_or(&[][..], Vec::as_slice);
                plan.hosts_without += usize::from(nics.is_empty());
                plan.nics += nics.len();
                for nic in nics {
                    rails.entry(world.endpoints[*nic].rail.as_str()).or_default().push(*nic);
                }
            }
            for members in rails.into_values() {
                plan.pairs += self.options.shape.pairs(members.len());
                if !members.iter().any(|member| self.answers[*member]) {
                    continue;
                }
                let rounds_all = self.options.shape.rounds(members.len());
                let mut rounds: Vec<_> = spread(rounds_all).collect();
                rounds.reverse();
                groups.push(Group { job, members, rounds, rounds_all });
            }
            self.jobs.push(plan);
        }
        groups
    }

    /// What was there before may go on; ports of flows that may yet be kept are nobody else's.
    fn progress(&mut self, is_wanted: bool) -> Progress {
        let mut progress = Progress::default();
        if !is_wanted {
            return progress;
        }
        let (world, by_address) = (self.world, self.by_address());
        for (at, before) in world.before.iter().enumerate() {
            let Some((from, to, size)) = self.usable(&by_address, before) else { continue };
            self.reserved[from].insert(before.flow.source_port);
            let known = progress.before.entry((from, to, size)).or_insert(at);
            if before.job.is_some() && world.before[*known].job.is_none() {
                *known = at;
            }
        }
        progress
    }

    /// A round of a group. False where nothing of it found room: then nothing of a later one does either.
    fn round(&mut self, group: &Group, round: usize, room: Room, progress: &mut Progress) -> bool {
        let phase = Phase { at: round, of: group.rounds_all };
        let (mut came, mut refused) = (0, 0);
        for (a, b) in self.options.shape.round(group.members.len(), round) {
            let (a, b) = (group.members[a], group.members[b]);
            // Both directions are crossed whoever asks.
            let (from, to) = if self.answers[b] { (a, b) } else { (b, a) };
            if !self.answers[to] || !self.may_join(from, to) {
                continue;
            }
            if progress.have.contains(&(from, to)) || self.pair(group.job, from, to, phase, room, progress) {
                came += 1;
            } else {
                refused += 1;
            }
        }
        self.jobs[group.job].pairs_probed += came;
        came > 0 || refused == 0
    }

    /// Flows of each size, or none.
    fn pair(&mut self, job: usize, from: usize, to: usize, phase: Phase, room: Room, progress: &mut Progress) -> bool {
        let (world, sizes) = (self.world, self.options.sizes_bytes.len());
        let (budget, flows_max) = match room {
            Room::Half => (self.options.packets_per_s_per_nic_max / 2.0, self.options.flows_per_host_max / 2),
            Room::Rest => (self.options.packets_per_s_per_nic_max, self.options.flows_per_host_max),
        };
        #[expect(clippy::cast_precision_loss, reason = "a few sizes")]
        let per_s = self.per_s(from, to) * sizes as f64;
        let is_full = [from, to].iter().any(|end| self.load[*end] + per_s > budget + 1e-9)
            || self.of_host[self.hosts[from]] + sizes > flows_max
            || progress.flows + sizes > FLOWS_MAX;
        if is_full {
            return false;
        }
        let mut flows = 0;
        for size in 0..sizes {
            let before = progress.before.get(&(from, to, size)).map(|at| &world.before[*at]);
            let before = before.filter(|before| !self.by_id.contains(&before.id));
            let is_in = match before {
                Some(before) => self.add(from, to, before.flow.clone(), size, before.offset_us),
                None => self.new_flow(from, to, size, phase),
            };
            if let Some(flow) = self.flows.last_mut().filter(|_| is_in) {
                flow.job = Some(world.jobs[job].name.clone());
                flows += 1;
            }
        }
        progress.flows += flows;
        progress.have.insert((from, to));
        flows == sizes
    }

    pub(super) fn by_address(&self) -> HashMap<IpAddr, usize> {
        let endpoints = self.world.endpoints.iter().enumerate();
        endpoints.flat_map(|(at, endpoint)| endpoint.addresses().map(move |address| (address, at))).collect()
    }
}

/// The numbers below `count` in an order of which every first part lies evenly among them (van der Corput, 1935).
fn spread(count: usize) -> impl Iterator<Item = usize> {
    let places = count.next_power_of_two();
    let bits = places.trailing_zeros();
    let reversed = move |at: usize| if bits == 0 { 0 } else { at.reverse_bits() >> (usize::BITS - bits) };
    (0..places).map(reversed).filter(move |at| *at < count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_comes_once_and_every_first_part_is_even() {
        for count in [0, 1, 2, 3, 7, 8, 63, 100] {
            let order: Vec<_> = spread(count).collect();
            let distinct: BTreeSet<_> = order.iter().copied().collect();
            assert_eq!((order.len(), distinct.len()), (count, count), "{count}");
            for part in 1..=count {
                let mut taken = order[..part].to_vec();
                taken.sort_unstable();
                let gap = taken.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0);
                assert!(gap * part <= 4 * count, "{part} of {count}: a gap of {gap}");
            }
        }
    }
}
