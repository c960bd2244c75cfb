//! The pages of one module, bounded, with access by the standards' own byte numbers.

use crate::module::Standard;
use crate::problem::Problem;
use std::collections::BTreeMap;
use std::fmt;

/// Pages an image may hold: more than any module has with all its banks.
pub const PAGES_MAX: usize = 128;

/// Which 128 (or, of an SFP, 256) bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Page {
    /// SFP, I²C address A0h (50h): what it is.
    A0,
    /// SFP, I²C address A2h (51h): what it measures.
    A2,
    /// Bytes 0 to 127 of a paged module.
    Lower,
    /// Bytes 128 to 255 of a paged module while this page of this bank is selected.
    Upper {
        /// Bank, 0 where there is only one.
        bank: u8,
        /// Page.
        page: u8,
    },
}

impl Page {
    /// A page of bank 0.
    #[must_use]
    pub const fn upper(page: u8) -> Self {
        Self::Upper { bank: 0, page }
    }

    /// Bytes it holds when it is whole: 256 of an SFP's address, 128 otherwise.
    #[must_use]
    pub const fn bytes_max(self) -> usize {
        match self {
            Self::A0 | Self::A2 => 256,
            Self::Lower | Self::Upper { .. } => 128,
        }
    }

    /// The standards' number of its first byte.
    const fn first(self) -> usize {
        match self {
            Self::Upper { .. } => 128,
            Self::A0 | Self::A2 | Self::Lower => 0,
        }
    }
}

impl fmt::Display for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::A0 => f.write_str("A0"),
            Self::A2 => f.write_str("A2"),
            Self::Lower => f.write_str("lower memory"),
            Self::Upper { bank: 0, page } => write!(f, "page {page:02x}"),
            Self::Upper { bank, page } => write!(f, "page {page:02x} of bank {bank}"),
        }
    }
}

/// The pages of one module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image(BTreeMap<Page, Vec<u8>>);

impl Image {
    /// Adds a page. Bytes beyond a page's length are dropped, and told.
    ///
    /// # Errors
    /// What was wrong with it: too long, a page too many, or given before with other bytes.
    pub fn insert(&mut self, page: Page, bytes: &[u8]) -> Result<(), Problem> {
        let kept = &bytes[..bytes.len().min(page.bytes_max())];
        match self.0.get(&page) {
            Some(before) if before == kept => return Ok(()),
            Some(_) => return Err(Problem::GivenTwice { page }),
            None if self.0.len() >= PAGES_MAX => return Err(Problem::TooManyPages { page, max: PAGES_MAX }),
            None => self.0.insert(page, kept.to_vec()),
        };
        if kept.len() < bytes.len() {
            return Err(Problem::Length { page, bytes: bytes.len(), expected: expected(page) });
        }
        Ok(())
    }

    /// Replaces a page, or adds it where there is room.
    pub fn replace(&mut self, page: Page, bytes: &[u8]) {
        if self.0.len() < PAGES_MAX || self.0.contains_key(&page) {
            self.0.insert(page, bytes[..bytes.len().min(page.bytes_max())].to_vec());
        }
    }

    /// The bytes of a page, as many as there are.
    #[must_use]
    pub fn page(&self, page: Page) -> Option<&[u8]> {
        self.0.get(&page).map(Vec::as_slice)
    }

    /// All pages there are.
    pub fn pages(&self) -> impl Iterator<Item = Page> + '_ {
        self.0.keys().copied()
    }

    /// One byte by its number in the standard (an upper page's first is 128).
    #[must_use]
    pub fn byte(&self, page: Page, at: usize) -> Option<u8> {
        self.page(page)?.get(at.checked_sub(page.first())?).copied()
    }

    /// A big-endian number of 16 bits.
    pub(crate) fn be16(&self, page: Page, at: usize) -> Option<u16> {
        Some(u16::from_be_bytes([self.byte(page, at)?, self.byte(page, at + 1)?]))
    }

    /// A little-endian number of 16 bits.
    pub(crate) fn le16(&self, page: Page, at: usize) -> Option<u16> {
        Some(u16::from_le_bytes([self.byte(page, at)?, self.byte(page, at + 1)?]))
    }

    /// Bytes `from` up to and including `to`, by their numbers in the standard.
    pub(crate) fn range(&self, page: Page, from: usize, to: usize) -> Option<&[u8]> {
        self.page(page)?.get(from.checked_sub(page.first())?..=to.checked_sub(page.first())?)
    }

    /// The page that would say what the module is.
    pub(crate) fn identity(&self) -> Page {
        if self.0.contains_key(&Page::A2) { Page::A0 } else { Page::Lower }
    }

    /// A paged module answers at address A0h too: read from there, its first half is lower memory and its second the page
    /// behind it.
    pub(crate) fn split_a0(&mut self) {
        let is_paged = |identifier: &u8| matches!(Standard::of(*identifier), Some(Standard::Sff8636 | Standard::Cmis));
        if self.0.contains_key(&Page::Lower) || !self.page(Page::A0).and_then(<[u8]>::first).is_some_and(is_paged) {
            return;
        }
        if let Some(mut lower) = self.0.remove(&Page::A0) {
            let behind = lower.split_off(lower.len().min(Page::Lower.bytes_max()));
            self.0.insert(Page::Lower, lower);
            if !behind.is_empty() {
                self.0.entry(Page::upper(0)).or_insert(behind);
            }
        }
    }

    pub(crate) fn rename(&mut self, from: Page, to: Page) {
        if let Some(bytes) = self.0.remove(&from) {
            self.0.insert(to, bytes);
        }
    }

    /// Removes the pages for which `reject` holds, and returns which.
    pub(crate) fn remove_where(&mut self, reject: impl Fn(Page, &[u8]) -> bool) -> Vec<Page> {
        let rejected: Vec<Page> =
            self.0.iter().filter(|(page, bytes)| reject(**page, bytes)).map(|(page, _)| *page).collect();
        for page in &rejected {
            self.0.remove(page);
        }
        rejected
    }

    pub(crate) fn remove(&mut self, page: Page) {
        self.0.remove(&page);
    }
}

/// How long a page should be, in words.
pub(crate) const fn expected(page: Page) -> &'static str {
    match page {
        Page::A0 | Page::A2 => "128 or 256",
        Page::Lower | Page::Upper { .. } => "128",
    }
}
