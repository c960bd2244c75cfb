//! Where a packet was: its interface and its network namespace.
//!
//! `sk_buff.dev` shares its place with other things: UDP keeps sizes there while it queues, TCP a tree's pointer. So a
//! device is believed only where its namespace's loopback device is of the same namespace, and the next best witness is
//! asked otherwise: the socket, the route.

use railwatch_abi::drops::FlowKey;

use crate::maps::{config, field};

/// Interface and namespace, 0 where unknown.
pub struct Place {
    pub interface: u32,
    pub namespace: u32,
}

impl Place {
    const UNKNOWN: Self = Self { interface: 0, namespace: 0 };

    /// Of a packet, with the socket it was for where the kernel tells (else 0).
    #[inline(always)]
    pub fn of_packet(skb: u64, receiver: u64) -> Self {
        if config!(has_interface) == 0 {
            return Self::UNKNOWN;
        }
        if let Some(place) = field(skb, config!(skb_dev)).and_then(of_device) {
            return place;
        }
        let interface = field(skb, config!(skb_iif)).unwrap_or(0);
        let namespace = of_owner(receiver)
            .or_else(|| field(skb, config!(skb_sk)).and_then(of_owner))
            .or_else(|| field(skb, config!(skb_dst)).and_then(of_route).map(|place| place.namespace))
            .unwrap_or(0);
        Self { interface, namespace }
    }

    /// Of a socket: its namespace, and the interface of its route.
    #[inline(always)]
    pub fn of_socket(socket: u64) -> Self {
        if config!(has_interface) == 0 || config!(has_socket) == 0 {
            return Self::UNKNOWN;
        }
        let route = field(socket, config!(sock_dst)).and_then(of_route);
        let interface = route.map_or(0, |place| place.interface);
        Self { interface, namespace: of_owner(socket).unwrap_or(0) }
    }

    /// A key with nothing but the place.
    #[inline(always)]
    pub fn key(&self) -> FlowKey {
        FlowKey {
            reason: 0,
            interface: self.interface,
            namespace: self.namespace,
            family: 0,
            protocol: 0,
            source_port: 0,
            destination_port: 0,
            pad: 0,
            source: [0; 4],
            destination: [0; 4],
        }
    }
}

#[inline(always)]
fn of_device(device: u64) -> Option<Place> {
    if device == 0 {
        return None;
    }
    let namespace = number(field(device, config!(device_net))?)?;
    Some(Place { interface: field(device, config!(device_ifindex))?, namespace })
}

/// Bit 0 says that the reference is not counted.
#[inline(always)]
fn of_route(route: u64) -> Option<Place> {
    let route = route & !1;
    if route == 0 {
        return None;
    }
    of_device(field(route, config!(dst_dev))?)
}

#[inline(always)]
fn of_owner(socket: u64) -> Option<u32> {
    if socket == 0 {
        return None;
    }
    number(field(socket, config!(sock_net))?)
}

/// The namespace's inode number, if `net` is a namespace.
#[inline(always)]
fn number(net: u64) -> Option<u32> {
    let loopback: u64 = field(net, config!(net_loopback))?;
    let back: u64 = field(loopback, config!(device_net))?;
    if back == net { field(net, config!(net_inum)) } else { None }
}
