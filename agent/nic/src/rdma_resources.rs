//! RDMA netlink: which queue pairs there are, whose they are, and what they are connected to.
//!
//! In: the kernel's resource tracking, `RDMA_NLDEV_CMD_RES_GET` (how many), `RES_QP_GET` and `RES_CM_ID_GET` (each). Out: rows.
//! Counting is cheap. Listing is not: for each queue pair the kernel asks the driver (`fill_res_qp_entry`, `ib_query_qp`), which
//! on mlx5 is a firmware command. Process identifiers are those of the reader's pid namespace (`task_pid_vnr`).
//! Never: a change of a resource.
//! Numbers: include/uapi/rdma/rdma_netlink.h; layout: drivers/infiniband/core/nldev.c. Since Linux 4.17.

use crate::netlink::{Attributes, Message, Request, number, number64, text};
use crate::rdma_netlink::{ATTR_DEV_INDEX, ATTR_PORT_INDEX, RdmaNetlink, kind};
use std::io;
use std::net::{IpAddr, SocketAddr};

const CMD_RES_GET: u16 = 9;
const CMD_RES_QP_GET: u16 = 10;
const CMD_RES_CM_ID_GET: u16 = 11;

const ATTR_RES_SUMMARY: u16 = 15;
const ATTR_RES_SUMMARY_ENTRY: u16 = 16;
const ATTR_RES_SUMMARY_ENTRY_NAME: u16 = 17;
const ATTR_RES_SUMMARY_ENTRY_CURR: u16 = 18;
const ATTR_RES_QP: u16 = 19;
const ATTR_RES_QP_ENTRY: u16 = 20;
const ATTR_RES_LQPN: u16 = 21;
const ATTR_RES_RQPN: u16 = 22;
const ATTR_RES_TYPE: u16 = 26;
const ATTR_RES_STATE: u16 = 27;
const ATTR_RES_PID: u16 = 28;
const ATTR_RES_KERN_NAME: u16 = 29;
const ATTR_RES_CM_ID: u16 = 30;
const ATTR_RES_CM_ID_ENTRY: u16 = 31;
const ATTR_RES_SRC_ADDR: u16 = 33;
const ATTR_RES_DST_ADDR: u16 = 34;

/// Who made a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// A process, in the reader's pid namespace.
    Process(u32),
    /// A part of the kernel: `ib_core`, `rds_rdma`.
    Kernel(String),
    /// Its process is dead, or of a pid namespace that is not ours.
    Unknown,
}

/// A queue pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueuePair {
    /// Port from 1; `None` before it has one.
    pub port: Option<u32>,
    /// Its number on this device.
    pub number: u32,
    /// The other end's, of connected types alone. 0 before it is connected.
    pub remote_number: Option<u32>,
    /// `RC`, `UD`, …; `?` for one that this build does not know.
    pub kind: &'static str,
    /// `RTS`, …; `?` for one that this build does not know.
    pub state: &'static str,
    /// Whose it is.
    pub owner: Owner,
}

/// An identifier of the connection manager, which knows addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CmId {
    /// The queue pair it is of; `None` before there is one.
    pub queue_pair: Option<u32>,
    /// This end.
    pub source: Option<SocketAddr>,
    /// The other end.
    pub destination: Option<SocketAddr>,
}

/// A connection to the kernel's tracking of RDMA resources.
pub struct RdmaResources(RdmaNetlink);

impl RdmaResources {
    /// Opens it.
    ///
    /// # Errors
    /// The kernel has no RDMA subsystem, or refuses.
    pub fn open() -> io::Result<Self> {
        RdmaNetlink::open().map(Self)
    }

    /// Index and name of every RDMA device visible here.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn devices(&mut self) -> io::Result<Vec<(u32, String)>> {
        self.0.devices()
    }

    /// How many queue pairs a device has, without asking its driver.
    ///
    /// # Errors
    /// What the kernel answered (`ENODEV`, …), or an answer without the figure.
    pub fn queue_pair_count(&mut self, device: u32) -> io::Result<u64> {
        let mut request = Request::new(kind(CMD_RES_GET), &[]).u32(ATTR_DEV_INDEX, device);
        self.0.0.ask(&mut request, count)?.ok_or_else(|| crate::netlink::malformed("a summary without queue pairs"))
    }

    /// Hands every queue pair of a device to `take`.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn queue_pairs(&mut self, device: u32, mut take: impl FnMut(QueuePair)) -> io::Result<()> {
        let mut request = Request::new(kind(CMD_RES_QP_GET), &[]).u32(ATTR_DEV_INDEX, device);
        self.0.0.dump(&mut request, |message| {
            entries(message, ATTR_RES_QP, ATTR_RES_QP_ENTRY).filter_map(queue_pair).for_each(&mut take);
        })
    }

    /// Hands every identifier of the connection manager on a device to `take`.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn cm_ids(&mut self, device: u32, mut take: impl FnMut(CmId)) -> io::Result<()> {
        let mut request = Request::new(kind(CMD_RES_CM_ID_GET), &[]).u32(ATTR_DEV_INDEX, device);
        self.0.0.dump(&mut request, |message| {
            entries(message, ATTR_RES_CM_ID, ATTR_RES_CM_ID_ENTRY).map(cm_id).for_each(&mut take);
        })
    }
}

