//! QSFP-DD, OSFP and their kin: Common Management Interface Specification, revisions 3 to 5.
//!
//! Lower memory and page 00 say what it is; page 01 what it advertises; page 02 its thresholds; page 11 of each bank of
//! eight lanes what it measures; page 14 signal-to-noise ratios, while its selector says so; pages 20 to 27 versatile
//! diagnostics.

use crate::field::{
    celsius, checksum, limits, milliampere, milliwatt, paged, temperature_and_voltage, text, volt, whole,
};
use crate::image::{Image, Page};
use crate::lanes::{Bits, Words};
use crate::module::{HostLane, Lane, LaneFlags, Levels, Module, ModuleFlags, Standard, Thresholds};
use crate::problem::{Problem, Problems};
use crate::vdm;

/// Banks a module may have (page 01 byte 142), each of eight lanes.
pub const BANKS_MAX: u8 = 4;
const LANES: usize = 8;
const PAGE_01: Page = Page::upper(0x01);
const PAGE_02: Page = Page::upper(0x02);
/// Page 14 byte 128: its bytes 208 to 255 hold signal-to-noise ratios.
const DIAGNOSTICS_SNR: u8 = 6;

pub(crate) fn decode(image: &mut Image, module: &mut Module, problems: &mut Problems) {
    let (lower, page00) = (Page::Lower, Page::upper(0));
    let is_flat = image.byte(lower, 2).is_some_and(|byte| byte & 0x80 != 0);
    paged(image, is_flat, problems);
    module.standard = Some(Standard::Cmis);
    whole(image, lower, problems);
    whole(image, page00, problems);
    if let Some(revision) = image.byte(lower, 1) {
        let (major, minor) = (revision >> 4, revision & 0x0f);
        module.revision = Some(format!("{major}.{minor}"));
        if !(3..=5).contains(&major) {
            problems.push(Problem::Revision { major, minor });
        }
    }
    let banks = if is_flat { 0 } else { banks(image, problems) };
    for page in [PAGE_01, PAGE_02].into_iter().chain((0..banks).map(|bank| Page::Upper { bank, page: 0x11 })) {
        if !is_flat {
            whole(image, page, problems);
        }
    }
    module.vendor = text(image, page00, (129, 144), "vendor", problems);
    module.part_number = text(image, page00, (148, 163), "part_number", problems);
    module.serial = text(image, page00, (166, 181), "serial", problems);
    module.date_code = text(image, page00, (182, 189), "date_code", problems);
    checksum(image, page00, (128, 221, 222), "of the page", module, problems);
    checksum(image, PAGE_01, (130, 254, 255), "of the page", module, problems);
    checksum(image, PAGE_02, (128, 254, 255), "of the page", module, problems);
    of_module(image, module);
    let bias_scale = bias_scale(image, problems);
    thresholds(image, bias_scale, module, problems);

    let applications = Applications::read(image);
    if is_flat {
        let bare = |number| Lane { lane: number, ..Lane::default() };
        module.lanes = numbers(0, applications.media_lanes).map(|(_, number)| bare(number)).collect();
        let bare = |number| HostLane { lane: number, ..HostLane::default() };
        module.host_lanes = numbers(0, applications.host_lanes).map(|(_, number)| bare(number)).collect();
    }
    for bank in 0..banks {
        // Which lanes there are is said of the first eight.
        let Applications { media_lanes, host_lanes } = if bank == 0 { applications } else { Applications::ALL };
        lanes(image, bank, (media_lanes, host_lanes), bias_scale, module);
    }
    if image.byte(PAGE_01, 142).is_some_and(|byte| byte & 0x40 != 0) {
        module.vdm = vdm::decode(image, banks);
    }
}

/// How many banks of lanes there are: as advertised, or as given where that is more.
fn banks(image: &Image, problems: &mut Problems) -> u8 {
    let advertised = match image.byte(PAGE_01, 142).map(|byte| byte & 3) {
        Some(1) => 2,
        Some(2) => 4,
        Some(3) => {
            problems.push(Problem::Reserved { what: "the number of banks (page 01 byte 142)", code: 3 });
            1
        }
        Some(_) | None => 1,
    };
    let mut banks = advertised;
    for page in image.pages() {
        if let Page::Upper { bank, page: 0x11 } = page
            && bank >= advertised
            && bank < BANKS_MAX
        {
            problems.push(Problem::BankNotAdvertised { page, banks: advertised });
            banks = banks.max(bank + 1);
        }
    }
    banks
}

