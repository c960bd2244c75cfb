//! The RoCE ports that sit on Huawei's NPUs, through `hccn_tool`.
//!
//! In: `hccn_tool -i N -stat -g`, `-optical -g` and `-link -g` (Huawei, "HCCN Tool Interface Reference"), one NPU a reading in turn.
//! Out: traffic, pause frames, errors, link state, the optical module. The tool is a process: it is run rarely, one at a time,
//! its answer is bounded, and one that takes longer than five seconds is killed and reaped. The kernel knows nothing of these
//! ports. Never: a setting of a port changed (only `-g`, get, is used).

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use railwatch_sampling::clock::monotonic_ns;
use railwatch_sampling::{
    Batch, CadenceRange, Counter, Declare, Entity, ErrorReason, Kind, Moment, ReadError, SeriesDef, SeriesHandle,
    Source, Unavailable,
};
use std::collections::BTreeMap;
use std::io::{ErrorKind, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Longest time a run may take.
const RUN_MAX: Duration = Duration::from_secs(5);
/// Longest answer read.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// NPUs looked for.
const NPUS_MAX: u32 = 16;

/// Words of the statistics and what we call them.
#[rustfmt::skip]
const COUNTERS: &[(&str, &str, &str, &str)] = &[
    ("mac_tx_total_oct_num", "npu.port.io", "By", "transmit"),
    ("mac_rx_total_oct_num", "npu.port.io", "By", "receive"),
    ("mac_tx_total_pkt_num", "npu.port.packets", "{packet}", "transmit"),
    ("mac_rx_total_pkt_num", "npu.port.packets", "{packet}", "receive"),
    ("mac_tx_mac_pause_num", "npu.port.pause", "{frame}", "transmit"),
    ("mac_rx_mac_pause_num", "npu.port.pause", "{frame}", "receive"),
    ("mac_tx_pfc_pkt_num", "npu.port.pfc", "{frame}", "transmit"),
    ("mac_rx_pfc_pkt_num", "npu.port.pfc", "{frame}", "receive"),
    ("mac_tx_bad_pkt_num", "npu.port.errors", "{error}", "transmit"),
    ("mac_rx_bad_pkt_num", "npu.port.errors", "{error}", "receive"),
    ("mac_rx_fcs_err_pkt_num", "npu.port.errors.crc", "{error}", "receive"),
    ("roce_rx_cnp_pkt_num", "npu.port.cnp", "{packet}", "receive"),
    ("roce_tx_cnp_pkt_num", "npu.port.cnp", "{packet}", "transmit"),
    ("roce_new_pkt_rty_num", "npu.port.retransmitted_packets", "{packet}", "transmit"),
    ("roce_out_of_order_num", "npu.port.out_of_sequence", "{packet}", "receive"),
    ("roce_unexpected_ack_num", "npu.port.unexpected_acks", "{packet}", "receive"),
    ("roce_verification_err_num", "npu.port.errors.verification", "{error}", "receive"),
];

/// Words of the optical module, by their beginning; a number after it is the lane. The unit that the tool must write,
/// and how many of it are one of ours.
const OPTICS: &[(&str, &str, &str, &str, f64)] = &[
    ("temperature", "npu.module.temperature", "Cel", "C", 1.0),
    ("Vcc", "npu.module.voltage", "V", "mV", 1e3),
    ("Tx Power", "npu.module.tx_power", "mW", "mW", 1.0),
    ("Rx Power", "npu.module.rx_power", "mW", "mW", 1.0),
    ("Tx Bias", "npu.module.tx_bias", "mA", "mA", 1.0),
];

/// What an answer said.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Found {
    Count(u64),
    Value(f64),
}

/// Ports of the NPUs.
pub(crate) struct HccnSource {
    tool: PathBuf,
    npus: Vec<Npu>,
    next: usize,
}

struct Npu {
    index: u32,
    series: BTreeMap<Key, SeriesHandle>,
}

/// Series, direction or lane.
type Key = (&'static str, &'static str, String);

impl HccnSource {
    pub(crate) fn new(tool: PathBuf) -> Self {
        Self { tool, npus: Vec::new(), next: 0 }
    }
}

