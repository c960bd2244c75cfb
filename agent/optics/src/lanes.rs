//! Registers of several lanes: read together, because whether a register is there shows in all its lanes.

use crate::image::{Image, Page};
use crate::module::Levels;

/// Numbers of 16 bits, one a lane; `None` where the register is neither advertised nor holds anything but zero.
#[derive(Clone, Copy)]
pub(crate) struct Words<const N: usize>([Option<u16>; N]);

impl<const N: usize> Words<N> {
    pub(crate) fn read(image: &Image, page: Page, at: usize, advertised: bool) -> Self {
        let mut words = [None; N];
        for (lane, word) in words.iter_mut().enumerate() {
            *word = image.be16(page, at + 2 * lane);
        }
        let is_there = advertised || words.iter().flatten().any(|word| *word != 0);
        Self(if is_there { words } else { [None; N] })
    }

    pub(crate) fn lane(&self, lane: usize) -> Option<u16> {
        *self.0.get(lane)?
    }
}

/// One bit a lane, of a register that is there by the same rule.
#[derive(Clone, Copy)]
pub(crate) struct Bits(Option<u8>);

impl Bits {
    pub(crate) fn new(register: Option<u8>, advertised: bool) -> Self {
        Self(register.filter(|bits| advertised || *bits != 0))
    }

    pub(crate) fn lane(self, lane: usize) -> Option<bool> {
        self.0.map(|bits| bits.checked_shr(u32::try_from(lane).unwrap_or(8)).unwrap_or_default() & 1 == 1)
    }
}

/// Four flags from four bits, the highest first: high alarm, low alarm, high warning, low warning.
pub(crate) fn levels(bits: u8) -> Levels<bool> {
    let bit = |at: u8| bits & (1 << at) != 0;
    Levels { high_alarm: bit(3), low_alarm: bit(2), high_warning: bit(1), low_warning: bit(0) }
}
