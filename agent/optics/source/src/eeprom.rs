//! Where the bytes of modules come from: this kernel, or files of another host's tree.
//!
//! ETHTOOL_MSG_MODULE_EEPROM_GET (Linux 5.13, Documentation/networking/ethtool-netlink.rst) reads at most 128 bytes that do
//! not cross the middle of the 256 that are visible, under RTNL, through the driver and I²C; it needs CAP_NET_ADMIN. A driver
//! that knows only the older interface is asked through it by the kernel.

use railwatch_nic::Ethtool;
use railwatch_nic::netlink::{Attributes, Request, malformed};
use railwatch_optics::{Page, parse};
use std::io::{self, ErrorKind};
use std::path::PathBuf;

const MODULE_EEPROM_GET: u8 = 31;
const A_OFFSET: u16 = 2;
const A_LENGTH: u16 = 3;
const A_PAGE: u16 = 4;
const A_BANK: u16 = 5;
const A_I2C_ADDRESS: u16 = 6;
const A_DATA: u16 = 7;

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Interface {
    /// 0 under a root that is no sysfs.
    pub(crate) index: u32,
    pub(crate) name: String,
}

/// Bytes of one page, by their numbers in the standard: an upper page begins at 128.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) page: Page,
    pub(crate) from: u8,
    pub(crate) length: u8,
}

impl Piece {
    /// The 128 bytes of a page (the first ones of an SFP's address).
    pub(crate) const fn whole(page: Page) -> Self {
        let from = if matches!(page, Page::Upper { .. }) { 128 } else { 0 };
        Self { page, from, length: 128 }
    }

    const fn i2c_address(self) -> u8 {
        if matches!(self.page, Page::A2) { 0x51 } else { 0x50 }
    }

    const fn bank_and_page(self) -> (u8, u8) {
        match self.page {
            Page::Upper { bank, page } => (bank, page),
            Page::A0 | Page::A2 | Page::Lower => (0, 0),
        }
    }
}

/// Reads modules, one piece at a time.
pub(crate) trait Eeprom: Send {
    /// As a person would look for it.
    fn path(&self) -> &'static str;

    /// The interfaces that may have a module.
    fn interfaces(&mut self) -> io::Result<Vec<Interface>>;

    /// Exactly the bytes asked for.
    fn read(&mut self, interface: &Interface, piece: Piece) -> io::Result<Vec<u8>>;
}

/// This kernel's drivers.
#[derive(Default)]
pub(crate) struct Kernel(Option<Ethtool>);

impl Eeprom for Kernel {
    fn path(&self) -> &'static str {
        "ethtool netlink ETHTOOL_MSG_MODULE_EEPROM_GET"
    }

    fn interfaces(&mut self) -> io::Result<Vec<Interface>> {
        let all = nix::net::if_::if_nameindex()?;
        let one = |interface: &nix::net::if_::Interface| Interface {
            index: interface.index(),
            name: interface.name().to_string_lossy().into_owned(),
        };
        Ok(all.iter().map(one).filter(|interface| interface.name != "lo").collect())
    }

    fn read(&mut self, interface: &Interface, piece: Piece) -> io::Result<Vec<u8>> {
        let ethtool = match &mut self.0 {
            Some(ethtool) => ethtool,
            none => none.insert(Ethtool::open()?),
        };
        let mut request = asking(ethtool.request(MODULE_EEPROM_GET, interface.index, 0), piece);
        let bytes = ethtool.ask(&mut request, |attributes| answered(attributes, piece))??;
        Ok(bytes)
    }
}

fn asking(request: Request, piece: Piece) -> Request {
    let (bank, page) = piece.bank_and_page();
    request
        .u32(A_OFFSET, u32::from(piece.from))
        .u32(A_LENGTH, u32::from(piece.length))
        .u8(A_PAGE, page)
        .u8(A_BANK, bank)
        .u8(A_I2C_ADDRESS, piece.i2c_address())
}

