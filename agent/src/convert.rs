//! From the sampling core's words to the wire's. Pure; every name and value is cut to the limits of the wire.

use railwatch_nic::{PortInfo, PortKind};
use railwatch_optics::{Limits, Module, Standard};
use railwatch_sampling::{Entity, Flags, Kind, SeriesDef, Severity, Signal, SourceReport, SourceState, WindowFrame};
use railwatch_wire::{limits, v1};

/// A signal.
pub fn signal(signal: Signal) -> v1::Signal {
    let severity = match signal.severity {
        Severity::Info => v1::Severity::Info,
        Severity::Warning => v1::Severity::Warning,
        Severity::Error => v1::Severity::Error,
        Severity::Critical => v1::Severity::Critical,
    };
    v1::Signal {
        name: signal.name.to_owned(),
        entity: Some(entity(&signal.entity)),
        severity: severity.into(),
        observed_mono_ns: signal.moment.at_ns,
        half_width_ns: signal.moment.half_width_ns,
        value: signal.value,
        previous: signal.previous,
        unit: signal.unit.to_owned(),
        summary: cut(signal.summary, limits::TEXT_BYTES_MAX),
        attributes: signal
            .attributes
            .into_iter()
            .take(limits::LABELS_MAX)
            .map(|(key, value)| (key.to_owned(), cut(value, limits::TEXT_BYTES_MAX)))
            .collect(),
        incomplete_since_mono_ns: signal.incomplete_since_mono_ns,
        suppressed: signal.suppressed,
    }
}

/// What a room cannot do, and why.
pub fn limitation(what: String, why: String) -> v1::Limitation {
    v1::Limitation { what, why: cut(why, limits::TEXT_BYTES_MAX) }
}

/// A window of one source.
pub fn windows(frame: WindowFrame) -> v1::Windows {
    let is_plain = frame.flags.iter().all(|flags| *flags == Flags::default());
    v1::Windows {
        flags: if is_plain { Vec::new() } else { frame.flags.iter().map(|flags| u32::from(flags.0)).collect() },
        start_mono_ns: frame.start_mono_ns,
        end_mono_ns: frame.end_mono_ns,
        series: frame.series.iter().map(|id| id.0).collect(),
        count: frame.count,
        sum: frame.sum,
        min: frame.min,
        max: frame.max,
        last: frame.last,
        delta: frame.delta,
        resets: frame.resets,
        incomplete_since_mono_ns: None,
    }
}

/// What a series is.
pub fn definition(def: &SeriesDef) -> v1::SeriesDefinition {
    v1::SeriesDefinition {
        id: def.id().0,
        name: def.name().to_owned(),
        unit: def.unit().to_owned(),
        monotonic: matches!(def.kind(), Kind::Counter(_)),
        entity: Some(entity(def.entity())),
        labels: def
            .labels()
            .iter()
            .take(limits::LABELS_MAX)
            .map(|(key, value)| ((*key).to_owned(), cut(value.clone(), limits::TEXT_BYTES_MAX)))
            .collect(),
    }
}

/// How a source fares.
pub fn source(report: SourceReport) -> v1::SourceState {
    let (on, reason) = match report.state {
        SourceState::Starting => (false, "starting".to_owned()),
        SourceState::On => (true, String::new()),
        SourceState::Off { text, .. } => (false, cut(text, limits::TEXT_BYTES_MAX)),
    };
    v1::SourceState {
        source: report.source.to_owned(),
        on,
        reason,
        kernel_path: report.kernel_path,
        cadence_ns: u64::try_from(report.cadence.as_nanos()).unwrap_or(u64::MAX),
        reads: report.reads,
        errors: report.errors.iter().sum(),
        cost_ns: report.cost_ns,
        missed_deadlines: report.missed_deadlines,
        read_ns_p50: report.cost_ns_p50,
        read_ns_p99: report.cost_ns_p99,
        cpu_share: report.cpu_share,
    }
}

/// A port, with its addresses.
pub fn port(port: PortInfo, addresses: &[String]) -> v1::PortState {
    v1::PortState {
        name: port.name,
        kind: match port.kind {
            PortKind::Netdev => "netdev",
            PortKind::Rdma => "rdma",
        }
        .to_owned(),
        state: port.state,
        driver: port.driver,
        speed_bits_per_s: port.speed_bits_per_s.unwrap_or(0),
        netdev: port.netdev.unwrap_or_default(),
        addresses: addresses.iter().take(limits::PORT_ADDRESSES_MAX).cloned().collect(),
    }
}

