//! Fields that all three standards share: texts, checksums, thresholds, values in fixed units.

use crate::image::{Image, Page, expected};
use crate::module::{Levels, Limits, Module};
use crate::problem::{Problem, Problems};

/// 1/256 °C, signed.
pub(crate) fn celsius(raw: u16) -> f64 {
    f64::from(raw.cast_signed()) / 256.0
}

/// 100 µV.
pub(crate) fn volt(raw: u16) -> f64 {
    f64::from(raw) / 10_000.0
}

/// 2 µA.
pub(crate) fn milliampere(raw: u16) -> f64 {
    f64::from(raw) / 500.0
}

/// 0.1 µW.
pub(crate) fn milliwatt(raw: u16) -> f64 {
    f64::from(raw) / 10_000.0
}

/// A text padded with spaces or zeros; `None` where it is nothing else.
pub(crate) fn text(
    image: &Image,
    page: Page,
    (from, to): (usize, usize),
    what: &'static str,
    problems: &mut Problems,
) -> Option<String> {
    let bytes = image.range(page, from, to)?;
    if bytes.iter().all(|byte| matches!(byte, 0 | b' ' | 0xff)) {
        return None;
    }
    let is_padding = |byte: &u8| matches!(byte, 0 | b' ');
    let start = bytes.iter().position(|byte| !is_padding(byte))?;
    let end = bytes.iter().rposition(|byte| !is_padding(byte))?;
    let shown = &bytes[start..=end];
    let is_text = |byte: &u8| matches!(byte, b' '..=b'~');
    let strange = shown.iter().filter(|byte| !is_text(byte)).count();
    if strange > 0 {
        problems.push(Problem::NotText { what, bytes: strange });
    }
    Some(shown.iter().map(|byte| if is_text(byte) { char::from(*byte) } else { '.' }).collect())
}

/// Compares the sum of bytes `from` to `to` with the byte at `at`. What the image does not hold is not checked.
pub(crate) fn checksum(
    image: &Image,
    page: Page,
    (from, to, at): (usize, usize, usize),
    name: &'static str,
    module: &mut Module,
    problems: &mut Problems,
) {
    let (Some(bytes), Some(stored)) = (image.range(page, from, to), image.byte(page, at)) else { return };
    let computed = bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    module.checksum_ok = Some(module.checksum_ok.unwrap_or(true) && computed == stored);
    if computed != stored {
        problems.push(Problem::Checksum { page, name, stored, computed });
    }
}

/// Four thresholds in a row: high alarm, low alarm, high warning, low warning. A pair of zeros is not given.
pub(crate) fn limits(
    image: &Image,
    page: Page,
    at: usize,
    quantity: &'static str,
    value: impl Fn(u16) -> Option<f64>,
    problems: &mut Problems,
) -> Option<Limits> {
    let raw = [0, 2, 4, 6].map(|offset| image.be16(page, at + offset));
    let pair = |high: Option<u16>, low: Option<u16>| match (high, low) {
        (Some(0), Some(0)) => (None, None),
        (high, low) => (high.and_then(&value), low.and_then(&value)),
    };
    let (high_alarm, low_alarm) = pair(raw[0], raw[1]);
    let (high_warning, low_warning) = pair(raw[2], raw[3]);
    let limits = Levels { high_alarm, low_alarm, high_warning, low_warning };
    if limits == Levels::default() {
        return None;
    }
    if let Some(rule) = limits.contradiction() {
        problems.push(Problem::Thresholds { quantity, rule });
    }
    Some(limits)
}

/// Temperature and voltage of which none is measured both read 0: a module that answers has a supply.
pub(crate) fn temperature_and_voltage(
    temperature: Option<u16>,
    is_measured: bool,
    voltage: Option<u16>,
) -> (Option<u16>, Option<u16>) {
    let voltage = voltage.filter(|raw| *raw != 0);
    (temperature.filter(|raw| *raw != 0 || (is_measured && voltage.is_some())), voltage)
}

/// Tells of a page that is not there or not whole.
pub(crate) fn whole(image: &Image, page: Page, problems: &mut Problems) {
    match image.page(page) {
        None => problems.push(Problem::Missing { page }),
        Some(bytes) if bytes.len() == 128 || bytes.len() == page.bytes_max() => {}
        Some(bytes) => problems.push(Problem::Length { page, bytes: bytes.len(), expected: expected(page) }),
    }
}

/// What both kinds of paged module promise: the identifier in two places, and upper pages that are not page 00 again.
pub(crate) fn paged(image: &mut Image, is_flat: bool, problems: &mut Problems) {
    let page00 = Page::upper(0);
    if let (Some(lower), Some(page00)) = (image.byte(Page::Lower, 0), image.byte(page00, 128))
        && lower != page00
    {
        problems.push(Problem::Identifiers { lower, page00 });
    }
    for page in image.pages().filter(|page| *page != page00 && *page != Page::Lower).collect::<Vec<_>>() {
        match page {
            Page::Upper { .. } if is_flat => problems.push(Problem::FlatYetPaged { page }),
            Page::Upper { .. } if image.page(page) == image.page(page00) => {
                problems.push(Problem::CopyOfPage00 { page });
            }
            _ => continue,
        }
        image.remove(page);
    }
}
