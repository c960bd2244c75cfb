//! Generic netlink, and its family "ethtool": requests about one interface, answers as attributes.
//!
//! In: a family's name, a command, attributes. Out: the attributes of the answer. Never: a number of a family kept over
//! a reload of its module (a family's number is asked for whenever a connection is made).
//! Layout: include/uapi/linux/genetlink.h and include/uapi/linux/ethtool_netlink.h;
//! Documentation/networking/ethtool-netlink.rst.

use crate::netlink::{Attributes, Message, Netlink, Request, malformed};
use nix::sys::socket::SockProtocol;
use std::io;

/// GENL_ID_CTRL: the family that knows the others.
const CONTROLLER: u16 = 16;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
/// `struct genlmsghdr`: command, version, and two reserved bytes.
const HEADER: usize = 4;

/// A connection to one family.
pub struct GenericNetlink {
    netlink: Netlink,
    family: u16,
}

impl GenericNetlink {
    /// Connects to the family of that name.
    ///
    /// # Errors
    /// `ENOENT` where the kernel has no such family.
    pub fn open(family: &str) -> io::Result<Self> {
        let mut netlink = Netlink::open(SockProtocol::NetlinkGeneric)?;
        let mut request = request(CONTROLLER, CTRL_CMD_GETFAMILY).text(CTRL_ATTR_FAMILY_NAME, family);
        let family = netlink
            .ask(&mut request, |message| {
                let id = attributes(message).find_kind(CTRL_ATTR_FAMILY_ID)?;
                Some(u16::from_ne_bytes(id.get(..2)?.try_into().ok()?))
            })?
            .ok_or_else(|| malformed("a family without its number"))?;
        Ok(Self { netlink, family })
    }

    /// A request of this command, without attributes.
    #[must_use]
    pub fn request(&self, command: u8) -> Request {
        request(self.family, command)
    }

    /// Sends a request for one object and hands the answer's attributes to `take`.
    ///
    /// # Errors
    /// As for [`Netlink::ask`].
    pub fn ask<T>(&mut self, request: &mut Request, take: impl FnOnce(Attributes<'_>) -> T) -> io::Result<T> {
        self.netlink.ask(request, |message| take(attributes(message)))
    }

    /// Sends a request for all objects and hands the attributes of each to `take`.
    ///
    /// # Errors
    /// As for [`Netlink::ask`].
    pub fn dump(&mut self, request: &mut Request, mut take: impl FnMut(Attributes<'_>)) -> io::Result<()> {
        self.netlink.dump(request, |message| take(attributes(message)))
    }
}

/// The family "ethtool" (Linux 5.6 and later).
pub struct Ethtool(GenericNetlink);

impl Ethtool {
    /// ETHTOOL_FLAG_STATS: the answer shall hold the statistics that belong to the command's subject.
    pub const WITH_STATISTICS: u32 = 4;

    const A_HEADER: u16 = 1;
    const A_HEADER_DEV_INDEX: u16 = 1;
    const A_HEADER_FLAGS: u16 = 3;

    /// Connects.
    ///
    /// # Errors
    /// As for [`GenericNetlink::open`].
    pub fn open() -> io::Result<Self> {
        GenericNetlink::open("ethtool").map(Self)
    }

    /// A request about the interface with this index, with flags such as [`Ethtool::WITH_STATISTICS`]. All requests of this
    /// family begin so: their attribute 1 is the header. More attributes may be appended.
    #[must_use]
    pub fn request(&self, command: u8, interface: u32, flags: u32) -> Request {
        self.0.request(command).nested(Self::A_HEADER, |header| {
            let header = header.u32(Self::A_HEADER_DEV_INDEX, interface);
            if flags == 0 { header } else { header.u32(Self::A_HEADER_FLAGS, flags) }
        })
    }

    /// Sends a request for one object and hands the answer's attributes (the header among them, as kind 1) to `take`.
    ///
    /// # Errors
    /// `EOPNOTSUPP`: the driver has nothing of this sort. Else as for [`Netlink::ask`].
    pub fn ask<T>(&mut self, request: &mut Request, take: impl FnOnce(Attributes<'_>) -> T) -> io::Result<T> {
        self.0.ask(request, take)
    }
}

fn request(family: u16, command: u8) -> Request {
    Request::new(family, &[command, 1, 0, 0])
}

fn attributes(message: Message<'_>) -> Attributes<'_> {
    Attributes(message.body.get(HEADER..).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use super::*;
    use crate::link::{self, Link};
    use crate::netlink::{number, text};

    const LINKSTATE_GET: u8 = 6;
    const A_LINKSTATE_LINK: u16 = 2;

    #[test]
    fn the_controller_knows_itself_by_its_fixed_number_and_no_family_of_ours() {
        let mut controller = GenericNetlink::open("nlctrl").unwrap();
        assert_eq!(controller.family, CONTROLLER);
        let mut names = Vec::new();
        let mut request = controller.request(CTRL_CMD_GETFAMILY);
        controller
            .dump(&mut request, |mut attributes| {
                names.extend(
                    attributes.find(|(kind, _)| *kind == CTRL_ATTR_FAMILY_NAME).map(|(_, n)| text(n).to_owned()),
                );
            })
            .unwrap();
        assert!(names.iter().any(|name| name == "ethtool"), "{names:?}");
        let error = GenericNetlink::open("rwnosuchfamily").err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn the_link_of_the_loopback_is_told_and_an_interface_that_is_not_there_is_an_error() {
        let mut route = Netlink::open(SockProtocol::NetlinkRoute).unwrap();
        let mut links = Vec::new();
        route.dump(&mut link::request(0), |message| links.extend(Link::decode(message))).unwrap();
        let loopback = links.iter().find(|link| link.is_loopback).unwrap();
        let mut ethtool = Ethtool::open().unwrap();
        let mut request = ethtool.request(LINKSTATE_GET, loopback.index, 0);
        let link = ethtool.ask(&mut request, |attributes| attributes.find_kind(A_LINKSTATE_LINK).map(<[u8]>::to_vec));
        assert!(link.unwrap().is_some_and(|link| link.len() == 1));
        let header = ethtool.ask(&mut request, |attributes| number(Attributes(attributes.find_kind(1)?).find_kind(1)));
        assert_eq!(header.unwrap(), Some(loopback.index), "the answer names the interface");
        let mut request = ethtool.request(LINKSTATE_GET, 0x7fff_ffff, 0);
        let error = ethtool.ask(&mut request, |_| ()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(nix::libc::ENODEV));
    }
}
