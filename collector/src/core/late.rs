//! Agents that are late: is it the agent, or its host?
//!
//! In: connections with the time of their last word. Out: what the kernels of those acknowledged last, and a prod to their streams, which
//! send something small then. Only connections of which the agent is late are looked at, one system call each 200 ms, and prodded for two
//! seconds; later their own keepalive asks, which fills no buffer of a process that does not read. Where data came that nobody here has read
//! yet, it is this collector that is late: the host was heard. Never: a judgement, which is the engine's.

use super::task::Connection;
use crate::clock::nanoseconds;
use railwatch_engine::Timestamp;
use railwatch_pki::LastWord;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

const MS: u64 = 1_000_000;
/// Two heartbeats: an agent that runs has spoken by then.
const LATE_AFTER_NS: u64 = 400 * MS;
/// Between two looks, and two prods.
const LOOK_EVERY_NS: u64 = 200 * MS;
/// So long a late agent is prodded.
const PROD_FOR_NS: u64 = 2_000 * MS;
/// The kernel counts by its tick, of 10 ms at most: what is newer by more than this is another word.
const NEWER_NS: u64 = 100 * MS;

/// What was done about one connection.
#[derive(Debug, Default)]
pub(super) struct Watch {
    looked: Timestamp,
}

/// Looks at the late ones. What their kernels acknowledged last.
pub(super) fn look(
    connections: &mut BTreeMap<String, Connection>,
    silent_after_ms: u64,
    now: Timestamp,
) -> Vec<(String, Timestamp)> {
    let late_after_ns = LATE_AFTER_NS.min(silent_after_ms * MS / 2);
    let mut acknowledged = Vec::new();
    for (host, Connection { link, watch, .. }) in connections {
        let last_heard = link.last_heard();
        let late_ns = now.0.saturating_sub(last_heard.0);
        if late_ns < late_after_ns || now.0.saturating_sub(watch.looked.0) < LOOK_EVERY_NS {
            continue;
        }
        watch.looked = now;
        let Some(LastWord { acknowledged: answered, data }) = link.kernel.last_word() else { continue };
        let ago = |duration: std::time::Duration| Timestamp(now.0.saturating_sub(nanoseconds(duration)));
        if ago(data).0 > last_heard.0.saturating_add(NEWER_NS) {
            link.last_heard_ns.fetch_max(ago(data).0, Ordering::Relaxed);
            continue;
        }
        acknowledged.push((host.clone(), ago(answered)));
        if late_ns < PROD_FOR_NS {
            link.prod.notify_one();
        }
    }
    acknowledged
}
