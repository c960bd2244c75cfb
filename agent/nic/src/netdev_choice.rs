//! Which network interfaces are read.
//!
//! In: all interfaces of the agent's network namespace. Out: those with a device behind them, and software interfaces of
//! the kinds asked for (`veth`, `bond`). Never: the loopback.

use crate::link::{self, Link};
use crate::netlink::Netlink;
use crate::sysfs;
use railwatch_sampling::{ErrorReason, Unavailable};
use std::path::Path;

/// The choice of interfaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NetdevChoice {
    /// Kinds of software interface to read beside those with a device.
    pub(crate) software_kinds: Vec<String>,
    /// False where the tree is not this kernel's: rtnetlink would tell of this host instead.
    pub(crate) may_use_netlink: bool,
}

impl NetdevChoice {
    /// The interfaces chosen, as they are now.
    pub(crate) fn links(&self, root: &Path, netlink: Option<&mut Netlink>) -> Result<Vec<Link>, Unavailable> {
        let all = match netlink {
            Some(netlink) => {
                let mut all = Vec::new();
                netlink.dump(&mut link::request(0), |message| all.extend(Link::decode(message))).map_err(|error| {
                    Unavailable::new((&error).into(), format!("listing interfaces by rtnetlink: {error}"))
                })?;
                all
            }
            None => from_sysfs(root)?,
        };
        let chosen: Vec<Link> = all.into_iter().filter(|link| self.wants(root, link)).collect();
        if chosen.is_empty() {
            return Err(Unavailable::new(
                ErrorReason::Missing,
                "no network interface with a device behind it in the agent's network namespace; run the agent in the host's \
                 network namespace, or name kinds of software interface to read (such as veth)",
            ));
        }
        Ok(chosen)
    }

    /// What a source asks the running kernel by, opened at the first call and kept. `by` is that way's name: "DCB netlink".
    pub(crate) fn opened<'s, T>(
        &self,
        kept: &'s mut Option<T>,
        by: &str,
        open: impl FnOnce() -> std::io::Result<T>,
    ) -> Result<&'s mut T, Unavailable> {
        if !self.may_use_netlink {
            return Err(Unavailable::new(
                ErrorReason::Missing,
                format!("another host's tree is read, and {by} tells of the running kernel alone"),
            ));
        }
        match kept {
            Some(kept) => Ok(kept),
            none => {
                let opened =
                    open().map_err(|error| Unavailable::new((&error).into(), format!("opening {by}: {error}")))?;
                Ok(none.insert(opened))
            }
        }
    }

    /// This interface is read.
    pub(crate) fn wants(&self, root: &Path, link: &Link) -> bool {
        // Kernels before 5.14 do not say that there is a parent. Under another network namespace's sysfs, a software
        // interface could be taken for the device of the same name there: only one without a kind is looked up.
        let in_sysfs = || link.kind.is_empty() && sysfs::device_path(root, "net", &link.name).join("device").exists();
        !link.is_loopback && (link.has_parent || in_sysfs() || self.software_kinds.contains(&link.kind))
    }
}

/// The interfaces of a sysfs tree.
pub(crate) fn from_sysfs(root: &Path) -> Result<Vec<Link>, Unavailable> {
    let directory = root.join("class/net");
    let names = sysfs::names(&directory).map_err(|error| {
        Unavailable::new((&error).into(), format!("listing interfaces in {}: {error}", directory.display()))
    })?;
    Ok(names.into_iter().filter_map(|name| one_from_sysfs(root, name)).collect())
}

fn one_from_sysfs(root: &Path, name: String) -> Option<Link> {
    const ARPHRD_LOOPBACK: u64 = 772;
    let directory = sysfs::device_path(root, "net", &name);
    let number = |file: &str| sysfs::line(directory.join(file)).and_then(|text| text.parse::<u64>().ok());
    let flags = sysfs::line(directory.join("flags"))
        .and_then(|text| u32::from_str_radix(text.trim_start_matches("0x"), 16).ok());
    let operstate = sysfs::line(directory.join("operstate")).unwrap_or_default();
    // Order of the kernel's IF_OPER_* numbers (RFC 2863).
    let operstates = ["unknown", "notpresent", "down", "lowerlayerdown", "testing", "dormant", "up"];
    let position = operstates.iter().position(|text| *text == operstate).unwrap_or_default();
    Some(Link {
        index: u32::try_from(number("ifindex")?).ok()?,
        is_loopback: number("type") == Some(ARPHRD_LOOPBACK),
        admin_up: flags.is_none_or(|flags| flags & 1 != 0),
        // Reading `carrier` fails with EINVAL while the interface is administratively down.
        carrier: number("carrier") == Some(1),
        carrier_up_count: u32::try_from(number("carrier_up_count").unwrap_or_default()).unwrap_or(u32::MAX),
        carrier_down_count: u32::try_from(number("carrier_down_count").unwrap_or_default()).unwrap_or(u32::MAX),
        operstate: u8::try_from(position).unwrap_or_default(),
        has_parent: false,
        // sysfs does not say the kind; uevent does for those that have a DEVTYPE (bond, vlan, bridge), not for veth.
        kind: String::new(),
        name,
    })
}
