//! Whether a module drifts away from its own past, before any threshold says so.
//!
//! In: the readings of one module with their times. Out: [`News`]: received power of a lane fell, laser bias rose at constant
//! transmitted power, the temperature left its usual range; and each is over. Pure: no clock, no IO; a module's past is at most
//! some kilobytes.
//!
//! Readings become an hour's median, and the medians of the last 24 such hours one median: the swing of a day, the noise of the
//! sensor and a flap of an hour do not move it. What is compared with is the best of those so far, which fades by 0.6 dB (of
//! bias, 3 %) a month, so that the seasons are no fault. A day of readings is needed before the first word; another module begins
//! anew, and so does the agent. Never: a judgement of a dark lane, of an idle laser, or of bias while power or temperature moved.

use railwatch_optics::{Lane, Module};
use std::collections::VecDeque;

const HOUR_NS: u64 = 3_600_000_000_000;
/// Hours whose median is the level now.
const HOURS: usize = 24;
/// Readings that an hour needs to count, and those of an hour that are kept.
const SAMPLES_MIN: usize = 10;
const SAMPLES_MAX: usize = 120;
/// Readings of an hour that are nearer to each other are passed over: the kept ones span the hour.
const APART_NS: u64 = HOUR_NS / SAMPLES_MAX as u64 - 1_000_000_000;

/// Below it a lane is dark: the peer is off, and `optics.light.lost` has said so, mW (-25 dBm).
const DARK_MW: f64 = 0.003_2;
/// Below it a laser is off, mA.
const IDLE_MA: f64 = 0.5;
/// Received power below its best by as much is told, and by as little is over, dB.
const FALLEN_DB: f64 = 1.5;
const RECOVERED_DB: f64 = 0.75;
/// Bias above its lowest by as much is told, and by as little is over, as natural logarithm: 20 % and 10 %.
const RISEN: f64 = 0.182;
const SUNK: f64 = 0.095;
/// Transmitted power and temperature that count as constant: dB, °C.
const POWER_STEADY_DB: f64 = 0.5;
const HEAT_STEADY_C: f64 = 8.0;
/// An hour hotter than all of the last days by as much is told, and by as little is over, °C.
const HOT_C: f64 = 10.0;
const COOLED_C: f64 = 5.0;
const DAYS: usize = 7;
/// What the best fades by in an hour: dB, and logarithm of bias.
const FADES_DB: f64 = 0.6 / (30.0 * 24.0);
const FADES_BIAS: f64 = 0.03 / (30.0 * 24.0);

/// What moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Quantity {
    RxPower,
    TxBias,
    Temperature,
}

/// Something to tell.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct News {
    pub(crate) quantity: Quantity,
    /// `None`: the module.
    pub(crate) lane: Option<u8>,
    /// It drifted away; else it is back.
    pub(crate) has_drifted: bool,
    /// Level now and what it is compared with: mW, mA or °C.
    pub(crate) level: f64,
    pub(crate) reference: f64,
}

/// The hours of one quantity.
#[derive(Clone, Debug, Default)]
struct Hours {
    hour: u64,
    last_ns: Option<u64>,
    samples: Vec<f32>,
    medians: VecDeque<f32>,
}

impl Hours {
    /// Takes a reading; the median of the hour that it ended.
    fn take(&mut self, at_ns: u64, value: f64) -> Option<f64> {
        let hour = at_ns / HOUR_NS;
        let mut ended = None;
        if hour != self.hour {
            if self.samples.len() >= SAMPLES_MIN {
                let median = median(&mut self.samples);
                if self.medians.len() == HOURS {
                    self.medians.pop_front();
                }
                self.medians.push_back(median);
                ended = Some(f64::from(median));
            }
            self.samples.clear();
            (self.hour, self.last_ns) = (hour, None);
        }
        let is_apart = self.last_ns.is_none_or(|last_ns| at_ns.saturating_sub(last_ns) >= APART_NS);
        if is_apart && self.samples.len() < SAMPLES_MAX && value.is_finite() {
            #[expect(clippy::cast_possible_truncation, reason = "decibels, milliamperes and degrees, to 7 digits")]
            self.samples.push(value as f32);
            self.last_ns = Some(at_ns);
        }
        ended
    }

