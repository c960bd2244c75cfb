//! A picture of few colours, and its PNG (ISO/IEC 15948): palette of 4 bits a pixel, DEFLATE (RFC 1951) with the fixed code
//! and runs of the byte before, which is all that a line drawing needs.

use super::font;

/// In the order of [`Colour`].
pub const PALETTE: [[u8; 3]; 10] = [
    [255, 255, 255],
    [40, 40, 40],
    [222, 222, 222],
    [20, 90, 170],
    [200, 219, 240],
    [200, 40, 40],
    [196, 228, 196],
    [252, 236, 160],
    [250, 200, 90],
    [242, 130, 50],
];

/// Index of a colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Colour {
    /// Nothing.
    Paper = 0,
    /// Text and axes.
    Ink = 1,
    /// Lines of the grid.
    Grid = 2,
    /// What is shown.
    Line = 3,
    /// Below it.
    Shade = 4,
    /// The instant asked for; what is worst.
    Mark = 5,
    /// As it should be.
    Fine = 6,
    /// A little worse.
    Slight = 7,
    /// Worse.
    Some = 8,
    /// Much worse.
    Much = 9,
}

/// Pixels.
#[derive(Debug)]
pub struct Canvas {
    width: usize,
    height: usize,
    pixels: Vec<u8>,
}

impl Canvas {
    /// Empty.
    pub fn new(width: usize, height: usize) -> Self {
        Self { width, height, pixels: vec![Colour::Paper as u8; width * height] }
    }

    /// A pixel; nothing beyond the edge.
    pub fn set(&mut self, x: i64, y: i64, colour: Colour) {
        if let (Ok(x), Ok(y)) = (usize::try_from(x), usize::try_from(y))
            && x < self.width
            && y < self.height
        {
            self.pixels[y * self.width + x] = colour as u8;
        }
    }

    /// A filled box, both corners included.
    pub fn fill(&mut self, x0: i64, y0: i64, x1: i64, y1: i64, colour: Colour) {
        for y in y0.min(y1)..=y0.max(y1) {
            for x in x0.min(x1)..=x0.max(x1) {
                self.set(x, y, colour);
            }
        }
    }

    /// Text, its top left corner, each dot `scale` pixels. Characters that the font lacks are shown as `?`.
    pub fn text(&mut self, x: i64, y: i64, scale: i64, text: &str, colour: Colour) {
        for (index, character) in (0i64..).zip(text.chars()) {
            let left = x + index * font::ADVANCE * scale;
            for (column, dots) in (0i64..).zip(font::glyph(character)) {
                for row in (0..8).filter(|row| dots >> row & 1 == 1) {
                    let (dx, dy) = (left + column * scale, y + row * scale);
                    self.fill(dx, dy, dx + scale - 1, dy + scale - 1, colour);
                }
            }
        }
    }

    /// The colour of a pixel, for tests.
    #[cfg(test)]
    pub fn at(&self, x: usize, y: usize) -> u8 {
        self.pixels[y * self.width + x]
    }

    /// As a file.
    pub fn png(&self) -> Vec<u8> {
        let mut rows = Vec::with_capacity(self.height * (self.width / 2 + 2));
        for row in self.pixels.chunks(self.width) {
            // Filter type 0: the bytes as they are.
            rows.push(0);
            rows.extend(row.chunks(2).map(|pair| pair[0] << 4 | pair.get(1).copied().unwrap_or(0)));
        }
        let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
        let mut header = Vec::new();
        // A picture is far smaller than 2^31 pixels on a side.
        header.extend((self.width as u32).to_be_bytes());
        header.extend((self.height as u32).to_be_bytes());
        header.extend([4, 3, 0, 0, 0]);
        chunk(&mut file, b"IHDR", &header);
        chunk(&mut file, b"PLTE", PALETTE.as_flattened());
        chunk(&mut file, b"IDAT", &zlib(&rows));
        chunk(&mut file, b"IEND", &[]);
        file
    }
}

fn chunk(file: &mut Vec<u8>, kind: &[u8; 4], data: &[u8]) {
    file.extend((data.len() as u32).to_be_bytes());
    let from = file.len();
    file.extend(kind);
    file.extend(data);
    let check = crc32(&file[from..]);
    file.extend(check.to_be_bytes());
}

