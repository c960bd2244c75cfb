//! Bursts shorter than any window: the distribution of a port's rate over single milliseconds.
//!
//! In: the byte and drop counters of an interface as its source reads them, while that is every few milliseconds (a burst,
//! or where it is configured so). Out: each second the median, the 99th percentile and the maximum of the rates between
//! neighbouring readings, per direction (`hw.network.io.rate`), and the signal `nic.microburst` where a millisecond was at
//! line rate, the second as a whole was not, and packets were dropped or the link was paused meanwhile. A rate is taken
//! from the times of its two readings; where those are known too badly, it is left out. Never: an allocation while
//! reading, or a word about an interface whose driver refreshes its counters more slowly than they are read: rates
//! beyond line rate give it away.

use crate::netdev::port_series;
use crate::ports::Ports;
use crate::vocabulary::{Direction, NETDEV};
use hdrhistogram::Histogram;
use railwatch_sampling::{
    Batch, Declare, Entity, ErrorReason, Kind, Moment, Reading, SeriesHandle, SeriesId, Severity, Signal, Value,
};
use std::sync::Arc;

/// Name of the signal.
pub const MICROBURST: &str = "nic.microburst";
/// Name of the series.
pub(crate) const RATE: &str = "hw.network.io.rate";
/// What counts packets that were lost at the port.
const DROPS: [&str; 3] = ["hw.network.dropped", "hw.network.errors.missed", "hw.network.errors.fifo"];
const STATISTICS: [&str; 3] = ["p50", "p99", "max"];

/// Neighbouring readings are so near at most: what is farther apart is no burst's rate.
const STEP_NS_MAX: u64 = 3_000_000;
/// A rate whose time is known worse than this part of it is left out.
const HALF_WIDTHS_MIN: u64 = 20;
/// Rates in a second that a distribution needs.
const RATES_MIN: u64 = 200;
/// Unit of the histogram, bytes per second.
const UNIT: u64 = 65_536;
/// Its end: 1.6 Tbit/s.
const UNITS_MAX: u64 = 200_000_000_000 / UNIT;
/// Of line rate: a millisecond above it is a burst, a second below it is not busy.
const PEAK_SHARE_MIN: f64 = 0.9;
const MEAN_SHARE_MAX: f64 = 0.5;
/// No wire carries more: the counter stood still for longer than from one reading to the next.
const IMPOSSIBLE_SHARE: f64 = 1.2;
/// So many of those, and the counters of this interface are too stale for this.
const IMPOSSIBLE_MAX: u32 = 3;
const SECOND_NS: u64 = 1_000_000_000;
/// From one signal of a lane to the next; those between are counted.
const HOLD_OFF_NS: u64 = 10 * SECOND_NS;

/// All lanes of one source.
pub(crate) struct Microbursts {
    ports: Arc<Ports>,
    lanes: Vec<Lane>,
    /// Of the probe before: what goes on keeps what it knows.
    before: Vec<Lane>,
    /// What a series is to which lane, by its handle.
    roles: Vec<Option<(usize, Role)>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Bytes,
    /// Which of the counters in [`DROPS`].
    Drops(usize),
}

/// One direction of one interface.
struct Lane {
    interface: String,
    direction: Direction,
    line_bytes_per_s: Option<f64>,
    gauges: [Option<SeriesHandle>; 3],
    id: SeriesId,
    rates: Histogram<u32>,
    max_bytes_per_s: f64,
    last: Option<(u64, Moment)>,
    /// The first reading of this second.
    first: Option<(u64, u64)>,
    /// Lost packets: the last values, and how many came this second.
    drops: [Option<u64>; DROPS.len()],
    dropped: u64,
    /// Pause frames of the interface when the second began.
    pauses: Option<u64>,
    impossible: u32,
    quiet_until_ns: u64,
    suppressed: u64,
}

impl Microbursts {
    pub(crate) fn new(ports: Arc<Ports>) -> Self {
        Self { ports, lanes: Vec::new(), before: Vec::new(), roles: Vec::new() }
    }

    /// All interfaces are declared anew.
    pub(crate) fn begin(&mut self) {
        self.before = std::mem::take(&mut self.lanes);
        self.roles.clear();
    }

