//! Links of network interfaces: up, down, flapped, gone.
//!
//! In: rtnetlink's notifications (RTNLGRP_LINK) as they come; RTM_GETLINK once a second in case one was lost; and, because
//! the kernel holds back a second notification of a falling carrier for up to a second (net/core/link_watch.c), the file
//! `carrier_changes`, which costs no lock and no more than a microsecond. Without rtnetlink, `class/net/*` alone. Out:
//! `hw.network.up` (1 or 0, with the cause when down), how often the carrier went, and the speed, asked for when the carrier
//! came and at every probe (LINKMODES_GET; a change of speed moves the carrier). A fall that the carrier's own
//! counters show and no notification told is put back in, with a half width as wide as the doubt.

use crate::generic_netlink::Ethtool;
use crate::link::{Link, RTM_DELLINK, RTMGRP_LINK, request};
use crate::netdev_choice::NetdevChoice;
use crate::netlink::{Netlink, number};
use crate::ports::Ports;
use crate::sysfs::{self, NumberFile};
use crate::sysfs_links::SysfsLinks;
use nix::sys::socket::SockProtocol;
use railwatch_sampling::clock::monotonic_ns;
use railwatch_sampling::{
    Batch, CadenceRange, Counter, Declare, Entity, ErrorReason, Kind, Moment, ReadError, Reading, SeriesDef,
    SeriesHandle, Source, Unavailable, Value,
};
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Speed of the link.
pub(crate) const SPEED: &str = "hw.network.speed";
const EVENT_BUFFER: usize = 1024 * 1024;
/// Time after which an interface is asked even if nothing points at a change.
const ASK_AFTER_NS: u64 = 1_000_000_000;

/// Links of the chosen interfaces.
pub(crate) struct NetdevLinkSource {
    root: PathBuf,
    choice: NetdevChoice,
    ports: Arc<Ports>,
    sockets: Option<Sockets>,
    interfaces: Vec<Interface>,
    /// Without sockets: the files by which a change shows.
    shown: SysfsLinks,
}

struct Sockets {
    requests: Netlink,
    events: Netlink,
    ethtool: Option<Ethtool>,
}

struct Interface {
    index: u32,
    name: String,
    up: Option<SeriesHandle>,
    downs: Option<SeriesHandle>,
    changes: Option<NumberFile>,
    asked_at_ns: u64,
    seen: Option<Seen>,
    speed: Option<SeriesHandle>,
    /// The carrier came, or the speed was never asked for.
    speed_is_news: bool,
}

/// What an interface showed last.
#[derive(Clone, Copy)]
struct Seen {
    up: bool,
    carrier_downs: u32,
    carrier_changes: u32,
    at_ns: u64,
}

impl Sockets {
    /// Speed of a link, bits per second; `None` where the driver does not say (no carrier, a software device).
    fn speed(&mut self, index: u32) -> Option<u64> {
        const LINKMODES_GET: u8 = 4;
        const A_LINKMODES_SPEED: u16 = 5;
        let ethtool = self.ethtool.as_mut()?;
        let mut request = ethtool.request(LINKMODES_GET, index, 0);
        let mbit = ethtool.ask(&mut request, |answer| number(answer.find_kind(A_LINKMODES_SPEED))).ok()??;
        // SPEED_UNKNOWN is all ones.
        (mbit != 0 && mbit != u32::MAX).then(|| u64::from(mbit) * 1_000_000)
    }

    fn note_speed(&mut self, interface: &Interface, ports: &Ports, batch: &mut Batch) {
        let before_ns = monotonic_ns();
        let Some(speed) = self.speed(interface.index) else { return };
        ports.set_speed(&interface.name, speed);
        if let Some(series) = interface.speed {
            #[expect(clippy::cast_precision_loss, reason = "a link has far fewer than 2^53 bits per second")]
            batch.gauge(series, speed as f64, Moment::between(before_ns, monotonic_ns()));
        }
    }
}

impl NetdevLinkSource {
    pub(crate) fn new(root: PathBuf, choice: NetdevChoice, ports: Arc<Ports>) -> Self {
        Self { root, choice, ports, sockets: None, interfaces: Vec::new(), shown: SysfsLinks::default() }
    }

