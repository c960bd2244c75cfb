//! Optical modules and their lanes.

use super::INTERFACE;
use crate::convention::{TEMPERATURE, VOLTAGE};
use crate::{Board, Label, Proof, Section, counter, gauge, label, one_of, state};

const LANE: Label = label("hw.optics.lane");

/// Values of a whole module. `hw.optics.crossings` is of lanes too.
pub(super) const MODULES: Section = Section {
    title: "Optical modules",
    sources: &["optics"],
    entities: &["module", "lane"],
    entity_is: "the interface: `eth0`; of a lane, with its number: `eth0/1`",
    labels: &[INTERFACE],
    board: Board::Optics,
    proof: Proof::Whole,
    series: &[
        gauge("hw.optics.temperature", "Cel", "Temperature of the module").on("Module temperature").otel(TEMPERATURE),
        gauge("hw.optics.voltage", "V", "Supply voltage of the module").on("Module supply voltage").otel(VOLTAGE),
        counter("hw.optics.crossings", "{event}", "Readings that found a flag of a crossed threshold set, by quantity")
            .by(&[
                one_of("hw.optics.quantity", &["temperature", "voltage", "tx_power", "tx_bias", "rx_power"]),
                LANE.or_none(),
            ])
            .on("Thresholds crossed"),
    ],
};

/// Values of a lane.
pub(super) const LANES: Section = Section {
    title: "Optical lanes",
    sources: &["optics"],
    entities: &["lane"],
    entity_is: "the interface and the lane: `eth0/1`",
    labels: &[INTERFACE, LANE],
    board: Board::Optics,
    proof: Proof::Whole,
    series: &[
        gauge("hw.optics.tx_power", "mW", "Optical power transmitted").on("Power transmitted"),
        gauge("hw.optics.rx_power", "mW", "Optical power received").on("Power received"),
        gauge("hw.optics.tx_bias", "mA", "Bias current of the laser").on("Laser bias"),
        gauge("hw.optics.snr", "dB", "Signal to noise ratio of the received light (CMIS)").on("Signal to noise ratio"),
        state("hw.optics.rx_light", "The lane receives light").on("Light received, transmitter well"),
        state("hw.optics.tx_ok", "The lane's transmitter reports no fault").on("Light received, transmitter well"),
        counter("hw.optics.rx_los", "{event}", "Readings that found loss of received light")
            .on("Loss of signal and faults"),
        counter("hw.optics.tx_los", "{event}", "Readings that found loss of the signal from the host")
            .on("Loss of signal and faults"),
        counter("hw.optics.tx_faults", "{event}", "Readings that found a fault of the transmitter")
            .on("Loss of signal and faults"),
    ],
};
