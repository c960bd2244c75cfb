//! What can be wrong with an image: one variant each, so that a caller can tell them apart, and one sentence each for
//! people.

use crate::image::Page;
use serde::{Serialize, Serializer};

/// Problems told of one image; those beyond are counted in the last one.
pub const PROBLEMS_MAX: usize = 64;

/// Something that an image lacks or contradicts itself in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The file is not what it should be.
    #[error("not a file of module pages: {0}; expected {{\"pages\": {{\"lower\": HEX, \"00\": HEX, …}}}}")]
    NotAFile(String),
    /// A key that names no page.
    #[error("{0:?} names no page; pages are lower, A0, A2, two hex digits (\"11\"), or a bank before them (\"1.11\")")]
    UnknownPage(String),
    /// The text of a page is not hexadecimal.
    #[error("{page}: not hexadecimal at character {at}; only what is before it was read")]
    NotHex {
        /// Which.
        page: Page,
        /// Character of the text, from 0.
        at: usize,
    },
    /// More pages than any module has.
    #[error("more than {max} pages; {page} was not read")]
    TooManyPages {
        /// The first that was left out.
        page: Page,
        /// The bound.
        max: usize,
    },
    /// The same page twice, with different bytes.
    #[error("{page} is given twice with different bytes; the first was taken")]
    GivenTwice {
        /// Which.
        page: Page,
    },
    /// A page that the module says it has.
    #[error("{page} is missing")]
    Missing {
        /// Which.
        page: Page,
    },
    /// A page shorter or longer than a page is.
    #[error("{page} has {bytes} bytes, expected {expected}: truncated, or not one page")]
    Length {
        /// Which.
        page: Page,
        /// What it has.
        bytes: usize,
        /// What a page has.
        expected: &'static str,
    },
    /// Ones throughout.
    #[error("{page} reads ff throughout: nobody answered on the bus")]
    NobodyAnswered {
        /// Which.
        page: Page,
    },
    /// Pages of an SFP and of a paged module together.
    #[error("the pages of an SFP (A0) and of a paged module (lower) together: they cannot be of one module")]
    TwoKinds,
    /// An identifier that none of the three standards covers.
    #[error("identifier {identifier:#04x} (SFF-8024) is of no module that SFF-8472, SFF-8636 or CMIS describe")]
    UnknownIdentifier {
        /// Byte 0.
        identifier: u8,
    },
    /// The identifier is kept in two places.
    #[error("lower memory says identifier {lower:#04x}, page 00 says {page00:#04x}")]
    Identifiers {
        /// Byte 0.
        lower: u8,
        /// Byte 128 of page 00.
        page00: u8,
    },
    /// A revision of CMIS that is not known here.
    #[error("revision {major}.{minor} of CMIS is not known here; read as revision 5")]
    Revision {
        /// Upper four bits of byte 1.
        major: u8,
        /// Lower four bits of byte 1.
        minor: u8,
    },
    /// A module without paged memory cannot have it.
    #[error("{page} is given, and the module says that its memory is flat; the page was not used")]
    FlatYetPaged {
        /// Which.
        page: Page,
    },
    /// The module did not follow the page select.
    #[error("{page} is the same as page 00: the page was not selected; it was not used")]
    CopyOfPage00 {
        /// Which.
        page: Page,
    },
    /// A bank that the module does not advertise.
    #[error("{page} is given, and the module advertises {banks} bank(s)")]
    BankNotAdvertised {
        /// Which.
        page: Page,
        /// By page 01 byte 142.
        banks: u8,
    },
    /// A2 answered with the bytes of A0.
    #[error("A2 is A0 read again ({same} of {of} bytes are the same): {rejected} rejected")]
    A2IsA0 {
        /// Bytes that agree.
        same: usize,
        /// Bytes compared.
        of: usize,
        /// What was not believed.
        rejected: &'static str,
    },
    /// A checksum does not fit its bytes.
    #[error("{page}: checksum {name} is {stored:#04x}, its bytes sum to {computed:#04x}")]
    Checksum {
        /// Which page.
        page: Page,
        /// As the standard calls it.
        name: &'static str,
        /// In the image.
        stored: u8,
        /// By its bytes.
        computed: u8,
    },
    /// Thresholds that no value can satisfy.
    #[error("thresholds of {quantity} contradict each other: {rule}")]
    Thresholds {
        /// As in the output.
        quantity: &'static str,
        /// What does not hold.
        rule: &'static str,
    },
    /// Calibration must be exactly one of internal and external.
    #[error("calibration is said to be {0}; read as internal")]
    Calibration(&'static str),
    /// A constant of the calibration that is no number.
    #[error("the external calibration of {0} gives no number; the value is left out")]
    CalibrationConstant(&'static str),
    /// A code that the standard reserves.
    #[error("{what} holds the reserved code {code}")]
    Reserved {
        /// Which field.
        what: &'static str,
        /// Its value.
        code: u8,
    },
    /// A name with bytes that are no text.
    #[error("{what} has {bytes} byte(s) that are not printable ASCII, shown as dots")]
    NotText {
        /// Which field.
        what: &'static str,
        /// How many.
        bytes: usize,
    },
    /// There were more.
    #[error("{0} more problems")]
    More(usize),
}

impl Serialize for Problem {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Problems as they are found, each once.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    found: Vec<Problem>,
    more: usize,
}

impl Problems {
    pub(crate) fn push(&mut self, problem: Problem) {
        if self.found.len() >= PROBLEMS_MAX {
            self.more += 1;
        } else if !self.found.contains(&problem) {
            self.found.push(problem);
        }
    }

    pub(crate) fn into_vec(mut self) -> Vec<Problem> {
        if self.more > 0 {
            self.found.push(Problem::More(self.more));
        }
        self.found
    }
}

impl From<Vec<Problem>> for Problems {
    fn from(found: Vec<Problem>) -> Self {
        Self { found, more: 0 }
    }
}
