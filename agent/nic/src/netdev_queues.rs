//! 802.3x pause frames, forward error correction and falls of the physical link, through ethtool netlink.
//!
//! In: PAUSE_GET, FEC_GET and LINKSTATE_GET with ETHTOOL_FLAG_STATS, each one to three registers, fresh, under RTNL.
//! Out: pause frames per direction (with the cause `drops_still` where the interface's own drops did not move meanwhile,
//! `drops_moving` where they did), corrected and uncorrectable blocks, corrected bits, physical link downs. Never: a
//! series that the driver has no value for: the kernel leaves those out of its answer.

use crate::generic_netlink::Ethtool;
use crate::netdev::{self, drops, port_series};
use crate::netdev_choice::NetdevChoice;
use crate::netlink::{Attributes, Netlink, Request, number, number64};
use crate::ports::Ports;
use nix::sys::socket::SockProtocol;
use railwatch_sampling::clock::monotonic_ns;
use railwatch_sampling::{
    Batch, CadenceRange, Counter, Declare, ErrorReason, Kind, Moment, ReadError, Reading, SeriesHandle, Source,
    Unavailable, Value,
};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// One value of an answer: where it is, and what it is called.
struct Field {
    /// The nest it is in; 0: none.
    nest: u16,
    attribute: u16,
    bits: u8,
    name: &'static str,
    unit: &'static str,
    direction: Option<&'static str>,
}

/// A command and the values of its answer (include/uapi/linux/ethtool_netlink.h), always asked with statistics.
struct Command {
    number: u8,
    fields: &'static [Field],
}

const RECEIVE: Option<&str> = Some("receive");
const TRANSMIT: Option<&str> = Some("transmit");
const PAUSE_FRAMES: &str = "hw.network.pause_frames";

const fn statistic(attribute: u16, name: &'static str, unit: &'static str, direction: Option<&'static str>) -> Field {
    // ETHTOOL_A_PAUSE_STATS and ETHTOOL_A_FEC_STATS are both 5.
    Field { nest: 5, attribute, bits: 64, name, unit, direction }
}

const COMMANDS: &[Command] = &[
    Command {
        number: 21,
        fields: &[statistic(2, PAUSE_FRAMES, "{frame}", TRANSMIT), statistic(3, PAUSE_FRAMES, "{frame}", RECEIVE)],
    },
    Command {
        number: 29,
        fields: &[
            statistic(2, "hw.network.fec.corrected_blocks", "{block}", RECEIVE),
            statistic(3, "hw.network.fec.uncorrectable_blocks", "{block}", RECEIVE),
            statistic(4, "hw.network.fec.corrected_bits", "{bit}", RECEIVE),
        ],
    },
    Command {
        number: 6,
        // Kernels without the count (before 6.3) refuse statistics here, with EINVAL.
        // ETHTOOL_A_LINKSTATE_EXT_DOWN_CNT, Linux 6.3 and later.
        fields: &[Field {
            nest: 0,
            attribute: 7,
            bits: 32,
            name: "hw.network.physical_link_downs",
            unit: "{event}",
            direction: None,
        }],
    },
];

/// Names of all series, for the documentation's test.
#[cfg(test)]
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    COMMANDS.iter().flat_map(|command| command.fields).map(|field| field.name)
}

impl Field {
    /// Its value in an answer; of an array (FEC: the port, then its lanes) the first, the port's.
    fn value(&self, answer: &[u8]) -> Option<u64> {
        let within = if self.nest == 0 { answer } else { Attributes(answer).find_kind(self.nest)? };
        let payload = Attributes(within).find_kind(self.attribute)?;
        if self.bits == 32 { number(Some(payload)).map(u64::from) } else { number64(Some(payload)) }
    }
}

/// Pause, FEC and physical link of the chosen interfaces.
pub(crate) struct NetdevQueuesSource {
    root: PathBuf,
    choice: NetdevChoice,
    sockets: Option<(Netlink, Ethtool)>,
    interfaces: Vec<Interface>,
    ports: Arc<Ports>,
}

struct Interface {
    index: u32,
    name: String,
    statistics: Request,
    questions: Vec<Question>,
    /// Pause frames and dropped packets, both directions, when last read.
    pauses: Option<u64>,
    drops: Option<u64>,
}

struct Question {
    request: Request,
    columns: Vec<(&'static Field, SeriesHandle)>,
}

impl NetdevQueuesSource {
    pub(crate) fn new(root: PathBuf, choice: NetdevChoice, ports: Arc<Ports>) -> Self {
        Self { root, choice, sockets: None, interfaces: Vec::new(), ports }
    }
}

impl Source for NetdevQueuesSource {
    fn name(&self) -> &'static str {
        "netdev.queues"
    }

    fn kernel_path(&self) -> &str {
        "ethtool netlink PAUSE_GET, FEC_GET, LINKSTATE_GET, with ETHTOOL_FLAG_STATS"
    }

