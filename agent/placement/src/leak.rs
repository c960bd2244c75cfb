//! GPU memory that only grows: the floor of a balance over time.
//!
//! In: the bytes that one process holds on one device through one layer, with times. Out: a [`Leak`], once while it lasts.
//! Time is cut into segments; of each only the least balance is kept, its floor: what iterations take and give back is above
//! it. Memory leaks where each of seven floors is above the one before, and the growth of the later half is not much less than
//! that of the earlier. So growth at the start, an allocator that takes a step and settles, and a plateau of fragmentation say
//! nothing: each has a segment without growth, or slows down. Two lengths of segments run side by side: 5 minutes for leaks of
//! hundreds of MiB an hour, 40 for slower ones, which a caching allocator passes on in steps that are far apart.
//! An allocator that grows ever more rarely (new shapes make new records, whose number grows as a logarithm) never settles: so
//! the slope over the later half of the time that the process was watched must also not be much less than over the quarter
//! before. And a balance that goes up and down in waves of hours is told from a leak by where it begins to rise: below what was
//! usual before. The slope is Theil and Sen's: the median of the slopes between all pairs of floors.
//! Never: a judgement from the first segment, which holds the start.

use std::time::Duration;

/// Floors that are compared.
const FLOORS: usize = 7;
/// Lengths of segments.
const SEGMENTS_NS: [u64; 2] = [300 * SECOND_NS, 2_400 * SECOND_NS];
const SECOND_NS: u64 = 1_000_000_000;
/// Least growth over all floors.
const GROWTH_BYTES_MIN: u64 = 16 << 20;
/// Least growth of each floor.
const RISE_BYTES_MIN: u64 = 256 << 10;
/// The later half of the growth must be at least this part of the earlier half.
const STEADY: f64 = 0.6;
/// The slope over the later half of all time must be at least this part of the slope over the quarter before it: of a
/// logarithm it is a half, of a square root 0.71, of a line 1.
const LASTING: f64 = 0.75;
/// Floors kept of all time; where they are full, every other one goes.
const HISTORY: usize = 32;
/// Times apart further than this: the process was not looked at, and the segments begin anew.
const GAP_NS: u64 = 60 * SECOND_NS;
/// How long until the same leak is told again.
const AGAIN_NS: u64 = 6 * 3600 * SECOND_NS;

/// Memory that leaks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Leak {
    /// Growth of the floor, bytes a second.
    pub bytes_per_s: f64,
    /// The growth of the floor that was seen, bytes.
    pub grown_bytes: u64,
    /// Over this long.
    pub over: Duration,
}

impl Leak {
    /// MiB an hour.
    #[must_use]
    pub fn mib_per_h(&self) -> f64 {
        self.bytes_per_s * 3600.0 / (1 << 20) as f64
    }

    /// Until so many bytes more are taken.
    #[must_use]
    pub fn until_full(&self, free_bytes: u64) -> Duration {
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        let seconds = free_bytes as f64 / self.bytes_per_s.max(1e-9);
        Duration::from_secs_f64(seconds.clamp(0.0, 1e9))
    }
}

/// What changed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Change {
    /// It leaks.
    Leaks(Leak),
    /// It leaked and no longer does.
    Over,
}

/// Follows one balance.
#[derive(Clone, Debug, Default)]
pub struct Detector {
    scales: [Scale; SEGMENTS_NS.len()],
    history: History,
    seen_ns: u64,
    told_ns: Option<u64>,
    /// The scale that told.
    told_by: usize,
}

