//! Versatile diagnostics monitoring (CMIS 5, sections 7.1.2 and 8.18): what a module measures beyond the common set.
//!
//! Pages 20 to 23 describe up to 4 × 64 observables, two bytes each; pages 24 to 27 hold a sample of each.

use crate::image::{Image, Page};
use crate::module::Observable;

const GROUPS: u8 = 4;
const OF_A_GROUP: u16 = 64;
/// Lane code of what is of the whole module or data path.
const NO_LANE: u8 = 0x0f;

pub(crate) fn decode(image: &Image, banks: u8) -> Vec<Observable> {
    let mut found = Vec::new();
    for bank in 0..banks {
        for group in 0..GROUPS {
            let described = Page::Upper { bank, page: 0x20 + group };
            let sampled = Page::Upper { bank, page: 0x24 + group };
            for place in 0..OF_A_GROUP {
                let at = 128 + 2 * usize::from(place);
                let (Some(whose), Some(kind), Some(raw)) =
                    (image.byte(described, at), image.byte(described, at + 1), image.be16(sampled, at))
                else {
                    break;
                };
                if kind == 0 {
                    continue;
                }
                let lane = whose & 0x0f;
                let (name, unit, value) = meaning(kind, raw);
                found.push(Observable {
                    instance: u16::from(group) * OF_A_GROUP + place + 1,
                    kind,
                    name,
                    lane: (lane != NO_LANE).then_some(bank * 8 + lane + 1),
                    value,
                    unit,
                    raw,
                });
            }
        }
    }
    found
}

/// Name, unit (UCUM) and value of a type (CMIS 5, table 8-123).
fn meaning(kind: u8, raw: u16) -> (Option<&'static str>, &'static str, Option<f64>) {
    let signed = f64::from(raw.cast_signed());
    let plain = f64::from(raw);
    let (name, unit, value) = match kind {
        1 => ("laser_age", "%", plain),
        2 => ("tec_current", "%", signed * 100.0 / 32_767.0),
        3 => ("laser_frequency_error", "MHz", signed * 10.0),
        4 => ("laser_temperature", "Cel", signed / 256.0),
        5 => ("snr_media", "dB", plain / 256.0),
        6 => ("snr_host", "dB", plain / 256.0),
        7 => ("level_transition_media", "dB", plain / 256.0),
        8 => ("level_transition_host", "dB", plain / 256.0),
        9 => ("pre_fec_ber_min_media", "1", f16(raw)),
        10 => ("pre_fec_ber_min_host", "1", f16(raw)),
        11 => ("pre_fec_ber_max_media", "1", f16(raw)),
        12 => ("pre_fec_ber_max_host", "1", f16(raw)),
        13 => ("pre_fec_ber_mean_media", "1", f16(raw)),
        14 => ("pre_fec_ber_mean_host", "1", f16(raw)),
        15 => ("pre_fec_ber_now_media", "1", f16(raw)),
        16 => ("pre_fec_ber_now_host", "1", f16(raw)),
        17 => ("errored_frames_min_media", "1", f16(raw)),
        18 => ("errored_frames_min_host", "1", f16(raw)),
        19 => ("errored_frames_max_media", "1", f16(raw)),
        20 => ("errored_frames_max_host", "1", f16(raw)),
        21 => ("errored_frames_mean_media", "1", f16(raw)),
        22 => ("errored_frames_mean_host", "1", f16(raw)),
        23 => ("errored_frames_now_media", "1", f16(raw)),
        24 => ("errored_frames_now_host", "1", f16(raw)),
        _ => return (None, "", None),
    };
    (Some(name), unit, Some(value))
}

/// CMIS' own F16: five bits of exponent, eleven of mantissa, mantissa × 10^(exponent − 24).
fn f16(raw: u16) -> f64 {
    f64::from(raw & 0x07ff) * 10f64.powi(i32::from(raw >> 11) - 24)
}

#[cfg(test)]
mod tests {
    use super::{f16, meaning};

    #[test]
    fn samples_have_the_units_of_their_types() {
        for (kind, raw, name, unit, value) in [
            (1, 7, "laser_age", "%", 7.0),
            (2, 0x8001, "tec_current", "%", -100.0),
            (3, 0xffff, "laser_frequency_error", "MHz", -10.0),
            (4, 0xe700, "laser_temperature", "Cel", -25.0),
            (5, 5424, "snr_media", "dB", 21.1875),
            (15, (16 << 11) | 250, "pre_fec_ber_now_media", "1", 2.5e-6),
        ] {
            let (got_name, got_unit, got) = meaning(kind, raw);
            assert_eq!((got_name, got_unit), (Some(name), unit));
            assert!(got.is_some_and(|got| (got - value).abs() <= value.abs() * 1e-9), "{kind}: {got:?}");
        }
        assert_eq!(meaning(200, 1), (None, "", None), "a type that is not known has no value");
        assert_eq!(f16(0), 0.0);
    }
}