fn of_module(image: &Image, module: &mut Module) {
    let lower = Page::Lower;
    module.state = match image.byte(lower, 3).map(|byte| byte >> 1 & 7) {
        Some(1) => Some("low_power"),
        Some(2) => Some("powering_up"),
        Some(3) => Some("ready"),
        Some(4) => Some("powering_down"),
        Some(5) => Some("fault"),
        _ => None,
    };
    let monitors = image.byte(PAGE_01, 159);
    let has_temperature = monitors.is_some_and(|bits| bits & 0x01 != 0);
    let (temperature, voltage) = temperature_and_voltage(image.be16(lower, 14), has_temperature, image.be16(lower, 16));
    module.temperature_c = temperature.map(celsius);
    module.vcc_v = voltage.map(volt);
    let flags = image.byte(lower, 9);
    // Bits from the lowest: high alarm, low alarm, high warning, low warning; the voltage in the upper half.
    let of = |shift: u8| {
        flags.map(|flags| flags >> shift).map(|bits| Levels {
            high_alarm: bits & 1 != 0,
            low_alarm: bits & 2 != 0,
            high_warning: bits & 4 != 0,
            low_warning: bits & 8 != 0,
        })
    };
    module.flags = ModuleFlags {
        temperature_c: of(0).filter(|_| temperature.is_some()),
        vcc_v: of(4).filter(|_| voltage.is_some()),
    };
}

/// Bias currents are given in steps of 2 µA times this; `None` where the module gives no scale that is known.
fn bias_scale(image: &Image, problems: &mut Problems) -> Option<f64> {
    match image.byte(PAGE_01, 160).map_or(0, |byte| byte >> 3 & 3) {
        0 => Some(1.0),
        1 => Some(2.0),
        2 => Some(4.0),
        code => {
            problems.push(Problem::Reserved { what: "the scale of bias currents (page 01 byte 160)", code });
            None
        }
    }
}

fn thresholds(image: &Image, bias_scale: Option<f64>, module: &mut Module, problems: &mut Problems) {
    let bias = |raw| bias_scale.map(|scale| milliampere(raw) * scale);
    let mut read =
        |at, quantity, convert: &dyn Fn(u16) -> Option<f64>| limits(image, PAGE_02, at, quantity, convert, problems);
    module.thresholds = Thresholds {
        temperature_c: read(128, "temperature_c", &|raw| Some(celsius(raw))),
        vcc_v: read(136, "vcc_v", &|raw| Some(volt(raw))),
        tx_power_mw: read(176, "tx_power_mw", &|raw| Some(milliwatt(raw))),
        tx_bias_ma: read(184, "tx_bias_ma", &bias),
        rx_power_mw: read(192, "rx_power_mw", &|raw| Some(milliwatt(raw))),
    };
}

