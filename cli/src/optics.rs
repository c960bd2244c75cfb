//! `railwatch optics decode`: what an image of a module's EEPROM says, without any collector.
//!
//! Flows in: a file of pages. Flows out: the module as a table, JSON or YAML. An image with problems is shown as far as it
//! can be read, and the command fails with status 1.

use crate::args::Format;
use crate::failure::{Failure, Kind};
use crate::output::{Output, shaped};
use crate::table::{self, Cell, Tone};
use railwatch_optics::{FILE_BYTES_MAX, Lane, Limits, Module, Standard, decode_file};
use std::fmt::Write;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

/// Decodes the image in `path`.
pub fn decode(path: &Path, format: Format, out: &mut Output) -> Result<(), Failure> {
    let module = decode_file(&read(path)?);
    let text = shaped(format, &module, || table(&module, out.colour))?;
    out.write(&text)?;
    match module.problems.len() {
        0 => Ok(()),
        count => Err(Failure::new(
            Kind::Faulty,
            format!("{}: {count} problem(s), as shown", path.display()),
            "what is shown is what could be read; read the module again, or compare with `ethtool -m DEV hex on`",
        )),
    }
}

/// As much of the file as is decoded, and one byte, so that one which is too long is seen to be.
fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let limit = u64::try_from(FILE_BYTES_MAX).unwrap_or(u64::MAX) + 1;
    let read = File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes));
    read.map(|_| bytes).map_err(|error| {
        let kind = match error.kind() {
            ErrorKind::NotFound => Kind::NotFound,
            ErrorKind::PermissionDenied => Kind::NotAuthorised,
            _ => Kind::Usage,
        };
        let next = "give a file {\"pages\": {\"lower\": HEX, \"00\": HEX, …}}; docs/CLI.md has the format";
        Failure::new(kind, format!("cannot read {}: {error}", path.display()), next)
    })
}

fn table(module: &Module, colour: bool) -> String {
    let mut out = String::new();
    let text = |value: &Option<String>| Cell::text(value.as_deref().unwrap_or_default());
    let number =
        |value: Option<f64>, unit: &str| Cell::text(value.map_or("-".to_owned(), |v| format!("{v:.2} {unit}")));
    let checksums = match module.checksum_ok {
        Some(true) => Cell::text("right").tone(Tone::Good),
        Some(false) => Cell::text("WRONG").tone(Tone::Bad),
        None => Cell::text("-"),
    };
    let revision = module.revision.as_deref().unwrap_or_default();
    let facts = [
        ("standard", Cell::text(format!("{} {revision}", module.standard.map_or("", Standard::name)).trim())),
        ("vendor", text(&module.vendor)),
        ("part number", text(&module.part_number)),
        ("serial", text(&module.serial)),
        ("date code", text(&module.date_code)),
        ("state", Cell::text(module.state.unwrap_or_default())),
        ("temperature", number(module.temperature_c, "°C")),
        ("supply", number(module.vcc_v, "V")),
        ("checksums", checksums),
    ];
    let rows: Vec<_> = facts.into_iter().map(|(name, value)| vec![Cell::text(name), value]).collect();
    out.push_str(&table::render(&["MODULE", ""], &rows, colour));
    if !module.lanes.is_empty() {
        let heads = ["LANE", "TX mW", "TX mA", "RX mW", "SNR dB", "FLAGS"];
        let rows: Vec<_> = module.lanes.iter().map(lane).collect();
        out.push('\n');
        out.push_str(&table::render(&heads, &rows, colour));
    }
    let thresholds = &module.thresholds;
    let rows: Vec<_> = [
        ("temperature °C", thresholds.temperature_c),
        ("supply V", thresholds.vcc_v),
        ("tx power mW", thresholds.tx_power_mw),
        ("tx bias mA", thresholds.tx_bias_ma),
        ("rx power mW", thresholds.rx_power_mw),
    ]
    .into_iter()
    .filter_map(|(name, limits)| Some(limits_row(name, &limits?)))
    .collect();
    if !rows.is_empty() {
        out.push('\n');
        out.push_str(&table::render(
            &["THRESHOLDS", "LOW ALARM", "LOW WARNING", "HIGH WARNING", "HIGH ALARM"],
            &rows,
            colour,
        ));
    }
    if !module.problems.is_empty() {
        out.push_str("\nPROBLEMS\n");
        for problem in &module.problems {
            let line = Tone::Bad.paint(&table::visible(&problem.to_string()), colour);
            // Writing to a string cannot fail.
            let _ = writeln!(out, "{line}");
        }
    }
    out
}

fn real(value: Option<f64>) -> Cell {
    Cell::number(value.map_or("-".to_owned(), |value| format!("{value:.4}")))
}

fn limits_row(name: &str, limits: &Limits) -> Vec<Cell> {
    let Limits { high_alarm, low_alarm, high_warning, low_warning } = *limits;
    vec![Cell::text(name), real(low_alarm), real(low_warning), real(high_warning), real(high_alarm)]
}

fn lane(lane: &Lane) -> Vec<Cell> {
    let flags = [
        ("tx fault", lane.tx_fault),
        ("no light", lane.rx_los),
        ("no host signal", lane.tx_los),
        ("no lock on light", lane.rx_lol),
        ("no lock on host signal", lane.tx_lol),
    ];
    let set: Vec<_> = flags.into_iter().filter(|(_, flag)| *flag == Some(true)).map(|(name, _)| name).collect();
    vec![
        Cell::number(lane.lane),
        real(lane.tx_power_mw),
        real(lane.tx_bias_ma),
        real(lane.rx_power_mw),
        real(lane.snr_db),
        Cell::text(set.join(", ")).tone(if set.is_empty() { Tone::Plain } else { Tone::Bad }),
    ]
}
