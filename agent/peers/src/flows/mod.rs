//! TCP connections of the processes that use a GPU: who they talk to, and how much.

mod inet_diag;
mod netns;
mod processes;
mod source;

pub use source::{FLOWS_MAX, Figures, Flow, FlowSource, PROCESS_FLOWS_MAX};
