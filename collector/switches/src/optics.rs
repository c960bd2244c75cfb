//! Optics of both ends of a link.
//!
//! In: what two modules measure, and whether the map knows the cable between them. Out: per lane the light that one end sends and the
//! other receives. Lanes are paired by number, which is how parallel and wavelength-multiplexed optics are crossed; a breakout cable has
//! lanes of other numbers at one end, and its pairs are not made. Pure.

use crate::state::{Module, Quantity};
use std::collections::BTreeMap;

/// What one end measures, dBm by lane from 0.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct End {
    /// Light received.
    pub rx_dbm: BTreeMap<u16, f64>,
    /// Light sent.
    pub tx_dbm: BTreeMap<u16, f64>,
}

impl From<&Module> for End {
    fn from(module: &Module) -> Self {
        let of = |wanted: Quantity| {
            let values = module.values.iter().filter(move |((_, quantity), _)| *quantity == wanted);
            values.filter_map(|((lane, _), value)| Some(((*lane)?, *value))).collect()
        };
        Self { rx_dbm: of(Quantity::RxPower), tx_dbm: of(Quantity::TxPower) }
    }
}

/// One direction of one lane.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Loss {
    /// From the first end to the second.
    pub forward: bool,
    /// From 0.
    pub lane: u16,
    /// Sent, dBm.
    pub sent_dbm: f64,
    /// Received, dBm.
    pub received_dbm: f64,
}

impl Loss {
    /// What the fibre and its connectors take, dB.
    #[must_use]
    pub fn db(&self) -> f64 {
        self.sent_dbm - self.received_dbm
    }
}

/// Loss of each lane and direction of the link between `a` and `b`, the greatest first; none where the ends have other numbers of lanes.
#[must_use]
pub fn pair(a: &End, b: &End) -> Vec<Loss> {
    let mut losses = Vec::new();
    for (forward, from, to) in [(true, a, b), (false, b, a)] {
        if from.tx_dbm.len() != to.rx_dbm.len() {
            continue;
        }
        let lanes = from.tx_dbm.iter().filter_map(|(lane, sent)| {
            let received = to.rx_dbm.get(lane)?;
            Some(Loss { forward, lane: *lane, sent_dbm: *sent, received_dbm: *received })
        });
        losses.extend(lanes);
    }
    losses.sort_by(|a, b| b.db().total_cmp(&a.db()));
    losses
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(rx: &[f64], tx: &[f64]) -> End {
        let lanes = |values: &[f64]| (0..).zip(values.iter().copied()).collect();
        End { rx_dbm: lanes(rx), tx_dbm: lanes(tx) }
    }

    #[test]
    fn a_dirty_lane_stands_out_in_its_direction() {
        let (host, switch) = (end(&[-2.0, -9.0], &[0.0, 0.0]), end(&[-2.0, -2.0], &[0.0, 0.5]));
        let worst = pair(&host, &switch)[0];
        assert_eq!((worst.forward, worst.lane, worst.db()), (false, 1, 9.5));
        assert_eq!(pair(&host, &switch).len(), 4);
    }

    #[test]
    fn ends_with_other_numbers_of_lanes_are_no_pair() {
        assert_eq!(pair(&end(&[-2.0], &[0.0]), &end(&[-2.0, -2.0], &[0.0, 0.0])), []);
    }
}