    /// Notes what an interface shows between two instants.
    fn note(interface: &mut Interface, ports: &Ports, link: &Link, moment: Moment, batch: &mut Batch) {
        let now = Seen {
            up: link.is_up(),
            carrier_downs: link.carrier_down_count,
            carrier_changes: link.carrier_up_count.wrapping_add(link.carrier_down_count),
            at_ns: moment.at_ns,
        };
        let seen = interface.seen;
        // A notification queued before the last answer to a request tells of the past.
        let is_old = |seen: Seen| now.carrier_changes.wrapping_sub(seen.carrier_changes).cast_signed() < 0;
        if seen.is_some_and(|seen| moment.at_ns <= seen.at_ns || is_old(seen)) {
            return;
        }
        interface.seen = Some(now);
        interface.speed_is_news |= now.up && seen.is_none_or(|seen| seen.carrier_changes != now.carrier_changes);
        ports.set_state(&interface.name, link.state());
        if let Some(up) = interface.up {
            if let Some(seen) = seen
                && seen.up
                && now.up
                && seen.carrier_downs != now.carrier_downs
            {
                // Half way between the two, surely after the one and before the other.
                let moment = Moment::between(seen.at_ns, moment.at_ns.saturating_sub(1));
                batch.push(Reading { series: up, value: Value::Gauge(0.0), moment, cause: Some("flap") });
            }
            let value = Value::Gauge(if now.up { 1.0 } else { 0.0 });
            batch.push(Reading { series: up, value, moment, cause: link.cause() });
        }
        if let Some(downs) = interface.downs {
            batch.counter(downs, u64::from(now.carrier_downs), moment);
        }
    }

    /// The file that counts carrier changes, where sysfs shows the network namespace that rtnetlink tells of.
    fn changes_file(&self, index: u32, name: &str) -> Option<NumberFile> {
        let directory = sysfs::device_path(&self.root, "net", name);
        let shown = NumberFile::open(&directory.join("ifindex")).ok()?.read();
        if shown != Ok(u64::from(index)) {
            return None;
        }
        NumberFile::open(&directory.join("carrier_changes")).ok()
    }

    /// Nothing points at a change since the last answer, and that is not old.
    fn is_settled(interface: &Interface, now_ns: u64) -> bool {
        let Interface { changes: Some(changes), seen: Some(seen), asked_at_ns, .. } = interface else { return false };
        now_ns < asked_at_ns.saturating_add(ASK_AFTER_NS) && changes.read() == Ok(u64::from(seen.carrier_changes))
    }

    /// Opens both sockets anew: the events first, so that nothing falls between them and the first reading.
    fn open(&mut self) -> Result<(), Unavailable> {
        if !self.choice.may_use_netlink {
            return Ok(());
        }
        let open = || -> std::io::Result<Sockets> {
            let events = Netlink::listen(SockProtocol::NetlinkRoute, RTMGRP_LINK, EVENT_BUFFER)?;
            let ethtool = Ethtool::open().ok();
            Ok(Sockets { events, requests: Netlink::open(SockProtocol::NetlinkRoute)?, ethtool })
        };
        if self.sockets.is_none() {
            let sockets = open().map_err(|error| {
                Unavailable::new((&error).into(), format!("opening rtnetlink for link notifications: {error}"))
            })?;
            self.sockets = Some(sockets);
        }
        Ok(())
    }
}

