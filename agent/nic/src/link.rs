//! Network interfaces as rtnetlink describes them (RTM_NEWLINK, include/uapi/linux/if_link.h).

use crate::netlink::{Attributes, Message, Request, number, text};

pub(crate) const RTM_NEWLINK: u16 = 16;
pub(crate) const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
pub(crate) const RTMGRP_LINK: u32 = 1;

const IFLA_IFNAME: u16 = 3;
const IFLA_OPERSTATE: u16 = 16;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_EXT_MASK: u16 = 29;
const IFLA_CARRIER: u16 = 33;
const IFLA_CARRIER_UP_COUNT: u16 = 47;
const IFLA_CARRIER_DOWN_COUNT: u16 = 48;
const IFLA_PARENT_DEV_NAME: u16 = 56;
const RTEXT_FILTER_SKIP_STATS: u32 = 8;

const IFF_UP: u32 = 1;
const IFF_LOOPBACK: u32 = 8;

/// One interface at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) is_loopback: bool,
    /// Kind of a software device: `veth`, `bond`, `vlan`; empty for one made by a driver.
    pub(crate) kind: String,
    /// It has a parent on a bus (PCI, virtio).
    pub(crate) has_parent: bool,
    pub(crate) admin_up: bool,
    pub(crate) carrier: bool,
    pub(crate) operstate: u8,
    pub(crate) carrier_up_count: u32,
    pub(crate) carrier_down_count: u32,
}

impl Link {
    /// Both the administrator and the carrier say so.
    pub(crate) fn is_up(&self) -> bool {
        self.admin_up && self.carrier
    }

    /// Why it is down.
    pub(crate) fn cause(&self) -> Option<&'static str> {
        match (self.admin_up, self.carrier) {
            (false, _) => Some("admin_down"),
            (true, false) => Some("no_carrier"),
            (true, true) => None,
        }
    }

    /// Name of its operational state (RFC 2863, as the kernel numbers it), told apart where an administrator did it.
    pub(crate) fn state(&self) -> &'static str {
        match self.operstate {
            _ if !self.admin_up => "admin_down",
            1 => "not_present",
            2 => "down",
            3 => "lower_layer_down",
            4 => "testing",
            5 => "dormant",
            6 => "up",
            // Drivers that never say: the carrier decides.
            _ if self.carrier => "up",
            _ => "down",
        }
    }

    /// Decodes RTM_NEWLINK or RTM_DELLINK; `None` for anything else or a message cut short.
    pub(crate) fn decode(message: Message<'_>) -> Option<Self> {
        if message.kind != RTM_NEWLINK && message.kind != RTM_DELLINK {
            return None;
        }
        let flags = number(message.body.get(8..12))?;
        let mut link = Self {
            index: number(message.body.get(4..8))?,
            is_loopback: flags & IFF_LOOPBACK != 0,
            admin_up: flags & IFF_UP != 0,
            ..Self::default()
        };
        for (kind, payload) in Attributes(message.body.get(16..)?) {
            match kind {
                IFLA_IFNAME => text(payload).clone_into(&mut link.name),
                IFLA_OPERSTATE => link.operstate = payload.first().copied().unwrap_or_default(),
                IFLA_CARRIER => link.carrier = payload.first() == Some(&1),
                IFLA_CARRIER_UP_COUNT => link.carrier_up_count = number(Some(payload))?,
                IFLA_CARRIER_DOWN_COUNT => link.carrier_down_count = number(Some(payload))?,
                IFLA_PARENT_DEV_NAME => link.has_parent = true,
                IFLA_LINKINFO => {
                    let kind = Attributes(payload).find(|(kind, _)| *kind == IFLA_INFO_KIND);
                    link.kind = kind.map(|(_, payload)| text(payload).to_owned()).unwrap_or_default();
                }
                _ => {}
            }
        }
        (!link.name.is_empty()).then_some(link)
    }
}

/// Asks for one interface by its index (or, as a dump, for all with index 0), without their statistics.
pub(crate) fn request(index: u32) -> Request {
    let mut fixed = [0; 16];
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    Request::new(RTM_GETLINK, &fixed).u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS)
}