impl Source for HccnSource {
    fn name(&self) -> &'static str {
        "npu.hccn"
    }

    fn kernel_path(&self) -> &str {
        "hccn_tool -i N {-stat,-optical,-link} -g"
    }

    fn cadence(&self) -> CadenceRange {
        CadenceRange { min: Duration::from_secs(1), default: Duration::from_secs(5), max: Duration::from_secs(300) }
    }

    fn probe(&mut self, declare: &mut Declare<'_>) -> Result<(), Unavailable> {
        if !self.tool.is_file() {
            return Err(Unavailable::new(
                ErrorReason::Missing,
                format!(
                    "{} is missing: it comes with Huawei's NPU driver, and health.hccn_tool names another place",
                    self.tool.display()
                ),
            ));
        }
        // The first look asks every NPU what it has; later ones only declare that again.
        if self.npus.is_empty() {
            let mut why = None;
            for index in 0..NPUS_MAX {
                match ask(&self.tool, index) {
                    Ok(found) => {
                        let keys = found.into_iter().map(|(key, _)| key);
                        let series =
                            keys.filter_map(|key| Some((key.clone(), declare.series(definition(index, &key))?)));
                        self.npus.push(Npu { index, series: series.collect() });
                    }
                    Err(error) => {
                        why = Some(error);
                        break;
                    }
                }
            }
            if self.npus.is_empty() {
                let (reason, text) = why.unwrap_or((ErrorReason::Missing, "no NPU answers".into()));
                return Err(Unavailable::new(reason, format!("{}: {text}", self.tool.display())));
            }
            return Ok(());
        }
        for npu in &mut self.npus {
            let keys: Vec<Key> = npu.series.keys().cloned().collect();
            let series =
                keys.into_iter().filter_map(|key| Some((key.clone(), declare.series(definition(npu.index, &key))?)));
            npu.series = series.collect();
        }
        Ok(())
    }

    fn read(&mut self, batch: &mut Batch) -> Result<(), ReadError> {
        if self.npus.is_empty() {
            return Ok(());
        }
        let npu = &self.npus[self.next % self.npus.len()];
        self.next = (self.next + 1) % self.npus.len();
        let before_ns = monotonic_ns();
        let found = ask(&self.tool, npu.index).map_err(|(reason, text)| ReadError {
            reason,
            doing: "run hccn_tool",
            source_text: text,
        })?;
        let moment = Moment::between(before_ns, monotonic_ns());
        for (key, value) in found {
            match (npu.series.get(&key), value) {
                (Some(series), Found::Count(count)) => batch.counter(*series, count, moment),
                (Some(series), Found::Value(value)) => batch.gauge(*series, value, moment),
                // A module that was plugged in since: the next start declares it.
                (None, _) => {}
            }
        }
        Ok(())
    }
}

fn definition(npu: u32, (name, unit, part): &Key) -> SeriesDef {
    let entity = Entity { kind: "npu", name: format!("npu{npu}") };
    let kind = if COUNTERS.iter().any(|(_, series, ..)| series == name) {
        Kind::Counter(Counter::wrapping(64))
    } else {
        Kind::Gauge
    };
    let key = if matches!(part.as_str(), "receive" | "transmit") { "network.io.direction" } else { "lane" };
    SeriesDef::new(name, unit, kind, entity, (!part.is_empty()).then(|| (key, part.clone())))
}

/// All that is known of the port of one NPU.
fn ask(tool: &Path, npu: u32) -> Result<Vec<(Key, Found)>, (ErrorReason, String)> {
    let index = npu.to_string();
    let run = |what: &str| run(tool, &["-i", &index, what, "-g"]);
    let mut found =
        parse_link(&run("-link")?).map_or_else(Vec::new, |up| vec![(("npu.link.up", "1", String::new()), up)]);
    found.extend(parse_statistics(&run("-stat")?));
    // Ports with a copper cable have no module to ask.
    found.extend(run("-optical").map(|text| parse_optics(&text)).unwrap_or_default());
    if found.is_empty() {
        return Err((ErrorReason::Malformed, format!("nothing in the answer for NPU {npu} is known to this build")));
    }
    Ok(found)
}

