//! Requests for the tape over real mTLS: answered in order, refused where there is no tape, and never in a signal's way.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]

mod collector;

use collector::*;
use railwatch_uplink::{Tapes, Uplink, UplinkHandle};
use railwatch_wire::v1::{TapePiece, TapeRequest};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Answers with as many pieces as the request has series; without end where it has none.
#[derive(Default)]
struct Double {
    given: AtomicU64,
    ended: AtomicBool,
}

impl Tapes for Double {
    fn answer(&self, request: &TapeRequest, give: &mut dyn FnMut(TapePiece) -> bool) {
        let endless = request.series.is_empty();
        let mut left = request.series.len();
        while left > 0 || endless {
            left = left.saturating_sub(1);
            let last = !endless && left == 0;
            if !give(TapePiece { id: request.id, last, refused: "x".repeat(1000), ..TapePiece::default() }) {
                self.ended.store(true, Ordering::SeqCst);
                return;
            }
            self.given.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// An uplink that has this tape before its collector listens.
fn begin(site: &Site, tape: Arc<Double>) -> (UplinkHandle, std::thread::JoinHandle<()>, Running) {
    let running = site.listen("127.0.0.1:0");
    let address = running.address.clone();
    running.kill();
    let (uplink, thread) = Uplink::start(site.options(&address)).unwrap();
    uplink.set_tapes(tape);
    (uplink, thread, site.listen(&address))
}

fn request(id: u64, pieces: u64) -> TapeRequest {
    TapeRequest { id, series: (0..pieces).collect(), ..TapeRequest::default() }
}

#[test]
fn requests_are_answered_one_after_the_other_to_the_last_piece() {
    let site = Site::new();
    site.faults(|faults| faults.tape_requests = (1..=3).map(|id| request(id, 5)).collect());
    let (uplink, thread, _running) = begin(&site, Arc::new(Double::default()));
    let pieces = || site.stored(|stored| stored.pieces.iter().map(|piece| (piece.id, piece.last)).collect::<Vec<_>>());
    eventually("all pieces", || pieces().len() == 15);
    let expected: Vec<_> = (1..=3).flat_map(|id| (1..=5).map(move |n| (id, n == 5))).collect();
    assert_eq!(pieces(), expected);
    uplink.stop();
    thread.join().unwrap();
}

#[test]
fn without_a_tape_the_collector_is_told_so() {
    let site = Site::new();
    site.faults(|faults| faults.tape_requests = vec![request(9, 5)]);
    let running = site.listen("127.0.0.1:0");
    let (uplink, thread) = Uplink::start(site.options(&running.address)).unwrap();
    eventually("the refusal", || site.stored(|stored| !stored.pieces.is_empty()));
    let piece = site.stored(|stored| stored.pieces[0].clone());
    assert!(piece.id == 9 && piece.last && piece.refused.contains("[tape]"), "{piece:?}");
    uplink.stop();
    thread.join().unwrap();
}

#[test]
fn signals_pass_an_answer_without_end_and_its_connection_ends_it() {
    let site = Site::new();
    site.faults(|faults| faults.tape_requests = vec![request(1, 0)]);
    let double = Arc::new(Double::default());
    let (uplink, thread, running) = begin(&site, double.clone());
    eventually("pieces flow", || double.given.load(Ordering::SeqCst) > 10);
    for payload in 0..100 {
        uplink.signal(signal(payload)).unwrap();
    }
    eventually("every signal", || site.stored(|stored| signals_of(stored).len() == 100));
    running.kill();
    eventually("nobody works for a connection that is gone", || double.ended.load(Ordering::SeqCst));
    uplink.stop();
    thread.join().unwrap();
}