    /// Follows an interface whose counters of [`NETDEV`] are these series.
    pub(crate) fn declare(
        &mut self,
        interface: &str,
        speed_bits_per_s: Option<u64>,
        series: &[Option<SeriesHandle>],
        declare: &mut Declare<'_>,
    ) {
        for direction in [Direction::Receive, Direction::Transmit] {
            let place = self.lanes.len();
            let mut id = None;
            let gauges = STATISTICS.map(|statistic| {
                let labels =
                    [("network.io.direction", direction.label().to_owned()), ("statistic", statistic.to_owned())];
                let def = port_series(interface, RATE, "By/s", Kind::Gauge, labels);
                id = Some(def.id());
                declare.series(def)
            });
            let Some(id) = id else { return };
            let is_it = |lane: &Lane| lane.interface == interface && lane.direction == direction;
            let known = self.before.iter().position(is_it).map(|at| self.before.swap_remove(at));
            let Some(mut lane) = known.or_else(|| Lane::new(interface, direction, id)) else { return };
            (lane.gauges, lane.line_bytes_per_s) = (gauges, bytes_per_s(speed_bits_per_s).or(lane.line_bytes_per_s));
            self.lanes.push(lane);
            for ((_, word), series) in NETDEV.iter().zip(series) {
                let role = match word.name {
                    "hw.network.io" => Role::Bytes,
                    name => match DROPS.iter().position(|drops| *drops == name) {
                        Some(which) => Role::Drops(which),
                        None => continue,
                    },
                };
                if let Some(series) = series.filter(|_| word.direction == Some(direction)) {
                    if self.roles.len() <= series.index() {
                        self.roles.resize(series.index() + 1, None);
                    }
                    self.roles[series.index()] = Some((place, role));
                }
            }
        }
    }

