//! The addresses of this network namespace's interfaces, with the lengths of their prefixes.
//!
//! In: rtnetlink (RTM_GETADDR), asked again when it notified of a change. Out: addresses by name of the interface. They
//! are of the namespace the agent runs in, whatever sysfs it is shown. Never: a wait; an address that is not usable yet
//! (tentative) or only of the link (fe80::/10), which nobody beyond it can reach.

use crate::netlink::{Attributes, Netlink, Request, number, text};
use nix::sys::socket::SockProtocol;
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const IFLA_IFNAME: u16 = 3;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
/// linux/if_addr.h
const IFA_F_TENTATIVE: u8 = 0x40;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RTMGRP_LINK: u32 = 1;
const RTMGRP_IPV4_IFADDR: u32 = 0x10;
const RTMGRP_IPV6_IFADDR: u32 = 0x100;
const EVENT_BUFFER: usize = 256 * 1024;
/// Addresses kept of one interface.
const ADDRESSES_MAX: usize = 16;

/// The addresses, kept up to date.
pub struct Addresses {
    events: Netlink,
    requests: Netlink,
    by_name: BTreeMap<String, Vec<String>>,
    is_stale: bool,
}

impl Addresses {
    /// Listens before it lists, so that nothing falls in between.
    ///
    /// # Errors
    /// rtnetlink cannot be opened.
    pub fn open() -> io::Result<Self> {
        let groups = RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR;
        let events = Netlink::listen(SockProtocol::NetlinkRoute, groups, EVENT_BUFFER)?;
        let requests = Netlink::open(SockProtocol::NetlinkRoute)?;
        Ok(Self { events, requests, by_name: BTreeMap::new(), is_stale: true })
    }

    /// Takes the notifications that have come, and lists anew where there were any: one system call where there were none.
    ///
    /// # Errors
    /// What rtnetlink said; what was known stays, and the next call asks again.
    pub fn refresh(&mut self) -> io::Result<()> {
        let mut came = false;
        // Notifications that found no room are as good as those that did: all is asked for again.
        let lost = self.events.drain(|_| came = true).is_err();
        self.is_stale |= came || lost;
        if self.is_stale {
            self.by_name = list(&mut self.requests)?;
            self.is_stale = false;
        }
        Ok(())
    }

    /// Of an interface: "10.0.1.3/31", in the kernel's order.
    #[must_use]
    pub fn of(&self, interface: &str) -> &[String] {
        self.by_name.get(interface).map_or(&[], Vec::as_slice)
    }
}

fn list(netlink: &mut Netlink) -> io::Result<BTreeMap<String, Vec<String>>> {
    let mut names = BTreeMap::new();
    netlink.dump(&mut Request::new(RTM_GETLINK, &[0; 16]), |message| {
        if message.kind == RTM_NEWLINK
            && let Some(index) = number(message.body.get(4..8))
            && let Some(name) = message.body.get(16..).and_then(|rest| Attributes(rest).find_kind(IFLA_IFNAME))
        {
            names.insert(index, text(name).to_owned());
        }
    })?;
    let mut by_name: BTreeMap<String, Vec<String>> = BTreeMap::new();
    netlink.dump(&mut Request::new(RTM_GETADDR, &[0; 8]), |message| {
        if message.kind == RTM_NEWADDR
            && let Some((index, address)) = address(message.body)
            && let Some(name) = names.get(&index)
        {
            let known = by_name.entry(name.clone()).or_default();
            if known.len() < ADDRESSES_MAX {
                known.push(address);
            }
        }
    })?;
    Ok(by_name)
}

/// Index of the interface and the address, of `struct ifaddrmsg` (family, length of the prefix, flags, scope, index) and what follows.
fn address(body: &[u8]) -> Option<(u32, String)> {
    let [_, prefix, flags, scope] = *body.first_chunk::<4>()?;
    let index = number(body.get(4..8))?;
    let attributes = body.get(8..)?;
    let find = |kind| Attributes(attributes).find_kind(kind);
    // IFA_ADDRESS of IPv4 is the other end of a point-to-point link.
    let bytes = find(IFA_LOCAL).or_else(|| find(IFA_ADDRESS))?;
    let address: IpAddr = match bytes.len() {
        4 => Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into(),
        16 => Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into(),
        _ => return None,
    };
    let is_of_use = flags & IFA_F_TENTATIVE == 0 && scope == RT_SCOPE_UNIVERSE;
    is_of_use.then(|| (index, format!("{address}/{prefix}")))
}
