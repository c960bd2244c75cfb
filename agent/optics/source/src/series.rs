//! The series of a module and of its lanes, as tables, and the rules of their signals.
//!
//! In: a decoded module. Out: declarations, with the module's own thresholds as bounds where those do not contradict each
//! other, and readings. A flag that a reading found set is counted, because reading it cleared it.

use crate::trend::{News, Quantity};
use railwatch_optics::{Lane, Levels, Limits, Module, Thresholds};
use railwatch_sampling::{
    Batch, Bounds, Counter, Declare, Entity, Kind, Moment, Rule, SeriesDef, SeriesHandle, Severity, Signal, When,
};

const CROSSED: When = When::Leaves { raised: "optics.limit.crossed", cleared: "optics.limit.kept" };

/// What raises signals.
pub static RULES: [Rule; 7] = [
    Rule { series: "hw.optics.temperature", what: "the temperature", severity: Severity::Error, when: CROSSED },
    Rule { series: "hw.optics.voltage", what: "the supply voltage", severity: Severity::Error, when: CROSSED },
    Rule { series: "hw.optics.tx_power", what: "transmitted power", severity: Severity::Error, when: CROSSED },
    Rule { series: "hw.optics.tx_bias", what: "laser bias", severity: Severity::Error, when: CROSSED },
    Rule { series: "hw.optics.rx_power", what: "received power", severity: Severity::Error, when: CROSSED },
    Rule {
        series: "hw.optics.rx_light",
        what: "the light it receives",
        severity: Severity::Error,
        when: When::StateFalls { raised: "optics.light.lost", cleared: "optics.light.back" },
    },
    Rule {
        series: "hw.optics.tx_ok",
        what: "its transmitter",
        severity: Severity::Error,
        when: When::StateFalls { raised: "optics.tx.failed", cleared: "optics.tx.back" },
    },
];

/// A value of `T` (the module, or a lane) as a gauge.
struct Gauge<T> {
    name: &'static str,
    unit: &'static str,
    value: fn(&T) -> Option<f64>,
    limits: fn(&Thresholds) -> Option<Limits>,
}

/// Flags of `T` as a count.
struct Count<T> {
    name: &'static str,
    /// Which quantity crossed a threshold, as label.
    quantity: Option<&'static str>,
    /// How many a reading found set.
    set: fn(&T) -> Option<u64>,
}

const NO_LIMITS: fn(&Thresholds) -> Option<Limits> = |_| None;

static OF_MODULE: [Gauge<Module>; 2] = [
    Gauge {
        name: "hw.optics.temperature",
        unit: "Cel",
        value: |module| module.temperature_c,
        limits: |thresholds| thresholds.temperature_c,
    },
    Gauge { name: "hw.optics.voltage", unit: "V", value: |module| module.vcc_v, limits: |thresholds| thresholds.vcc_v },
];

static OF_LANE: [Gauge<Lane>; 6] = [
    Gauge {
        name: "hw.optics.tx_power",
        unit: "mW",
        value: |lane| lane.tx_power_mw,
        limits: |thresholds| thresholds.tx_power_mw,
    },
    Gauge {
        name: "hw.optics.tx_bias",
        unit: "mA",
        value: |lane| lane.tx_bias_ma,
        limits: |thresholds| thresholds.tx_bias_ma,
    },
    Gauge {
        name: "hw.optics.rx_power",
        unit: "mW",
        value: |lane| lane.rx_power_mw,
        limits: |thresholds| thresholds.rx_power_mw,
    },
    Gauge { name: "hw.optics.snr", unit: "dB", value: |lane| lane.snr_db, limits: NO_LIMITS },
    Gauge { name: "hw.optics.rx_light", unit: "1", value: |lane| lane.rx_los.map(good), limits: NO_LIMITS },
    Gauge { name: "hw.optics.tx_ok", unit: "1", value: |lane| lane.tx_fault.map(good), limits: NO_LIMITS },
];

static COUNTS_OF_MODULE: [Count<Module>; 2] = [
    Count {
        name: "hw.optics.crossings",
        quantity: Some("temperature"),
        set: |module| module.flags.temperature_c.map(how_many),
    },
    Count { name: "hw.optics.crossings", quantity: Some("voltage"), set: |module| module.flags.vcc_v.map(how_many) },
];

