//! Figures of the map for OpenMetrics, as they are at each scrape.

use super::MapRoom;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use std::fmt;

/// Writes them.
pub struct Figures(pub MapRoom);

impl fmt::Debug for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Figures")
    }
}

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let (counts, topology) = (self.0.counts(), self.0.topology());
        let down = topology.links.iter().filter(|link| !link.up).count();
        for (name, help, value) in [
            ("map_facts", "Facts of the map that somebody says", counts.facts),
            ("map_links", "Cables of the fabric that are known", topology.links.len() as u64),
            ("map_links_down", "Of these, known to be down", down as u64),
            (
                "map_contradictions",
                "Facts of the map that contradict more believed ones",
                topology.contradictions.len() as u64,
            ),
            ("map_unknown", "What a whole map would have and this one lacks", topology.unknown.len() as u64),
        ] {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(
                name,
                help,
                None,
                prometheus_client::metrics::MetricType::Gauge,
            )?)?;
        }
        for (name, help, value) in [
            ("map_reports", "Reports that the map took", counts.reports),
            ("map_reports_late", "Reports older than one taken before", counts.late),
            ("map_statements_left_out", "Statements beyond the map's bounds", counts.left_out),
            ("map_statements_malformed", "Statements that cannot be true", counts.malformed),
        ] {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(
                name,
                help,
                None,
                prometheus_client::metrics::MetricType::Counter,
            )?)?;
        }
        Ok(())
    }
}
