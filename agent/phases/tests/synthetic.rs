//! The detector against synthetic jobs: many seeds, with jitter, missing samples, micro-batches, checkpoints and stalls.

use proptest::prelude::*;
use railwatch_phases::{Config, Detector, Event, Phase, Sample};

const MS: u64 = 1_000_000;
const S: u64 = 1000 * MS;

/// A generator of numbers, so that a seed replays a run (Steele, Lea, Flood: SplitMix64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0 to 1.
    fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// About normal, mean 0, deviation 1.
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.share()).sum::<f64>() - 6.0
    }
}

/// A job. Times in seconds.
#[derive(Clone, Copy, Debug)]
struct Job {
    period: f64,
    /// Share of an iteration in which it communicates, at its end.
    communicates: f64,
    /// Deviation of an iteration's length, as share of it.
    jitter: f64,
    /// Smaller bursts within an iteration.
    micro_batches: u32,
    /// Iterations between checkpoints, and how long one takes; 0: none.
    checkpoint_every: u32,
    checkpoint: f64,
    /// Share of samples that never come.
    missing: f64,
    sample_ms: u64,
}

const PLAIN: Job = Job {
    period: 1.0,
    communicates: 0.3,
    jitter: 0.02,
    micro_batches: 1,
    checkpoint_every: 0,
    checkpoint: 0.0,
    missing: 0.0,
    sample_ms: 10,
};

/// Runs a job from one instant to another; tells each sample to `see` with the detector after it.
struct Run {
    job: Job,
    numbers: Numbers,
    detector: Detector,
    now_ms: u64,
    iteration: u32,
    /// Start and end of the iteration, and of the checkpoint after it, seconds.
    began: f64,
    ends: f64,
    written_until: f64,
    events: Vec<Event>,
}

impl Run {
    fn new(job: Job, seed: u64) -> Self {
        let detector = Detector::new(Config::default());
        let numbers = Numbers(seed);
        let mut run = Self {
            job,
            numbers,
            detector,
            now_ms: 0,
            iteration: 0,
            began: 0.0,
            ends: 0.0,
            written_until: 0.0,
            events: Vec::new(),
        };
        run.ends = run.length();
        run.written_until = run.ends;
        run
    }

    fn length(&mut self) -> f64 {
        self.job.period * (1.0 + self.job.jitter * self.numbers.normal()).max(0.3)
    }

    /// Goes on for so many seconds. `frozen`: nothing happens meanwhile, and the job's own time stands still.
    fn on(&mut self, seconds: f64, frozen: bool) {
        let until_ms = self.now_ms + (seconds * 1000.0) as u64;
        while self.now_ms < until_ms {
            self.now_ms += self.job.sample_ms;
            let now = self.now_ms as f64 / 1000.0;
            if frozen {
                let step = self.job.sample_ms as f64 / 1000.0;
                for instant in [&mut self.began, &mut self.ends, &mut self.written_until] {
                    *instant += step;
                }
            }
            while now >= self.written_until {
                self.iteration += 1;
                self.began = self.written_until;
                self.ends = self.began + self.length();
                let is_due = self.job.checkpoint_every > 0 && self.iteration.is_multiple_of(self.job.checkpoint_every);
                self.written_until = self.ends + if is_due { self.job.checkpoint } else { 0.0 };
            }
            let (nic, write) = if frozen { (0.0, 0.0) } else { self.rates(now) };
            if self.numbers.share() < self.job.missing {
                continue;
            }
            let noise = |numbers: &mut Numbers| (1.0 + 0.1 * numbers.normal()).max(0.1);
            let sample = Sample {
                at_ns: self.now_ms * MS,
                nic_bytes_per_s: (nic + 2e5) * noise(&mut self.numbers),
                read_bytes_per_s: 0.0,
                write_bytes_per_s: write,
            };
            self.events.extend(self.detector.push(sample));
        }
    }

    fn rates(&self, now: f64) -> (f64, f64) {
        if now >= self.ends {
            return (0.0, 2e9);
        }
        let share = (now - self.began) / (self.ends - self.began);
        if share > 1.0 - self.job.communicates {
            return (40e9, 0.0);
        }
        let micro = (share / (1.0 - self.job.communicates) * f64::from(self.job.micro_batches)).fract();
        let is_micro = self.job.micro_batches > 1 && micro > 0.8;
        (if is_micro { 3e8 } else { 0.0 }, 0.0)
    }

