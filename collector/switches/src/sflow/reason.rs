//! Names of the reasons for which a switch drops a packet.
//!
//! Source: sFlow.org, "sFlow Dropped Packet Notification Structures", enumeration `drop_reason`: 0 to 15 are the codes of ICMP destination
//! unreachable (RFC 792, RFC 1812), from 256 on those of Linux's devlink traps and of ASICs.

/// From 0.
const UNREACHABLE: [&str; 16] = [
    "net_unreachable",
    "host_unreachable",
    "protocol_unreachable",
    "port_unreachable",
    "frag_needed",
    "src_route_failed",
    "dst_net_unknown",
    "dst_host_unknown",
    "src_host_isolated",
    "dst_net_prohibited",
    "dst_host_prohibited",
    "dst_net_tos_unreachable",
    "dst_host_tos_unreachable",
    "comm_admin_prohibited",
    "host_precedence_violation",
    "precedence_cutoff",
];

/// From 256.
const FORWARDING: [&str; 37] = [
    "unknown",
    "ttl_exceeded",
    "acl",
    "no_buffer_space",
    "red",
    "traffic_shaping",
    "pkt_too_big",
    "src_mac_is_multicast",
    "vlan_tag_mismatch",
    "ingress_vlan_filter",
    "ingress_spanning_tree_filter",
    "port_list_is_empty",
    "port_loopback_filter",
    "blackhole_route",
    "non_ip",
    "uc_dip_over_mc_dmac",
    "dip_is_loopback_address",
    "sip_is_mc",
    "sip_is_loopback_address",
    "ip_header_corrupted",
    "ipv4_sip_is_limited_bc",
    "ipv6_mc_dip_reserved_scope",
    "ipv6_mc_dip_interface_local_scope",
    "unresolved_neigh",
    "mc_reverse_path_forwarding",
    "non_routable_packet",
    "decap_error",
    "overlay_smac_is_mc",
    "unknown_l2",
    "unknown_l3",
    "unknown_l3_exception",
    "unknown_buffer",
    "unknown_tunnel",
    "unknown_l4",
    "sip_is_unspecified",
    "mlag_port_isolation",
    "blackhole_arp_neigh",
];

/// Name of a reason: `no_buffer_space`; `reason_400` where it has none here.
#[must_use]
pub fn reason(number: u32) -> String {
    let of = |names: &[&str], first: u32| {
        let at = usize::try_from(number.checked_sub(first)?).ok()?;
        names.get(at).map(|name| (*name).to_owned())
    };
    of(&UNREACHABLE, 0).or_else(|| of(&FORWARDING, 256)).unwrap_or_else(|| format!("reason_{number}"))
}

#[cfg(test)]
mod tests {
    use super::reason;

    #[test]
    fn the_ends_of_the_lists_have_their_numbers() {
        for (number, name) in [
            (0, "net_unreachable"),
            (15, "precedence_cutoff"),
            (16, "reason_16"),
            (256, "unknown"),
            (269, "blackhole_route"),
            (284, "unknown_l2"),
            (292, "blackhole_arp_neigh"),
            (293, "reason_293"),
        ] {
            assert_eq!(reason(number), name);
        }
    }
}
