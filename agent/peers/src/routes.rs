//! The source `routes`: where this host sends packets, by the main table and by tables that rules name.
//!
//! In: rtnetlink of the agent's network namespace: RTM_GETROUTE and RTM_GETRULE, and notifications of both. Out: the list. It is read again
//! when the kernel says that something changed, a second after the last reading at the earliest.
//! Never: a route changed; a table that no rule names; more rows than the bound (those beyond are counted).
//! Layout: include/uapi/linux/rtnetlink.h, include/uapi/linux/fib_rules.h.

use crate::view::{Off, Peers};
use nix::sys::socket::SockProtocol;
use railwatch_nic::netlink::{Attributes, Message, Netlink, Request, number, text};
use railwatch_sampling::{Batch, CadenceRange, Declare, ErrorReason, ReadError, Source, Unavailable};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

/// Routes that are listed.
pub const ROUTES_MAX: usize = 512;
/// Rules that are followed.
const RULES_MAX: usize = 256;
const EVENT_BUFFER: usize = 256 * 1024;

const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWRULE: u16 = 32;
const RTM_GETRULE: u16 = 34;
/// Groups of notifications, by bit: IPv4 routes and rules, IPv6 routes and rules.
const GROUPS: u32 = 1 << 6 | 1 << 7 | 1 << 10 | 1 << 18;
const TABLE_MAIN: u32 = 254;
const TABLE_LOCAL: u32 = 255;
const RTN_UNICAST: u8 = 1;
const RTM_F_CLONED: u32 = 0x200;

/// A route.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// Network, with the length of its prefix.
    pub destination: (IpAddr, u8),
    /// `None`: on the link.
    pub gateway: Option<IpAddr>,
    /// That packets leave by.
    pub interface: String,
    /// That it prefers, or that the rule of its table asks for.
    pub source: Option<IpAddr>,
    /// The lesser wins.
    pub metric: u32,
}

/// A row of a table as the kernel has it, one for each next hop.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    table: u32,
    destination: (IpAddr, u8),
    gateway: Option<IpAddr>,
    interface: u32,
    source: Option<IpAddr>,
    metric: u32,
}

/// A rule that leads to a table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rule {
    table: u32,
    source: Option<IpAddr>,
    is_v6: bool,
}

/// Routes of this network namespace.
pub struct RouteSource {
    peers: Arc<Peers>,
    open: Option<(Netlink, Netlink)>,
    is_stale: bool,
}

impl RouteSource {
    /// Of the namespace that it is probed in.
    #[must_use]
    pub fn new(peers: Arc<Peers>) -> Self {
        Self { peers, open: None, is_stale: true }
    }

    fn list(&mut self) -> io::Result<()> {
        let Some((requests, _)) = &mut self.open else { return Ok(()) };
        let mut rules = BTreeSet::new();
        let (mut rows, mut beyond) = (Vec::new(), 0u64);
        let mut names = BTreeMap::new();
        for family in [libc::AF_INET, libc::AF_INET6] {
            let family = u8::try_from(family).unwrap_or_default();
            // A kernel without rules has the main table alone.
            let asked =
                requests.dump(&mut Request::new(RTM_GETRULE, &[family, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), |message| {
                    if rules.len() < RULES_MAX {
                        rules.extend(rule(message));
                    }
                });
            match asked {
                Err(error) if error.raw_os_error() != Some(libc::EOPNOTSUPP) => return Err(error),
                _ => {}
            }
            requests.dump(&mut Request::new(RTM_GETROUTE, &[family, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), |message| {
                for row in decoded(message) {
                    let is_named = rules.iter().any(|rule| rule.table == row.table);
                    if row.table != TABLE_MAIN && !is_named {
                        continue;
                    }
                    if rows.len() >= ROUTES_MAX {
                        beyond += 1;
                    } else {
                        rows.push(row);
                    }
                }
            })?;
        }
        requests.dump(&mut Request::new(RTM_GETLINK, &[0; 16]), |message| names.extend(name(message)))?;
        let (routes, more) = shown(&rows, &rules, &names);
        self.peers.set_beyond("routes", beyond + more);
        self.peers.set_routes(routes);
        Ok(())
    }
}

/// Rows as people read them, in one order: for each rule that leads to its table, with the rule's source.
fn shown(rows: &[Row], rules: &BTreeSet<Rule>, names: &BTreeMap<u32, String>) -> (Vec<Route>, u64) {
    let mut routes = BTreeSet::new();
    for row in rows {
        let Some(interface) = names.get(&row.interface) else { continue };
        let route = |source: Option<IpAddr>| Route {
            destination: row.destination,
            gateway: row.gateway,
            interface: interface.clone(),
            source,
            metric: row.metric,
        };
        if row.table == TABLE_MAIN {
            routes.insert(route(row.source));
            continue;
        }
        let is_v6 = row.destination.0.is_ipv6();
        let leading = rules.iter().filter(|rule| rule.table == row.table && rule.is_v6 == is_v6);
        routes.extend(leading.map(|rule| route(rule.source.or(row.source))));
    }
    let beyond = routes.len().saturating_sub(ROUTES_MAX) as u64;
    (routes.into_iter().take(ROUTES_MAX).collect(), beyond)
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        16 => Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?)),
        _ => None,
    }
}

