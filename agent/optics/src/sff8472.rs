//! SFP and SFP28: SFF-8472 revision 12.5. Identity at A0, measurements at A2.

use crate::field::{checksum, limits, milliwatt, text, whole};
use crate::image::{Image, Page};
use crate::lanes::levels;
use crate::module::{HostLane, Lane, LaneFlags, Module, ModuleFlags, Standard, Thresholds};
use crate::problem::{Problem, Problems};

pub(crate) fn decode(image: &Image, module: &mut Module, problems: &mut Problems) {
    let (a0, a2) = (Page::A0, Page::A2);
    module.standard = Some(Standard::Sff8472);
    whole(image, a0, problems);
    module.vendor = text(image, a0, (20, 35), "vendor", problems);
    module.part_number = text(image, a0, (40, 55), "part_number", problems);
    module.serial = text(image, a0, (68, 83), "serial", problems);
    module.date_code = text(image, a0, (84, 91), "date_code", problems);
    module.revision = image.byte(a0, 94).map(|code| format!("code {code}"));
    checksum(image, a0, (0, 62, 63), "CC_BASE", module, problems);
    checksum(image, a0, (64, 94, 95), "CC_EXT", module, problems);

    let monitoring = image.byte(a0, 92).unwrap_or_default();
    let has_diagnostics = monitoring & 0x40 != 0;
    let mut lane = Lane { lane: 1, ..Lane::default() };
    if has_diagnostics {
        whole(image, a2, problems);
        match repeats(image) {
            Repeats::Not => diagnostics(image, monitoring, true, module, &mut lane, problems),
            Repeats::Thresholds(same) => {
                problems.push(Problem::A2IsA0 { same, of: COMPARED, rejected: "its thresholds are" });
                diagnostics(image, monitoring, false, module, &mut lane, problems);
            }
            Repeats::All(same) => {
                problems.push(Problem::A2IsA0 { same, of: COMPARED, rejected: "all it measures is" });
            }
        }
    }
    module.lanes = vec![lane];
    module.host_lanes = vec![HostLane { lane: 1, ..HostLane::default() }];
}

/// Bytes of A2 compared with A0: thresholds and calibration constants, of which none is like a name.
const COMPARED: usize = 96;

enum Repeats {
    Not,
    /// The constants do, the measurements behind them are live.
    Thresholds(usize),
    All(usize),
}

/// Some drivers answer a read of A2 with A0. Thresholds that begin as an identity does cannot be: 3.02 °C as the high
/// alarm, 7.06 °C as the low one, and 0.8224 mW (two spaces) further on.
fn repeats(image: &Image) -> Repeats {
    let (Some(a0), Some(a2)) = (image.page(Page::A0), image.page(Page::A2)) else { return Repeats::Not };
    let same = a0.iter().zip(a2).take(COMPARED).filter(|(a0, a2)| a0 == a2).count();
    match (a0.get(..8), a2.get(..8)) {
        (Some(first), Some(second)) if first == second => Repeats::All(same),
        (Some(_), Some(_)) if same * 4 >= COMPARED * 3 => Repeats::Thresholds(same),
        _ => Repeats::Not,
    }
}

/// From a raw number to a value; `None` where the constants give none.
type Convert<'a> = &'a dyn Fn(u16) -> Option<f64>;