fn answered(attributes: Attributes<'_>, piece: Piece) -> io::Result<Vec<u8>> {
    match attributes.find_kind(A_DATA) {
        Some(bytes) if bytes.len() == usize::from(piece.length) => Ok(bytes.to_vec()),
        Some(_) => Err(malformed("another number of bytes than was asked for")),
        None => Err(malformed("an answer without bytes")),
    }
}

/// Files `class/net/INTERFACE/module_eeprom.json` under a root, in the format of `railwatch optics decode`.
pub(crate) struct Files(pub(crate) PathBuf);

impl Files {
    fn file(&self, interface: &str) -> PathBuf {
        self.0.join("class/net").join(interface).join("module_eeprom.json")
    }
}

impl Eeprom for Files {
    fn path(&self) -> &'static str {
        "class/net/*/module_eeprom.json"
    }

    fn interfaces(&mut self) -> io::Result<Vec<Interface>> {
        let directory = self.0.join("class/net");
        let names = std::fs::read_dir(directory)?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut found: Vec<_> =
            names.filter(|name| self.file(name).exists()).map(|name| Interface { index: 0, name }).collect();
        found.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    fn read(&mut self, interface: &Interface, piece: Piece) -> io::Result<Vec<u8>> {
        let (image, _) = parse(&std::fs::read(self.file(&interface.name))?);
        // Both are address 50h: which of the two it is called is known once it is read.
        let page = match piece.page {
            Page::Lower if image.page(Page::Lower).is_none() => Page::A0,
            page => page,
        };
        let bytes = image.page(page).ok_or_else(|| io::Error::new(ErrorKind::InvalidInput, "no such page"))?;
        let from = usize::from(piece.from) - if matches!(page, Page::Upper { .. }) { 128 } else { 0 };
        let bytes = bytes.get(from..from + usize::from(piece.length));
        bytes.map(<[u8]>::to_vec).ok_or_else(|| io::Error::from(ErrorKind::UnexpectedEof))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use super::*;

    fn attribute(kind: u16, payload: &[u8]) -> Vec<u8> {
        let mut bytes = u16::try_from(payload.len() + 4).unwrap().to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(payload);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn a_request_says_address_bank_page_offset_and_length() {
        for (page, expected) in [
            (Page::Lower, (0u32, 0u8, 0u8, 0x50u8)),
            (Page::A0, (0, 0, 0, 0x50)),
            (Page::A2, (0, 0, 0, 0x51)),
            (Page::Upper { bank: 1, page: 0x11 }, (128, 0x11, 1, 0x50)),
        ] {
            let (offset, page_number, bank, address) = expected;
            let attributes = [
                attribute(A_OFFSET, &offset.to_ne_bytes()),
                attribute(A_LENGTH, &128u32.to_ne_bytes()),
                attribute(A_PAGE, &[page_number]),
                attribute(A_BANK, &[bank]),
                attribute(A_I2C_ADDRESS, &[address]),
            ];
            let request = asking(Request::new(0, &[]), Piece::whole(page));
            assert!(request.payload().ends_with(&attributes.concat()), "{page}");
        }
    }

    #[test]
    fn an_answer_gives_the_bytes_asked_for_and_no_others() {
        let piece = Piece { page: Page::Lower, from: 0, length: 4 };
        let answer =
            [attribute(1 | 0x8000, &attribute(1, &7u32.to_ne_bytes())), attribute(A_DATA, &[1, 2, 3, 4])].concat();
        assert_eq!(answered(Attributes(&answer), piece).unwrap(), [1, 2, 3, 4]);
        for cut in 0..answer.len() {
            assert_eq!(
                answered(Attributes(&answer[..cut]), piece).unwrap_err().kind(),
                ErrorKind::InvalidData,
                "{cut}"
            );
        }
        let long = attribute(A_DATA, &[0; 5]);
        assert!(answered(Attributes(&long), piece).is_err());
    }
}