impl Detector {
    /// Takes the balance at an instant. Earlier instants than the last are passed over.
    pub fn push(&mut self, at_ns: u64, held_bytes: u64) -> Option<Change> {
        if at_ns <= self.seen_ns {
            return None;
        }
        if at_ns - self.seen_ns > GAP_NS {
            (self.scales, self.history) = Default::default();
        }
        self.seen_ns = at_ns;
        let mut change = None;
        for (index, length_ns) in SEGMENTS_NS.into_iter().enumerate() {
            let Some(floor) = self.scales[index].push(at_ns, held_bytes, length_ns) else { continue };
            if index == 0 {
                self.history.push(at_ns, floor);
            }
            if self.scales[index].whole <= FLOORS {
                continue;
            }
            let found = self.scales[index].judge(length_ns);
            match (found, self.told_ns) {
                (Some(leak), Some(told_ns)) if at_ns - told_ns >= AGAIN_NS && self.told_by == index => {
                    self.told_ns = Some(at_ns);
                    change = Some(Change::Leaks(leak));
                }
                (Some(leak), None) if self.history.confirms(self.scales[index].floors[0], length_ns) => {
                    (self.told_ns, self.told_by) = (Some(at_ns), index);
                    change = Some(Change::Leaks(leak));
                }
                (None, Some(_)) if self.told_by == index => {
                    self.told_ns = None;
                    change = Some(Change::Over);
                }
                _ => {}
            }
        }
        change
    }
}

/// Floors over all time, ever further apart.
#[derive(Clone, Copy, Debug)]
struct History {
    /// Ends of segments, and their floors.
    kept: [(u64, u64); HISTORY],
    length: usize,
    /// One in so many is kept.
    stride: u64,
    pushed: u64,
    began_ns: u64,
    last: (u64, u64),
}

impl Default for History {
    fn default() -> Self {
        Self { kept: [(0, 0); HISTORY], length: 0, stride: 1, pushed: 0, began_ns: 0, last: (0, 0) }
    }
}

impl History {
    fn push(&mut self, at_ns: u64, floor: u64) {
        if self.pushed == 0 {
            self.began_ns = at_ns.saturating_sub(SEGMENTS_NS[0]);
        }
        self.last = (at_ns, floor);
        if self.pushed.is_multiple_of(self.stride) {
            if self.length == HISTORY {
                for index in 0..HISTORY / 2 {
                    self.kept[index] = self.kept[2 * index];
                }
                (self.length, self.stride) = (HISTORY / 2, 2 * self.stride);
            }
            self.kept[self.length] = self.last;
            self.length += 1;
        }
        self.pushed += 1;
    }

    /// Whether growth over the last floors of this length, from `first` on, is of all time too: it begins above what was usual
    /// before, so that it is no wave, and has not slowed down.
    fn confirms(&self, first: u64, length_ns: u64) -> bool {
        let since_ns = self.last.0.saturating_sub(length_ns * (FLOORS as u64 - 1));
        let mut before: Vec<u64> =
            self.kept[..self.length].iter().filter(|(at_ns, _)| *at_ns < since_ns).map(|(_, floor)| *floor).collect();
        before.sort_unstable();
        before.get(before.len() / 2).is_none_or(|usual| first >= *usual) && self.lasts()
    }

    /// Whether growth has not slowed down since a quarter of all time.
    fn lasts(&self) -> bool {
        let age_ns = self.last.0 - self.began_ns;
        let at = |age_ns: u64| {
            let kept = self.kept[..self.length].iter().copied();
            kept.min_by_key(|(at_ns, _)| at_ns.abs_diff(self.began_ns + age_ns)).unwrap_or(self.last)
        };
        let (quarter, half) = (at(age_ns / 4), at(age_ns / 2));
        #[expect(clippy::cast_precision_loss, reason = "bytes; exact up to 8 PiB")]
        let slope = |from: (u64, u64), to: (u64, u64)| {
            (to.1 as f64 - from.1 as f64) / (to.0.saturating_sub(from.0).max(1)) as f64
        };
        slope(half, self.last) >= LASTING * slope(quarter, half)
    }
}

/// The floors of one length of segments.
#[derive(Clone, Copy, Debug, Default)]
struct Scale {
    /// When the segment began; 0 before the first.
    began_ns: u64,
    floor: u64,
    floors: [u64; FLOORS],
    /// Whole segments so far, up to `FLOORS` and the first, which does not count: it holds the start of the process.
    whole: usize,
}