    fn period_error(&self) -> Option<f64> {
        let period = self.detector.period().filter(|period| period.is_stable)?;
        Some((period.period_ns as f64 / 1e9 / self.job.period - 1.0).abs())
    }

    fn stalls(&self) -> usize {
        self.events.iter().filter(|event| matches!(event, Event::Stalled { .. })).count()
    }
}

/// Jobs of all kinds, by a seed.
fn any_job(seed: u64) -> Job {
    let mut numbers = Numbers(seed ^ 0x5eed);
    let period = 0.25 * (40.0f64).powf(numbers.share()); // 0.25 to 10 s
    Job {
        period,
        communicates: 0.1 + 0.5 * numbers.share(),
        jitter: 0.05 * numbers.share(),
        micro_batches: 1 + (numbers.next() % 4) as u32,
        checkpoint_every: [0, 20, 50][(numbers.next() % 3) as usize],
        checkpoint: period * (1.0 + 4.0 * numbers.share()),
        missing: 0.05 * numbers.share(),
        sample_ms: [10, 20][(numbers.next() % 2) as usize],
    }
}

#[test]
fn the_period_of_most_jobs_is_found_within_two_percent_and_a_wrong_one_is_rare() {
    let seeds = 100;
    let (mut errors, mut unknown, mut wrong) = (Vec::new(), 0, Vec::new());
    for seed in 0..seeds {
        let job = any_job(seed);
        let mut run = Run::new(job, seed);
        run.on((40.0 * job.period).max(90.0), false);
        match run.period_error() {
            Some(error) if error < 0.02 => errors.push(error),
            Some(error) => wrong.push((seed, error, job)),
            None => unknown += 1,
        }
    }
    errors.sort_by(f64::total_cmp);
    let (median, worst) = (errors[errors.len() / 2], errors[errors.len() - 1]);
    println!(
        "periods of {seeds} jobs: {} within 2 % (median error {:.3} %, worst {:.2} %), {unknown} not stable, {} wrong",
        errors.len(),
        median * 100.0,
        worst * 100.0,
        wrong.len()
    );
    assert!(errors.len() >= 90, "{} of {seeds} within 2 %; wrong: {wrong:?}; unknown: {unknown}", errors.len());
    assert!(wrong.len() <= 3, "{wrong:?}");
}

#[test]
fn hours_of_healthy_jitter_raise_no_stall_and_no_drift() {
    // Forty jobs, half an hour each.
    for seed in 0..40 {
        let job = any_job(1000 + seed);
        let mut run = Run::new(job, seed);
        run.on(1800.0, false);
        assert_eq!(run.events, [], "{job:?}");
    }
}

#[test]
fn a_stall_is_sensed_within_two_periods_and_told_once_and_so_is_its_end() {
    let (mut sensed, mut jobs) = (Vec::new(), 0);
    for seed in 0..60 {
        let job = any_job(2000 + seed);
        let mut run = Run::new(job, seed);
        run.on((40.0 * job.period).max(120.0), false);
        if run.period_error().is_none_or(|error| error > 0.02) {
            continue;
        }
        jobs += 1;
        let before = run.events.len();
        let began_ms = run.now_ms;
        run.on(6.0 * job.period, true);
        run.on(5.0 * job.period, false);
        let told = &run.events[before..];
        let [Event::Stalled { at_ns, last_ns, .. }, Event::Resumed { silent_ns, .. }] = told else {
            // Frozen while it writes a checkpoint: the disk is as silent as the NICs then.
            panic!("{job:?}: {told:?}");
        };
        sensed.push((at_ns - began_ms * MS) as f64 / 1e9 / job.period);
        assert!(at_ns - last_ns <= (2.2 * job.period * 1e9) as u64, "{job:?}: {told:?}");
        assert!(*silent_ns >= (5.9 * job.period * 1e9) as u64);
    }
    sensed.sort_by(f64::total_cmp);
    println!(
        "stalls of {jobs} jobs sensed after {:.2} periods (median), {:.2} (worst)",
        sensed[sensed.len() / 2],
        sensed[sensed.len() - 1]
    );
    assert!(jobs >= 50, "{jobs}");
    assert!(sensed[sensed.len() - 1] <= 2.0, "{sensed:?}");
}