impl Source for NetdevLinkSource {
    fn name(&self) -> &'static str {
        "netdev.link"
    }

    fn kernel_path(&self) -> &str {
        if self.choice.may_use_netlink {
            "rtnetlink RTNLGRP_LINK, RTM_GETLINK, ethtool netlink LINKMODES_GET"
        } else {
            "sysfs class/net/*/{flags,carrier}"
        }
    }

    fn cadence(&self) -> CadenceRange {
        CadenceRange { min: Duration::from_millis(100), default: Duration::from_secs(1), max: Duration::from_secs(60) }
    }

    fn holds_rtnl(&self) -> bool {
        self.sockets.is_some()
    }

    fn probe(&mut self, declare: &mut Declare<'_>) -> Result<(), Unavailable> {
        self.open()?;
        let links = self.choice.links(&self.root, self.sockets.as_mut().map(|sockets| &mut sockets.requests))?;
        let mut before = std::mem::take(&mut self.interfaces);
        for Link { index, name, .. } in links {
            let old = before.iter_mut().find(|old| old.index == index && old.name == name);
            // Most drivers tell no speed while the link is down: what a port once ran at must outlive that.
            let (seen, had_speed) = old.map_or((None, false), |old| (old.seen.take(), old.speed.is_some()));
            let series = |series: &'static str, unit, kind| {
                let labels = [("network.interface.name", name.clone())];
                SeriesDef::new(series, unit, kind, Entity { kind: "port", name: name.clone() }, labels)
            };
            let up = declare.series(series("hw.network.up", "1", Kind::Gauge));
            let downs = Kind::Counter(Counter::wrapping(32));
            let downs = declare.series(series("hw.network.carrier_downs", "{event}", downs));
            let changes = self.changes_file(index, &name);
            let has_speed = had_speed || self.sockets.as_mut().is_some_and(|sockets| sockets.speed(index).is_some());
            let speed = has_speed.then(|| declare.series(series(SPEED, "bit/s", Kind::Gauge))).flatten();
            let speed_is_news = true;
            self.interfaces.push(Interface {
                index,
                name,
                up,
                downs,
                changes,
                asked_at_ns: 0,
                seen,
                speed,
                speed_is_news,
            });
        }
        Ok(())
    }

    fn read(&mut self, batch: &mut Batch) -> Result<(), ReadError> {
        let Some(sockets) = &mut self.sockets else {
            let before_ns = monotonic_ns();
            let links = self.shown.links(&self.root).map_err(|unavailable| ReadError {
                reason: unavailable.reason,
                doing: "reading the state of interfaces",
                source_text: unavailable.text,
            })?;
            let moment = Moment::between(before_ns, monotonic_ns());
            for interface in &mut self.interfaces {
                match links.iter().find(|link| link.index == interface.index && link.name == interface.name) {
                    Some(link) => Self::note(interface, &self.ports, link, moment, batch),
                    None => {
                        batch.fault(ErrorReason::Missing);
                        batch.ask_for_probe();
                    }
                }
            }
            return Ok(());
        };
        for interface in &mut self.interfaces {
            if std::mem::take(&mut interface.speed_is_news) {
                sockets.note_speed(interface, &self.ports, batch);
            }
            let before_ns = monotonic_ns();
            if Self::is_settled(interface, before_ns) {
                continue;
            }
            interface.asked_at_ns = before_ns;
            match sockets.requests.ask(&mut request(interface.index), Link::decode) {
                Ok(Some(link)) if link.name == interface.name => {
                    let moment = Moment::between(before_ns, monotonic_ns());
                    Self::note(interface, &self.ports, &link, moment, batch);
                }
                Ok(Some(_)) => batch.ask_for_probe(),
                Ok(None) => batch.fault(ErrorReason::Malformed),
                Err(error) => {
                    batch.fault(ErrorReason::from(&error));
                    batch.ask_for_probe();
                }
            }
        }
        Ok(())
    }

    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        self.sockets.as_ref().map(|sockets| sockets.events.as_fd())
    }

    fn on_event(&mut self, batch: &mut Batch) -> Result<(), ReadError> {
        let Self { root, choice, ports, sockets, interfaces, shown: _ } = self;
        let Some(sockets) = sockets else { return Ok(()) };
        let mut before_ns = monotonic_ns();
        let outcome = sockets.events.drain(|message| {
            let now_ns = monotonic_ns();
            let moment = Moment::between(before_ns, now_ns);
            before_ns = now_ns;
            let gone = message.kind == RTM_DELLINK;
            let Some(link) = Link::decode(message) else { return };
            match interfaces.iter_mut().find(|interface| interface.index == link.index) {
                Some(interface) if !gone && interface.name == link.name => {
                    Self::note(interface, ports, &link, moment, batch);
                }
                Some(_) => batch.ask_for_probe(),
                None if !gone && choice.wants(root, &link) => batch.ask_for_probe(),
                None => {}
            }
        });
        for interface in interfaces.iter_mut().filter(|interface| interface.speed_is_news) {
            interface.speed_is_news = false;
            sockets.note_speed(interface, ports, batch);
        }
        outcome.map_err(|error| {
            // Some notifications are lost: read everything anew, through new sockets.
            self.sockets = None;
            ReadError::io("taking link notifications", &error)
        })
    }
}
