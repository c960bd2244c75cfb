//! `railwatch inventory`: what is installed and set on hosts, what changed, and who differs from its peers.
//!
//! Flows in: rows of the API. Flows out: tables, JSON, YAML. Where an answer is as long as answers get, that is said.

use crate::args::{Inventory, InventoryInstead};
use crate::client::Client;
use crate::failure::Failure;
use crate::listings::{INVENTORY, INVENTORY_CHANGES, INVENTORY_DRIFT, Listing};
use crate::output::{Output, shaped};
use crate::row::{Ordered, Row};
use crate::watch::now_ns;
use crate::{percent_encoded, tape};
use std::time::Duration;

/// Rows of one answer at most.
const ROWS_MAX: usize = 10_000;

/// Does what is asked.
pub fn inventory(client: &Client, asked: &Inventory, out: &mut Output) -> Result<(), Failure> {
    let mut query = vec![format!("limit={ROWS_MAX}")];
    let mut add = |name: &str, value: &Option<String>| {
        query.extend(value.as_ref().map(|value| format!("{name}={}", percent_encoded(value))));
    };
    let (listing, shape): (&Listing, _) = match &asked.instead {
        None => {
            add("host", &asked.host);
            add("entity", &asked.entity);
            add("key", &asked.key);
            (&INVENTORY, asked.shape)
        }
        Some(InventoryInstead::History { host, key, around, span, shape }) => {
            add("host", host);
            add("key", key);
            if let Some(around) = around {
                let (since, until) = window(tape::instant_of(client, around, now_ns())?, *span);
                query.extend([format!("since={since}"), format!("until={until}")]);
            }
            (&INVENTORY_CHANGES, *shape)
        }
        Some(InventoryInstead::Drift { host, by, shape }) => {
            query.clear();
            query.push(format!("by={}", by.as_str()));
            query.extend(host.as_ref().map(|host| format!("host={}", percent_encoded(host))));
            (&INVENTORY_DRIFT, *shape)
        }
    };
    let path = format!("{}?{}", listing.path, query.join("&"));
    let rows = Row::list(client.get(&path)?, listing.path)?;
    let ordered: Vec<_> = rows.iter().map(|row| Ordered { row, fields: listing.fields, open: true }).collect();
    out.write(&shaped(shape.output, &ordered, || listing.table(&rows, now_ns(), out.colour))?)?;
    if rows.len() >= ROWS_MAX && !out.closed {
        eprintln!(
            "railwatch: note: the first {ROWS_MAX} rows are shown, there may be more: --host and --key narrow it"
        );
    }
    Ok(())
}

/// Half of the span on each side.
fn window(around_ns: u64, span: Duration) -> (u64, u64) {
    let half = u64::try_from(span.as_nanos() / 2).unwrap_or(u64::MAX);
    (around_ns.saturating_sub(half), around_ns.saturating_add(half))
}

#[cfg(test)]
mod tests {
    use super::window;
    use std::time::Duration;

    #[test]
    fn half_of_the_span_lies_on_each_side() {
        assert_eq!(window(1_000_000_000, Duration::from_secs(1)), (500_000_000, 1_500_000_000));
        assert_eq!(window(1, Duration::from_secs(1)), (0, 500_000_001));
    }
}
