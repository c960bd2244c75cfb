//! The inventory source, told what other rooms know: libraries of GPU processes, optical modules.

use crate::config::Config;
use crate::shared::Shared;
use railwatch_inventory::{InventoryConfig, InventorySource, Known, ModuleFacts};
use railwatch_sampling::Source;
use std::sync::Arc;

/// The source; `None` where it is off.
pub fn source(config: &Config, shared: &Arc<Shared>) -> Option<Box<dyn Source>> {
    if !config.inventory.enabled {
        return None;
    }
    let roots = InventoryConfig {
        sysfs_root: config.sampling.sysfs_root.clone(),
        procfs_root: config.health.procfs_root.clone(),
        software_interfaces: config.sampling.software_interfaces.clone(),
        nvml_library: config.health.nvml_library.clone(),
    };
    let (asked, told) = (Arc::clone(shared), Arc::clone(shared));
    let publish = move |state| {
        if told.inventory.set(state) {
            told.news.notify_one();
        }
    };
    Some(Box::new(InventorySource::new(roots, move || known(&asked), publish)))
}

fn known(shared: &Shared) -> Known {
    let coverage = &shared.gpu().state.coverage;
    let modules = shared.modules.all().into_iter().map(|(interface, module)| ModuleFacts {
        interface,
        is_unplugged: module.state == Some("unplugged"),
        vendor: module.vendor,
        part_number: module.part_number,
        serial: module.serial,
        revision: module.revision,
    });
    Known { objects: coverage.iter().map(|row| (row.pid, row.object.clone())).collect(), modules: modules.collect() }
}