#[test]
fn slower_iterations_are_a_drift_with_both_periods_and_jitter_is_none() {
    for (factor, is_told) in [(1.0, false), (1.25, true), (0.8, true)] {
        let mut run = Run::new(PLAIN, 7);
        run.on(200.0, false);
        run.job.period *= factor;
        run.on(400.0, false);
        let drifts: Vec<_> = run
            .events
            .iter()
            .filter_map(|event| match event {
                Event::Drifted { from_ns, to_ns, .. } => Some((*from_ns as f64 / 1e9, *to_ns as f64 / 1e9)),
                _ => None,
            })
            .collect();
        assert_eq!(!drifts.is_empty(), is_told, "{factor}: {drifts:?}");
        if let (Some((from, _)), Some((_, to))) = (drifts.first(), drifts.last()) {
            assert!((from - 1.0).abs() < 0.05 && (to / factor - 1.0).abs() < 0.05, "{drifts:?}");
        }
        assert_eq!(run.stalls(), 0, "{factor}");
    }
}

#[test]
fn phases_are_told_apart() {
    let job = Job { checkpoint_every: 10, checkpoint: 3.0, ..PLAIN };
    let mut run = Run::new(job, 3);
    run.on(120.0, false);
    let mut right = 0;
    for _ in 0..3000 {
        run.on(0.01, false);
        let now = run.now_ms as f64 / 1000.0;
        let (nic, write) = run.rates(now);
        let truth = match (nic > 0.0, write > 0.0) {
            (true, _) => Phase::Communicate,
            (_, true) => Phase::Checkpoint,
            _ => Phase::Compute,
        };
        right += u32::from(run.detector.phase() == truth);
    }
    println!("phases of 3000 slots: {right} right");
    assert!(right >= 2700, "{right} of 3000; edges are late by a slot");
}

#[test]
fn reading_before_the_first_iteration_is_a_restore_and_later_a_load() {
    let mut run = Run::new(PLAIN, 5);
    let read = |run: &mut Run| {
        for _ in 0..20 {
            run.now_ms += 10;
            let at_ns = run.now_ms * MS;
            run.detector.push(Sample { at_ns, nic_bytes_per_s: 0.0, read_bytes_per_s: 3e9, write_bytes_per_s: 0.0 });
        }
        run.detector.phase()
    };
    assert_eq!(read(&mut run), Phase::Restore);
    run.on(100.0, false);
    assert_eq!(read(&mut run), Phase::Load);
}

#[test]
fn a_hole_in_the_samples_is_no_stall() {
    let mut run = Run::new(PLAIN, 9);
    run.on(100.0, false);
    run.job.missing = 1.0;
    run.on(10.0, false);
    run.job.missing = 0.0;
    run.on(20.0, false);
    assert_eq!(run.events, []);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_samples_are_taken_without_a_panic(
        samples in proptest::collection::vec((any::<u64>(), any::<f64>(), any::<f64>(), any::<f64>()), 0..200),
        lags in 0..100_000usize,
        slot_ns in any::<u64>(),
    ) {
        let mut detector = Detector::new(Config { slot_ns, lags, ..Config::default() });
        for (at_ns, nic_bytes_per_s, read_bytes_per_s, write_bytes_per_s) in samples {
            detector.push(Sample { at_ns, nic_bytes_per_s, read_bytes_per_s, write_bytes_per_s });
        }
    }

    #[test]
    fn silence_and_steady_traffic_have_neither_period_nor_events(level in 0.0..1e11f64) {
        let mut detector = Detector::new(Config::default());
        for slot in 0..3000u64 {
            let sample = Sample { at_ns: slot * 20 * MS, nic_bytes_per_s: level, read_bytes_per_s: 0.0, write_bytes_per_s: 0.0 };
            prop_assert_eq!(detector.push(sample), None);
        }
        prop_assert_eq!(detector.period(), None);
        prop_assert!(3000 * 20 * MS >= 60 * S);
    }
}
