//! Interfaces of the switch's namespace, as openconfig-interfaces names what the kernel says.
//!
//! In: sysfs of the namespace, its addresses, its link messages (rtnetlink). Out: leaves. Never: a counter of another namespace.

use super::{Leaves, json, text};
use crate::plan::MANAGEMENT_PORT;
use anyhow::{Context, Result};
use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket};
use std::{fs, io::ErrorKind, os::fd::AsRawFd, path::Path, thread};
use tokio::sync::watch;

/// Group of link messages: RTMGRP_LINK (linux/rtnetlink.h).
const LINK_MESSAGES: u32 = 1;

/// Counts up whenever the kernel says something of a link.
pub(super) fn changes() -> Result<watch::Receiver<u64>> {
    let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, LINK_MESSAGES))?;
    let (sender, receiver) = watch::channel(0);
    thread::Builder::new().name("links".to_owned()).spawn(move || {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                // Where messages were lost there is something to look at, too.
                Ok(_) | Err(nix::errno::Errno::ENOBUFS) => sender.send_modify(|count| *count += 1),
                Err(nix::errno::Errno::EINTR) => {}
                Err(error) => {
                    eprintln!("the kernel's link messages ended: {error}");
                    return;
                }
            }
        }
    })?;
    Ok(receiver)
}

/// Counters: file of `statistics/`, and the leaf.
const COUNTERS: [(&str, &str); 8] = [
    ("rx_bytes", "in-octets"),
    ("tx_bytes", "out-octets"),
    ("rx_packets", "in-pkts"),
    ("tx_packets", "out-pkts"),
    ("rx_dropped", "in-discards"),
    ("tx_dropped", "out-discards"),
    ("rx_errors", "in-errors"),
    ("tx_errors", "out-errors"),
];

/// Everything of all interfaces.
pub(super) fn read(sysfs: &Path) -> Result<Leaves> {
    let folder = sysfs.join("class/net");
    let mut leaves = Leaves::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))? {
        let entry = entry?;
        interface(&entry.path(), &entry.file_name().to_string_lossy(), &mut leaves)?;
    }
    for address in nix::ifaddrs::getifaddrs()? {
        let v4 = address.address.and_then(|storage| storage.as_sockaddr_in().map(|v4| v4.ip()));
        if let Some(ip) = v4 {
            let of = format!(
                "/interfaces/interface[name={}]/subinterfaces/subinterface[index=0]/ipv4/addresses",
                address.interface_name
            );
            leaves.insert(format!("{of}/address[ip={ip}]/state/ip"), text(ip.to_string()));
        }
    }
    Ok(leaves)
}

fn interface(folder: &Path, name: &str, leaves: &mut Leaves) -> Result<()> {
    let Some(operstate) = file(folder, "operstate")? else { return Ok(()) };
    let of = |below: &str| format!("/interfaces/interface[name={name}]/{below}");
    let mut add = |below: &str, value| drop(leaves.insert(of(below), value));
    add(
        "state/oper-status",
        text(match operstate.as_str() {
            "up" => "UP",
            "down" => "DOWN",
            "lowerlayerdown" => "LOWER_LAYER_DOWN",
            "notpresent" => "NOT_PRESENT",
            "dormant" => "DORMANT",
            "testing" => "TESTING",
            _ => "UNKNOWN",
        }),
    );
    let flags = file(folder, "flags")?.and_then(|flags| u32::from_str_radix(flags.trim_start_matches("0x"), 16).ok());
    // IFF_UP is 1.
    add("state/admin-status", text(if flags.unwrap_or(0) & 1 == 1 { "UP" } else { "DOWN" }));
    let is_loopback = name == "lo";
    add(
        "state/type",
        text(format!("iana-if-type:{}", if is_loopback { "softwareLoopback" } else { "ethernetCsmacd" })),
    );
    add("state/management", json((name == MANAGEMENT_PORT).to_string()));
    if let Some(index) = file(folder, "ifindex")? {
        add("state/ifindex", json(index));
    }
    if let Some(mac) = file(folder, "address")?.filter(|_| !is_loopback) {
        add("ethernet/state/mac-address", text(mac));
    }
    // A link that is down has no speed: reading it fails, or gives -1.
    let speed = file(folder, "speed").ok().flatten().and_then(|mbit_per_s| mbit_per_s.parse::<u64>().ok());
    if let Some(mbit_per_s) = speed.filter(|speed| *speed > 0) {
        add("ethernet/state/port-speed", text(format!("openconfig-if-ethernet:SPEED_{mbit_per_s}MB")));
    }
    for (counter, leaf) in COUNTERS {
        if let Some(count) = file(folder, &format!("statistics/{counter}"))? {
            add(&format!("state/counters/{leaf}"), text(count));
        }
    }
    Ok(())
}

/// A file's text; nothing where the interface went away meanwhile.
fn file(folder: &Path, name: &str) -> Result<Option<String>> {
    match fs::read_to_string(folder.join(name)) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidInput) => Ok(None),
        Err(error) => Err(error).with_context(|| format!("read {}/{name}", folder.display())),
    }
}
