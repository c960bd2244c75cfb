//! Faults drawn on a fabric of four leaves and two spines, with the probes that hosts would send over it.

use super::*;

/// Elements: for each host h its cable up 2h and down 2h+1; from 100 on: leaf l to spine s up 100+10l+2s, down the next.
const HOSTS: u32 = 8;

fn leaf(host: u32) -> u32 {
    host / 2
}

/// Ways of a flow over the two spines.
fn ways(from: u32, to: u32) -> Vec<Vec<u32>> {
    if leaf(from) == leaf(to) {
        return vec![vec![2 * from, 2 * to + 1]];
    }
    let over =
        |spine: u32| vec![2 * from, 100 + 10 * leaf(from) + 2 * spine, 100 + 10 * leaf(to) + 2 * spine + 1, 2 * to + 1];
    vec![over(0), over(1)]
}

/// A small generator (xorshift64*): the draws are the same everywhere.
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        #[expect(clippy::cast_precision_loss, reason = "53 bits")]
        let bits = (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64;
        bits / (1u64 << 53) as f64
    }

    fn lost(&mut self, sent: u32, rate: f64) -> u32 {
        (0..sent).filter(|_| self.next() < rate).count().try_into().unwrap_or(0)
    }
}

struct Fault {
    element: u32,
    rate: f64,
    takes: Takes,
}

/// How much is known of a flow's probes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Known {
    /// Only that it may take either way, and how many came back.
    RoundTrips,
    /// Its ways, and on which of the two a probe was lost.
    Ways,
}

/// Every pair of hosts, four flows each, so many probes of each length.
fn observe(fault: Option<&Fault>, probes: u32, known: Known, seed: u64) -> Vec<Observation> {
    let mut draw = Draw(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut seen = Vec::new();
    for from in 0..HOSTS {
        for to in (0..HOSTS).filter(|to| *to != from) {
            for _ in 0..4 {
                let (all_there, all_back) = (ways(from, to), ways(to, from));
                let pick = |ways: &[Vec<u32>], draw: &mut Draw| {
                    ways[usize::from(ways.len() == 2 && draw.next() < 0.5)].clone()
                };
                let (there, back) = (pick(&all_there, &mut draw), pick(&all_back, &mut draw));
                for is_long in [false, true] {
                    let loss = |way: &[u32]| match fault {
                        Some(it) if way.contains(&it.element) && (is_long || it.takes == Takes::Any) => it.rate,
                        _ => 1e-6,
                    };
                    let lost_there = draw.lost(probes, loss(&there));
                    let lost_back = draw.lost(probes - lost_there, loss(&back));
                    let crosses = |there: &[Vec<u32>], back: &[Vec<u32>]| {
                        #[expect(clippy::cast_precision_loss, reason = "one or two")]
                        let share = |ways: &[Vec<u32>], element: &u32| {
                            ways.iter().filter(|way| way.contains(element)).count() as f64 / ways.len().max(1) as f64
                        };
                        let elements: BTreeSet<u32> = there.iter().chain(back).flatten().copied().collect();
                        let crossing =
                            |element| Crossing { element, there: share(there, &element), back: share(back, &element) };
                        elements.into_iter().map(crossing).collect()
                    };
                    let observed = |sent, lost, crosses| Observation { sent, lost, is_long, prober: from, crosses };
                    match known {
                        Known::RoundTrips => {
                            seen.push(observed(probes, lost_there + lost_back, crosses(&all_there, &all_back)));
                        }
                        Known::Ways => {
                            seen.push(observed(probes, lost_there, crosses(std::slice::from_ref(&there), &[])));
                            seen.push(observed(
                                probes - lost_there,
                                lost_back,
                                crosses(&[], std::slice::from_ref(&back)),
                            ));
                        }
                    }
                }
            }
        }
    }
    seen
}

#[test]
fn the_element_at_fault_is_named_alone_where_ways_are_known_and_among_its_equals_where_not() {
    // The two directions of a host's cable are apart only where the ways there and back are.
    for (known, probes, elements) in
        [(Known::Ways, 40, [100, 103, 132, 2 * 5, 2 * 5 + 1].as_slice()), (Known::RoundTrips, 80, &[100, 103, 132])]
    {
        for &element in elements {
            for (rate, takes) in [(0.02, Takes::Any), (0.3, Takes::Any), (0.999, Takes::Any), (0.3, Takes::LongAlone)] {
                for seed in 1..=5 {
                    let fault = Fault { element, rate, takes };
                    let found = locate(&observe(Some(&fault), probes, known, seed), Prior::default());
                    let what = format!("{element} {rate} {takes:?} {known:?} seed {seed}: {found:#?}");
                    let equal = found.iter().take_while(|it| (it.posterior / found[0].posterior - 1.0).abs() < 1e-6);
                    let equal: Vec<_> = equal.map(|it| (it.element, it.takes)).collect();
                    assert!(equal.contains(&(element, takes)), "{what}");
                    assert!(found[0].posterior * equal.len() as f64 > 0.95 && found[0].hosts >= 2, "{what}");
                    match known {
                        Known::Ways => assert_eq!(equal.len(), 1, "{what}"),
                        // Which spine, and which direction, nothing tells.
                        Known::RoundTrips => assert_eq!(equal.len(), 4, "{what}"),
                    }
                    assert!(found[0].rate / rate < 2.6 && rate / found[0].rate < 2.6, "{what}");
                }
            }
        }
    }
}

#[test]
fn a_lost_probe_or_two_accuse_nobody() {
    assert_eq!(locate(&observe(None, 40, Known::Ways, 1), Prior::default()), []);
    for seed in 1..=20 {
        let mut seen = observe(None, 40, Known::Ways, seed);
        let mut draw = Draw(seed);
        for _ in 0..2 {
            let at = (draw.next() * 896.0) as usize;
            seen[at].lost += 1;
        }
        let found = locate(&seen, Prior::default());
        assert!(found.iter().all(|it| it.posterior < 0.6), "seed {seed}: {found:#?}");
    }
}

#[test]
fn what_cannot_be_told_apart_has_equal_shares() {
    let both = |there| vec![Crossing { element: 1, there, back: 0.0 }, Crossing { element: 2, there, back: 0.0 }];
    let lossy = Observation { sent: 100, lost: 30, is_long: false, prober: 0, crosses: both(1.0) };
    let fine = Observation { sent: 1000, lost: 0, is_long: false, prober: 2, crosses: vec![] };
    let found = locate(&[lossy, fine], Prior::default());
    let shares: Vec<_> =
        found.iter().filter(|it| it.takes == Takes::Any).map(|it| (it.element, it.posterior)).collect();
    assert_eq!(shares.iter().map(|(element, _)| *element).collect::<Vec<_>>(), [1, 2]);
    assert!((shares[0].1 - shares[1].1).abs() < 1e-9 && shares[0].1 > 0.4, "{shares:?}");
}