/// The entries of a table that an answer holds.
fn entries(message: Message<'_>, table: u16, entry: u16) -> impl Iterator<Item = &[u8]> {
    let tables = Attributes(message.body).filter(move |(kind, _)| *kind == table);
    tables.flat_map(|(_, table)| Attributes(table)).filter(move |(kind, _)| *kind == entry).map(|(_, entry)| entry)
}

fn count(message: Message<'_>) -> Option<u64> {
    entries(message, ATTR_RES_SUMMARY, ATTR_RES_SUMMARY_ENTRY)
        .find(|entry| Attributes(entry).find_kind(ATTR_RES_SUMMARY_ENTRY_NAME).map(text) == Some("qp"))
        .and_then(|entry| number64(Attributes(entry).find_kind(ATTR_RES_SUMMARY_ENTRY_CURR)))
}

fn queue_pair(entry: &[u8]) -> Option<QueuePair> {
    let attribute = |kind| Attributes(entry).find_kind(kind);
    let byte = |kind| attribute(kind).and_then(|payload| payload.first().copied());
    let owner = match (attribute(ATTR_RES_KERN_NAME), number(attribute(ATTR_RES_PID))) {
        (Some(name), _) => Owner::Kernel(text(name).to_owned()),
        (None, Some(pid)) if pid != 0 => Owner::Process(pid),
        (None, _) => Owner::Unknown,
    };
    Some(QueuePair {
        port: number(attribute(ATTR_PORT_INDEX)),
        number: number(attribute(ATTR_RES_LQPN))?,
        remote_number: number(attribute(ATTR_RES_RQPN)),
        kind: byte(ATTR_RES_TYPE).map_or("?", kind_name),
        state: byte(ATTR_RES_STATE).map_or("?", state_name),
        owner,
    })
}

/// enum ib_qp_type, include/rdma/ib_verbs.h.
fn kind_name(kind: u8) -> &'static str {
    match kind {
        0 => "SMI",
        1 => "GSI",
        2 => "RC",
        3 => "UC",
        4 => "UD",
        5 => "RAW_IPV6",
        6 => "RAW_ETHERTYPE",
        8 => "RAW_PACKET",
        9 => "XRC_INI",
        10 => "XRC_TGT",
        0xff => "DRIVER",
        _ => "?",
    }
}

/// enum ib_qp_state, include/rdma/ib_verbs.h.
fn state_name(state: u8) -> &'static str {
    ["RESET", "INIT", "RTR", "RTS", "SQD", "SQE", "ERR"].get(usize::from(state)).copied().unwrap_or("?")
}

fn cm_id(entry: &[u8]) -> CmId {
    let attribute = |kind| Attributes(entry).find_kind(kind);
    CmId {
        queue_pair: number(attribute(ATTR_RES_LQPN)).filter(|number| *number != 0),
        source: attribute(ATTR_RES_SRC_ADDR).and_then(socket_address),
        destination: attribute(ATTR_RES_DST_ADDR).and_then(socket_address),
    }
}

