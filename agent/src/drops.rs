//! The room of packet drops: whether they are counted, and how they are told.
//!
//! In: the configuration. Out: the source for the sampler and its part of the snapshot. Never: a load where the memory
//! limit has no room for the maps.

use crate::config::{Drops as Config, Scope as ConfiguredScope};
use crate::convert;
use crate::privileges::Limitation;
use crate::shared::Shared;
use railwatch_drops::{DropView, Drops, DropsSource, ShownFlow, TotalRow};
use railwatch_gpu::kernel::offsets::Types;
use railwatch_gpu::scope::Scope;
use railwatch_sampling::Source;
use railwatch_sampling::clock::{monotonic_ns, realtime_ns};
use railwatch_wire::v1;
use std::path::Path;
use std::sync::Arc;

/// The source, where it is wanted and has room; why not otherwise is among the limitations.
pub fn source(config: &Config, shared: &Shared, types: Types) -> Option<(Box<dyn Source>, Arc<Drops>)> {
    if !config.enabled {
        return None;
    }
    let off = |why: String| {
        shared.set_limitations("drops", vec![Limitation::new("packet drops", why)]);
        None
    };
    if let Some(why) = shared.facts.no_room_for_maps() {
        return off(why);
    }
    let scope = match &config.scope {
        ConfiguredScope::None => Scope::Host,
        ConfiguredScope::Netns => match Scope::network_namespace(Path::new("/proc/self/ns/net")) {
            Ok(scope) => scope,
            Err(error) => return off(format!("reading this network namespace: {error}")),
        },
        ConfiguredScope::Cgroup(_) => {
            return off("a packet is dropped outside any process: drops.scope is none or netns".to_owned());
        }
    };
    let (source, drops) = DropsSource::new(scope);
    Some((Box::new(source.with_types(types)), drops))
}

/// As the wire says it.
pub fn state(view: &DropView, off: Vec<(String, String)>) -> v1::DropState {
    let unix_less_mono_ns = realtime_ns().saturating_sub(monotonic_ns());
    let dropped = view.elsewhere.iter().map(|(reason, count)| ((*reason).to_owned(), *count)).collect();
    v1::DropState {
        flows: view.flows.iter().map(|shown| flow(shown, unix_less_mono_ns)).collect(),
        totals: view.totals.iter().map(total).collect(),
        account: Some(v1::LossAccount { seen: view.seen, delivered: view.in_flows, dropped }),
        off: off.into_iter().map(|(what, why)| convert::limitation(what, why)).collect(),
    }
}

fn flow(shown: &ShownFlow, unix_less_mono_ns: u64) -> v1::DropFlow {
    let ShownFlow { reason, class, interface, row } = shown;
    v1::DropFlow {
        reason: reason.clone(),
        class: class.name().to_owned(),
        interface: interface.clone(),
        network_namespace: row.key.namespace,
        protocol: row.protocol(),
        source: row.source().to_string(),
        source_port: row.key.source_port.into(),
        destination: row.destination().to_string(),
        destination_port: row.key.destination_port.into(),
        packets: row.flow.packets,
        bytes: row.flow.bytes,
        first_seen_unix_ns: row.flow.first_ns.saturating_add(unix_less_mono_ns),
        last_seen_unix_ns: row.flow.last_ns.saturating_add(unix_less_mono_ns),
    }
}

fn total(total: &TotalRow) -> v1::DropTotal {
    let TotalRow { reason, class, interface, packets, bytes } = total;
    v1::DropTotal {
        reason: reason.clone(),
        class: class.name().to_owned(),
        interface: interface.clone(),
        packets: *packets,
        bytes: *bytes,
    }
}
