//! What each network driver counts in words of its own: priority flow control, discards, ECN marks.
//!
//! In: ETHTOOL_GSTATS of every interface whose driver the vocabulary knows; on mlx5 about 34 firmware commands under RTNL,
//! so this is a slow source. Out: one series per known statistic and priority, and, where DCB tells which priorities have
//! PFC on, the pause frames on all the others (`hw.network.pfc.unexpected_pause_frames`). Never: a series of a statistic
//! that the driver does not have, or a pause time in a unit that the driver does not state.

use crate::dcb::{PRIORITIES, Pfc};
use crate::driver_vocabulary::{Class, DRIVERS, Row, Vocabulary};
use crate::ethtool_ioctl::EthtoolIoctl;
use crate::netdev::port_series;
use crate::netdev_choice::NetdevChoice;
use crate::netlink::{Netlink, number64};
use crate::vocabulary::Direction;
use nix::sys::socket::SockProtocol;
use railwatch_sampling::clock::monotonic_ns;
use railwatch_sampling::{
    Batch, CadenceRange, Counter, Declare, ErrorReason, Kind, Moment, ReadError, SeriesDef, SeriesHandle, Source,
    Unavailable,
};
use std::path::PathBuf;
use std::time::Duration;

/// Pause frames on priorities that have PFC off.
pub(crate) const UNEXPECTED: &str = "hw.network.pfc.unexpected_pause_frames";
const FRAMES: &str = "hw.network.pfc.pause_frames";

/// Drivers' statistics of the chosen interfaces.
pub(crate) struct NetdevDriverSource {
    root: PathBuf,
    choice: NetdevChoice,
    sockets: Option<(Netlink, EthtoolIoctl)>,
    interfaces: Vec<Interface>,
    path: String,
}

struct Interface {
    name: String,
    statistics: usize,
    columns: Vec<(usize, SeriesHandle)>,
    unexpected: Vec<Unexpected>,
}

/// Pause frames of one direction on priorities without PFC, added up from their movements, so that a change of the
/// configuration is no movement.
struct Unexpected {
    series: SeriesHandle,
    /// Where the frames of each such priority are, and how many there were.
    frames: Vec<(usize, Option<u64>)>,
    total: u64,
}

impl NetdevDriverSource {
    pub(crate) fn new(root: PathBuf, choice: NetdevChoice) -> Self {
        let path = "ethtool SIOCETHTOOL ETHTOOL_GSTATS".to_owned();
        Self { root, choice, sockets: None, interfaces: Vec::new(), path }
    }
}