    fn cadence(&self) -> CadenceRange {
        CadenceRange { min: Duration::from_millis(100), default: Duration::from_secs(1), max: Duration::from_secs(60) }
    }

    fn holds_rtnl(&self) -> bool {
        true
    }

    fn probe(&mut self, declare: &mut Declare<'_>) -> Result<(), Unavailable> {
        let Self { root, choice, sockets, interfaces, ports: _ } = self;
        let open = || Ok((Netlink::open(SockProtocol::NetlinkRoute)?, Ethtool::open()?));
        let (route, ethtool) = choice.opened(sockets, "ethtool netlink", open)?;
        let links = choice.links(root, Some(route))?;
        let before = std::mem::take(interfaces);
        for link in links {
            let mut questions = Vec::new();
            for Command { number, fields } in COMMANDS {
                let mut request = ethtool.request(*number, link.index, Ethtool::WITH_STATISTICS);
                let Ok(present) = ethtool.ask(&mut request, |answer| {
                    fields.iter().filter(|field| field.value(answer.0).is_some()).collect::<Vec<_>>()
                }) else {
                    continue;
                };
                let mut columns = Vec::new();
                for field in present {
                    let kind = Kind::Counter(Counter::wrapping(field.bits));
                    let label = field.direction.map(|direction| ("network.io.direction", direction.to_owned()));
                    let def = port_series(&link.name, field.name, field.unit, kind, label);
                    columns.extend(declare.series(def).map(|series| (field, series)));
                }
                if !columns.is_empty() {
                    questions.push(Question { request, columns });
                }
            }
            if !questions.is_empty() {
                let old = before.iter().find(|old| old.index == link.index);
                let (pauses, drops) = old.map_or((None, None), |old| (old.pauses, old.drops));
                let statistics = netdev::request(link.index);
                let (index, name) = (link.index, link.name);
                interfaces.push(Interface { index, name, statistics, questions, pauses, drops });
            }
        }
        if interfaces.is_empty() {
            return Err(Unavailable::new(
                ErrorReason::NotAvailable,
                "no interface's driver tells pause frames, FEC or physical link downs through ethtool netlink",
            ));
        }
        Ok(())
    }

    fn read(&mut self, batch: &mut Batch) -> Result<(), ReadError> {
        let Self { sockets: Some((route, ethtool)), interfaces, ports, .. } = self else { return Ok(()) };
        for Interface { index, name, statistics, questions, pauses, drops: dropped } in interfaces {
            for Question { request, columns } in questions {
                let before_ns = monotonic_ns();
                let values = ethtool.ask(request, |answer| -> Vec<(&Field, SeriesHandle, Option<u64>)> {
                    columns.iter().map(|(field, series)| (*field, *series, field.value(answer.0))).collect()
                });
                let values = match values {
                    Ok(values) => values,
                    Err(error) => {
                        batch.fault(ErrorReason::from(&error));
                        batch.ask_for_probe();
                        continue;
                    }
                };
                let moment = Moment::between(before_ns, monotonic_ns());
                let frames = |values: &[(&Field, SeriesHandle, Option<u64>)]| -> u64 {
                    let of_pause = values.iter().filter(|(field, ..)| field.name == PAUSE_FRAMES);
                    of_pause.filter_map(|(.., value)| *value).fold(0, u64::wrapping_add)
                };
                let mut cause = None;
                if columns.iter().any(|(field, _)| field.name == PAUSE_FRAMES) {
                    let now = frames(&values);
                    let dropped_now = route.ask(statistics, |message| drops(message.body, *index)).ok().flatten();
                    if pauses.is_some_and(|before| before != now)
                        && let (Some(before), Some(now)) = (*dropped, dropped_now)
                    {
                        cause = Some(if before == now { "drops_still" } else { "drops_moving" });
                    }
                    ports.note_pauses(name, now);
                    (*pauses, *dropped) = (Some(now), dropped_now);
                }
                for (_, series, value) in values {
                    match value {
                        Some(value) => batch.push(Reading { series, value: Value::Counter(value), moment, cause }),
                        None => batch.fault(ErrorReason::NotAvailable),
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn attribute(kind: u16, payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(payload.len() + 4).expect("small");
        let mut bytes = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), payload].concat();
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn of_a_forward_error_correction_with_lanes_the_ports_own_count_is_taken() {
        let counts: Vec<u8> = [9u64, 4, 5].iter().flat_map(|count| count.to_ne_bytes()).collect();
        let answer = attribute(5 | 0x8000, &attribute(2, &counts));
        let told: Vec<_> = COMMANDS[1].fields.iter().map(|field| field.value(&answer)).collect();
        assert_eq!(told, [Some(9), None, None], "what the driver leaves out has no value");
    }

    proptest! {
        #[test]
        fn no_answer_whatever_breaks_a_field(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            for field in COMMANDS.iter().flat_map(|command| command.fields) {
                let _ = field.value(&bytes);
                let _ = field.value(&attribute(5 | 0x8000, &bytes));
            }
        }
    }
}
