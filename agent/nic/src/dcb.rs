//! Priority flow control as DCB netlink tells it (IEEE 802.1Qaz, `dcb pfc show`).
//!
//! In: an interface's name. Out: which priorities have PFC on, and the pause frames sent (requests) and received
//! (indications) on each, as fresh as the driver has them. Numbers: include/uapi/linux/dcbnl.h.

use crate::netlink::{Attributes, Message, Netlink, Request, malformed, number64};
use std::io;

const RTM_GETDCB: u16 = 78;
const CMD_IEEE_GET: u8 = 21;
const ATTR_IFNAME: u16 = 1;
const ATTR_IEEE: u16 = 13;
const ATTR_IEEE_PFC: u16 = 2;

/// Priorities of IEEE 802.1p.
pub(crate) const PRIORITIES: usize = 8;

/// `struct ieee_pfc`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pfc {
    /// One bit for each priority that has PFC on.
    pub(crate) enabled: u8,
    pub(crate) requests: [u64; PRIORITIES],
    pub(crate) indications: [u64; PRIORITIES],
}

impl Pfc {
    /// Asks about one interface; `None` where its driver speaks DCB but not PFC.
    pub(crate) fn ask(netlink: &mut Netlink, interface: &str) -> io::Result<Option<Self>> {
        let mut request = Request::new(RTM_GETDCB, &[0, CMD_IEEE_GET, 0, 0]).text(ATTR_IFNAME, interface);
        netlink.ask(&mut request, decode)?
    }
}

fn decode(message: Message<'_>) -> io::Result<Option<Pfc>> {
    let attributes = Attributes(message.body.get(4..).unwrap_or_default());
    let Some(pfc) = attributes.find_kind(ATTR_IEEE).and_then(|ieee| Attributes(ieee).find_kind(ATTR_IEEE_PFC)) else {
        return Ok(None);
    };
    let counts = |from: usize| -> Option<[u64; PRIORITIES]> {
        let mut counts = [0; PRIORITIES];
        for (priority, count) in counts.iter_mut().enumerate() {
            *count = number64(pfc.get(from + priority * 8..))?;
        }
        Some(counts)
    };
    let whole = || Some(Pfc { enabled: *pfc.get(1)?, requests: counts(8)?, indications: counts(72)? });
    whole().map(Some).ok_or_else(|| malformed("PFC cut short"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(payload.len() + 4).expect("small");
        [&length.to_ne_bytes(), &kind.to_ne_bytes(), payload].concat()
    }

    fn decoded(pfc: &[u8]) -> io::Result<Option<Pfc>> {
        let body = [vec![0, CMD_IEEE_GET, 0, 0], attribute(ATTR_IEEE, &attribute(ATTR_IEEE_PFC, pfc))].concat();
        decode(Message { kind: RTM_GETDCB, body: &body })
    }

    #[test]
    fn priorities_and_counts_are_where_the_kernels_struct_has_them() {
        let mut pfc = [0u8; 136];
        pfc[1] = 0b1000;
        pfc[8 + 3 * 8..][..8].copy_from_slice(&7u64.to_ne_bytes());
        pfc[72 + 3 * 8..][..8].copy_from_slice(&9u64.to_ne_bytes());
        let told = decoded(&pfc).expect("whole").expect("has PFC");
        assert_eq!((told.enabled, told.requests[3], told.indications[3]), (8, 7, 9));
        assert_eq!((told.requests[2], told.indications[4]), (0, 0));
        for length in [0, 1, 8, 135] {
            assert!(decoded(&pfc[..length]).is_err(), "{length} bytes");
        }
        assert!(matches!(decode(Message { kind: RTM_GETDCB, body: &[0, CMD_IEEE_GET, 0, 0] }), Ok(None)));
    }
}
