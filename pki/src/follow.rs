//! Follows the files of credentials: looks every interval, takes what is good, says what is not, and warns
//! before the own certificate ends.

use crate::credentials::{Credentials, Reload};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Warn when this much or less is left of the own certificate's life.
const WARN_BEFORE: Duration = Duration::from_secs(7 * 24 * 3600);
/// Warn again after this long.
const WARN_EVERY: Duration = Duration::from_secs(24 * 3600);

/// Runs until it is dropped. Polling, because secrets are replaced by symlinks, renames and mounts, and no watch
/// sees all three; a look costs four `stat` calls.
pub async fn follow(credentials: Arc<Credentials>, interval: Duration) {
    let mut said = String::new();
    let mut warned: Option<SystemTime> = None;
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match credentials.reload() {
            Reload::Unchanged => {}
            Reload::Reloaded => {
                said.clear();
                tracing::info!(certificate = %credentials.files().certificate.display(), "new certificates are in use for new connections");
            }
            Reload::Kept(error) => {
                let text = error.to_string();
                if text != said {
                    tracing::error!("changed certificate files are not used, the old ones stay: {text}");
                    said = text;
                }
            }
        }
        let now = SystemTime::now();
        let left = credentials.not_after().duration_since(now).unwrap_or_default();
        let quiet = warned.is_some_and(|at| now.duration_since(at).is_ok_and(|since| since < WARN_EVERY));
        if left <= WARN_BEFORE && !quiet {
            warned = Some(now);
            tracing::error!(
                certificate = %credentials.files().certificate.display(),
                hours_left = left.as_secs() / 3600,
                "the own certificate ends soon; peers refuse it after that: issue a new one and put it in place"
            );
        }
    }
}