    /// Looks at what a read brought, and adds what there is to say of it.
    pub(crate) fn take(&mut self, batch: &mut Batch) {
        for place in 0..batch.readings().len() {
            let Reading { series, value: Value::Counter(value), moment, .. } = batch.readings()[place] else {
                continue;
            };
            let Some((lane, role)) = self.roles.get(series.index()).copied().flatten() else { continue };
            let lane = &mut self.lanes[lane];
            match role {
                Role::Bytes => lane.bytes(value, moment, &self.ports, batch),
                Role::Drops(which) => lane.drops(which, value),
            }
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a link has far fewer than 2^53 bits per second")]
fn bytes_per_s(bits_per_s: Option<u64>) -> Option<f64> {
    bits_per_s.filter(|bits| *bits > 0).map(|bits| bits as f64 / 8.0)
}

impl Lane {
    /// `None` where this build's bounds make no histogram.
    fn new(interface: &str, direction: Direction, id: SeriesId) -> Option<Self> {
        Some(Self {
            interface: interface.to_owned(),
            direction,
            line_bytes_per_s: None,
            gauges: [None; 3],
            id,
            rates: Histogram::new_with_bounds(1, UNITS_MAX, 2).ok()?,
            max_bytes_per_s: 0.0,
            last: None,
            first: None,
            drops: [None; DROPS.len()],
            dropped: 0,
            pauses: None,
            impossible: 0,
            quiet_until_ns: 0,
            suppressed: 0,
        })
    }

    fn drops(&mut self, which: usize, value: u64) {
        let before = self.drops[which].replace(value);
        self.dropped += before.map_or(0, |before| value.saturating_sub(before));
    }

    #[expect(clippy::cast_precision_loss, reason = "bytes of a millisecond, and nanoseconds of one")]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rate is not negative, and saturates"
    )]
    fn bytes(&mut self, value: u64, moment: Moment, ports: &Ports, batch: &mut Batch) {
        if self.impossible >= IMPOSSIBLE_MAX {
            return;
        }
        if let Some((_, first_ns)) = self.first
            && first_ns / SECOND_NS != moment.at_ns / SECOND_NS
        {
            self.close(value, moment, ports, batch);
        }
        self.first.get_or_insert((value, moment.at_ns));
        let Some((before, then)) = self.last.replace((value, moment)) else { return };
        let step_ns = moment.at_ns.saturating_sub(then.at_ns);
        let grown = value.wrapping_sub(before);
        let is_known = step_ns / HALF_WIDTHS_MIN >= moment.half_width_ns.max(then.half_width_ns);
        // A counter that was set back says nothing.
        if step_ns == 0 || step_ns > STEP_NS_MAX || !is_known || grown > u64::MAX / 2 {
            return;
        }
        let rate = grown as f64 * 1e9 / step_ns as f64;
        if self.line_bytes_per_s.is_some_and(|line| rate > line * IMPOSSIBLE_SHARE) {
            self.impossible += 1;
            if self.impossible == IMPOSSIBLE_MAX {
                // Counted with the source's errors: these rates are not to be had.
                batch.fault(ErrorReason::NotAvailable);
            }
            return;
        }
        self.max_bytes_per_s = self.max_bytes_per_s.max(rate);
        self.rates.saturating_record((rate as u64).div_ceil(UNIT));
    }

    /// The second is over: its next begins with this reading.
    #[expect(clippy::cast_precision_loss, reason = "bytes of a second, for a rate")]
    fn close(&mut self, value: u64, moment: Moment, ports: &Ports, batch: &mut Batch) {
        let (pauses, speed) = ports.pauses_and_speed(&self.interface);
        self.line_bytes_per_s = bytes_per_s(speed).or(self.line_bytes_per_s);
        let paused = self.pauses.zip(pauses).is_some_and(|(before, now)| before != now);
        let first = self.first.take();
        if self.rates.len() >= RATES_MIN
            && let Some((begun, begun_ns)) = first
        {
            let mean = value.wrapping_sub(begun) as f64 * 1e9 / moment.at_ns.saturating_sub(begun_ns).max(1) as f64;
            let of = |share: f64| (self.rates.value_at_quantile(share) * UNIT) as f64;
            let statistics = [of(0.5), of(0.99), self.max_bytes_per_s];
            for (gauge, statistic) in self.gauges.iter().zip(statistics) {
                if let Some(gauge) = gauge {
                    // A bucket's end is above what lies in it; the maximum is exact.
                    batch.gauge(*gauge, statistic.min(self.max_bytes_per_s), moment);
                }
            }
            self.judge(mean, paused, moment, batch);
        }
        self.rates.reset();
        (self.max_bytes_per_s, self.dropped, self.pauses) = (0.0, 0, pauses);
    }

    fn judge(&mut self, mean: f64, paused: bool, moment: Moment, batch: &mut Batch) {
        let Some(line) = self.line_bytes_per_s else { return };
        let (peak, hurt) = (self.max_bytes_per_s, paused || self.dropped > 0);
        if peak < line * PEAK_SHARE_MIN || mean > line * MEAN_SHARE_MAX || !hurt {
            return;
        }
        if moment.at_ns < self.quiet_until_ns {
            self.suppressed += 1;
            return;
        }
        self.quiet_until_ns = moment.at_ns + HOLD_OFF_NS;
        let cause = match (self.dropped > 0, paused) {
            (true, true) => "drops_and_pauses",
            (true, false) => "drops",
            (false, _) => "pauses",
        };
        let (interface, direction) = (&self.interface, self.direction.label());
        batch.signal(Signal {
            name: MICROBURST,
            series: self.id,
            entity: Entity { kind: "port", name: interface.clone() },
            severity: Severity::Warning,
            moment,
            value: peak,
            previous: Some(mean),
            unit: "By/s",
            summary: format!(
                "port {interface}: {direction} at {:.0} % of line rate for a millisecond, in a second at {:.0} % of it, with {}",
                peak / line * 100.0,
                mean / line * 100.0,
                cause.replace('_', " "),
            ),
            attributes: vec![
                ("network.interface.name", interface.clone()),
                ("network.io.direction", direction.to_owned()),
                ("cause", cause.to_owned()),
            ],
            incomplete_since_mono_ns: None,
            suppressed: std::mem::take(&mut self.suppressed),
        });
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use super::*;
    use crate::ports::{PortInfo, PortKind};
    use railwatch_sampling::{Catalog, Output, Recorder};
    use std::time::Duration;

    const LINE_BITS: u64 = 10_000_000_000;
    /// Bytes of a millisecond at line rate.
    const FULL: u64 = LINE_BITS / 8 / 1000;

    struct Interface {
        bursts: Microbursts,
        series: Vec<Option<SeriesHandle>>,
        ports: Arc<Ports>,
        now_ns: u64,
        bytes: u64,
        drops: u64,
    }

    impl Interface {
        fn new() -> Self {
            let ports = Arc::new(Ports::default());
            let info = PortInfo {
                name: "eth0".into(),
                kind: PortKind::Netdev,
                state: "up".into(),
                driver: String::new(),
                speed_bits_per_s: Some(LINE_BITS),
                netdev: None,
                link_layer: None,
            };
            ports.replace(PortKind::Netdev, [info]);
            let mut interface = Self {
                bursts: Microbursts::new(Arc::clone(&ports)),
                series: Vec::new(),
                ports,
                now_ns: 5 * SECOND_NS,
                bytes: 0,
                drops: 0,
            };
            let catalog = Arc::new(Catalog::default());
            let mut recorder = Recorder::new("test", Duration::from_secs(1), &[], catalog);
            let probed: Result<(), ()> = recorder.probe(0, &mut Output::default(), |declare| {
                let declared = NETDEV.iter().map(|(_, word)| {
                    let label = word.direction.map(|of| ("network.io.direction", of.label().to_owned()));
                    declare.series(port_series("eth0", word.name, word.unit, word.shape.kind(), label))
                });
                interface.series = declared.collect();
                interface.bursts.begin();
                interface.bursts.declare("eth0", Some(LINE_BITS), &interface.series, declare);
                Ok(())
            });
            probed.unwrap();
            interface
        }

        /// A second of milliseconds with these bytes each, and what it said: signals, and median, p99 and maximum.
        fn second(&mut self, step_ns: u64, bytes: impl Fn(u64) -> u64, drops: u64) -> (Vec<Signal>, Vec<f64>) {
            let (mut signals, mut gauges) = (Vec::new(), Vec::new());
            let end_ns = self.now_ns + SECOND_NS;
            self.drops += drops;
            let of = |name: &str| {
                NETDEV.iter().position(|(_, word)| word.name == name && word.direction == Some(Direction::Receive))
            };
            let handle = |name: &str| self.series[of(name).unwrap()].unwrap();
            let (io, dropped) = (handle("hw.network.io"), handle("hw.network.dropped"));
            for step in 0.. {
                if self.now_ns >= end_ns {
                    break;
                }
                self.now_ns += step_ns;
                self.bytes += bytes(step);
                let moment = Moment { at_ns: self.now_ns, half_width_ns: 2_000 };
                let mut batch = Batch::with_capacity(64);
                batch.counter(io, self.bytes, moment);
                batch.counter(dropped, self.drops, moment);
                self.bursts.take(&mut batch);
                signals.extend_from_slice(batch.signals());
                gauges.extend(batch.readings().iter().filter_map(|reading| match reading.value {
                    Value::Gauge(value) => Some(value),
                    Value::Counter(_) => None,
                }));
            }
            (signals, gauges)
        }
    }

    const MS: u64 = 1_000_000;

    #[test]
    fn a_millisecond_at_line_rate_in_a_quiet_second_is_told_where_packets_were_lost_or_the_link_was_paused() {
        let burst = |step: u64| if step == 500 { FULL } else { FULL / 100 };
        let busy = |_: u64| FULL * 8 / 10;
        // Bytes of each millisecond, drops, pause frames, and the cause that is told.
        type Case = (&'static str, fn(u64) -> u64, u64, u64, Option<&'static str>);
        let cases: [Case; 5] = [
            ("a burst with drops", burst, 7, 0, Some("drops")),
            ("a burst with pauses", burst, 0, 3, Some("pauses")),
            ("a burst that hurt nobody", burst, 0, 0, None),
            ("drops without a burst", |_| FULL / 100, 7, 0, None),
            ("a busy second with drops", busy, 7, 3, None),
        ];
        for (what, bytes, drops, pauses, cause) in cases {
            let mut interface = Interface::new();
            interface.ports.note_pauses("eth0", 1);
            interface.second(MS, |_| FULL / 100, 0);
            interface.ports.note_pauses("eth0", 1 + pauses);
            let mut told = interface.second(MS, bytes, drops).0;
            told.extend(interface.second(MS, |_| FULL / 100, 0).0);
            let causes: Vec<_> = told.iter().map(|signal| signal.attributes[2].1.as_str()).collect();
            assert_eq!(causes, cause.into_iter().collect::<Vec<_>>(), "{what}: {told:?}");
        }
    }

    #[test]
    fn each_second_has_its_distribution_and_one_read_slowly_has_none() {
        let mut interface = Interface::new();
        let (_, gauges) = interface.second(MS, |step| if step % 50 == 0 { FULL / 2 } else { FULL / 10 }, 0);
        let line = (LINE_BITS / 8) as f64;
        let shares: Vec<f64> = gauges[..3].iter().map(|rate| (rate / line * 100.0).round() / 100.0).collect();
        assert_eq!(shares, [0.1, 0.5, 0.5], "median, 99th percentile and maximum");
        let mut slow = Interface::new();
        for _ in 0..3 {
            assert_eq!(slow.second(10 * MS, |_| FULL, 5), (vec![], vec![]), "at 10 ms nobody saw a millisecond");
        }
    }

    #[test]
    fn a_counter_that_stands_still_and_leaps_is_not_believed() {
        let mut interface = Interface::new();
        // Refreshed every 10 ms at 60 % of line rate: a leap of six times line rate.
        for _ in 0..3 {
            let (signals, gauges) = interface.second(MS, |step| if step % 10 == 0 { FULL * 6 } else { 0 }, 5);
            assert_eq!((signals.len(), gauges.len()), (0, 0));
        }
    }

    #[test]
    fn bursts_of_a_bad_minute_are_told_every_ten_seconds_with_the_number_left_out() {
        let mut interface = Interface::new();
        let mut told = Vec::new();
        for _ in 0..12 {
            told.extend(interface.second(MS, |step| if step == 500 { FULL } else { 0 }, 1).0);
        }
        assert_eq!(told.iter().map(|signal| signal.suppressed).collect::<Vec<_>>(), [0, 9]);
    }
}
