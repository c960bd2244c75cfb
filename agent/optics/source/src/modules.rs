//! What the host's modules are and measured last: written by the source, read by the uplink.

use railwatch_optics::Module;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The modules, by interface.
#[derive(Debug, Default)]
pub struct Modules(Mutex<BTreeMap<String, Module>>);

impl Modules {
    /// All of them as they were read last; one whose cage is empty now has the state `unplugged` and nothing else.
    #[must_use]
    pub fn all(&self) -> Vec<(String, Module)> {
        self.locked().iter().map(|(interface, module)| (interface.clone(), module.clone())).collect()
    }

    pub(crate) fn set(&self, interface: &str, module: Module) {
        self.locked().insert(interface.to_owned(), module);
    }

    /// The module of an interface was taken out.
    pub(crate) fn unplugged(&self, interface: &str) {
        if let Some(module) = self.locked().get_mut(interface) {
            *module = Module { state: Some("unplugged"), ..Module::default() };
        }
    }

    /// Forgets interfaces that are no more.
    pub(crate) fn retain(&self, is_there: impl Fn(&str) -> bool) {
        self.locked().retain(|interface, _| is_there(interface));
    }

    fn locked(&self) -> MutexGuard<'_, BTreeMap<String, Module>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
