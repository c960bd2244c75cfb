//! The flow label of IPv6 packets (RFC 6437): 20 bits by which switches, and Linux by default, choose among equal-cost paths (RFC 6438).
//!
//! In: both ends of a flow. Out: a label, the same on each host and at each time. The kernel would draw one itself, by a secret of each boot
//! (`net.ipv6.auto_flowlabels`): then nobody could send a trace of the very same way. Pure. Never: 0, which means that there is none.

use std::net::SocketAddrV6;

const LABEL_MAX: u64 = 0xf_ffff;

/// Of packets from `source` to `destination`.
#[must_use]
pub(crate) fn flow_label(source: SocketAddrV6, destination: SocketAddrV6) -> u32 {
    let ports = u64::from(source.port()) << 16 | u64::from(destination.port());
    let halves = [source.ip().to_bits(), destination.ip().to_bits()].map(|bits| [(bits >> 64) as u64, bits as u64]);
    let mixed = halves.into_iter().flatten().chain([ports]).fold(0, |all, part| mix(all ^ part));
    // 1 to LABEL_MAX, which fits.
    (1 + mixed % LABEL_MAX) as u32
}

/// splitmix64: Steele, Lea, Flood, OOPSLA 2014.
fn mix(number: u64) -> u64 {
    let z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::net::Ipv6Addr;

    #[test]
    fn each_flow_has_its_own_which_is_never_none() {
        let end = |host: u16, port: u16| SocketAddrV6::new(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, host), port, 0, 0);
        let labels: Vec<_> = (0..4096).map(|port| flow_label(end(1, 20_480 + port), end(2, 7704))).collect();
        assert!(labels.iter().all(|label| (1..=0xf_ffff).contains(label)));
        let distinct: BTreeSet<_> = labels.iter().collect();
        // Of 4,096 draws among a million some eight are alike.
        assert!(distinct.len() > 4060, "{}", distinct.len());
        for bit in 0..20 {
            let ones = labels.iter().filter(|label| **label >> bit & 1 == 1).count();
            assert!((1800..2300).contains(&ones), "bit {bit}: {ones} of 4096");
        }
        assert_ne!(
            flow_label(end(1, 1), end(2, 2)),
            flow_label(end(2, 2), end(1, 1)),
            "an answer is a flow of its own"
        );
    }
}