impl Scale {
    /// At the end of a segment, its floor.
    fn push(&mut self, at_ns: u64, held_bytes: u64, length_ns: u64) -> Option<u64> {
        if self.began_ns == 0 {
            (self.began_ns, self.floor) = (at_ns, held_bytes);
            return None;
        }
        if at_ns - self.began_ns < length_ns {
            self.floor = self.floor.min(held_bytes);
            return None;
        }
        let floor = self.floor;
        (self.began_ns, self.floor) = (at_ns, held_bytes);
        self.floors.rotate_left(1);
        self.floors[FLOORS - 1] = floor;
        self.whole = (self.whole + 1).min(FLOORS + 1);
        Some(floor)
    }

    fn judge(&self, length_ns: u64) -> Option<Leak> {
        let floors = &self.floors;
        let rises = floors.windows(2).all(|pair| pair[1] >= pair[0].saturating_add(RISE_BYTES_MIN));
        let (first, middle, last) = (floors[0], floors[FLOORS / 2], floors[FLOORS - 1]);
        if !rises || last - first < GROWTH_BYTES_MIN {
            return None;
        }
        #[expect(clippy::cast_precision_loss, reason = "bytes; exact up to 8 PiB")]
        let is_steady = (last - middle) as f64 >= STEADY * (middle - first) as f64;
        is_steady.then(|| Leak {
            bytes_per_s: self.slope(length_ns),
            grown_bytes: last - first,
            over: Duration::from_nanos(length_ns * (FLOORS as u64 - 1)),
        })
    }

