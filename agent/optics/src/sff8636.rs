//! QSFP+, QSFP28: SFF-8636 revision 2.11. Measurements in lower memory, identity in page 00, thresholds in page 03.

use crate::field::{
    celsius, checksum, limits, milliampere, milliwatt, paged, temperature_and_voltage, text, volt, whole,
};
use crate::image::{Image, Page};
use crate::lanes::{Bits, Words, levels};
use crate::module::{HostLane, Lane, LaneFlags, Module, ModuleFlags, Standard, Thresholds};
use crate::problem::Problems;

const LANES: usize = 4;

pub(crate) fn decode(image: &mut Image, module: &mut Module, problems: &mut Problems) {
    let (lower, page00, page03) = (Page::Lower, Page::upper(0), Page::upper(3));
    let status = image.byte(lower, 2).unwrap_or_default();
    let is_flat = status & 0x04 != 0;
    paged(image, is_flat, problems);
    module.standard = Some(Standard::Sff8636);
    whole(image, lower, problems);
    whole(image, page00, problems);
    if !is_flat {
        whole(image, page03, problems);
    }
    module.vendor = text(image, page00, (148, 163), "vendor", problems);
    module.part_number = text(image, page00, (168, 183), "part_number", problems);
    module.serial = text(image, page00, (196, 211), "serial", problems);
    module.date_code = text(image, page00, (212, 219), "date_code", problems);
    let revision = image.byte(lower, 1);
    module.revision = revision.map(|code| format!("code {code}"));
    checksum(image, page00, (128, 190, 191), "CC_BASE", module, problems);
    checksum(image, page00, (192, 222, 223), "CC_EXT", module, problems);

    // Transmitter technology (byte 147, table 6-17): from 0xA on, copper, of which 0xA and 0xB are passive.
    let is_copper = image.byte(page00, 147).is_some_and(|technology| technology >> 4 >= 0xa);
    let monitors = image.byte(page00, 220).unwrap_or_default();
    // Which of the module's own monitors there are is said from revision code 8 on.
    let says_monitors = revision.is_some_and(|code| code >= 8);
    let is_ready = status & 0x01 == 0;
    module.state = image.byte(lower, 2).map(|_| if is_ready { "ready" } else { "not_ready" });
    let measured = |at| image.be16(lower, at).filter(|_| is_ready);
    let has_temperature = if says_monitors { monitors & 0x20 != 0 } else { !is_copper };
    let (temperature, voltage) = temperature_and_voltage(measured(22), has_temperature, measured(26));
    module.temperature_c = temperature.map(celsius);
    module.vcc_v = voltage.map(volt);
    let has_module_flags = temperature.is_some() || voltage.is_some();
    let upper_half = |at| image.byte(lower, at).map(|bits| levels(bits >> 4)).filter(|_| has_module_flags);
    module.flags = ModuleFlags { temperature_c: upper_half(6), vcc_v: upper_half(7) };

    let mut read =
        |at, quantity, convert: fn(u16) -> f64| limits(image, page03, at, quantity, |raw| Some(convert(raw)), problems);
    module.thresholds = Thresholds {
        temperature_c: read(128, "temperature_c", celsius),
        vcc_v: read(144, "vcc_v", volt),
        rx_power_mw: read(176, "rx_power_mw", milliwatt),
        tx_bias_ma: read(184, "tx_bias_ma", milliampere),
        tx_power_mw: read(192, "tx_power_mw", milliwatt),
    };

    let words = |at, advertised| {
        let words = Words::<LANES>::read(image, lower, at, advertised);
        move |lane| words.lane(lane).filter(|_| is_ready)
    };
    let rx_power = words(34, !is_copper);
    let tx_bias = words(42, !is_copper);
    let tx_power = words(50, monitors & 0x04 != 0 && !is_copper);
    let options = image.byte(page00, 195).unwrap_or_default();
    let more_options = image.byte(page00, 194).unwrap_or_default();
    let (los, fault, lol) = (image.byte(lower, 3), image.byte(lower, 4), image.byte(lower, 5));
    let low = |register: Option<u8>| register.map(|bits| bits & 0x0f);
    let high = |register: Option<u8>| register.map(|bits| bits >> 4);
    let rx_los = Bits::new(low(los), !is_copper);
    let tx_los = Bits::new(high(los), options & 0x02 != 0);
    let tx_fault = Bits::new(low(fault), options & 0x08 != 0);
    let rx_lol = Bits::new(low(lol), more_options & 0x10 != 0);
    let tx_lol = Bits::new(high(lol), more_options & 0x20 != 0);
    // Lanes 1 and 2 share a byte, lane 1 in its upper half; so do 3 and 4.
    let crossed = |at: usize, lane: usize, is_measured: bool| {
        let register = image.byte(lower, at + lane / 2).filter(|_| is_measured)?;
        Some(levels(if lane.is_multiple_of(2) { register >> 4 } else { register }))
    };
    module.lanes = (0u8..)
        .zip(0..LANES)
        .map(|(number, lane)| {
            let (rx, bias, tx) = (rx_power(lane), tx_bias(lane), tx_power(lane));
            Lane {
                lane: number + 1,
                tx_power_mw: tx.map(milliwatt),
                tx_bias_ma: bias.map(milliampere),
                rx_power_mw: rx.map(milliwatt),
                tx_los: tx_los.lane(lane),
                rx_los: rx_los.lane(lane),
                tx_fault: tx_fault.lane(lane),
                tx_lol: tx_lol.lane(lane),
                rx_lol: rx_lol.lane(lane),
                snr_db: None,
                flags: LaneFlags {
                    rx_power_mw: crossed(9, lane, rx.is_some()),
                    tx_bias_ma: crossed(11, lane, bias.is_some()),
                    tx_power_mw: crossed(13, lane, tx.is_some()),
                },
            }
        })
        .collect();
    module.host_lanes = module
        .lanes
        .iter()
        .map(|lane| HostLane { lane: lane.lane, tx_los: lane.tx_los, tx_lol: lane.tx_lol, snr_db: None })
        .collect();
}