fn diagnostics(
    image: &Image,
    monitoring: u8,
    has_thresholds: bool,
    module: &mut Module,
    lane: &mut Lane,
    problems: &mut Problems,
) {
    let a2 = Page::A2;
    // Where the constants are missing, A2 is too short, which is told already.
    let is_external = match (monitoring & 0x20 != 0, monitoring & 0x10 != 0) {
        (true, false) => false,
        (false, true) => true,
        (true, true) => {
            problems.push(Problem::Calibration("both internal and external"));
            false
        }
        (false, false) => {
            problems.push(Problem::Calibration("neither internal nor external"));
            false
        }
    };
    let calibration = is_external.then(|| Calibration::read(image)).flatten();
    let linear = |at: fn(&Calibration) -> Linear, is_signed: bool, unit: fn(f64) -> f64| {
        move |raw: u16| {
            let raw = if is_signed { f64::from(raw.cast_signed()) } else { f64::from(raw) };
            match (is_external, calibration) {
                (false, _) => Some(unit(raw)),
                (true, Some(calibration)) => Some(unit(at(&calibration).apply(raw, is_signed))),
                (true, None) => None,
            }
        }
    };
    let temperature = linear(|c| c.temperature, true, |raw| raw / 256.0);
    let voltage = linear(|c| c.voltage, false, |raw| raw / 10_000.0);
    let bias = linear(|c| c.bias, false, |raw| raw / 500.0);
    let tx_power = linear(|c| c.tx_power, false, |raw| raw / 10_000.0);
    let rx_power = move |raw: u16| match (is_external, calibration) {
        (false, _) => Some(milliwatt(raw)),
        (true, Some(calibration)) => calibration.rx_power_mw(raw),
        (true, None) => None,
    };
    if has_thresholds {
        let mut read = |at, quantity, convert: Convert<'_>| limits(image, a2, at, quantity, convert, problems);
        module.thresholds = Thresholds {
            temperature_c: read(0, "temperature_c", &temperature),
            vcc_v: read(8, "vcc_v", &voltage),
            tx_bias_ma: read(16, "tx_bias_ma", &bias),
            tx_power_mw: read(24, "tx_power_mw", &tx_power),
            rx_power_mw: read(32, "rx_power_mw", &rx_power),
        };
    }
    let options = image.byte(Page::A0, 93).unwrap_or_default();
    let status = image.byte(a2, 110);
    let state = |bit: u8, implemented: bool| status.map(|s| s & bit != 0).filter(|set| *set || implemented);
    lane.tx_fault = state(0x04, options & 0x20 != 0);
    lane.rx_los = state(0x02, options & 0x10 != 0);
    module.state = status.map(|status| if status & 1 == 0 { "ready" } else { "not_ready" });
    if module.state == Some("not_ready") {
        return;
    }
    module.temperature_c = image.be16(a2, 96).and_then(temperature);
    module.vcc_v = image.be16(a2, 98).filter(|raw| *raw != 0).and_then(voltage);
    lane.tx_bias_ma = image.be16(a2, 100).and_then(bias);
    lane.tx_power_mw = image.be16(a2, 102).and_then(tx_power);
    let rx_raw = image.be16(a2, 104);
    lane.rx_power_mw = rx_raw.and_then(rx_power);
    if rx_raw.is_some() && lane.rx_power_mw.is_none() && calibration.is_some() {
        problems.push(Problem::CalibrationConstant("rx_power_mw"));
    }
    let flags = [112, 113, 116, 117].map(|at| image.byte(a2, at));
    if let [Some(alarm), Some(alarm_rx), Some(warning), Some(warning_rx)] = flags
        && (options & 0x80 != 0 || flags.iter().flatten().any(|register| *register != 0))
    {
        let of = |alarm: u8, warning: u8, shift: u8| levels(((alarm >> shift & 3) << 2) | (warning >> shift & 3));
        module.flags = ModuleFlags { temperature_c: Some(of(alarm, warning, 6)), vcc_v: Some(of(alarm, warning, 4)) };
        lane.flags = LaneFlags {
            tx_bias_ma: Some(of(alarm, warning, 2)),
            tx_power_mw: Some(of(alarm, warning, 0)),
            rx_power_mw: Some(of(alarm_rx, warning_rx, 6)),
        };
    }
    checksum(image, a2, (0, 94, 95), "CC_DMI", module, problems);
}

/// Constants of external calibration (section 9.5, table 9-6).
#[derive(Clone, Copy)]
struct Calibration {
    /// Coefficients of the received power, the constant first, 0.1 µW.
    rx_power: [f32; 5],
    bias: Linear,
    tx_power: Linear,
    temperature: Linear,
    voltage: Linear,
}

#[derive(Clone, Copy)]
struct Linear {
    slope: f64,
    offset: f64,
}

impl Linear {
    /// The raw number the module would have given with internal calibration.
    fn apply(self, raw: f64, is_signed: bool) -> f64 {
        let value = raw * self.slope + self.offset;
        // A current, a voltage or a power below nothing is the noise of its sensor.
        if is_signed { value } else { value.max(0.0) }
    }
}

impl Calibration {
    fn read(image: &Image) -> Option<Self> {
        let a2 = Page::A2;
        let float = |at| Some(f32::from_be_bytes(image.range(a2, at, at + 3)?.try_into().ok()?));
        let linear = |at| {
            Some(Linear {
                slope: f64::from(image.be16(a2, at)?) / 256.0,
                offset: f64::from(image.be16(a2, at + 2)?.cast_signed()),
            })
        };
        Some(Self {
            rx_power: [float(72)?, float(68)?, float(64)?, float(60)?, float(56)?],
            bias: linear(76)?,
            tx_power: linear(80)?,
            temperature: linear(84)?,
            voltage: linear(88)?,
        })
    }

    fn rx_power_mw(&self, raw: u16) -> Option<f64> {
        let x = f64::from(raw);
        let tenth_uw = self.rx_power.iter().rev().fold(0.0, |sum, coefficient| sum * x + f64::from(*coefficient));
        tenth_uw.is_finite().then(|| tenth_uw.max(0.0) / 10_000.0)
    }
}
