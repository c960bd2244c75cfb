//! What a module says, as plain data. Its JSON is a contract: fields are added, never renamed; `null` is "not known",
//! never zero.

use crate::problem::Problem;
use serde::Serialize;

/// Which layout the module's memory has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Standard {
    /// SFP and SFP28.
    #[serde(rename = "SFF-8472")]
    Sff8472,
    /// QSFP+, QSFP28 and QSFP56 without CMIS.
    #[serde(rename = "SFF-8636")]
    Sff8636,
    /// QSFP-DD, OSFP, and whatever else says so.
    #[serde(rename = "CMIS")]
    Cmis,
}

impl Standard {
    /// By identifier (SFF-8024, table 4-1).
    #[must_use]
    pub const fn of(identifier: u8) -> Option<Self> {
        match identifier {
            0x02 | 0x03 | 0x0b => Some(Self::Sff8472),
            0x0c | 0x0d | 0x11 => Some(Self::Sff8636),
            0x18 | 0x19 | 0x1b | 0x1e..=0x25 => Some(Self::Cmis),
            _ => None,
        }
    }

    /// As shown.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sff8472 => "SFF-8472",
            Self::Sff8636 => "SFF-8636",
            Self::Cmis => "CMIS",
        }
    }
}

/// Four levels, in the standards' order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Levels<T> {
    /// High alarm.
    pub high_alarm: T,
    /// Low alarm.
    pub low_alarm: T,
    /// High warning.
    pub high_warning: T,
    /// Low warning.
    pub low_warning: T,
}

impl<T> Levels<T> {
    /// The same four, each changed.
    pub fn map<U>(self, change: impl Fn(T) -> U) -> Levels<U> {
        Levels {
            high_alarm: change(self.high_alarm),
            low_alarm: change(self.low_alarm),
            high_warning: change(self.high_warning),
            low_warning: change(self.low_warning),
        }
    }
}

/// The thresholds of one quantity, in its unit; a pair that is not given is `None`.
pub type Limits = Levels<Option<f64>>;

impl Limits {
    /// Which of the order's rules is broken: nothing can rest on such thresholds.
    #[must_use]
    pub fn contradiction(&self) -> Option<&'static str> {
        let above = |high: Option<f64>, low: Option<f64>| high.zip(low).is_none_or(|(high, low)| high > low);
        let not_below = |high: Option<f64>, low: Option<f64>| high.zip(low).is_none_or(|(high, low)| high >= low);
        match self {
            l if !above(l.high_alarm, l.low_alarm) => Some("the high alarm is not above the low alarm"),
            l if !above(l.high_warning, l.low_warning) => Some("the high warning is not above the low warning"),
            l if !not_below(l.high_alarm, l.high_warning) => Some("the high warning is above the high alarm"),
            l if !not_below(l.low_warning, l.low_alarm) => Some("the low warning is below the low alarm"),
            _ => None,
        }
    }
}

/// All thresholds of a module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Thresholds {
    /// °C.
    pub temperature_c: Option<Limits>,
    /// V.
    pub vcc_v: Option<Limits>,
    /// mW, of each lane.
    pub tx_power_mw: Option<Limits>,
    /// mA, of each lane.
    pub tx_bias_ma: Option<Limits>,
    /// mW, of each lane.
    pub rx_power_mw: Option<Limits>,
}

/// Latched flags of the module: set since they were last read. Reading clears them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ModuleFlags {
    /// Of its temperature.
    pub temperature_c: Option<Levels<bool>>,
    /// Of its supply voltage.
    pub vcc_v: Option<Levels<bool>>,
}

/// Latched flags of a lane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LaneFlags {
    /// Of the transmitted power.
    pub tx_power_mw: Option<Levels<bool>>,
    /// Of the laser's bias current.
    pub tx_bias_ma: Option<Levels<bool>>,
    /// Of the received power.
    pub rx_power_mw: Option<Levels<bool>>,
}

/// One lane on the side of the fibre.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Lane {
    /// From 1.
    pub lane: u8,
    /// Transmitted optical power, mW.
    pub tx_power_mw: Option<f64>,
    /// Laser bias current, mA.
    pub tx_bias_ma: Option<f64>,
    /// Received optical power, mW.
    pub rx_power_mw: Option<f64>,
    /// No signal from the host on the lane of this number (latched).
    pub tx_los: Option<bool>,
    /// No light (latched; of an SFP: now).
    pub rx_los: Option<bool>,
    /// The transmitter failed (latched; of an SFP: now).
    pub tx_fault: Option<bool>,
    /// No clock from the host's signal on the lane of this number (latched).
    pub tx_lol: Option<bool>,
    /// No clock from the light (latched).
    pub rx_lol: Option<bool>,
    /// Signal-to-noise ratio of the received light, dB.
    pub snr_db: Option<f64>,
    /// Which thresholds it crossed.
    pub flags: LaneFlags,
}

/// One electrical lane on the side of the host; there may be more of them than lanes of light.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct HostLane {
    /// From 1.
    pub lane: u8,
    /// No signal from the host (latched).
    pub tx_los: Option<bool>,
    /// No clock from the host's signal (latched).
    pub tx_lol: Option<bool>,
    /// Signal-to-noise ratio of the host's signal, dB.
    pub snr_db: Option<f64>,
}

/// One value of versatile diagnostics monitoring (CMIS 5, section 7.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Observable {
    /// From 1, over all groups.
    pub instance: u16,
    /// Its type (CMIS 5, table 8-123).
    pub kind: u8,
    /// What the type means; `None` for one not known here.
    pub name: Option<&'static str>,
    /// From 1; `None` for the module as a whole.
    pub lane: Option<u8>,
    /// In `unit`; `None` where the type is not known.
    pub value: Option<f64>,
    /// UCUM.
    pub unit: &'static str,
    /// As the module gives it.
    pub raw: u16,
}

/// Everything a module says.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Module {
    /// Layout of its memory; `None` where that cannot be told.
    pub standard: Option<Standard>,
    /// Revision of that layout: of CMIS `5.1`, of SFF-8472 and SFF-8636 their code.
    pub revision: Option<String>,
    /// Manufacturer.
    pub vendor: Option<String>,
    /// Its part number.
    pub part_number: Option<String>,
    /// Its serial number.
    pub serial: Option<String>,
    /// Date of manufacture, YYMMDD and a lot code.
    pub date_code: Option<String>,
    /// `ready`, `low_power`, `powering_up`, `powering_down`, `fault`; `not_ready` where it has no values yet.
    pub state: Option<&'static str>,
    /// °C.
    pub temperature_c: Option<f64>,
    /// V.
    pub vcc_v: Option<f64>,
    /// Lanes of light; copper has them too, without powers.
    pub lanes: Vec<Lane>,
    /// Electrical lanes.
    pub host_lanes: Vec<HostLane>,
    /// The module's own thresholds.
    pub thresholds: Thresholds,
    /// Which of them it crossed.
    pub flags: ModuleFlags,
    /// Versatile diagnostics.
    pub vdm: Vec<Observable>,
    /// All checksums that could be computed fit; `None` where none could.
    pub checksum_ok: Option<bool>,
    /// What is missing or contradicts itself.
    pub problems: Vec<Problem>,
}