/// `KEY:VALUE`, with white space around either.
fn pairs(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines().filter_map(|line| line.split_once(':')).map(|(key, value)| (key.trim(), value.trim()))
}

fn parse_statistics(text: &str) -> Vec<(Key, Found)> {
    let one = |(key, value): (&str, &str)| {
        let (_, name, unit, direction) = COUNTERS.iter().find(|(word, ..)| *word == key)?;
        let count = railwatch_sampling::files::number(value.as_bytes()).ok()?;
        Some(((*name, *unit, (*direction).to_owned()), Found::Count(count)))
    };
    pairs(text).filter_map(one).collect()
}

fn parse_link(text: &str) -> Option<Found> {
    let (_, state) = pairs(text).find(|(key, _)| key.ends_with("link status"))?;
    match state {
        "UP" => Some(Found::Value(1.0)),
        "DOWN" => Some(Found::Value(0.0)),
        _ => None,
    }
}

fn parse_optics(text: &str) -> Vec<(Key, Found)> {
    let one = |(key, value): (&str, &str)| {
        if key == "present" {
            let is_there = match value {
                "present" => 1.0,
                "not present" => 0.0,
                _ => return None,
            };
            return Some((("npu.module.present", "1", String::new()), Found::Value(is_there)));
        }
        let (word, name, unit, written, per_unit) = OPTICS.iter().find(|(word, ..)| {
            key.strip_prefix(word).is_some_and(|lane| lane.bytes().all(|byte| byte.is_ascii_digit()))
        })?;
        let (value, its_unit) = value.split_once(' ')?;
        let value = value.parse::<f64>().ok().filter(|value| value.is_finite() && its_unit.trim() == *written)?;
        Some(((*name, *unit, key[word.len()..].to_owned()), Found::Value(value / per_unit)))
    };
    pairs(text).filter_map(one).collect()
}

/// What the tool prints. Whatever happens, it is gone afterwards.
fn run(tool: &Path, arguments: &[&str]) -> Result<String, (ErrorReason, String)> {
    let failed = |error: std::io::Error| (ErrorReason::from(&error), error.to_string());
    let child = Command::new(tool)
        .args(arguments)
        .env_remove("NOTIFY_SOCKET")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed)?;
    let mut child = Reaped(child);
    let text = child.answer(Instant::now() + RUN_MAX)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// A child that does not outlive the value.
struct Reaped(Child);

impl Reaped {
    fn answer(&mut self, until: Instant) -> Result<Vec<u8>, (ErrorReason, String)> {
        let failed = |error: std::io::Error| (ErrorReason::from(&error), error.to_string());
        let late = || (ErrorReason::TimedOut, format!("no answer within {} s; it was killed", RUN_MAX.as_secs()));
        let Some(mut output) = self.0.stdout.take() else { return Ok(Vec::new()) };
        let (mut text, mut buffer) = (Vec::new(), [0; 4096]);
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let mut fds = [PollFd::new(output.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO)) {
                Ok(0) => return Err(late()),
                Ok(_) => {}
                Err(nix::errno::Errno::EINTR) => continue,
                Err(error) => return Err(failed(error.into())),
            }
            match output.read(&mut buffer) {
                Ok(0) => break,
                Ok(length) if text.len() + length <= ANSWER_BYTES_MAX => text.extend_from_slice(&buffer[..length]),
                Ok(_) => return Err((ErrorReason::Overrun, format!("more than {ANSWER_BYTES_MAX} bytes"))),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(error)),
            }
        }
        // Its output has ended; it has until the same instant to end itself.
        loop {
            match self.0.try_wait().map_err(failed)? {
                Some(status) if status.success() => return Ok(text),
                Some(status) => return Err((ErrorReason::Io, format!("it ended with {status}"))),
                None if Instant::now() >= until => return Err(late()),
                None => std::thread::sleep(Duration::from_millis(2)),
            }
        }
    }
}

