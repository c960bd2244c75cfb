//! GPU memory, calls and collectives of every process on the host, without touching one of them.
//!
//! In: uprobes on the GPU libraries' functions (kernel half: `agent-ebpf/`). Out: rows per process, device and layer
//! ([`accounts`]), a coverage report ([`coverage`]), and few, urgent events ([`kernel`]).
//! Never: a changed training job, an estimate shown as a balance, a loss that is not counted.

pub mod accounts;
pub mod coverage;
pub mod discovery;
pub mod kernel;
pub mod scope;
pub mod symbols;