impl Source for NetdevDriverSource {
    fn name(&self) -> &'static str {
        "netdev.driver"
    }

    fn kernel_path(&self) -> &str {
        &self.path
    }

    fn cadence(&self) -> CadenceRange {
        CadenceRange { min: Duration::from_millis(100), default: Duration::from_secs(1), max: Duration::from_secs(60) }
    }

    fn holds_rtnl(&self) -> bool {
        true
    }

    fn probe(&mut self, declare: &mut Declare<'_>) -> Result<(), Unavailable> {
        let Self { root, choice, sockets, interfaces, .. } = self;
        let open = || Ok((Netlink::open(SockProtocol::NetlinkRoute)?, EthtoolIoctl::open()?));
        let (route, ioctl) = choice.opened(sockets, "ETHTOOL_GSTATS", open)?;
        let links = choice.links(root, Some(route))?;
        let mut before = std::mem::take(interfaces);
        let mut unknown = Vec::new();
        for link in links {
            let Ok(driver) = ioctl.driver(&link.name) else { continue };
            let Some(vocabulary) = Vocabulary::of(&driver) else {
                unknown.push(format!("{} ({driver})", link.name));
                continue;
            };
            let Ok(names) = ioctl.names(&link.name) else { continue };
            // Drivers without DCB, and cards that keep it to themselves: nothing is known to be off then.
            let pfc = Pfc::ask(route, &link.name).ok().flatten();
            let old =
                before.iter_mut().find(|old| old.name == link.name).map(|old| std::mem::take(&mut old.unexpected));
            interfaces.extend(interface(link.name, vocabulary, &names, pfc, old.unwrap_or_default(), declare));
        }
        if self.interfaces.is_empty() {
            let known: Vec<_> = DRIVERS.iter().map(|vocabulary| vocabulary.driver).collect();
            return Err(Unavailable::new(
                ErrorReason::NotAvailable,
                format!(
                    "no interface has a driver whose statistics are known (known: {}; found: {})",
                    known.join(", "),
                    unknown.join(", ")
                ),
            ));
        }
        let names: Vec<_> = self.interfaces.iter().map(|interface| interface.name.as_str()).collect();
        self.path = format!("ethtool SIOCETHTOOL ETHTOOL_GSTATS ({})", names.join(", "));
        Ok(())
    }

    fn read(&mut self, batch: &mut Batch) -> Result<(), ReadError> {
        let Self { sockets: Some((_, ioctl)), interfaces, .. } = self else { return Ok(()) };
        for Interface { name, statistics, columns, unexpected } in interfaces {
            let before_ns = monotonic_ns();
            let values = match ioctl.values(name, *statistics) {
                Ok(values) => values,
                Err(error) => {
                    batch.fault(ErrorReason::from(&error));
                    batch.ask_for_probe();
                    continue;
                }
            };
            let moment = Moment::between(before_ns, monotonic_ns());
            let value = |place: usize| number64(values.get(place * 8..));
            for (place, series) in columns {
                if let Some(value) = value(*place) {
                    batch.counter(*series, value, moment);
                }
            }
            for Unexpected { series, frames, total } in unexpected {
                for (place, last) in frames {
                    let now = value(*place);
                    if let (Some(last), Some(now)) = (*last, now) {
                        *total = total.saturating_add(now.saturating_sub(last));
                    }
                    *last = now.or(*last);
                }
                batch.counter(*series, *total, moment);
            }
        }
        Ok(())
    }
}

fn interface(
    name: String,
    vocabulary: &Vocabulary,
    names: &[String],
    pfc: Option<Pfc>,
    before: Vec<Unexpected>,
    declare: &mut Declare<'_>,
) -> Option<Interface> {
    let (mut columns, mut frames) = (Vec::new(), Vec::new());
    for (place, kernel) in names.iter().enumerate() {
        let Some((row, class)) = vocabulary.row(kernel) else { continue };
        columns.extend(declare.series(series(&name, row, class, vocabulary.refresh)).map(|series| (place, series)));
        if let (FRAMES, Some(priority), Some(direction)) = (row.name, class, row.direction)
            && usize::from(priority) < PRIORITIES
            && pfc.is_some_and(|pfc| pfc.enabled & (1 << priority) == 0)
        {
            frames.push((direction, place));
        }
    }
    let mut unexpected = Vec::new();
    for direction in [Direction::Receive, Direction::Transmit] {
        let places = frames.iter().filter(|(of, _)| *of == direction).map(|(_, place)| *place);
        let kind = counter(1, vocabulary.refresh);
        let label = [("network.io.direction", direction.label().to_owned())];
        if pfc.is_some()
            && let Some(series) = declare.series(port_series(&name, UNEXPECTED, "{frame}", kind, label))
        {
            let old = before.iter().find(|old| old.series == series);
            let known = |place| old.and_then(|old| old.frames.iter().find(|(of, _)| *of == place)?.1);
            let frames = places.map(|place| (place, known(place))).collect();
            unexpected.push(Unexpected { series, frames, total: old.map_or(0, |old| old.total) });
        }
    }
    (!columns.is_empty()).then_some(Interface { name, statistics: names.len(), columns, unexpected })
}

fn counter(scale: u32, refresh: Option<Duration>) -> Kind {
    let counter = Counter::wrapping(64).scaled(scale);
    Kind::Counter(refresh.map_or(counter, |refresh| counter.refreshed_every(refresh)))
}

fn series(interface: &str, row: &Row, class: Option<u8>, refresh: Option<Duration>) -> SeriesDef {
    let key = match row.class {
        Class::Cos => "network.cos",
        Class::Priority | Class::None => "network.priority",
    };
    let labels = class
        .map(|class| (key, class.to_string()))
        .into_iter()
        .chain(row.direction.map(|direction| ("network.io.direction", direction.label().to_owned())));
    port_series(interface, row.name, row.unit, counter(row.scale, refresh), labels)
}