fn lanes(image: &Image, bank: u8, (media, host): (u8, u8), bias_scale: Option<f64>, module: &mut Module) {
    let page = Page::Upper { bank, page: 0x11 };
    // Without page 01 nothing is advertised, and everything that is there is read.
    let advertises = |at, bit: u8| image.byte(PAGE_01, at).is_none_or(|byte| byte & bit != 0);
    let bits = |at, advertised| Bits::new(image.byte(page, at), advertised);
    let tx_fault = bits(135, advertises(157, 0x01));
    let tx_los = bits(136, advertises(157, 0x02));
    let tx_lol = bits(137, advertises(157, 0x04));
    let rx_los = bits(147, advertises(158, 0x02));
    let rx_lol = bits(148, advertises(158, 0x04));
    let tx_bias = Words::<LANES>::read(image, page, 170, advertises(160, 0x01));
    let tx_power = Words::<LANES>::read(image, page, 154, advertises(160, 0x02));
    let rx_power = Words::<LANES>::read(image, page, 186, advertises(160, 0x04));
    let crossed = |at: usize, lane: usize| {
        let bit = |register| Bits::new(image.byte(page, at + register), true).lane(lane);
        Some(Levels { high_alarm: bit(0)?, low_alarm: bit(1)?, high_warning: bit(2)?, low_warning: bit(3)? })
    };
    let diagnostics = Page::Upper { bank, page: 0x14 };
    let has_snr = image.byte(diagnostics, 128) == Some(DIAGNOSTICS_SNR);
    let snr = |at: usize, lane: usize| {
        let raw = image.le16(diagnostics, at + 2 * lane).filter(|raw| has_snr && *raw != 0)?;
        Some(f64::from(raw) / 256.0)
    };
    module.lanes.extend(numbers(bank, media).map(|(lane, number)| {
        let (tx, bias, rx) = (tx_power.lane(lane), tx_bias.lane(lane), rx_power.lane(lane));
        Lane {
            lane: number,
            tx_power_mw: tx.map(milliwatt),
            tx_bias_ma: bias.and_then(|raw| Some(milliampere(raw) * bias_scale?)),
            rx_power_mw: rx.map(milliwatt),
            tx_los: tx_los.lane(lane),
            rx_los: rx_los.lane(lane),
            tx_fault: tx_fault.lane(lane),
            tx_lol: tx_lol.lane(lane),
            rx_lol: rx_lol.lane(lane),
            snr_db: snr(240, lane),
            flags: LaneFlags {
                tx_power_mw: crossed(139, lane).filter(|_| tx.is_some()),
                tx_bias_ma: crossed(143, lane).filter(|_| bias.is_some()),
                rx_power_mw: crossed(149, lane).filter(|_| rx.is_some()),
            },
        }
    }));
    module.host_lanes.extend(numbers(bank, host).map(|(lane, number)| HostLane {
        lane: number,
        tx_los: tx_los.lane(lane),
        tx_lol: tx_lol.lane(lane),
        snr_db: snr(208, lane),
    }));
}

/// The lanes of a bank that a mask has: their place in it, and their number over all banks, from 1.
fn numbers(bank: u8, mask: u8) -> impl Iterator<Item = (usize, u8)> {
    (0..8u8).filter(move |lane| mask & (1 << lane) != 0).map(move |lane| (usize::from(lane), bank * 8 + lane + 1))
}

/// Which of the first eight lanes any advertised application uses, as masks.
#[derive(Clone, Copy)]
struct Applications {
    media_lanes: u8,
    host_lanes: u8,
}

impl Applications {
    const ALL: Self = Self { media_lanes: 0xff, host_lanes: 0xff };

    /// Application descriptors (CMIS 5, section 6.2.1): 1 to 8 in lower memory from byte 86, 9 to 15 in page 01 from 223;
    /// where an application may begin on the side of the fibre in page 01 from 176. Lanes of light that are not there:
    /// page 00 byte 210.
    fn read(image: &Image) -> Self {
        let mut used = Self { media_lanes: 0, host_lanes: 0 };
        for application in 0..15 {
            let (page, at) = if application < 8 {
                (Page::Lower, 86 + 4 * application)
            } else {
                (PAGE_01, 223 + 4 * (application - 8))
            };
            let Some([host_interface, _, counts, host_begins]) =
                image.range(page, at, at + 3).and_then(|bytes| bytes.first_chunk())
            else {
                break;
            };
            // Nothing, or the end of the list.
            if matches!(host_interface, 0 | 0xff) {
                continue;
            }
            let media_begins = image.byte(PAGE_01, 176 + application).unwrap_or(1);
            used.host_lanes |= spans(*host_begins, counts >> 4);
            used.media_lanes |= spans(media_begins, counts & 0x0f);
        }
        let all_where_none = |mask| if mask == 0 { 0xff } else { mask };
        let absent = image.byte(Page::upper(0), 210).unwrap_or_default();
        Self { media_lanes: all_where_none(used.media_lanes) & !absent, host_lanes: all_where_none(used.host_lanes) }
    }
}

/// Lanes of all spans of this length that begin where a bit is set.
fn spans(begins: u8, length: u8) -> u8 {
    let span = if length >= 8 { 0xffu8 } else { (1 << length) - 1 };
    (0..8).filter(|begin| begins & (1 << begin) != 0).fold(0, |lanes, begin| lanes | span << begin)
}
