//! What interfaces are called.
//!
//! In: an interface's index and its network namespace. Out: a name: of the agent's own namespace as the kernel says it,
//! of another one the index and the namespace's number. Never: more names kept than the bound.

use nix::net::if_::if_indextoname;
use std::collections::HashMap;

/// Names kept; beyond it all are asked for again.
const NAMES_MAX: usize = 4_096;

/// Names, asked for once.
#[derive(Debug)]
pub struct Interfaces {
    /// Namespace that this thread is in and that names can be asked of; 0 for none.
    own: u32,
    known: HashMap<u32, String>,
}

impl Interfaces {
    /// For a thread in the network namespace `own`.
    #[must_use]
    pub fn new(own: u32) -> Self {
        Self { own, known: HashMap::new() }
    }

    /// The name, or what is known where it has none; `None` where the packet had no interface.
    pub fn name(&mut self, namespace: u32, interface: u32) -> Option<String> {
        if interface == 0 {
            return None;
        }
        // Where the namespace is not known, the index is most likely the host's, but nothing proves it.
        if namespace != self.own || namespace == 0 {
            return Some(format!("if{interface}@{namespace}"));
        }
        if let Some(name) = self.known.get(&interface) {
            return Some(name.clone());
        }
        let Some(name) = ask(interface) else { return Some(format!("if{interface}")) };
        if self.known.len() >= NAMES_MAX {
            self.known.clear();
        }
        self.known.insert(interface, name.clone());
        Some(name)
    }

    /// Asks again whether an interface is there, and what it is called now.
    pub fn refresh(&mut self, interface: u32) -> bool {
        match ask(interface) {
            Some(name) => {
                self.known.insert(interface, name);
                true
            }
            None => {
                self.known.remove(&interface);
                false
            }
        }
    }
}

fn ask(interface: u32) -> Option<String> {
    // An interface that is not there gives an error or, with some C libraries, an empty name.
    let name = if_indextoname(interface).ok()?.to_string_lossy().into_owned();
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_is_named_where_it_is_ours_and_numbered_where_it_is_not() {
        let mut names = Interfaces::new(7);
        assert_eq!(names.name(7, 0), None);
        assert_eq!(names.name(7, 1).as_deref(), Some("lo"));
        assert_eq!(names.name(9, 1).as_deref(), Some("if1@9"));
        assert_eq!(names.name(7, 999_999).as_deref(), Some("if999999"));
        assert!(names.refresh(1) && !names.refresh(999_999));
    }
}