    /// Bytes a second, by Theil and Sen.
    fn slope(&self, length_ns: u64) -> f64 {
        const PAIRS: usize = FLOORS * (FLOORS - 1) / 2;
        let mut slopes = [0.0; PAIRS];
        let pairs = (0..FLOORS).flat_map(|early| (early + 1..FLOORS).map(move |late| (early, late)));
        for (slope, (early, late)) in slopes.iter_mut().zip(pairs) {
            let seconds = Duration::from_nanos(length_ns * (late - early) as u64).as_secs_f64();
            #[expect(clippy::cast_precision_loss, reason = "bytes; exact up to 8 PiB")]
            let grown = self.floors[late].saturating_sub(self.floors[early]) as f64;
            *slope = grown / seconds;
        }
        slopes.sort_by(f64::total_cmp);
        slopes[PAIRS / 2]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: f64 = (1 << 20) as f64;
    const GIB: f64 = 1024.0 * MIB;

    /// Deterministic noise in 0..1.
    fn noise(x: u64) -> f64 {
        (x.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as f64 / (1u64 << 24) as f64
    }

    /// In steps of what a caching allocator takes at once.
    fn stepped(bytes: f64, step: f64) -> f64 {
        (bytes / step).floor() * step
    }

    /// Hours and kinds of all changes of a balance that is `held` (by seconds) for so many hours.
    fn run(hours: f64, held: impl Fn(f64, u64) -> f64) -> Vec<(f64, Change)> {
        let (mut detector, mut told) = (Detector::default(), Vec::new());
        for second in 0..(hours * 3600.0) as u64 {
            let bytes = held(second as f64, second).max(0.0) as u64;
            if let Some(change) = detector.push((second + 100) * SECOND_NS, bytes) {
                told.push((second as f64 / 3600.0, change));
            }
        }
        told
    }

    #[test]
    fn what_only_looks_like_a_leak_is_none() {
        type Held = fn(f64, u64) -> f64;
        let cases: [(&str, Held); 14] = [
            ("constant", |_, _| 40.0 * GIB),
            ("nothing", |_, _| 0.0),
            ("iterations that take and give back", |t, s| 30.0 * GIB + (t % 12.0) * GIB + noise(s) * GIB),
            ("long iterations", |t, _| 30.0 * GIB + (t % 170.0) * 0.1 * GIB),
            ("a model loaded in ten minutes", |t, _| (t / 600.0).min(1.0) * 70.0 * GIB),
            ("a model loaded in thirty minutes", |t, _| (t / 1800.0).min(1.0) * 70.0 * GIB),
            ("warm-up that settles within minutes", |t, _| 60.0 * GIB * (1.0 - (-t / 300.0).exp())),
            ("warm-up that settles within half an hour", |t, _| 60.0 * GIB * (1.0 - (-t / 1200.0).exp())),
            ("a caching allocator that grows ever more rarely", |t, _| {
                40.0 * GIB + stepped((1.0 + t / 60.0).ln() * 600.0 * MIB, 20.0 * MIB)
            }),
            ("fragmentation up to a plateau", |t, s| {
                40.0 * GIB + stepped(4.0 * GIB * (t / (t + 900.0)), 2.0 * MIB) + noise(s) * 64.0 * MIB
            }),
            ("one step an hour", |t, _| 40.0 * GIB + (t / 3600.0).floor() * 512.0 * MIB),
            ("a random walk", |t, s| 40.0 * GIB + (noise(s / 400) - 0.5) * 2.0 * GIB + (t / 5000.0).sin() * GIB),
            ("evaluation every hour", |t, _| if t % 3600.0 < 600.0 { 60.0 * GIB } else { 40.0 * GIB }),
            ("saw teeth of two hours", |t, _| 40.0 * GIB + (t % 1500.0) * MIB),
        ];
        for (what, held) in cases {
            assert_eq!(run(24.0, held), [], "{what}");
        }
    }

    #[test]
    fn a_leak_is_told_once_with_its_slope() {
        // (what, MiB an hour, told within hours, balance)
        type Held = fn(f64, u64) -> f64;
        let cases: [(&str, f64, f64, Held); 6] = [
            ("every iteration", 600.0, 0.8, |t, _| 40.0 * GIB + t / 6.0 * MIB),
            ("below noisy iterations", 600.0, 0.8, |t, s| {
                40.0 * GIB + t / 6.0 * MIB + (t % 12.0) * GIB + noise(s) * 100.0 * MIB
            }),
            ("by way of a caching allocator", 600.0, 1.5, |t, _| 40.0 * GIB + stepped(t / 6.0 * MIB, 20.0 * MIB)),
            ("fast", 36_000.0, 0.8, |t, _| 10.0 * GIB + 10.0 * t * MIB),
            ("slow, in steps of 20 MiB", 40.0, 6.5, |t, _| 40.0 * GIB + stepped(t / 90.0 * MIB, 20.0 * MIB)),
            ("after a warm-up", 600.0, 2.6, |t, _| 30.0 * GIB * (1.0 - (-t / 300.0).exp()) + t / 6.0 * MIB),
        ];
        for (what, mib_per_h, within_h, held) in cases {
            let told = run(within_h.max(4.0), held);
            let [(hour, Change::Leaks(leak)), ..] = told[..] else { panic!("{what}: {told:?}") };
            assert!(hour <= within_h, "{what}: after {hour} h");
            assert!((leak.mib_per_h() / mib_per_h - 1.0).abs() < 0.25, "{what}: {} MiB/h", leak.mib_per_h());
            assert_eq!(told.len(), 1, "{what}: {told:?}");
        }
    }

    #[test]
    fn a_leak_that_ends_is_over_and_one_that_lasts_is_told_again() {
        let ends = run(3.0, |t, _| 40.0 * GIB + t.min(5400.0) / 6.0 * MIB);
        assert!(matches!(ends[..], [(_, Change::Leaks(_)), (_, Change::Over)]), "{ends:?}");
        let lasts = run(13.5, |t, _| 10.0 * GIB + t * MIB);
        assert_eq!(lasts.iter().filter(|(_, change)| matches!(change, Change::Leaks(_))).count(), 3, "{lasts:?}");
    }

    #[test]
    fn a_gap_begins_anew_and_a_full_device_is_foretold() {
        let mut detector = Detector::default();
        for second in 0..7200_u64 {
            // Nobody looked for two minutes of every half hour.
            if second % 1800 >= 120 {
                assert_eq!(detector.push((second + 1) * SECOND_NS, second << 20), None, "at {second}");
            }
        }
        let leak = Leak { bytes_per_s: MIB, grown_bytes: 1 << 30, over: Duration::from_secs(1800) };
        assert_eq!(leak.until_full(60 << 20), Duration::from_secs(60));
        assert_eq!(Leak { bytes_per_s: 0.0, ..leak }.until_full(u64::MAX), Duration::from_secs(1_000_000_000));
    }
}
