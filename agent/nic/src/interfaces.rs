//! The network interfaces that the NIC sources read, for rooms that read something else of the same ones.
//!
//! In: rtnetlink of the agent's network namespace. Out: index and name of each chosen interface, and a descriptor that tells
//! when to ask again. Never: an interface that the NIC sources leave out.

use crate::link::RTMGRP_LINK;
use crate::netdev_choice::NetdevChoice;
use crate::netlink::Netlink;
use crate::sources::NicConfig;
use nix::sys::socket::SockProtocol;
use railwatch_sampling::{ErrorReason, Unavailable};
use std::io;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;

const EVENT_BUFFER: usize = 256 * 1024;

/// The chosen interfaces, as they come and go.
pub struct Interfaces {
    root: PathBuf,
    choice: NetdevChoice,
    requests: Netlink,
    events: Netlink,
}

impl Interfaces {
    /// Listens before it lists, so that nothing falls in between.
    ///
    /// # Errors
    /// [`Unavailable`] where the tree is not this kernel's, or rtnetlink cannot be opened.
    pub fn open(config: &NicConfig) -> Result<Self, Unavailable> {
        let NicConfig { sysfs_root: root, software_interfaces } = config;
        if !config.is_of_this_kernel() {
            let text = format!("{} is not this kernel's sysfs: its interfaces are not of this host", root.display());
            return Err(Unavailable::new(ErrorReason::NotAvailable, text));
        }
        let open = || -> io::Result<(Netlink, Netlink)> {
            let events = Netlink::listen(SockProtocol::NetlinkRoute, RTMGRP_LINK, EVENT_BUFFER)?;
            Ok((events, Netlink::open(SockProtocol::NetlinkRoute)?))
        };
        let (events, requests) = open().map_err(|error| {
            Unavailable::new((&error).into(), format!("opening rtnetlink for link notifications: {error}"))
        })?;
        let choice = NetdevChoice { software_kinds: software_interfaces.clone(), may_use_netlink: true };
        Ok(Self { root: root.clone(), choice, requests, events })
    }

    /// Index and name of each, as they are now.
    ///
    /// # Errors
    /// [`Unavailable`] where there are none, or rtnetlink does not answer.
    pub fn list(&mut self) -> Result<Vec<(u32, String)>, Unavailable> {
        let links = self.choice.links(&self.root, Some(&mut self.requests))?;
        Ok(links.into_iter().map(|link| (link.index, link.name)).collect())
    }

    /// Becomes readable when an interface came, went or changed.
    #[must_use]
    pub fn event_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }

    /// Takes what the descriptor holds, without blocking; the list is to be asked for again then.
    ///
    /// # Errors
    /// `ENOBUFS`: notifications were lost, which is no loss where the list is asked for again.
    pub fn drain(&mut self) -> io::Result<()> {
        self.events.drain(|_| {})
    }
}
