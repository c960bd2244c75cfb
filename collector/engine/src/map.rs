//! What the fabric is made of and how it hangs together, as those who see a part of it say.
//!
//! In: what each reporter says now ([`Statement`]s): hosts' agents, switches, an inventory file. Out: the [`Topology`] that people read, with who
//! says what and how likely it is, and the [`Fabric`] that planners and path searches read. Pure: no clock, no IO. A statement is
//! believed by its [`Source`], and the map never invents a node, a port or a link that nobody spoke of.

mod fabric;
mod fact;
mod history;
mod reports;
mod statement;
mod topology;
mod way;

pub use fabric::{Direction, Fabric, FabricError, Link, Nic, Node, Path, PathSet, PortName};
pub use fact::Standing;
pub use history::{Change, Kept, State, changes};
pub use reports::{AFTER_GONE_NS, Map, MapCounts, NODE_AFTER_GONE_NS, TRACE_FRESH_NS, Trace};
pub use statement::{Flow, NodeKind, Source, Statement, Transport};
pub use topology::{ContainsFact, Contradiction, LinkFact, NodeFact, PortFact, Topology, Unknown};
pub use way::Ways;
