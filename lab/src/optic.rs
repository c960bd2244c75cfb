//! The optical module of an emulated NIC: an image of its memory whose received light can be set.
//!
//! In: the image of a 100GBASE-LR4 module, light per lane. Out: the file that stands for a module's EEPROM below an emulated
//! sysfs. Never: a byte outside the fields of SFF-8636 table 6-1 that carry received light and its alarms.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

const IMAGE: &str = include_str!("../../agent/optics/fixtures/sff8636-lr4.json");
/// Lanes of the module.
pub const LANES: usize = 4;
/// Light received by a clean lane, mW.
pub const CLEAN_MW: f64 = 0.8;
/// Low alarm and low warning of the module's thresholds, mW.
const LOW_ALARM_MW: f64 = 0.01;
const LOW_WARNING_MW: f64 = 0.02;
/// Lower memory: loss of signal, alarms of received light of lanes 1 and 2, then 3 and 4; power of lane 1.
const LOST: usize = 3;
const ALARMS: usize = 9;
const POWER: usize = 34;

/// The file of a module that receives this much light, mW per lane.
///
/// # Errors
/// Light that the field has no room for.
pub fn image(received_mw: [f64; LANES]) -> Result<String> {
    let mut image: Value = serde_json::from_str(IMAGE).context("the image of a module")?;
    let hex = image["pages"]["lower"].as_str().context("the image has a lower page")?;
    let mut page = Vec::new();
    for at in (0..hex.len()).step_by(2) {
        page.push(u8::from_str_radix(hex.get(at..at + 2).context("hexadecimal digits come in pairs")?, 16)?);
    }
    ensure!(page.len() == 128, "a lower page has 128 bytes, not {}", page.len());
    page[LOST] &= 0xf0;
    page[ALARMS..ALARMS + 2].fill(0);
    for (lane, mw) in received_mw.into_iter().enumerate() {
        ensure!((0.0..6.5).contains(&mw), "{mw} mW does not fit into 16 bits of 0.1 µW");
        let steps = (mw * 10_000.0).round() as u16;
        page[POWER + lane * 2..][..2].copy_from_slice(&steps.to_be_bytes());
        let nibble = if lane % 2 == 0 { 4 } else { 0 };
        let flags = u8::from(mw < LOW_ALARM_MW) << 2 | u8::from(mw < LOW_WARNING_MW);
        page[ALARMS + lane / 2] |= flags << nibble;
        page[LOST] |= u8::from(steps == 0) << lane;
    }
    image["pages"]["lower"] = page.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into();
    Ok(image.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agent_s_decoder_reads_the_light_that_was_set() -> Result<()> {
        for light in [[CLEAN_MW; 4], [0.8, 0.015, 0.7, 0.008]] {
            let module = railwatch_optics::decode_file(image(light)?.as_bytes());
            assert!(module.problems.is_empty(), "{:?}", module.problems);
            let read: Vec<_> = module.lanes.iter().map(|lane| lane.rx_power_mw).collect();
            for (read, set) in read.iter().zip(light) {
                assert!((read.expect("a lane measures") - set).abs() < 1e-3, "{read:?} for {set}");
            }
        }
        assert!(image([7.0; 4]).is_err());
        Ok(())
    }
}
