//! Bits one after the other, lowest first, in 64-bit words.
//!
//! In and out: fields of 0 to 64 bits, and Golomb-Rice codes (Rice 1971): the quotient by a power of two in ones, a zero,
//! the remainder. A value far beyond the others leaves the code by an escape, so that no single one costs more than 91 bits.
//! Never: a panic on words that were not written here.

/// A quotient of this or more is escaped.
const QUOTIENT_MAX: u32 = 20;
/// Bits of the length before a long value.
const LENGTH_BITS: u32 = 7;

/// Writes bits.
#[derive(Debug, Default)]
pub struct BitWriter {
    words: Vec<u64>,
    pending: u64,
    used: u32,
}

impl BitWriter {
    /// Room for this many words before it has to grow.
    pub fn with_capacity(words: usize) -> Self {
        Self { words: Vec::with_capacity(words), pending: 0, used: 0 }
    }

    /// Empties it, keeping its memory.
    pub fn clear(&mut self) {
        self.words.clear();
        (self.pending, self.used) = (0, 0);
    }

    /// The lowest `bits` of `value`; the others must be zero.
    pub fn put(&mut self, value: u64, bits: u32) {
        debug_assert!(bits == 64 || value >> bits == 0, "{value} has more than {bits} bits");
        self.pending |= value << self.used;
        let filled = self.used + bits;
        if filled < 64 {
            // A shift by 64 never happens: `used` stays below 64.
            self.used = filled;
            return;
        }
        self.words.push(self.pending);
        let written = 64 - self.used;
        self.pending = if written == 64 { 0 } else { value >> written };
        self.used = filled - 64;
    }

    /// Its length, then itself: 7 bits and as many as it has.
    pub fn put_long(&mut self, value: u64) {
        let length = 64 - value.leading_zeros();
        self.put(u64::from(length), LENGTH_BITS);
        self.put(value, length);
    }

    /// As Golomb-Rice code with `k` bits of remainder.
    pub fn put_rice(&mut self, value: u64, k: u32) {
        let quotient = value >> k;
        if quotient < u64::from(QUOTIENT_MAX) {
            // At most 19 ones and a zero.
            let ones = (1u64 << quotient) - 1;
            self.put(ones, quotient as u32 + 1);
            self.put(value & mask(k), k);
        } else {
            self.put(mask(QUOTIENT_MAX), QUOTIENT_MAX);
            self.put_long(value);
        }
    }

    /// The words, the last one filled up with zeros.
    pub fn finish(&mut self) -> &[u64] {
        if self.used > 0 {
            self.words.push(self.pending);
            (self.pending, self.used) = (0, 0);
        }
        &self.words
    }
}

fn mask(bits: u32) -> u64 {
    if bits == 0 { 0 } else { u64::MAX >> (64 - bits) }
}

/// What a Golomb-Rice code of `value` costs, bits.
pub fn rice_bits(value: u64, k: u32) -> u64 {
    let quotient = value >> k;
    if quotient < u64::from(QUOTIENT_MAX) {
        quotient + 1 + u64::from(k)
    } else {
        u64::from(QUOTIENT_MAX + LENGTH_BITS + 64 - value.leading_zeros())
    }
}

/// Reads what a [`BitWriter`] wrote. `None` at the end, and on what no writer writes.
#[derive(Debug)]
pub struct BitReader<'a> {
    words: &'a [u64],
    at: usize,
}

impl<'a> BitReader<'a> {
    /// From the first bit of the first word.
    pub fn new(words: &'a [u64]) -> Self {
        Self { words, at: 0 }
    }

    /// The next `bits`, at most 64.
    pub fn get(&mut self, bits: u32) -> Option<u64> {
        if bits == 0 {
            return Some(0);
        }
        let (word, shift) = (self.at / 64, (self.at % 64) as u32);
        let mut value = self.words.get(word)? >> shift;
        if shift + bits > 64 {
            value |= self.words.get(word + 1)? << (64 - shift);
        }
        self.at += bits as usize;
        Some(value & mask(bits))
    }

    /// A value written by [`BitWriter::put_long`].
    pub fn get_long(&mut self) -> Option<u64> {
        let length = u32::try_from(self.get(LENGTH_BITS)?).ok().filter(|length| *length <= 64)?;
        self.get(length)
    }

    /// A value written by [`BitWriter::put_rice`] with the same `k`.
    pub fn get_rice(&mut self, k: u32) -> Option<u64> {
        let mut quotient = 0u32;
        while self.get(1)? == 1 {
            quotient += 1;
            if quotient == QUOTIENT_MAX {
                return self.get_long();
            }
        }
        Some(u64::from(quotient) << k | self.get(k)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_width_and_every_code_comes_back() {
        let values = [0, 1, 2, 63, 64, 1 << 19, (1 << 20) + 7, u64::from(u32::MAX), 1 << 63, u64::MAX];
        let mut writer = BitWriter::default();
        for value in values {
            writer.put(value, 64);
            writer.put(value & 1, 1);
            writer.put_long(value);
            for k in [0, 1, 17, 40, 63] {
                writer.put_rice(value, k);
            }
        }
        let words = writer.finish().to_vec();
        let mut reader = BitReader::new(&words);
        for value in values {
            assert_eq!((reader.get(64), reader.get(1), reader.get_long()), (Some(value), Some(value & 1), Some(value)));
            for k in [0, 1, 17, 40, 63] {
                assert_eq!(reader.get_rice(k), Some(value), "k = {k}");
            }
        }
        assert!(reader.get(64).is_none(), "nothing is left");
    }
}
