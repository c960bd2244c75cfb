//! Which priorities have PFC on, and what the driver's DCB counts on each.
//!
//! In: DCB netlink IEEE_PFC, one message per interface. Out: `hw.network.pfc.enabled` (1 or 0) per priority: configuration,
//! whatever the driver; and, for the drivers whose answer is fresh (hns3), the pause frames sent and received per priority
//! under 802.1Qaz's own names, requests and indications. mlx5 and ice answer with what another read left in a cache:
//! their pause frames come from `netdev.driver` alone.

use crate::dcb::{PRIORITIES, Pfc};
use crate::ethtool_ioctl::EthtoolIoctl;
use crate::netdev::port_series;
use crate::netdev_choice::NetdevChoice;
use crate::netlink::Netlink;
use nix::sys::socket::SockProtocol;
use railwatch_sampling::clock::monotonic_ns;
use railwatch_sampling::{
    Batch, CadenceRange, Counter, Declare, ErrorReason, Kind, Moment, ReadError, SeriesHandle, Source, Unavailable,
};
use std::path::PathBuf;
use std::time::Duration;

/// PFC is on for a priority.
pub(crate) const ENABLED: &str = "hw.network.pfc.enabled";
/// Pause frames sent, by the count of DCB.
pub(crate) const REQUESTS: &str = "hw.network.pfc.requests";
/// Pause frames received, by the count of DCB.
pub(crate) const INDICATIONS: &str = "hw.network.pfc.indications";

/// Drivers that read the card when DCB is asked (drivers/net/ethernet/hisilicon/hns3/hns3pf/hclge_dcb.c,
/// `hclge_ieee_getpfc`).
const FRESH: &[&str] = &["hns3"];

/// PFC of the chosen interfaces.
pub(crate) struct NetdevDcbSource {
    root: PathBuf,
    choice: NetdevChoice,
    sockets: Option<(Netlink, EthtoolIoctl)>,
    interfaces: Vec<Interface>,
}

struct Interface {
    name: String,
    enabled: [Option<SeriesHandle>; PRIORITIES],
    counts: Option<[[Option<SeriesHandle>; PRIORITIES]; 2]>,
}

impl NetdevDcbSource {
    pub(crate) fn new(root: PathBuf, choice: NetdevChoice) -> Self {
        Self { root, choice, sockets: None, interfaces: Vec::new() }
    }
}

impl Source for NetdevDcbSource {
    fn name(&self) -> &'static str {
        "netdev.dcb"
    }

    fn kernel_path(&self) -> &str {
        "DCB netlink DCB_CMD_IEEE_GET (IEEE_PFC)"
    }

    fn cadence(&self) -> CadenceRange {
        CadenceRange { min: Duration::from_millis(100), default: Duration::from_secs(1), max: Duration::from_secs(60) }
    }

    fn holds_rtnl(&self) -> bool {
        true
    }

    fn probe(&mut self, declare: &mut Declare<'_>) -> Result<(), Unavailable> {
        let Self { root, choice, sockets, interfaces } = self;
        let open = || Ok((Netlink::open(SockProtocol::NetlinkRoute)?, EthtoolIoctl::open()?));
        let (route, ioctl) = choice.opened(sockets, "DCB netlink", open)?;
        let links = choice.links(root, Some(route))?;
        interfaces.clear();
        for link in links {
            let name = link.name;
            if !matches!(Pfc::ask(route, &name), Ok(Some(_))) {
                continue;
            }
            let mut each = |series: &'static str, unit, kind, direction: Option<&str>| {
                std::array::from_fn(|priority| {
                    let direction = direction.map(|direction| ("network.io.direction", direction.to_owned()));
                    let labels = [("network.priority", priority.to_string())].into_iter().chain(direction);
                    declare.series(port_series(&name, series, unit, kind, labels))
                })
            };
            let enabled = each(ENABLED, "1", Kind::Gauge, None);
            let is_fresh = ioctl.driver(&name).is_ok_and(|driver| FRESH.contains(&driver.as_str()));
            let frames = Kind::Counter(Counter::wrapping(64));
            let counts = is_fresh.then(|| {
                [
                    each(REQUESTS, "{frame}", frames, Some("transmit")),
                    each(INDICATIONS, "{frame}", frames, Some("receive")),
                ]
            });
            interfaces.push(Interface { name, enabled, counts });
        }
        if interfaces.is_empty() {
            return Err(Unavailable::new(
                ErrorReason::NotAvailable,
                "no interface's driver tells priority flow control through DCB netlink (its firmware may keep DCB to itself)",
            ));
        }
        Ok(())
    }

    fn read(&mut self, batch: &mut Batch) -> Result<(), ReadError> {
        let Self { sockets: Some((route, _)), interfaces, .. } = self else { return Ok(()) };
        for Interface { name, enabled, counts } in interfaces {
            let before_ns = monotonic_ns();
            let pfc = match Pfc::ask(route, name) {
                Ok(Some(pfc)) => pfc,
                Ok(None) => {
                    batch.fault(ErrorReason::NotAvailable);
                    batch.ask_for_probe();
                    continue;
                }
                Err(error) => {
                    batch.fault(ErrorReason::from(&error));
                    batch.ask_for_probe();
                    continue;
                }
            };
            let moment = Moment::between(before_ns, monotonic_ns());
            for (priority, series) in enabled.iter().enumerate() {
                if let Some(series) = series {
                    batch.gauge(*series, f64::from(pfc.enabled >> priority & 1), moment);
                }
            }
            for (series, counts) in counts.iter().flatten().zip([pfc.requests, pfc.indications]) {
                for (series, count) in series.iter().zip(counts) {
                    if let Some(series) = series {
                        batch.counter(*series, count, moment);
                    }
                }
            }
        }
        Ok(())
    }
}