    /// The median of the last day, once there is one.
    fn level(&self) -> Option<f64> {
        (self.medians.len() == HOURS).then(|| f64::from(median(&mut self.medians.iter().copied().collect::<Vec<_>>())))
    }
}

/// Of a slice that is not empty.
fn median(values: &mut [f32]) -> f32 {
    let middle = values.len() / 2;
    *values.select_nth_unstable_by(middle, f32::total_cmp).1
}

/// One lane's past.
#[derive(Clone, Debug, Default)]
struct LaneTrend {
    lane: u8,
    rx_db: Hours,
    tx_db: Hours,
    bias_ln: Hours,
    /// The best of the received power, and the lowest bias with the power and temperature it had then.
    rx_best_db: Option<f64>,
    bias_best: Option<BiasBest>,
    has_fallen: bool,
    has_risen: bool,
}

#[derive(Clone, Copy, Debug)]
struct BiasBest {
    bias_ln: f64,
    tx_db: f64,
    temperature_c: Option<f64>,
}

/// A module's past.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trend {
    /// Vendor, part and serial number.
    identity: [Option<String>; 3],
    temperature_c: Hours,
    /// The hottest hour of each of the last days, the current last, and hours of that.
    days: VecDeque<f64>,
    hours_of_day: usize,
    is_hot: bool,
    lanes: Vec<LaneTrend>,
}

impl Trend {
    /// Takes a reading of the module.
    pub(crate) fn take(&mut self, module: &Module, at_ns: u64) -> Vec<News> {
        let identity = [module.vendor.clone(), module.part_number.clone(), module.serial.clone()];
        if identity != self.identity {
            *self = Self { identity, ..Self::default() };
        }
        let mut news = Vec::new();
        if let Some(ended) = module.temperature_c.and_then(|celsius| self.temperature_c.take(at_ns, celsius)) {
            news.extend(self.heat(ended));
        }
        let temperature_c = self.temperature_c.level();
        for lane in &module.lanes {
            if !self.lanes.iter().any(|known| known.lane == lane.lane) {
                self.lanes.push(LaneTrend { lane: lane.lane, ..LaneTrend::default() });
            }
            let known = self.lanes.iter_mut().find(|known| known.lane == lane.lane);
            news.extend(known.into_iter().flat_map(|known| known.take(lane, temperature_c, at_ns)));
        }
        news
    }

    /// Takes the median of an hour.
    fn heat(&mut self, celsius: f64) -> Option<News> {
        let usual = self.days.iter().copied().reduce(f64::max).filter(|_| self.days.len() > 1);
        let told = match usual {
            Some(usual) if !self.is_hot && celsius >= usual + HOT_C => Some((true, usual)),
            Some(usual) if self.is_hot && celsius < usual + COOLED_C => Some((false, usual)),
            _ => None,
        };
        self.is_hot = told.map_or(self.is_hot, |(is_hot, _)| is_hot);
        // What is out of the usual does not become usual while it is.
        if !self.is_hot {
            if self.days.is_empty() || self.hours_of_day == HOURS {
                self.days.push_back(celsius);
                self.hours_of_day = 0;
            }
            if self.days.len() > DAYS {
                self.days.pop_front();
            }
            self.hours_of_day += 1;
            if let Some(hottest) = self.days.back_mut() {
                *hottest = hottest.max(celsius);
            }
        }
        let (has_drifted, reference) = told?;
        Some(News { quantity: Quantity::Temperature, lane: None, has_drifted, level: celsius, reference })
    }
}

impl LaneTrend {
    fn take(&mut self, lane: &Lane, temperature_c: Option<f64>, at_ns: u64) -> Vec<News> {
        let mut news = Vec::new();
        let lit = |power: Option<f64>| power.filter(|mw| *mw > DARK_MW).map(|mw| 10.0 * mw.log10());
        if let Some(tx_db) = lit(lane.tx_power_mw) {
            self.tx_db.take(at_ns, tx_db);
        }
        if lit(lane.rx_power_mw).is_some_and(|rx_db| self.rx_db.take(at_ns, rx_db).is_some()) {
            news.extend(self.received());
        }
        let bias = lane.tx_bias_ma.filter(|ma| *ma > IDLE_MA);
        if bias.is_some_and(|ma| self.bias_ln.take(at_ns, ma.ln()).is_some()) {
            news.extend(self.biased(temperature_c));
        }
        news
    }

