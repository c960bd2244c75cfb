//! What the fabric is made of and how it hangs together, as those who see a part of it say.
//!
//! In: what each reporter says now ([`Statement`]s): hosts' agents, switches, an inventory file. Out: the [`Fabric`] that
//! planners and path searches read. Pure: no clock, no IO. A statement is believed by its [`Source`], and the map never invents a
//! node, a port or a link that nobody spoke of.

mod fabric;
mod statement;

pub use fabric::{Direction, Fabric, FabricError, Link, Nic, Node, Path, PathSet, PortName};
pub use statement::{Flow, NodeKind, Source, Statement, Transport};