/// A `struct sockaddr_storage` with an Internet address; `None` for any other, and for one without an address yet.
fn socket_address(bytes: &[u8]) -> Option<SocketAddr> {
    let family = i32::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
    let port = u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?);
    let address: IpAddr = match family {
        nix::libc::AF_INET => <[u8; 4]>::try_from(bytes.get(4..8)?).ok()?.into(),
        nix::libc::AF_INET6 => <[u8; 16]>::try_from(bytes.get(8..24)?).ok()?.into(),
        _ => return None,
    };
    (!address.is_unspecified()).then(|| SocketAddr::new(address.to_canonical(), port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn attribute(kind: u16, payload: &[u8]) -> Vec<u8> {
        let mut bytes = u16::try_from(payload.len() + 4).expect("small").to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(payload);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn nested(kind: u16, inner: &[Vec<u8>]) -> Vec<u8> {
        attribute(kind | 0x8000, &inner.concat())
    }

    fn u32_of(kind: u16, value: u32) -> Vec<u8> {
        attribute(kind, &value.to_ne_bytes())
    }

    fn queue_pairs(body: &[u8]) -> Vec<QueuePair> {
        entries(Message { kind: 0, body }, ATTR_RES_QP, ATTR_RES_QP_ENTRY).filter_map(queue_pair).collect()
    }

    #[test]
    fn queue_pairs_come_with_both_numbers_their_state_and_whose_they_are() {
        let of_a_process = [
            u32_of(ATTR_PORT_INDEX, 1),
            u32_of(ATTR_RES_LQPN, 0x11),
            u32_of(ATTR_RES_PID, 4711),
            u32_of(ATTR_RES_RQPN, 0x12),
            attribute(ATTR_RES_TYPE, &[2]),
            attribute(ATTR_RES_STATE, &[3]),
        ];
        let of_the_kernel = [
            u32_of(ATTR_RES_LQPN, 1),
            attribute(ATTR_RES_KERN_NAME, b"ib_core\0"),
            attribute(ATTR_RES_TYPE, &[1]),
            attribute(ATTR_RES_STATE, &[77]),
        ];
        let without_a_number = [u32_of(ATTR_RES_PID, 1)];
        let table = [&of_a_process[..], &of_the_kernel, &without_a_number].map(|qp| nested(ATTR_RES_QP_ENTRY, qp));
        let body = [u32_of(ATTR_DEV_INDEX, 0), nested(ATTR_RES_QP, &table)].concat();
        let (rc, rts) = ("RC", "RTS");
        let expected = [
            QueuePair {
                port: Some(1),
                number: 0x11,
                remote_number: Some(0x12),
                kind: rc,
                state: rts,
                owner: Owner::Process(4711),
            },
            QueuePair {
                port: None,
                number: 1,
                remote_number: None,
                kind: "GSI",
                state: "?",
                owner: Owner::Kernel("ib_core".into()),
            },
        ];
        assert_eq!(queue_pairs(&body), expected);
        for length in 0..body.len() {
            // What is cut out of the last entry is absent, never wrong.
            assert!(queue_pairs(&body[..length]).len() <= 2, "{length}");
        }
    }

    #[test]
    fn the_summary_says_how_many_queue_pairs_there_are() {
        let row = |name: &[u8], count: u64| {
            let inner = [
                attribute(ATTR_RES_SUMMARY_ENTRY_NAME, name),
                attribute(ATTR_RES_SUMMARY_ENTRY_CURR, &count.to_ne_bytes()),
            ];
            nested(ATTR_RES_SUMMARY_ENTRY, &inner)
        };
        let body = nested(ATTR_RES_SUMMARY, &[row(b"pd\0", 9), row(b"qp\0", 300), row(b"cm_id\0", 1)]);
        assert_eq!(count(Message { kind: 0, body: &body }), Some(300));
        let body = nested(ATTR_RES_SUMMARY, &[row(b"pd\0", 9)]);
        assert_eq!(count(Message { kind: 0, body: &body }), None);
    }

    #[test]
    fn addresses_of_the_connection_manager_are_told_where_they_are_known() {
        let mut v4 = [0u8; 128];
        v4[..2].copy_from_slice(&2u16.to_ne_bytes());
        v4[2..8].copy_from_slice(&[0x12, 0xb7, 10, 0, 0, 1]);
        let mut v6 = [0u8; 128];
        v6[..2].copy_from_slice(&10u16.to_ne_bytes());
        v6[2..4].copy_from_slice(&[0x12, 0xb7]);
        v6[8] = 0xfe;
        v6[9] = 0x80;
        v6[23] = 7;
        let entry =
            [u32_of(ATTR_RES_LQPN, 17), attribute(ATTR_RES_SRC_ADDR, &v4), attribute(ATTR_RES_DST_ADDR, &v6)].concat();
        let expected = CmId {
            queue_pair: Some(17),
            source: "10.0.0.1:4791".parse().ok(),
            destination: "[fe80::7]:4791".parse().ok(),
        };
        assert_eq!(cm_id(&entry), expected);
        assert_eq!(socket_address(&[0; 128]), None);
        v4[4..8].fill(0);
        assert_eq!(socket_address(&v4), None, "an address that nobody has bound yet");
    }

    proptest! {
        #[test]
        fn no_bytes_whatever_break_the_decoders(body in prop::collection::vec(any::<u8>(), 0..300)) {
            let message = Message { kind: 0, body: &body };
            let _ = (count(message), queue_pair(&body), cm_id(&body), queue_pairs(&body));
        }
    }
}