static COUNTS_OF_LANE: [Count<Lane>; 6] = [
    Count { name: "hw.optics.crossings", quantity: Some("tx_power"), set: |lane| lane.flags.tx_power_mw.map(how_many) },
    Count { name: "hw.optics.crossings", quantity: Some("tx_bias"), set: |lane| lane.flags.tx_bias_ma.map(how_many) },
    Count { name: "hw.optics.crossings", quantity: Some("rx_power"), set: |lane| lane.flags.rx_power_mw.map(how_many) },
    Count { name: "hw.optics.rx_los", quantity: None, set: |lane| lane.rx_los.map(u64::from) },
    Count { name: "hw.optics.tx_los", quantity: None, set: |lane| lane.tx_los.map(u64::from) },
    Count { name: "hw.optics.tx_faults", quantity: None, set: |lane| lane.tx_fault.map(u64::from) },
];

fn good(bad: bool) -> f64 {
    if bad { 0.0 } else { 1.0 }
}

fn how_many(Levels { high_alarm, low_alarm, high_warning, low_warning }: Levels<bool>) -> u64 {
    [high_alarm, low_alarm, high_warning, low_warning].into_iter().map(u64::from).sum()
}

/// Thresholds as bounds; none where they contradict each other, for they would speak of nothing.
fn bounds(limits: Option<Limits>) -> Option<Bounds> {
    let Limits { high_alarm, low_alarm, high_warning, low_warning } =
        limits.filter(|limits| limits.contradiction().is_none())?;
    Some(Bounds { high_alarm, low_alarm, high_warning, low_warning })
}

/// The declared series of one module, in the order of the tables, the module's first.
#[derive(Debug, Default)]
pub(crate) struct Declared {
    gauges: Vec<Option<SeriesHandle>>,
    counts: Vec<Option<SeriesHandle>>,
    /// Flags found set, beside `counts`.
    totals: Vec<u64>,
}

/// What the series of a module, or of a lane, are about.
struct Subject {
    kind: &'static str,
    name: String,
    labels: Vec<(&'static str, String)>,
}

impl Subject {
    fn module(interface: &str) -> Self {
        let labels = vec![("network.interface.name", interface.to_owned())];
        Self { kind: "module", name: interface.to_owned(), labels }
    }

    fn lane(interface: &str, lane: u8) -> Self {
        let labels = vec![("network.interface.name", interface.to_owned()), ("hw.optics.lane", lane.to_string())];
        Self { kind: "lane", name: format!("{interface}/{lane}"), labels }
    }

    fn def(&self, name: &'static str, unit: &'static str, kind: Kind, quantity: Option<&'static str>) -> SeriesDef {
        let entity = Entity { kind: self.kind, name: self.name.clone() };
        let quantity = quantity.map(|quantity| ("hw.optics.quantity", quantity.to_owned()));
        SeriesDef::new(name, unit, kind, entity, self.labels.iter().cloned().chain(quantity))
    }
}

/// Signals of modules that drift away from their own past, each with the one that ends it.
pub const TREND_SIGNALS: [&str; 6] = [
    "optics.trend.rx_falling",
    "optics.trend.rx_steady",
    "optics.trend.bias_rising",
    "optics.trend.bias_steady",
    "optics.trend.temperature_high",
    "optics.trend.temperature_usual",
];

/// A drift as a signal. It is a warning: no threshold was crossed.
pub(crate) fn drift(interface: &str, news: &News, moment: Moment) -> Signal {
    let News { quantity, lane, has_drifted, level, reference } = *news;
    let subject = lane.map_or_else(|| Subject::module(interface), |lane| Subject::lane(interface, lane));
    let (series, unit, [drifted, back]) = match quantity {
        Quantity::RxPower => ("hw.optics.rx_power", "mW", [TREND_SIGNALS[0], TREND_SIGNALS[1]]),
        Quantity::TxBias => ("hw.optics.tx_bias", "mA", [TREND_SIGNALS[2], TREND_SIGNALS[3]]),
        Quantity::Temperature => ("hw.optics.temperature", "Cel", [TREND_SIGNALS[4], TREND_SIGNALS[5]]),
    };
    let Subject { kind, name, .. } = &subject;
    let how = match (quantity, has_drifted) {
        (Quantity::RxPower, true) => {
            format!("received power fell by {:.1} dB to {level:.3} mW", 10.0 * (reference / level).log10())
        }
        (Quantity::RxPower, false) => format!("received power is back at {level:.3} mW"),
        (Quantity::TxBias, true) => format!(
            "laser bias rose by {:.0} % to {level:.1} mA at constant transmitted power",
            (level / reference - 1.0) * 100.0
        ),
        (Quantity::TxBias, false) => format!("laser bias is back at {level:.1} mA"),
        (Quantity::Temperature, true) => {
            format!("an hour at {level:.1} °C, and no hour of the last days above {reference:.1} °C")
        }
        (Quantity::Temperature, false) => format!("the temperature is as usual again at {level:.1} °C"),
    };
    let def = subject.def(series, unit, Kind::Gauge, None);
    Signal {
        name: if has_drifted { drifted } else { back },
        series: def.id(),
        entity: def.entity().clone(),
        severity: if has_drifted { Severity::Warning } else { Severity::Info },
        moment,
        value: level,
        previous: Some(reference),
        unit,
        summary: format!("{kind} {name}: {how}"),
        attributes: def.labels().to_vec(),
        incomplete_since_mono_ns: None,
        suppressed: 0,
    }
}

impl Declared {
    /// Declares a series for everything that the module gives. Counts are of the cage and go on over another
    /// module of the same shape.
    pub(crate) fn declare(&mut self, interface: &str, module: &Module, declare: &mut Declare<'_>) {
        let before = std::mem::take(self);
        let mut add = Adding { declared: self, thresholds: &module.thresholds, declare };
        add.all(&Subject::module(interface), module, &OF_MODULE, &COUNTS_OF_MODULE);
        for lane in &module.lanes {
            add.all(&Subject::lane(interface, lane.lane), lane, &OF_LANE, &COUNTS_OF_LANE);
        }
        if before.totals.len() == self.totals.len() {
            self.totals = before.totals;
        }
    }

