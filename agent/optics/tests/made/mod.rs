//! Images made byte by byte from the standards' tables, for tests and as seeds of the fuzzer.
//!
//! Nothing here calls the decoder: offsets and numbers are written out as the standards have them.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]

use std::collections::BTreeMap;

/// The pages of one module, by the keys of the file format.
#[derive(Clone, Debug, Default)]
pub struct Made(pub BTreeMap<String, Vec<u8>>);

impl Made {
    /// Writes bytes at the standard's offset (upper pages begin at 128).
    pub fn put(mut self, page: &str, at: usize, bytes: &[u8]) -> Self {
        let first = if ["lower", "A0", "A2"].contains(&page) { 0 } else { 128 };
        let whole = self.0.entry(page.to_owned()).or_insert_with(|| vec![0; 128]);
        whole[at - first..at - first + bytes.len()].copy_from_slice(bytes);
        self
    }

    pub fn words(self, page: &str, at: usize, words: &[u16]) -> Self {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
        self.put(page, at, &bytes)
    }

    pub fn text(self, page: &str, at: usize, length: usize, text: &str) -> Self {
        self.put(page, at, format!("{text:length$}").as_bytes())
    }

    /// The sum of bytes `from` to `to`, at `at`.
    pub fn sum(self, page: &str, from: usize, to: usize, at: usize) -> Self {
        let first = if ["lower", "A0", "A2"].contains(&page) { 0 } else { 128 };
        let sum = self.0[page][from - first..=to - first].iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
        self.put(page, at, &[sum])
    }

    /// All checksums of a CMIS module that its pages have.
    pub fn cmis_sums(self) -> Self {
        let mut made = self.sum("00", 128, 221, 222);
        for (page, from, to, at) in [("01", 130, 254, 255), ("02", 128, 254, 255)] {
            if made.0.contains_key(page) {
                made = made.sum(page, from, to, at);
            }
        }
        made
    }

    pub fn without(mut self, page: &str) -> Self {
        self.0.remove(page).unwrap();
        self
    }

    pub fn cut(mut self, page: &str, bytes: usize) -> Self {
        self.0.get_mut(page).unwrap().truncate(bytes);
        self
    }

    /// As a file.
    pub fn file(&self) -> String {
        let pages: BTreeMap<&str, String> = self
            .0
            .iter()
            .map(|(page, bytes)| (page.as_str(), bytes.iter().map(|byte| format!("{byte:02x}")).collect()))
            .collect();
        serde_json::to_string_pretty(&serde_json::json!({ "pages": pages })).unwrap() + "\n"
    }
}

impl Made {
    /// As the fuzzer takes it (fuzz/fuzz_targets/optics.rs): which, page, length and bytes of each page.
    pub fn seed(&self) -> Vec<u8> {
        let mut seed = Vec::new();
        for (key, bytes) in &self.0 {
            let (which, page) = match key.split_once('.') {
                Some((bank, page)) => (bank.parse().unwrap(), page),
                None => match key.as_str() {
                    "A0" => (4, "00"),
                    "A2" => (5, "00"),
                    "lower" => (6, "00"),
                    page => (0, page),
                },
            };
            seed.extend([which, u8::from_str_radix(page, 16).unwrap(), u8::try_from(bytes.len()).unwrap()]);
            seed.extend(bytes);
        }
        seed
    }
}

const THRESHOLDS_T: [u16; 4] = [75 << 8, 0xfb00, 70 << 8, 0];
const THRESHOLDS_V: [u16; 4] = [36_300, 30_500, 34_650, 31_350];

/// An SFP: 850 nm, 10 Gb/s, DDM with internal calibration. A laser of 6 mA sends 0.6 mW and receives 0.5 mW at 25.5 °C.
pub fn sfp() -> Made {
    Made::default()
        .put("A0", 0, &[0x03, 0x04, 0x07])
        .text("A0", 20, 16, "RAILWATCH OPTICS")
        .text("A0", 40, 16, "RW-SFP-10G-SR")
        .text("A0", 68, 16, "RW0000001")
        .text("A0", 84, 8, "260115A1")
        .put("A0", 92, &[0x68, 0xf0, 0x08])
        .sum("A0", 0, 62, 63)
        .sum("A0", 64, 94, 95)
        .words("A2", 0, &THRESHOLDS_T)
        .words("A2", 8, &THRESHOLDS_V)
        .words("A2", 16, &[5_000, 1_000, 4_500, 1_500])
        .words("A2", 24, &[10_000, 1_000, 8_000, 2_000])
        .words("A2", 32, &[12_000, 100, 10_000, 200])
        .words("A2", 96, &[0x1980, 33_000, 3_000, 6_000, 5_000])
        .sum("A2", 0, 94, 95)
}

