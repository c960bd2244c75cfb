//! The room of disk requests: whether they are timed, and whose are told apart.
//!
//! In: the configuration, and the GPU processes that the GPU room knows. Out: the source for the sampler. Never: a load where
//! the memory limit has no room for the maps.

use crate::config::Disk as Config;
use crate::privileges::Limitation;
use crate::shared::Shared;
use railwatch_disk::DiskLatencySource;
use railwatch_gpu::kernel::offsets::Types;
use railwatch_sampling::Source;
use std::path::Path;
use std::sync::Arc;

/// The source, where it is wanted and has room; why not otherwise is among the limitations.
pub fn source(config: &Config, sysfs_root: &Path, shared: &Arc<Shared>, types: Types) -> Option<Box<dyn Source>> {
    if !config.enabled {
        return None;
    }
    if let Some(why) = shared.facts.no_room_for_maps() {
        shared.set_limitations("disk", vec![Limitation::new("times of disk requests", why)]);
        return None;
    }
    let processes = {
        let shared = Arc::clone(shared);
        move || {
            let state = shared.gpu().state;
            let live = state.processes.iter().filter(|process| process.exited_unix_ns.is_none());
            live.map(|process| process.pid).collect()
        }
    };
    Some(Box::new(DiskLatencySource::new(sysfs_root.to_owned(), Box::new(processes)).with_types(types)))
}