/// ISO/IEC 15948, annex D.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 })
    })
}

/// RFC 1950 around one block of RFC 1951, section 3.2.6.
fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut bits = Bits { bytes: vec![0x78, 0x01], pending: 0, used: 0 };
    bits.put(0b011, 3);
    let mut at = 0;
    while at < bytes.len() {
        bits.literal(u32::from(bytes[at]));
        let mut run = bytes[at + 1..].iter().take_while(|byte| **byte == bytes[at]).count();
        at += 1 + run;
        while run > 0 {
            // The longest match is 258; one or two bytes are cheaper as they are.
            let now = run.min(258);
            if now < 3 {
                (0..now).for_each(|_| bits.literal(u32::from(bytes[at - 1])));
            } else {
                bits.length(now as u32);
            }
            run -= now;
        }
    }
    bits.literal(256);
    bits.put(0, 7);
    let (a, b) = bytes.iter().fold((1u32, 0u32), |(a, b), byte| {
        let a = (a + u32::from(*byte)) % 65_521;
        (a, (b + a) % 65_521)
    });
    bits.bytes.extend((b << 16 | a).to_be_bytes());
    bits.bytes
}

struct Bits {
    bytes: Vec<u8>,
    pending: u32,
    used: u32,
}

impl Bits {
    /// Lowest bit first.
    fn put(&mut self, value: u32, count: u32) {
        self.pending |= value << self.used;
        self.used += count;
        while self.used >= 8 {
            self.bytes.push((self.pending & 0xff) as u8);
            self.pending >>= 8;
            self.used -= 8;
        }
    }

    /// A Huffman code goes highest bit first.
    fn code(&mut self, code: u32, count: u32) {
        self.put(code.reverse_bits() >> (32 - count), count);
    }

    fn literal(&mut self, symbol: u32) {
        match symbol {
            0..144 => self.code(0x30 + symbol, 8),
            144..256 => self.code(0x190 + symbol - 144, 9),
            256..280 => self.code(symbol - 256, 7),
            _ => self.code(0xc0 + symbol - 280, 8),
        }
    }

    /// A match of 3 to 258 bytes at distance 1.
    fn length(&mut self, length: u32) {
        // RFC 1951, section 3.2.5: groups of four codes, each group with one extra bit more.
        let (symbol, extra, extra_bits) = match length {
            258 => (285, 0, 0),
            3..11 => (254 + length, 0, 0),
            _ => {
                let extra_bits = (length - 3).ilog2() - 2;
                let rest = length - 3 - (4 << extra_bits);
                (261 + 4 * extra_bits + (rest >> extra_bits), rest & ((1 << extra_bits) - 1), extra_bits)
            }
        };
        self.literal(symbol);
        self.put(extra, extra_bits);
        self.code(0, 5);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checks_are_those_of_the_standards() {
        assert_eq!(crc32(b"IEND"), 0xae42_6082, "the checksum that ends every PNG");
        assert_eq!(&zlib(b"Wikipedia")[zlib(b"Wikipedia").len() - 4..], [0x11, 0xe6, 0x03, 0x98], "Adler-32");
    }

    #[test]
    fn a_run_of_any_length_is_one_or_more_matches() {
        // Bits of the stream after its two bytes of head, for runs whose codes RFC 1951 fixes.
        for (run, symbol, extra, extra_bits) in [
            (3u32, 257u32, 0u32, 0u32),
            (10, 264, 0, 0),
            (11, 265, 0, 1),
            (12, 265, 1, 1),
            (114, 279, 15, 4),
            (115, 280, 0, 4),
            (257, 284, 30, 5),
            (258, 285, 0, 0),
        ] {
            let mut expected = Bits { bytes: vec![], pending: 0, used: 0 };
            expected.literal(symbol);
            expected.put(extra, extra_bits);
            expected.code(0, 5);
            let mut found = Bits { bytes: vec![], pending: 0, used: 0 };
            found.length(run);
            assert_eq!(
                (found.bytes, found.pending, found.used),
                (expected.bytes, expected.pending, expected.used),
                "{run}"
            );
        }
    }
}
