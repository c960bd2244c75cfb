//! The collector's memory: one SQLite file (WAL, synchronous=FULL) with one writer and any number of readers.
//!
//! In: batches of frames, effects and events. Out: what was stored, to a restarted engine and to the API. A batch is one transaction, so
//! that a frame is acknowledged exactly when its signal and what the engine made of it are on disk.
//! It never decides anything, and it never drops anything that is not counted.
#![forbid(unsafe_code)]

mod batch;
mod error;
mod former;
mod inventory;
mod map;
mod prune;
mod reader;
mod schema;
mod writer;

pub use batch::{Batch, Frame, FrameBody, FrameVerdict, StreamId};
pub use error::StoreError;
pub use former::{End, Former};
pub use inventory::{ChangeFilter, HostInventory, InventoryChange, InventoryFilter, InventoryItem, InventoryRow};
pub use map::{MapChange, MapChanged, MapRow};
pub use prune::{Pruned, Retention};
pub use reader::{
    AuditFilter, DecisionFilter, IncidentFilter, OrderRow, OrderState, Reader, SignalFilter, StoredSignal, Totals,
};
pub use writer::{Committed, Store};