/// struct ifinfomsg and IFLA_IFNAME.
fn name(message: Message<'_>) -> Option<(u32, String)> {
    const IFLA_IFNAME: u16 = 3;
    if message.kind != RTM_NEWLINK {
        return None;
    }
    let index = number(message.body.get(4..8))?;
    let name = Attributes(message.body.get(16..)?).find_kind(IFLA_IFNAME)?;
    Some((index, text(name).to_owned()))
}

/// struct fib_rule_hdr and its attributes; nothing of a rule that does not lead to a table of its own, or that asks for more than a host's source.
fn rule(message: Message<'_>) -> Option<Rule> {
    const FRA_SRC: u16 = 2;
    const FRA_TABLE: u16 = 15;
    const FR_ACT_TO_TBL: u8 = 1;
    let body = message.body;
    if message.kind != RTM_NEWRULE || *body.get(7)? != FR_ACT_TO_TBL {
        return None;
    }
    let attributes = || body.get(12..).map(Attributes);
    let table = number(attributes()?.find_kind(FRA_TABLE)).unwrap_or(u32::from(*body.get(4)?));
    if table == TABLE_MAIN || table == TABLE_LOCAL || table == 0 {
        return None;
    }
    let is_v6 = i32::from(*body.first()?) == libc::AF_INET6;
    let is_whole = *body.get(2)? == if is_v6 { 128 } else { 32 };
    let source = attributes()?.find_kind(FRA_SRC).and_then(address).filter(|_| is_whole);
    Some(Rule { table, source, is_v6 })
}

/// struct rtmsg and its attributes; a row for each next hop.
fn decoded(message: Message<'_>) -> Vec<Row> {
    row(message).unwrap_or_default()
}

fn row(message: Message<'_>) -> Option<Vec<Row>> {
    const RTA_DST: u16 = 1;
    const RTA_OIF: u16 = 4;
    const RTA_GATEWAY: u16 = 5;
    const RTA_PRIORITY: u16 = 6;
    const RTA_PREFSRC: u16 = 7;
    const RTA_MULTIPATH: u16 = 9;
    const RTA_TABLE: u16 = 15;
    const RTA_VIA: u16 = 18;
    let body = message.body;
    let is_wanted =
        message.kind == RTM_NEWROUTE && *body.get(7)? == RTN_UNICAST && number(body.get(8..12))? & RTM_F_CLONED == 0;
    if !is_wanted {
        return None;
    }
    let find = |kind| Attributes(body.get(12..).unwrap_or_default()).find_kind(kind);
    let unspecified = if i32::from(*body.first()?) == libc::AF_INET6 { [0; 16].into() } else { IpAddr::from([0; 4]) };
    let gateway = |attributes: &[u8]| {
        let find = |kind| Attributes(attributes).find_kind(kind);
        // A gateway of the other family: struct rtvia, whose first two bytes are the family.
        find(RTA_GATEWAY).or_else(|| find(RTA_VIA).and_then(|via| via.get(2..))).and_then(address)
    };
    let whole = Row {
        table: number(find(RTA_TABLE)).unwrap_or(u32::from(*body.get(4)?)),
        destination: (find(RTA_DST).and_then(address).unwrap_or(unspecified), *body.get(1)?),
        gateway: gateway(body.get(12..).unwrap_or_default()),
        interface: number(find(RTA_OIF)).unwrap_or_default(),
        source: find(RTA_PREFSRC).and_then(address),
        metric: number(find(RTA_PRIORITY)).unwrap_or_default(),
    };
    let Some(mut hops) = find(RTA_MULTIPATH) else { return Some(vec![whole]) };
    let mut rows = Vec::new();
    // struct rtnexthop: length, flags, weight, interface; then attributes of its own.
    while let Some(length) = hops.get(..2).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes) {
        let Some(hop) = hops.get(..usize::from(length)).filter(|hop| hop.len() >= 8) else { break };
        let interface = number(hop.get(4..8)).unwrap_or_default();
        rows.push(Row { gateway: gateway(hop.get(8..).unwrap_or_default()), interface, ..whole.clone() });
        hops = hops.get(usize::from(length).next_multiple_of(4)..).unwrap_or_default();
    }
    Some(rows)
}

