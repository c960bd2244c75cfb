//! Once the memory is spent and the series stand, writing allocates nothing.

use railwatch_sampling::{Batch, Catalog, Counter, Entity, Kind, Moment, Output, Recorder, SeriesDef, Tape as _};
use railwatch_tape::{BYTES_MIN, Tape};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call is handed on unchanged to the system's allocator; the counter is a thread-local integer without a
// destructor, so that touching it neither allocates nor fails.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps GlobalAlloc's contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

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
        let before = ALLOCATIONS.with(Cell::get);
        writer.take(&batch);
        ALLOCATIONS.with(Cell::get) - before
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