    /// Hands over what one reading brought. False where the module gives something that no series was declared for.
    pub(crate) fn push(&mut self, module: &Module, moment: Moment, batch: &mut Batch) -> bool {
        let gauges = OF_MODULE.iter().map(|gauge| (gauge.value)(module));
        let of_lane = |lane| OF_LANE.iter().map(move |gauge| (gauge.value)(lane));
        let gauges = gauges.chain(module.lanes.iter().flat_map(of_lane));
        let mut all_known = true;
        for (at, value) in gauges.enumerate() {
            match (self.gauges.get(at).copied().flatten(), value) {
                (Some(series), Some(value)) => batch.gauge(series, value, moment),
                (None, Some(_)) => all_known = false,
                (_, None) => {}
            }
        }
        let counts = COUNTS_OF_MODULE.iter().map(|count| (count.set)(module));
        let of_lane = |lane| COUNTS_OF_LANE.iter().map(move |count| (count.set)(lane));
        let counts = counts.chain(module.lanes.iter().flat_map(of_lane));
        for ((series, total), set) in self.counts.iter().zip(&mut self.totals).zip(counts) {
            if let (Some(series), Some(set)) = (series, set) {
                *total += set;
                batch.counter(*series, *total, moment);
            }
        }
        all_known
    }
}

struct Adding<'a, 'b> {
    declared: &'a mut Declared,
    thresholds: &'a Thresholds,
    declare: &'a mut Declare<'b>,
}

impl Adding<'_, '_> {
    fn all<T>(&mut self, subject: &Subject, of: &T, gauges: &[Gauge<T>], counts: &[Count<T>]) {
        for gauge in gauges {
            let handle = (gauge.value)(of).and_then(|_| {
                let def = subject.def(gauge.name, gauge.unit, Kind::Gauge, None);
                let bounds = bounds((gauge.limits)(self.thresholds));
                self.declare.series(match bounds {
                    Some(bounds) => def.within(bounds),
                    None => def,
                })
            });
            self.declared.gauges.push(handle);
        }
        for count in counts {
            let kind = Kind::Counter(Counter::wrapping(64));
            let handle = (count.set)(of)
                .and_then(|_| self.declare.series(subject.def(count.name, "{event}", kind, count.quantity)));
            self.declared.counts.push(handle);
            self.declared.totals.push(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_watches_a_series_and_the_readme_names_every_series_and_signal() {
        let gauges = OF_MODULE.iter().map(|gauge| gauge.name).chain(OF_LANE.iter().map(|gauge| gauge.name));
        let counts =
            COUNTS_OF_MODULE.iter().map(|count| count.name).chain(COUNTS_OF_LANE.iter().map(|count| count.name));
        let series: Vec<_> = gauges.chain(counts).collect();
        for rule in &RULES {
            assert!(series.contains(&rule.series), "{} is watched and never read", rule.series);
        }
        let readme = include_str!("../README.md");
        for name in series.into_iter().chain(RULES.iter().flat_map(|rule| rule.when.signals())).chain(TREND_SIGNALS) {
            assert!(readme.contains(&format!("`{name}`")), "{name} is not in README.md");
        }
    }
}
