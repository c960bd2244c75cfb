//! What the service manager is told (sd_notify(3)): started, reloading, alive, ending. Without one, nothing happens.

use sd_notify::NotifyState;
use std::time::Duration;

/// Ready for work, and what it does in one line for `systemctl status`.
pub fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Reads its configuration again; [`ready`] follows.
pub fn reloading() {
    // Type=notify-reload wants the time beside it.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(_) => tell(&[NotifyState::Reloading]),
    }
}

/// Ends.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Alive: called by the loop that would stand still if the agent hung.
pub fn alive() {
    tell(&[NotifyState::Watchdog]);
}

/// How often [`alive`] is expected, halved so that one late call does no harm; `None` without a watchdog.
pub fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|interval| interval / 2)
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "the service manager could not be told");
    }
}
