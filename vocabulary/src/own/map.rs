//! What the collector says of its map of the fabric.

use super::{Section, counter, gauge};
use crate::Board;

/// Collector: the map.
pub(super) const MAP: Section = Section {
    title: "Collector: the map",
    board: Board::Fleet,
    metrics: &[
        gauge("railwatch_collector_map_facts", &[], "Facts of the map that somebody says").on("Map: facts"),
        gauge("railwatch_collector_map_links", &[], "Cables of the fabric that are known").on("Map: links"),
        gauge("railwatch_collector_map_links_down", &[], "Of these, known to be down").on("Map: links"),
        gauge("railwatch_collector_map_contradictions", &[], "Facts of the map that contradict more believed ones")
            .on("Map: contradictions, unknown"),
        gauge("railwatch_collector_map_unknown", &[], "What a whole map would have and this one lacks")
            .on("Map: contradictions, unknown"),
        counter("railwatch_collector_map_reports_total", &[], "Reports that the map took").on("Map: reports"),
        counter("railwatch_collector_map_reports_late_total", &[], "Reports older than one taken before")
            .on("Map: left out"),
        counter("railwatch_collector_map_statements_left_out_total", &[], "Statements beyond the map's bounds")
            .on("Map: left out"),
        counter("railwatch_collector_map_statements_malformed_total", &[], "Statements that cannot be true")
            .on("Map: left out"),
    ],
};