/// An optical module.
pub fn module(interface: String, module: Module) -> v1::ModuleState {
    let text = |value: Option<String>| cut(value.unwrap_or_default(), limits::NAME_BYTES_MAX);
    let thresholds = module.thresholds;
    let quantities = [
        ("temperature_c", thresholds.temperature_c),
        ("vcc_v", thresholds.vcc_v),
        ("tx_power_mw", thresholds.tx_power_mw),
        ("tx_bias_ma", thresholds.tx_bias_ma),
        ("rx_power_mw", thresholds.rx_power_mw),
    ];
    v1::ModuleState {
        interface,
        standard: module.standard.map_or("", Standard::name).to_owned(),
        revision: text(module.revision),
        vendor: text(module.vendor),
        part_number: text(module.part_number),
        serial: text(module.serial),
        date_code: text(module.date_code),
        state: module.state.unwrap_or_default().to_owned(),
        temperature_c: module.temperature_c,
        vcc_v: module.vcc_v,
        lanes: module
            .lanes
            .iter()
            .map(|lane| v1::ModuleLane {
                lane: u32::from(lane.lane),
                tx_power_mw: lane.tx_power_mw,
                tx_bias_ma: lane.tx_bias_ma,
                rx_power_mw: lane.rx_power_mw,
                tx_los: lane.tx_los,
                rx_los: lane.rx_los,
                tx_fault: lane.tx_fault,
                snr_db: lane.snr_db,
            })
            .collect(),
        thresholds: quantities
            .into_iter()
            .filter_map(|(quantity, limits)| Some(of_quantity(quantity, limits?)))
            .collect(),
        checksum_ok: module.checksum_ok,
        problems: module.problems.iter().map(|problem| cut(problem.to_string(), limits::TEXT_BYTES_MAX)).collect(),
    }
}

fn of_quantity(quantity: &str, limits: Limits) -> v1::ModuleThresholds {
    let Limits { high_alarm, low_alarm, high_warning, low_warning } = limits;
    v1::ModuleThresholds { quantity: quantity.to_owned(), high_alarm, low_alarm, high_warning, low_warning }
}

fn entity(entity: &Entity) -> v1::Entity {
    v1::Entity { kind: entity.kind.to_owned(), name: cut(entity.name.clone(), limits::NAME_BYTES_MAX) }
}

/// The longest prefix of whole characters within `bytes_max`.
pub fn cut(mut text: String, bytes_max: usize) -> String {
    text.truncate(text.floor_char_boundary(bytes_max));
    text
}

#[cfg(test)]
mod tests {
    use super::{cut, windows};
    use railwatch_sampling::{Flags, SeriesId, WindowFrame};
    use railwatch_wire::flags;

    #[test]
    fn every_signal_that_this_agent_raises_has_its_page() {
        let pages = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/signals");
        let of_rules = crate::rules::all().iter().flat_map(|rule| rule.when.signals());
        let of_the_log = railwatch_health::kmsg::PATTERNS.iter().map(|pattern| pattern.signal);
        let others = [
            &crate::job::SIGNALS[..],
            &crate::placement::SIGNALS,
            &railwatch_peers::SIGNALS,
            &railwatch_inventory::SIGNALS,
            &railwatch_disk::SIGNALS,
            &railwatch_optics_source::TREND_SIGNALS,
            &railwatch_probe::SIGNALS,
            &[railwatch_health::dcmi::FAULT, railwatch_health::kmsg::TOGETHER],
            &[railwatch_sampling::SLOWED, railwatch_sampling::RESTORED, railwatch_nic::MICROBURST, "gpu.alloc.failed"],
        ]
        .concat();
        for signal in of_rules.chain(of_the_log).chain(others) {
            let page = std::fs::read_to_string(pages.join(format!("{signal}.md"))).unwrap_or_default();
            for part in [
                format!("# {signal}\n").as_str(),
                "**Look-alikes.**",
                "**What it cannot see.**",
                "**Confirm by hand.**",
            ] {
                assert!(page.contains(part), "docs/signals/{signal}.md does not say {part:?}");
            }
        }
    }

    #[test]
    fn what_happened_to_one_series_is_said_of_that_series_alone() {
        for (of_sampling, of_wire) in [
            (Flags::BASELINE, flags::BASELINE),
            (Flags::WRAPPED, flags::WRAPPED),
            (Flags::RESTARTED, flags::RESTARTED),
            (Flags::SATURATED, flags::SATURATED),
            (Flags::GAP, flags::GAP),
            (Flags::PARTIAL, flags::PARTIAL),
        ] {
            let frame = |flags: Vec<Flags>| WindowFrame {
                series: vec![SeriesId(1), SeriesId(2)],
                flags,
                ..WindowFrame::default()
            };
            let told = windows(frame(vec![Flags::default(), of_sampling]));
            assert_eq!(told.flags, [0, of_wire]);
            assert_eq!(told.incomplete_since_mono_ns, None, "one counter is not the whole frame");
            assert_eq!(windows(frame(vec![Flags::default(); 2])).flags, [0u32; 0], "nothing happened: nothing is sent");
        }
    }

    #[test]
    fn a_text_is_cut_between_characters() {
        for (text, max, expected) in [("abc", 5, "abc"), ("abc", 2, "ab"), ("aé", 2, "a"), ("", 0, "")] {
            assert_eq!(cut(text.to_owned(), max), expected);
        }
    }
}