impl Drop for Reaped {
    fn drop(&mut self) {
        // Both fail only where it has ended and been reaped.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn statistics_are_read_by_their_words_and_others_left_out() {
        let text = "packet statistics:\nmac_tx_mac_pause_num:0\nmac_rx_pfc_pkt_num:12\nmac_rx_fcs_err_pkt_num:3\n\
                    roce_new_pkt_rty_num:7\nsome_new_word:5\nmac_tx_total_pkt_num:\nmac_rx_bad_pkt_num:-1\n";
        let found: Vec<_> =
            parse_statistics(text).into_iter().map(|((name, _, part), value)| (name, part, value)).collect();
        assert_eq!(
            found,
            [
                ("npu.port.pause", "transmit".to_owned(), Found::Count(0)),
                ("npu.port.pfc", "receive".to_owned(), Found::Count(12)),
                ("npu.port.errors.crc", "receive".to_owned(), Found::Count(3)),
                ("npu.port.retransmitted_packets", "transmit".to_owned(), Found::Count(7)),
            ]
        );
    }

    #[test]
    fn a_link_is_up_or_down_and_otherwise_unknown() {
        for (text, expected) in [
            ("link status: UP\n", Some(Found::Value(1.0))),
            ("link status: DOWN\n", Some(Found::Value(0.0))),
            ("[devid 0]current link status: UP\n", Some(Found::Value(1.0))),
            ("hccn_tool is busy, please try again\n", None),
            ("", None),
        ] {
            assert_eq!(parse_link(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_module_is_read_by_lane_and_unit() {
        let text = "optical info:\npresent              : present\nVendor Name          : X\nVcc                  : 3270.00 mV\n\
                    temperature          : 44 C\nTx Power0            : 1.2475 mW\nTx Power3            : 1.1 mW\n\
                    Rx Power0            : 0.0 mW\nTx Bias0             : 38.0 mA\nVcc High Thres       : 3630.00 mV\n\
                    Rx Power1            : -3.1 dBm\nTx Los Flag          : 0x0\n";
        let found: Vec<_> =
            parse_optics(text).into_iter().map(|((name, _, lane), value)| (name, lane, value)).collect();
        let lane = |lane: &str| lane.to_owned();
        assert_eq!(
            found,
            [
                ("npu.module.present", lane(""), Found::Value(1.0)),
                ("npu.module.voltage", lane(""), Found::Value(3.27)),
                ("npu.module.temperature", lane(""), Found::Value(44.0)),
                ("npu.module.tx_power", lane("0"), Found::Value(1.2475)),
                ("npu.module.tx_power", lane("3"), Found::Value(1.1)),
                ("npu.module.rx_power", lane("0"), Found::Value(0.0)),
                ("npu.module.tx_bias", lane("0"), Found::Value(38.0)),
            ]
        );
        assert_eq!(parse_optics("present : not present\n").len(), 1);
    }

    #[test]
    fn a_tool_that_floods_fails_or_is_missing_is_told_apart() {
        for (program, arguments, expected) in [
            ("/bin/echo", &["link status: UP"][..], Ok("link status: UP\n")),
            ("/bin/false", &[], Err(ErrorReason::Io)),
            ("/nonexistent/hccn_tool", &[], Err(ErrorReason::Missing)),
            ("/usr/bin/yes", &[], Err(ErrorReason::Overrun)),
        ] {
            let got = run(Path::new(program), arguments);
            assert_eq!(got.as_deref().map_err(|(reason, _)| *reason), expected, "{program}");
        }
    }

    #[test]
    fn a_tool_that_hangs_is_killed_and_reaped() {
        let child = Command::new("/bin/sleep").arg("1000").stdout(Stdio::piped()).spawn().unwrap();
        let pid = child.id();
        let mut reaped = Reaped(child);
        let (reason, text) = reaped.answer(Instant::now() + Duration::from_millis(20)).unwrap_err();
        assert_eq!(reason, ErrorReason::TimedOut, "{text}");
        drop(reaped);
        assert!(!Path::new(&format!("/proc/{pid}")).exists(), "neither running nor a zombie");
    }

    proptest! {
        #[test]
        fn any_answer_is_parsed_without_a_panic(text in "(.|\n){0,400}") {
            let _ = (parse_statistics(&text), parse_optics(&text), parse_link(&text));
        }
    }
}