/// The same with external calibration: raw numbers that only its constants turn into values.
pub fn sfp_external() -> Made {
    let float = |value: f32| value.to_be_bytes();
    let constants = [float(0.0), float(0.0), float(1e-5), float(0.25), float(-100.0)].concat();
    sfp()
        .put("A0", 92, &[0x58])
        .sum("A0", 64, 94, 95)
        .put("A2", 56, &constants)
        // Slopes are 8.8 fixed point: bias × 2 + 10, power × 1.5 − 20, temperature × 0.5 + 256, voltage × 1 − 1000.
        .words("A2", 76, &[0x0200, 10, 0x0180, 0xffec, 0x0080, 256, 0x0100, 0xfc18])
        .words("A2", 96, &[0x1980, 33_000, 3_000, 6_000, 5_000])
        .sum("A2", 0, 94, 95)
}

/// A driver that answers A2 with A0.
pub fn sfp_aliased() -> Made {
    let mut made = sfp();
    let a0 = made.0["A0"].clone();
    made.0.insert("A2".to_owned(), a0);
    made
}

/// A QSFP28: four lanes, 31 °C, lane 3 dark with its flags set.
pub fn qsfp() -> Made {
    Made::default()
        .put("lower", 0, &[0x11, 0x08, 0x00, 0x04, 0x00, 0x04])
        .put("lower", 10, &[0x50])
        .words("lower", 22, &[31 << 8])
        .words("lower", 26, &[32_900])
        .words("lower", 34, &[5_000, 6_000, 1, 7_000])
        .words("lower", 42, &[15_000, 15_100, 15_200, 15_300])
        .words("lower", 50, &[8_000, 8_100, 8_200, 8_300])
        .put("00", 128, &[0x11])
        .text("00", 148, 16, "RAILWATCH OPTICS")
        .text("00", 168, 16, "RW-QSFP-100G-LR4")
        .put("00", 192, &[0x00, 0x07, 0xff, 0xda])
        .text("00", 196, 16, "RW0000002")
        .text("00", 212, 8, "260116")
        .put("00", 220, &[0x3c])
        .sum("00", 128, 190, 191)
        .sum("00", 192, 222, 223)
        .words("03", 128, &THRESHOLDS_T)
        .words("03", 144, &THRESHOLDS_V)
        .words("03", 176, &[12_000, 100, 10_000, 200])
        .words("03", 184, &[40_000, 5_000, 35_000, 8_000])
        .words("03", 192, &[20_000, 1_000, 18_000, 2_000])
}

/// A passive copper cable: an identity, and nothing that could be measured.
pub fn qsfp_copper() -> Made {
    Made::default()
        .put("lower", 0, &[0x11, 0x07, 0x04])
        .put("00", 128, &[0x11])
        .put("00", 147, &[0xa0])
        .text("00", 148, 16, "RAILWATCH CABLES")
        .text("00", 168, 16, "RW-DAC-100G-2M")
        .text("00", 196, 16, "RW0000003")
        .text("00", 212, 8, "260117")
        .sum("00", 128, 190, 191)
        .sum("00", 192, 222, 223)
}

