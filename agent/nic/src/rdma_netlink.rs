//! RDMA netlink: devices, and all hardware counters of a port in one message.
//!
//! RDMA_NLDEV_CMD_STAT_GET without RDMA_NLDEV_ATTR_STAT_RES asks the driver for the port's default counters at once,
//! without the cache of sysfs and without RTNL (drivers/infiniband/core/nldev.c, `stat_get_doit_default_counter`; since
//! Linux 5.3). Its answer is one page: a driver with more counters than fit answers EMSGSIZE.
//! Numbers: include/uapi/rdma/rdma_netlink.h.

use crate::netlink::{Attributes, Message, Netlink, Request, number, number64, text};
use nix::sys::socket::SockProtocol;
use std::io;

const NLDEV: u16 = 5;
const CMD_GET: u16 = 1;
const CMD_STAT_GET: u16 = 17;

pub(crate) const ATTR_DEV_INDEX: u16 = 1;
const ATTR_DEV_NAME: u16 = 2;
pub(crate) const ATTR_PORT_INDEX: u16 = 3;
const ATTR_HWCOUNTERS: u16 = 80;
const ATTR_HWCOUNTER_ENTRY: u16 = 81;
const ATTR_HWCOUNTER_NAME: u16 = 82;
const ATTR_HWCOUNTER_VALUE: u16 = 83;

pub(crate) const fn kind(command: u16) -> u16 {
    (NLDEV << 10) | command
}

/// A connection to the kernel's RDMA subsystem.
pub(crate) struct RdmaNetlink(pub(crate) Netlink);

impl RdmaNetlink {
    pub(crate) fn open() -> io::Result<Self> {
        Netlink::open(SockProtocol::NetlinkRDMA).map(Self)
    }

    /// Index and name of every RDMA device visible here.
    pub(crate) fn devices(&mut self) -> io::Result<Vec<(u32, String)>> {
        let mut devices = Vec::new();
        self.0.dump(&mut Request::new(kind(CMD_GET), &[]), |message| devices.extend(device(message)))?;
        Ok(devices)
    }

    /// Hands every hardware counter of a port to `take`, in the driver's order, which does not change.
    pub(crate) fn counters(&mut self, port: &mut CountersOf, take: impl FnMut(&str, u64)) -> io::Result<()> {
        self.0.ask(&mut port.0, |message| counters(message, take))
    }
}

/// The request for the counters of one port, made once.
pub(crate) struct CountersOf(Request);

impl CountersOf {
    /// A device by its index, a port from 1.
    pub(crate) fn new(device: u32, port: u32) -> Self {
        Self(Request::new(kind(CMD_STAT_GET), &[]).u32(ATTR_DEV_INDEX, device).u32(ATTR_PORT_INDEX, port))
    }
}

fn device(message: Message<'_>) -> Option<(u32, String)> {
    let attribute = |wanted| Attributes(message.body).find(|(kind, _)| *kind == wanted).map(|(_, payload)| payload);
    Some((number(attribute(ATTR_DEV_INDEX))?, text(attribute(ATTR_DEV_NAME)?).to_owned()))
}

fn counters(message: Message<'_>, mut take: impl FnMut(&str, u64)) {
    let tables = Attributes(message.body).filter(|(kind, _)| *kind == ATTR_HWCOUNTERS);
    for (_, entry) in tables.flat_map(|(_, table)| Attributes(table)).filter(|(kind, _)| *kind == ATTR_HWCOUNTER_ENTRY)
    {
        let (mut name, mut value) = (None, None);
        for (kind, payload) in Attributes(entry) {
            match kind {
                ATTR_HWCOUNTER_NAME => name = Some(text(payload)),
                ATTR_HWCOUNTER_VALUE => value = number64(Some(payload)),
                _ => {}
            }
        }
        if let (Some(name), Some(value)) = (name, value) {
            take(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, payload: &[u8]) -> Vec<u8> {
        let mut bytes = u16::try_from(payload.len() + 4).expect("small").to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(payload);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn entry(name: &str, value: u64) -> Vec<u8> {
        let mut zero_ended = name.as_bytes().to_vec();
        zero_ended.push(0);
        let inner =
            [attribute(ATTR_HWCOUNTER_NAME, &zero_ended), attribute(ATTR_HWCOUNTER_VALUE, &value.to_ne_bytes())];
        attribute(ATTR_HWCOUNTER_ENTRY | 0x8000, &inner.concat())
    }

    /// An answer as `stat_get_doit_default_counter` puts it together.
    fn answer() -> Vec<u8> {
        let table = [entry("out_of_sequence", 7), entry("np_cnp_sent", u64::MAX), entry("x", 0)].concat();
        [
            attribute(ATTR_DEV_INDEX, &0u32.to_ne_bytes()),
            attribute(ATTR_DEV_NAME, b"mlx5_0\0"),
            attribute(ATTR_PORT_INDEX, &1u32.to_ne_bytes()),
            attribute(ATTR_HWCOUNTERS | 0x8000, &table),
        ]
        .concat()
    }

    fn decoded(body: &[u8]) -> Vec<(String, u64)> {
        let mut seen = Vec::new();
        counters(Message { kind: kind(CMD_STAT_GET), body }, |name, value| seen.push((name.to_owned(), value)));
        seen
    }

    #[test]
    fn all_counters_of_a_port_come_out_of_one_answer_in_order() {
        let expected = [("out_of_sequence", 7), ("np_cnp_sent", u64::MAX), ("x", 0)];
        assert_eq!(decoded(&answer()), expected.map(|(name, value)| (name.to_owned(), value)));
        assert_eq!(device(Message { kind: 0, body: &answer() }), Some((0, "mlx5_0".to_owned())));
    }

    #[test]
    fn an_answer_cut_anywhere_yields_only_whole_counters() {
        let whole = answer();
        for length in 0..whole.len() {
            let seen = decoded(&whole[..length]);
            assert!(seen.iter().all(|pair| decoded(&whole).contains(pair)), "{length}: {seen:?}");
        }
    }

    #[test]
    fn a_message_type_is_the_client_and_the_command() {
        assert_eq!(kind(CMD_STAT_GET), 0x1411);
    }
}
