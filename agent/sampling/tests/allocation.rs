//! Taking a reading costs no allocation.

use railwatch_sampling::{Batch, Catalog, Counter, Entity, Kind, Moment, Output, Recorder, SeriesDef};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

mod counting;

#[test]
fn ten_thousand_readings_within_a_window_allocate_nothing() {
    let catalog = Arc::new(Catalog::default());
    let mut recorder = Recorder::new("test", Duration::from_secs(1), &[], catalog);
    let (mut out, mut series) = (Output::default(), Vec::new());
    recorder
        .probe(0, &mut out, |declare| {
            for i in 0..100 {
                let entity = Entity { kind: "port", name: format!("p{i}") };
                let kind = if i % 2 == 0 { Kind::Gauge } else { Kind::Counter(Counter::wrapping(64)) };
                series.extend(declare.series(SeriesDef::new("x", "1", kind, entity, [])).map(|handle| (i, handle)));
            }
            Ok::<(), Infallible>(())
        })
        .unwrap();
    let mut batch = Batch::with_capacity(100);
    let before = counting::allocations();
    for tick in 1..=100u64 {
        batch.clear();
        let moment = Moment { at_ns: tick * 1_000_000, half_width_ns: 1 };
        for (i, handle) in &series {
            if i % 2 == 0 {
                batch.gauge(*handle, 1.0, moment);
            } else {
                batch.counter(*handle, tick * 7, moment);
            }
        }
        recorder.record(&batch, &mut out);
    }
    assert_eq!(counting::allocations() - before, 0);
    recorder.finish(500_000_000, &mut out);
    assert_eq!(out.frames[0].len(), 100, "and the readings did arrive");
}