/// A QSFP-DD of CMIS 5.0: eight electrical lanes, four lanes of light, bias in steps of 4 µA, signal-to-noise ratios.
pub fn cmis() -> Made {
    Made::default()
        .put("lower", 0, &[0x18, 0x50, 0x00, 0x06])
        .words("lower", 14, &[42 << 8, 33_100])
        .put("lower", 85, &[0x02, 0x11, 0x1c, 0x84, 0x01, 0xff])
        .put("00", 128, &[0x18])
        .text("00", 129, 16, "RAILWATCH OPTICS")
        .text("00", 148, 16, "RW-QDD-400G-DR4")
        .text("00", 166, 16, "RW0000004")
        .text("00", 182, 8, "260118B2")
        .put("00", 210, &[0xf0])
        .put("01", 142, &[0x20])
        .put("01", 157, &[0x07, 0x06, 0x03, 0x0f])
        .put("01", 176, &[0x01])
        .words("02", 128, &THRESHOLDS_T)
        .words("02", 136, &THRESHOLDS_V)
        .words("02", 176, &[35_481, 4_074, 28_184, 5_129])
        .words("02", 184, &[32_500, 2_500, 31_250, 3_750])
        .words("02", 192, &[35_481, 1_288, 28_184, 2_042])
        .put("11", 135, &[0b0000_0010])
        .put("11", 136, &[0b0001_0000])
        .put("11", 147, &[0b0000_1000])
        .put("11", 152, &[0b0000_1000])
        .words("11", 154, &[15_909, 0, 15_928, 16_037])
        .words("11", 170, &[25_000, 0, 24_000, 23_000])
        .words("11", 186, &[16_759, 17_396, 16_934, 1])
        .put("14", 128, &[0x06])
        .put("14", 208, &[0x00, 0x14])
        .put("14", 240, &[0xd7, 0x15, 0x31, 0x15])
        .cmis_sums()
}

/// The same for an OSFP-XD of sixteen lanes, in two banks.
pub fn cmis_two_banks() -> Made {
    let mut made =
        cmis().put("lower", 0, &[0x21]).put("lower", 88, &[0x88]).put("00", 128, &[0x21]).put("00", 210, &[0]);
    let lanes = made.0.remove("11").unwrap();
    made.0.insert("0.11".to_owned(), lanes);
    made.put("01", 142, &[0x21])
        .words("1.11", 154, &[1_000, 2_000, 3_000, 4_000, 5_000, 6_000, 7_000, 8_000])
        .words("1.11", 170, &[10_000; 8])
        .words("1.11", 186, &[8_000, 7_000, 6_000, 5_000, 4_000, 3_000, 2_000, 1_000])
        .cmis_sums()
}

/// With versatile diagnostics: laser temperature of the module, SNR of lanes 1 and 2, a bit error ratio.
pub fn cmis_vdm() -> Made {
    cmis()
        .put("01", 142, &[0x60])
        .put("20", 128, &[0x0f, 4, 0x00, 5, 0x01, 5, 0, 0, 0x00, 15])
        .words("24", 128, &[0x2d80, 5_424, 5_875, 0, (16 << 11) | 250])
        .cmis_sums()
}

/// A flat copper cable with CMIS.
pub fn cmis_copper() -> Made {
    Made::default()
        .put("lower", 0, &[0x19, 0x50, 0x80, 0x06])
        .put("lower", 85, &[0x03, 0x1d, 0x01, 0x88, 0x01, 0xff])
        .put("00", 128, &[0x19])
        .text("00", 129, 16, "RAILWATCH CABLES")
        .text("00", 148, 16, "RW-DAC-400G-1M")
        .text("00", 166, 16, "RW0000005")
        .text("00", 182, 8, "260119")
        .cmis_sums()
}

/// Every image that is kept as a file: the seeds of the fuzzer, and examples of the format.
pub fn all() -> Vec<(&'static str, Made)> {
    vec![
        ("sff8472-internal", sfp()),
        ("sff8472-external", sfp_external()),
        ("sff8472-aliased", sfp_aliased()),
        ("sff8636-lr4", qsfp()),
        ("sff8636-copper", qsfp_copper()),
        ("cmis-dr4", cmis()),
        ("cmis-two-banks", cmis_two_banks()),
        ("cmis-vdm", cmis_vdm()),
        ("cmis-copper", cmis_copper()),
        ("cmis-wrong-checksum", cmis().put("00", 222, &[0])),
        ("cmis-truncated", cmis().cut("11", 60).without("02")),
        ("sff8636-identifiers", qsfp().put("00", 128, &[0x18])),
    ]
}
