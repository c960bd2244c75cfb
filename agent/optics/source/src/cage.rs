//! One cage and the module in it: which pages it has, which of them change, and whether it is still the same module.

use crate::eeprom::{Eeprom, Interface, Piece};
use railwatch_optics::{BANKS_MAX, Image, Module, Page, Standard, decode};
use railwatch_sampling::Moment;
use railwatch_sampling::clock::monotonic_ns;
use std::io::{self, ErrorKind};

/// A module that answered, with everything about it that does not change.
#[derive(Debug)]
pub(crate) struct Plugged {
    image: Image,
    /// Read at every reading.
    changing: Vec<Page>,
    /// Where its serial number is; `None` where the layout is not known.
    serial: Option<Piece>,
    /// What it was when it was plugged in.
    first: Module,
}

/// What one reading brought.
pub(crate) struct Refreshed {
    pub(crate) module: Module,
    pub(crate) moment: Moment,
    pub(crate) slowest_ns: u64,
}

/// Why a reading brought nothing.
#[derive(Debug)]
pub(crate) enum Lost {
    /// Another module answers.
    Swapped,
    /// None does.
    Failed(io::Error),
}

const fn upper(page: u8) -> Page {
    Page::upper(page)
}

impl Plugged {
    /// Reads a module for the first time: all pages that this reader knows of. Flags it had set are history, and cleared by
    /// that.
    ///
    /// # Errors
    /// Nothing answers at address 50h, or nothing that is a module.
    pub(crate) fn read(eeprom: &mut dyn Eeprom, interface: &Interface) -> io::Result<Self> {
        let lower = eeprom.read(interface, Piece::whole(Page::Lower))?;
        let identifier = lower.first().copied().unwrap_or_default();
        if matches!(identifier, 0 | 0xff) {
            return Err(io::Error::new(ErrorKind::NotFound, "no module answers"));
        }
        let standard = Standard::of(identifier);
        let is_sfp = standard == Some(Standard::Sff8472);
        let byte = |at: usize| lower.get(at).copied().unwrap_or_default();
        let mut image = Image::default();
        image.replace(if is_sfp { Page::A0 } else { Page::Lower }, &lower);
        // A page that cannot be read is missing: the decoder says so.
        let mut take = |page: Page, image: &mut Image| match eeprom.read(interface, Piece::whole(page)) {
            Ok(bytes) => {
                image.replace(page, &bytes);
                true
            }
            Err(_) => false,
        };
        let (changing, serial) = match standard {
            Some(Standard::Sff8472) => {
                let has_diagnostics = byte(92) & 0x40 != 0;
                let changing = if has_diagnostics { vec![Page::A2] } else { Vec::new() };
                (changing, Some(Piece { page: Page::A0, from: 68, length: 16 }))
            }
            Some(Standard::Sff8636) => {
                take(upper(0), &mut image);
                if byte(2) & 0x04 == 0 {
                    take(upper(3), &mut image);
                }
                (vec![Page::Lower], Some(Piece { page: upper(0), from: 196, length: 16 }))
            }
            Some(Standard::Cmis) => {
                take(upper(0), &mut image);
                let mut changing = vec![Page::Lower];
                if byte(2) & 0x80 == 0 {
                    take(upper(1), &mut image);
                    take(upper(2), &mut image);
                    let capabilities = image.byte(upper(1), 142).unwrap_or_default();
                    let banks = [1, 2, BANKS_MAX, 1][usize::from(capabilities & 3)];
                    changing.extend((0..banks).map(|bank| Page::Upper { bank, page: 0x11 }));
                    // Page 14 shows what its selector says; this reader does not write it.
                    let ratios = |bank| Page::Upper { bank, page: 0x14 };
                    if capabilities & 0x20 != 0 && take(ratios(0), &mut image) && image.byte(ratios(0), 128) == Some(6)
                    {
                        changing.extend((0..banks).map(ratios));
                    }
                }
                (changing, Some(Piece { page: upper(0), from: 166, length: 16 }))
            }
            None => (Vec::new(), None),
        };
        let changing = changing.into_iter().filter(|page| image.page(*page).is_some() || take(*page, &mut image));
        let changing = changing.collect::<Vec<_>>();
        let first = decode(&image);
        Ok(Self { image, changing, serial, first })
    }

    /// What it was when it was plugged in.
    pub(crate) fn first(&self) -> &Module {
        &self.first
    }

    /// It gives more than when it was plugged in: values that were not ready then.
    pub(crate) fn gives(&mut self, module: &Module) {
        self.first = module.clone();
    }

    /// Reads what changes, after a look whether it is still the same module.
    pub(crate) fn refresh(&mut self, eeprom: &mut dyn Eeprom, interface: &Interface) -> Result<Refreshed, Lost> {
        let began_ns = monotonic_ns();
        let mut slowest_ns = 0;
        let mut timed = |piece: Piece| {
            let before_ns = monotonic_ns();
            let bytes = eeprom.read(interface, piece).map_err(Lost::Failed);
            slowest_ns = slowest_ns.max(monotonic_ns() - before_ns);
            bytes
        };
        if let Some(piece) = self.serial {
            let at = usize::from(piece.from);
            let known = (at..at + usize::from(piece.length)).map(|at| self.image.byte(piece.page, at));
            if !known.eq(timed(piece)?.into_iter().map(Some)) {
                return Err(Lost::Swapped);
            }
        }
        for page in &self.changing {
            let bytes = timed(Piece::whole(*page))?;
            self.image.replace(*page, &bytes);
        }
        Ok(Refreshed { module: decode(&self.image), moment: Moment::between(began_ns, monotonic_ns()), slowest_ns })
    }
}
