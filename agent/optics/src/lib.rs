//! What the EEPROM of an optical module says, from its bytes alone.
//!
//! In: an [`Image`], the pages of one module as they were read. Out: a [`Module`]: what it is, what it measures on each
//! lane, its own thresholds and flags, and every [`Problem`] found. SFF-8472 (SFP), SFF-8636 (QSFP) and CMIS 3 to 5
//! (QSFP-DD, OSFP and their kin), told apart by the identifier of SFF-8024.
//!
//! Never: IO, a panic on any bytes, memory beyond the bounds of the image, or a value that the module does not give
//! (what is absent is `None`, never 0). A register that the module does not advertise counts as absent while it holds
//! zero: old modules measure more than they advertise.
#![forbid(unsafe_code)]

mod cmis;
mod field;
mod file;
mod image;
mod lanes;
mod module;
mod problem;
mod sff8472;
mod sff8636;
mod vdm;

pub use cmis::BANKS_MAX;
pub use file::{FILE_BYTES_MAX, parse};
pub use image::{Image, PAGES_MAX, Page};
pub use module::{HostLane, Lane, LaneFlags, Levels, Limits, Module, ModuleFlags, Observable, Standard, Thresholds};
pub use problem::{PROBLEMS_MAX, Problem};

use problem::Problems;

/// Decodes an image.
#[must_use]
pub fn decode(image: &Image) -> Module {
    decode_with(image, Problems::default())
}

/// Decodes a file as [`parse`] reads it; what was wrong with the file is among the module's problems.
#[must_use]
pub fn decode_file(text: &[u8]) -> Module {
    let (image, problems) = parse(text);
    decode_with(&image, problems.into())
}

fn decode_with(image: &Image, mut problems: Problems) -> Module {
    let mut image = image.clone();
    // A bus that nobody answers on reads as ones.
    for page in image.remove_where(|page, bytes| {
        // Pages of the user's, and those that a standard leaves unused, may be blank.
        let is_used = !matches!(page, Page::Upper { page: 1..=0x10 | 0x12.., .. });
        is_used && bytes.len() >= 8 && bytes.iter().all(|byte| *byte == 0xff)
    }) {
        problems.push(Problem::NobodyAnswered { page });
    }
    let mut module = Module::default();
    image.split_a0();
    let lower = image.byte(Page::Lower, 0);
    let a0 = image.byte(Page::A0, 0);
    if lower.is_some() && a0.is_some() {
        problems.push(Problem::TwoKinds);
    }
    match lower.or(a0).map(|identifier| (identifier, Standard::of(identifier))) {
        Some((_, Some(Standard::Sff8472))) => {
            if a0.is_none() {
                image.rename(Page::Lower, Page::A0);
            }
            sff8472::decode(&image, &mut module, &mut problems);
        }
        Some((_, Some(Standard::Sff8636))) => sff8636::decode(&mut image, &mut module, &mut problems),
        Some((_, Some(Standard::Cmis))) => cmis::decode(&mut image, &mut module, &mut problems),
        Some((identifier, None)) => problems.push(Problem::UnknownIdentifier { identifier }),
        None => problems.push(Problem::Missing { page: image.identity() }),
    }
    module.problems = problems.into_vec();
    module
}
