//! Once the memory is spent and the series stand, writing allocates nothing.

use railwatch_sampling::{Batch, Catalog, Counter, Entity, Kind, Moment, Output, Recorder, SeriesDef, Tape as _};
use railwatch_tape::{BYTES_MIN, Tape};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

#[path = "../../sampling/tests/counting/mod.rs"]
mod counting;

#[test]
fn a_full_tape_goes_on_without_an_allocation() {
    let tape = Tape::new(BYTES_MIN);
    let mut writer = tape.writer("test");
    let mut recorder = Recorder::new("test", Duration::from_secs(1), &[], Arc::new(Catalog::default()));
    let mut series = Vec::new();
    let declared = recorder.probe(0, &mut Output::default(), |declare| {
        for i in 0..200u64 {
            let kind = if i.is_multiple_of(2) { Kind::Gauge } else { Kind::Counter(Counter::wrapping(64)) };
            let def = SeriesDef::new("x", "1", kind, Entity { kind: "port", name: format!("p{i}") }, []);
            series.extend(declare.series(def).map(|handle| (i, handle)));
        }
        Ok::<(), Infallible>(())
    });
    assert_eq!(declared, Ok(()));
    writer.series(&mut recorder.living());
    let mut batch = Batch::with_capacity(200);
    let mut read = |tick: u64| {
        batch.clear();
        let moment = Moment { at_ns: tick * 1_000_000, half_width_ns: 1_000 };
        for (i, handle) in &series {
            let noise = (tick ^ i << 40).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ tick << 20;
            if i.is_multiple_of(2) {
                batch.gauge(*handle, f64::from_bits(noise), moment);
            } else {
                batch.counter(*handle, noise, moment);
            }
        }
        let before = counting::allocations();
        writer.take(&batch);
        counting::allocations() - before
    };
    let mut tick = 0;
    while tape.status().evicted == 0 {
        tick += 1;
        read(tick);
        assert!(tick < 100_000, "memory is bounded");
    }
    let evicted = tape.status().evicted;
    let allocations: u64 = (tick + 1..tick + 5_000).map(&mut read).sum();
    assert_eq!(allocations, 0);
    assert!(tape.status().evicted > evicted, "and segments did change hands");
}
