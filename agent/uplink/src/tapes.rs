//! Requests for the tape: taken from a connection one at a time, answered by whoever keeps the tape, in pieces that go out
//! behind everything else.
//!
//! In: requests of the collector. Out: pieces, the last one marked. A request that finds no place is refused at once, and
//! the collector asks again. Never: a piece before a signal, a window or a sign of life that waits; more than two pieces
//! in memory; work for a connection that has ended.

use railwatch_wire::v1::{TapePiece, TapeRequest};
use std::sync::{Arc, OnceLock};
use tokio::sync::mpsc;

/// Requests that wait while one is answered.
const REQUESTS_WAITING_MAX: usize = 8;
/// Pieces that wait for HTTP/2.
const PIECES_WAITING_MAX: usize = 2;

/// Whoever keeps the tape of this host.
pub trait Tapes: Send + Sync {
    /// Answers a request: gives pieces in order, the last one marked, until `give` says that nobody takes them any more.
    /// Called on a thread that may work and wait; for one request at a time on one connection.
    fn answer(&self, request: &TapeRequest, give: &mut dyn FnMut(TapePiece) -> bool);
}

/// Whoever keeps the tape, once that is known.
pub(crate) type TapesLater = Arc<OnceLock<Arc<dyn Tapes>>>;

/// A connection's end of it.
pub(crate) struct Desk {
    requests: mpsc::Sender<TapeRequest>,
    refusals: mpsc::Sender<TapePiece>,
}

impl Desk {
    /// For one connection; the pieces go to the receiver. Ends with it.
    pub fn open(tapes: TapesLater) -> (Self, mpsc::Receiver<TapePiece>) {
        let (requests, mut asked) = mpsc::channel::<TapeRequest>(REQUESTS_WAITING_MAX);
        let (pieces, out) = mpsc::channel(PIECES_WAITING_MAX);
        let desk = Self { requests, refusals: pieces.clone() };
        tokio::spawn(async move {
            while let Some(request) = asked.recv().await {
                let (tapes, pieces) = (tapes.get().cloned(), pieces.clone());
                let answered = tokio::task::spawn_blocking(move || match tapes {
                    Some(tapes) => tapes.answer(&request, &mut |piece| pieces.blocking_send(piece).is_ok()),
                    None => {
                        let why = "this agent keeps no tape: see [tape] in its configuration";
                        let _ = pieces.blocking_send(refusal(request.id, why));
                    }
                });
                if answered.await.is_err() {
                    tracing::error!("answering a request for the tape failed by a defect of the agent's own");
                }
            }
        });
        (desk, out)
    }

    /// Takes a request, or refuses it.
    pub fn ask(&self, request: TapeRequest) {
        if let Err(mpsc::error::TrySendError::Full(request)) = self.requests.try_send(request) {
            let why = "the agent answers as many requests for its tape as it takes at a time: ask again in a moment";
            // Where even this finds no place, the collector's own patience ends the request.
            let _ = self.refusals.try_send(refusal(request.id, why));
        }
    }
}

fn refusal(id: u64, why: &str) -> TapePiece {
    TapePiece { id, last: true, refused: why.to_owned(), ..TapePiece::default() }
}
