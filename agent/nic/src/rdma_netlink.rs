//! RDMA netlink: devices, and all hardware counters of a port in one message.
//!
//! RDMA_NLDEV_CMD_STAT_GET without RDMA_NLDEV_ATTR_STAT_RES asks the driver for the port's default counters at once,
//! without the cache of sysfs and without RTNL (drivers/infiniband/core/nldev.c, `stat_get_doit_default_counter`; since
//! Linux 5.3). Its answer is one page: a driver with more counters than fit answers EMSGSIZE.
//! Numbers: include/uapi/rdma/rdma_netlink.h.

use crate::netlink::{Attributes, Message, Netlink, Request, Requests, number, number64, text};
use nix::sys::socket::SockProtocol;
use std::io;
use std::ops::Range;

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

    /// How the answer about a port is laid out: its counters' names and where their values lie, in the driver's order.
    pub(crate) fn layout(&mut self, port: &mut Request) -> io::Result<Layout> {
        self.0.ask(port, |message| Layout::of(message.body))
    }

    /// Asks for the counters of several ports; see [`Netlink::ask_each`].
    pub(crate) fn ask_each(
        &mut self,
        requests: &mut Requests,
        places: Range<usize>,
        take: impl FnMut(usize, io::Result<Message<'_>>),
    ) -> io::Result<()> {
        self.0.ask_each(requests, places, take)
    }
}

/// Asks for the counters of one port: a device by its index, a port from 1.
pub(crate) fn counters_of(device: u32, port: u32) -> Request {
    Request::new(kind(CMD_STAT_GET), &[]).u32(ATTR_DEV_INDEX, device).u32(ATTR_PORT_INDEX, port)
}

fn device(message: Message<'_>) -> Option<(u32, String)> {
    let attribute = |wanted| Attributes(message.body).find(|(kind, _)| *kind == wanted).map(|(_, payload)| payload);
    Some((number(attribute(ATTR_DEV_INDEX))?, text(attribute(ATTR_DEV_NAME)?).to_owned()))
}

/// An answer as it was once taken apart. Answers to the same request differ in the values alone, as long as the driver's
/// counters are the same: an answer that is the same everywhere else is read without being taken apart again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// The answer.
    body: Vec<u8>,
    /// Where each counter's value of 8 bytes begins in it.
    values: Vec<usize>,
    names: Vec<String>,
}

impl Layout {
    fn of(body: &[u8]) -> Self {
        let (mut values, mut names) = (Vec::new(), Vec::new());
        let tables = Attributes(body).filter(|(kind, _)| *kind == ATTR_HWCOUNTERS);
        let entries = tables.flat_map(|(_, table)| Attributes(table));
        for (_, entry) in entries.filter(|(kind, _)| *kind == ATTR_HWCOUNTER_ENTRY) {
            let (mut name, mut value) = (None, None);
            for (kind, payload) in Attributes(entry) {
                match kind {
                    ATTR_HWCOUNTER_NAME => name = Some(text(payload)),
                    ATTR_HWCOUNTER_VALUE if payload.len() == 8 => value = place(body, payload),
                    _ => {}
                }
            }
            if let (Some(name), Some(value)) = (name, value) {
                names.push(name.to_owned());
                values.push(value);
            }
        }
        Self { body: body.to_vec(), values, names }
    }

    /// Names of the counters.
    pub(crate) fn names(&self) -> &[String] {
        &self.names
    }

    /// Appends the counters' values in another answer; `false`, with nothing appended, where anything else differs.
    pub(crate) fn read(&self, answer: &[u8], values: &mut Vec<u64>) -> bool {
        let mut from = 0;
        let is_same = |from: usize, to: usize| answer.get(from..to).is_some_and(|part| part == &self.body[from..to]);
        for value in &self.values {
            if !is_same(from, *value) {
                return false;
            }
            from = value + 8;
        }
        if answer.len() != self.body.len() || !is_same(from, self.body.len()) {
            return false;
        }
        values.extend(self.values.iter().filter_map(|value| number64(answer.get(*value..))));
        true
    }
}

/// Where a part of a buffer begins in it.
fn place(whole: &[u8], part: &[u8]) -> Option<usize> {
    (part.as_ptr() as usize).checked_sub(whole.as_ptr() as usize)
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
    fn answer(first: u64, last: &str) -> Vec<u8> {
        let table = [entry("out_of_sequence", first), entry("np_cnp_sent", u64::MAX), entry(last, 0)].concat();
        [
            attribute(ATTR_DEV_INDEX, &0u32.to_ne_bytes()),
            attribute(ATTR_DEV_NAME, b"mlx5_0\0"),
            attribute(ATTR_PORT_INDEX, &1u32.to_ne_bytes()),
            attribute(ATTR_HWCOUNTERS | 0x8000, &table),
        ]
        .concat()
    }

    fn decoded(body: &[u8]) -> Vec<(String, u64)> {
        let (layout, mut values) = (Layout::of(body), Vec::new());
        assert!(layout.read(body, &mut values), "an answer is laid out like itself");
        layout.names().iter().cloned().zip(values).collect()
    }

    #[test]
    fn all_counters_of_a_port_come_out_of_one_answer_in_order() {
        let expected = [("out_of_sequence", 7), ("np_cnp_sent", u64::MAX), ("x", 0)];
        assert_eq!(decoded(&answer(7, "x")), expected.map(|(name, value)| (name.to_owned(), value)));
        assert_eq!(device(Message { kind: 0, body: &answer(7, "x") }), Some((0, "mlx5_0".to_owned())));
    }

    #[test]
    fn an_answer_that_differs_in_values_alone_is_read_and_any_other_is_not() {
        let layout = Layout::of(&answer(7, "x"));
        let mut values = vec![42];
        assert!(layout.read(&answer(u64::MAX - 1, "x"), &mut values));
        assert_eq!(values, [42, u64::MAX - 1, u64::MAX, 0]);
        let whole = answer(7, "x");
        let longer = [whole.clone(), attribute(ATTR_DEV_INDEX, &[0; 4])].concat();
        for other in [answer(7, "y"), answer(7, "another"), longer, Vec::new()] {
            assert!(!layout.read(&other, &mut values));
        }
        for length in 0..whole.len() {
            assert!(!layout.read(&whole[..length], &mut values), "cut at {length}");
        }
        assert_eq!(values.len(), 4, "nothing of them is taken");
    }

    #[test]
    fn an_answer_cut_anywhere_yields_only_whole_counters() {
        let whole = answer(7, "x");
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