    /// An hour of received power ended.
    fn received(&mut self) -> Option<News> {
        let level = self.rx_db.level()?;
        let fades = if self.has_fallen { 0.0 } else { FADES_DB };
        let best = self.rx_best_db.map_or(level, |best| (best - fades).max(level));
        self.rx_best_db = Some(best);
        let fallen = best - level;
        let has_drifted = if self.has_fallen { fallen > RECOVERED_DB } else { fallen >= FALLEN_DB };
        if has_drifted == std::mem::replace(&mut self.has_fallen, has_drifted) {
            return None;
        }
        let mw = |db: f64| 10f64.powf(db / 10.0);
        let lane = Some(self.lane);
        Some(News { quantity: Quantity::RxPower, lane, has_drifted, level: mw(level), reference: mw(best) })
    }

    /// An hour of bias ended.
    fn biased(&mut self, temperature_c: Option<f64>) -> Option<News> {
        let (bias_ln, tx_db) = (self.bias_ln.level()?, self.tx_db.level()?);
        let now = BiasBest { bias_ln, tx_db, temperature_c };
        let mut best = *self.bias_best.get_or_insert(now);
        let heat = best.temperature_c.zip(temperature_c).map_or(0.0, |(then, now)| (now - then).abs());
        if (tx_db - best.tx_db).abs() > POWER_STEADY_DB || heat > HEAT_STEADY_C {
            // Bias is bought for power or follows the heat: it says nothing of the laser.
            return None;
        }
        if !self.has_risen {
            best.bias_ln += FADES_BIAS;
        }
        if bias_ln <= best.bias_ln {
            best = now;
        }
        self.bias_best = Some(best);
        let risen = bias_ln - best.bias_ln;
        let has_drifted = if self.has_risen { risen > SUNK } else { risen >= RISEN };
        if has_drifted == std::mem::replace(&mut self.has_risen, has_drifted) {
            return None;
        }
        let lane = Some(self.lane);
        Some(News {
            quantity: Quantity::TxBias,
            lane,
            has_drifted,
            level: bias_ln.exp(),
            reference: best.bias_ln.exp(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::f64::consts::TAU;

    /// One reading of a module of one lane.
    #[derive(Clone, Copy)]
    struct At {
        rx_db: f64,
        tx_db: f64,
        bias_ma: f64,
        temperature_c: f64,
        serial: &'static str,
    }

    const WELL: At = At { rx_db: -2.0, tx_db: 0.5, bias_ma: 60.0, temperature_c: 45.0, serial: "A" };

    /// A number between -1 and 1 that looks like noise and is the same every time.
    fn noise(seed: u64) -> f64 {
        let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5555;
        x ^= x >> 29;
        x = x.wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x ^= x >> 32;
        (x % 20_001) as f64 / 10_000.0 - 1.0
    }

    /// Feeds a reading every 30 s with 0.2 dB, 1 % and 1 °C of noise; (day, what, has it drifted).
    fn news(days: u64, at_day: impl Fn(f64) -> At) -> Vec<(u64, Quantity, bool)> {
        let (mut trend, mut told) = (Trend::default(), Vec::new());
        for reading in 0..days * 2880 {
            let day = reading as f64 / 2880.0;
            let At { rx_db, tx_db, bias_ma, temperature_c, serial } = at_day(day);
            let mw = |db: f64| Some(10f64.powf(db / 10.0));
            let lane = Lane {
                lane: 1,
                rx_power_mw: mw(rx_db + 0.2 * noise(reading)),
                tx_power_mw: mw(tx_db + 0.1 * noise(reading + 1_000_000)),
                tx_bias_ma: Some(bias_ma * (1.0 + 0.01 * noise(reading + 2_000_000))),
                ..Lane::default()
            };
            let module = Module {
                serial: Some(serial.to_owned()),
                temperature_c: Some(temperature_c + noise(reading + 3_000_000)),
                lanes: vec![lane],
                ..Module::default()
            };
            let at_ns = reading * 30_000_000_000;
            told.extend(trend.take(&module, at_ns).iter().map(|news| (day as u64, news.quantity, news.has_drifted)));
        }
        told
    }

    fn swing(day: f64) -> f64 {
        (day * TAU).sin()
    }

    #[test]
    fn what_is_no_drift_is_not_told() {
        type Course = (&'static str, fn(f64) -> At);
        let courses: [Course; 10] = [
            ("steady", |_| WELL),
            ("a day's swing of 12 degrees, and what follows it", |day| At {
                temperature_c: 45.0 + 6.0 * swing(day),
                rx_db: -2.0 + 0.4 * swing(day),
                bias_ma: 60.0 + 6.0 * swing(day),
                ..WELL
            }),
            ("flaps of half an hour", |day| At { rx_db: if day % 0.25 < 0.02 { -9.0 } else { -2.0 }, ..WELL }),
            ("dark for two days", |day| At { rx_db: if (3.0..5.0).contains(&day) { -40.0 } else { -2.0 }, ..WELL }),
            ("another module, with less light, more bias and more heat", |day| match day {
                day if day < 4.0 => WELL,
                _ => At { rx_db: -5.0, bias_ma: 90.0, temperature_c: 60.0, serial: "B", ..WELL },
            }),
            ("a port that was off half of the time", |day| At {
                bias_ma: if day % 2.0 < 1.0 { 0.0 } else { 60.0 },
                tx_db: if day % 2.0 < 1.0 { -40.0 } else { 0.5 },
                ..WELL
            }),
            ("more bias for more power", |day| match day {
                day if day < 4.0 => WELL,
                _ => At { bias_ma: 80.0, tx_db: 1.6, ..WELL },
            }),
            ("more bias because it is warmer", |day| At {
                bias_ma: 60.0 + (day * 2.0).min(16.0),
                temperature_c: 45.0 + (day * 1.5).min(12.0),
                ..WELL
            }),
            ("the seasons", |day| At { rx_db: -2.0 - 0.015 * day, ..WELL }),
            ("a fall of one decibel", |day| At { rx_db: if day < 5.0 { -2.0 } else { -3.0 }, ..WELL }),
        ];
        for (what, course) in courses {
            assert_eq!(news(if what == "the seasons" { 60 } else { 14 }, course), [], "{what}");
        }
    }

    #[test]
    fn a_slow_fall_is_told_before_three_decibels_and_its_end_too() {
        // Three decibels in a week from the third day on, then cleaned.
        let told = news(16, |day| At {
            rx_db: match day {
                day if day < 3.0 => -2.0,
                day if day < 12.0 => -2.0 - (day - 3.0) * 3.0 / 7.0,
                _ => -2.0,
            },
            ..WELL
        });
        let [(day, Quantity::RxPower, true), (end, Quantity::RxPower, false)] = told[..] else { panic!("{told:?}") };
        assert!((6..=8).contains(&day), "the 1.5 dB are reached at day 6.5: {told:?}");
        assert_eq!(end, 12, "{told:?}");
    }

    #[test]
    fn a_sudden_fall_that_stays_is_told_within_a_day() {
        let told = news(8, |day| At { rx_db: if day < 3.0 { -2.0 } else { -4.0 }, ..WELL });
        assert_eq!(told, [(3, Quantity::RxPower, true)]);
    }

    #[test]
    fn bias_that_rises_at_constant_power_is_told() {
        let told = news(30, |day| At { bias_ma: 60.0 * (1.0 + 0.02 * (day - 2.0).max(0.0)), ..WELL });
        let [(day, Quantity::TxBias, true)] = told[..] else { panic!("{told:?}") };
        assert!(
            (12..=15).contains(&day),
            "a fifth more is reached at day 12, and the day's median half a day later: {told:?}"
        );
    }

    #[test]
    fn a_hotter_hour_than_any_of_the_last_days_is_told_and_when_it_is_over() {
        let told = news(8, |day| At { temperature_c: if (5.2..5.6).contains(&day) { 60.0 } else { 45.0 }, ..WELL });
        assert_eq!(told, [(5, Quantity::Temperature, true), (5, Quantity::Temperature, false)]);
    }
}