impl Source for RouteSource {
    fn name(&self) -> &'static str {
        "routes"
    }

    fn kernel_path(&self) -> &str {
        "rtnetlink RTM_GETROUTE, RTM_GETRULE"
    }

    fn cadence(&self) -> CadenceRange {
        // Changes come as events. What is read at the cadence is whether there was one.
        let second = Duration::from_secs(1);
        CadenceRange { min: second, default: second, max: Duration::from_secs(60) }
    }

    fn probe(&mut self, _: &mut Declare<'_>) -> Result<(), Unavailable> {
        if self.open.is_none() {
            let open = || -> io::Result<(Netlink, Netlink)> {
                let events = Netlink::listen(SockProtocol::NetlinkRoute, GROUPS, EVENT_BUFFER)?;
                Ok((Netlink::open(SockProtocol::NetlinkRoute)?, events))
            };
            let opened = open().map_err(|error| {
                let why = format!("opening rtnetlink for routes: {error}");
                self.peers.set_off("routes", vec![Off { what: "routes".into(), why: why.clone() }]);
                Unavailable::new((&error).into(), why)
            })?;
            self.open = Some(opened);
            self.peers.set_off("routes", Vec::new());
            self.is_stale = true;
        }
        Ok(())
    }

    fn read(&mut self, batch: &mut Batch) -> Result<(), ReadError> {
        if !std::mem::take(&mut self.is_stale) {
            return Ok(());
        }
        self.list().map_err(|error| {
            self.is_stale = true;
            batch.fault(ErrorReason::from(&error));
            ReadError::io("listing routes", &error)
        })
    }

    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        self.open.as_ref().map(|(_, events)| events.as_fd())
    }

    fn on_event(&mut self, _: &mut Batch) -> Result<(), ReadError> {
        if let Some((_, events)) = &mut self.open {
            // Lost notifications are no loss: the list is asked for anew.
            let _ = events.drain(|_| {});
            self.is_stale = true;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_table_that_a_rule_names_is_shown_with_the_rules_source_and_another_is_not() {
        let row = |table, source: Option<&str>| Row {
            table,
            destination: (ip("0.0.0.0"), 0),
            gateway: Some(ip("10.0.0.0")),
            interface: 2,
            source: source.map(ip),
            metric: 0,
        };
        let rule = |table, source: Option<&str>, is_v6| Rule { table, source: source.map(ip), is_v6 };
        let names = [(2, "eth0".to_owned())].into();
        let cases = [
            (row(TABLE_MAIN, Some("10.0.0.1")), vec![], vec![Some("10.0.0.1")]),
            (row(100, None), vec![rule(100, Some("10.0.0.1"), false)], vec![Some("10.0.0.1")]),
            (
                row(100, None),
                vec![rule(100, None, false), rule(100, Some("10.0.0.1"), false)],
                vec![None, Some("10.0.0.1")],
            ),
            (row(100, None), vec![rule(100, None, true)], vec![]),
            (row(100, None), vec![rule(101, None, false)], vec![]),
            (Row { interface: 9, ..row(TABLE_MAIN, None) }, vec![], vec![]),
        ];
        for (row, rules, sources) in cases {
            let (routes, _) = shown(std::slice::from_ref(&row), &rules.clone().into_iter().collect(), &names);
            let found: Vec<_> = routes.iter().map(|route| route.source).collect();
            assert_eq!(
                found,
                sources.into_iter().map(|source| source.map(ip)).collect::<Vec<_>>(),
                "{row:?} {rules:?}"
            );
        }
    }

    #[test]
    fn what_is_cut_short_is_no_route() {
        let whole = [2, 31, 0, 0, 254, 2, 253, 1, 0, 0, 0, 0];
        for length in 0..whole.len() {
            assert_eq!(decoded(Message { kind: RTM_NEWROUTE, body: &whole[..length] }), []);
        }
        assert_eq!(decoded(Message { kind: RTM_NEWROUTE, body: &whole }).len(), 1);
        let hop = [&whole[..], &[12, 0, 9, 0, 200, 0, 0, 0, 1, 0, 0, 0]].concat();
        assert_eq!(decoded(Message { kind: RTM_NEWROUTE, body: &hop }), [], "a next hop longer than its list");
    }
}
