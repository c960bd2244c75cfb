//! Ctrl-C and SIGTERM: a person wants the lab gone, and it goes in order.

use anyhow::{Result, bail};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

extern "C" fn on_signal(_: i32) {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// From here on a request to stop is an error of the next [`pause`], and what is held is let go in order.
///
/// # Errors
/// The system refuses the handler.
pub fn listen() -> Result<()> {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let action = SigAction::new(SigHandler::Handler(on_signal), SaFlags::SA_RESTART, SigSet::empty());
        // SAFETY: the handler stores into an atomic and nothing else.
        unsafe { sigaction(signal, &action) }?;
    }
    Ok(())
}

/// Waits.
///
/// # Errors
/// Somebody asked to stop.
pub fn pause(duration: Duration) -> Result<()> {
    thread::sleep(duration);
    if INTERRUPTED.load(Ordering::Relaxed) {
        bail!("interrupted");
    }
    Ok(())
}
