//! The calls of DCMI that we make, made safe.
//!
//! Signatures and values: Huawei, `dcmi_interface_api.h` as published with the Ascend driver and its users (version 2 of the
//! interface, Ascend 910B and 910_93 DCMI API reference). The library is looked up while running; a function that an older one
//! lacks answers [`Code::NOT_SUPPORTED`]. Never: a call that sets or clears anything.

use crate::loading::Mapped;
use std::ffi::{c_int, c_uchar, c_uint, c_ulonglong};
use std::path::Path;

/// What a call answers; 0 is success and never here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Code(pub c_int);

impl Code {
    pub(super) const NOT_PERMITTED: Self = Self(-8002);
    pub(super) const TIME_OUT: Self = Self(-8006);
    pub(super) const DEVICE_NOT_EXIST: Self = Self(-8008);
    pub(super) const NOT_SUPPORT_IN_CONTAINER: Self = Self(-8013);
    pub(super) const NOT_SUPPORTED: Self = Self(-8255);

    /// In the reference's words.
    pub(super) fn words(self) -> &'static str {
        match self.0 {
            -8001 => "invalid parameter",
            -8002 => "operation not permitted",
            -8003 => "memory operation failed",
            -8004 => "secure function failed",
            -8005 => "internal error",
            -8006 => "timed out",
            -8007 => "invalid device",
            -8008 => "device does not exist",
            -8009 => "ioctl failed",
            -8010 => "sending a message failed",
            -8011 => "receiving a message failed",
            -8012 => "not ready",
            -8013 => "not supported in a container",
            -8015 => "reset failed",
            -8016 => "operation aborted",
            -8017 => "being upgraded",
            -8020 => "resource occupied",
            -8255 => "not supported",
            _ => "an error",
        }
    }
}

/// An NPU as the library names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Chip {
    pub card: c_int,
    pub device: c_int,
}

/// Cards and codes in one answer (MAX_CARD_NUM, and the list of the reference's own example).
const CARDS_MAX: usize = 64;
pub(super) const CODES_MAX: usize = 128;
/// Chips on a card that are believed.
const CHIPS_MAX: c_int = 8;
/// `dcmi_get_device_health` of a chip that is not there or has not started.
const HEALTH_ABSENT: c_uint = 0xffff_ffff;
/// DCMI_UTILIZATION_RATE_AICORE; DCMI_FREQ_AICORE_CURRENT_; DCMI_DEVICE_TYPE_HBM.
const RATE_CORES: c_int = 2;
const CLOCK_CORES: c_int = 7;
const MEMORY_HBM: c_int = 2;

/// `struct dcmi_hbm_info`: sizes in MB, MHz, degrees Celsius, percent.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Hbm {
    pub total_mb: c_ulonglong,
    pub clock_mhz: c_uint,
    pub used_mb: c_ulonglong,
    pub temperature_c: c_int,
    pub bandwidth_percent: c_uint,
}

/// `struct dcmi_ecc_info`: the first two counts are since the last reset, the next two of the chip's lifetime.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ecc {
    pub is_enabled: c_int,
    pub single_bit: c_uint,
    pub double_bit: c_uint,
    pub lifetime_single_bit: c_uint,
    pub lifetime_double_bit: c_uint,
    pub isolated_pages_single_bit: c_uint,
    pub isolated_pages_double_bit: c_uint,
}

/// `struct dcmi_pcie_info_all`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Pcie {
    vendor: c_uint,
    subvendor: c_uint,
    device_kind: c_uint,
    subdevice_kind: c_uint,
    domain: c_int,
    bus: c_uint,
    device: c_uint,
    function: c_uint,
    reserved: [c_uchar; 32],
}

type OfChip<T> = unsafe extern "C" fn(c_int, c_int, *mut T) -> c_int;
type OfChipAnd<T> = unsafe extern "C" fn(c_int, c_int, c_int, *mut T) -> c_int;

/// The library, and the functions found in it.
pub(super) struct Library {
    init: unsafe extern "C" fn() -> c_int,
    cards: unsafe extern "C" fn(*mut c_int, *mut c_int, c_int) -> c_int,
    chips: unsafe extern "C" fn(c_int, *mut c_int, *mut c_int, *mut c_int) -> c_int,
    logic_id: Option<unsafe extern "C" fn(*mut c_int, c_int, c_int) -> c_int>,
    pcie: Option<OfChip<Pcie>>,
    health: Option<OfChip<c_uint>>,
    temperature: Option<OfChip<c_int>>,
    power: Option<OfChip<c_int>>,
    utilization: Option<OfChipAnd<c_uint>>,
    clock: Option<OfChipAnd<c_uint>>,
    hbm: Option<OfChip<Hbm>>,
    ecc: Option<OfChipAnd<Ecc>>,
    codes: Option<unsafe extern "C" fn(c_int, c_int, *mut c_int, *mut c_uint, c_uint) -> c_int>,
    code_text: Option<unsafe extern "C" fn(c_int, c_int, c_uint, *mut c_uchar, c_int) -> c_int>,
}

impl Library {
    /// Maps the library and looks its functions up.
    pub(super) fn load(path: &Path) -> Result<Self, String> {
        let mapped = Mapped::new(path)?;
        let lacks = |name: &str| format!("{} is no DCMI: function {name} is missing", path.display());
        // SAFETY: each type is the signature of the function of that name in dcmi_interface_api.h; an enum of C is an int.
        unsafe {
            Ok(Self {
                init: mapped.find(c"dcmi_init").ok_or_else(|| lacks("dcmi_init"))?,
                cards: mapped.find(c"dcmi_get_card_list").ok_or_else(|| lacks("dcmi_get_card_list"))?,
                chips: mapped.find(c"dcmi_get_device_id_in_card").ok_or_else(|| lacks("dcmi_get_device_id_in_card"))?,
                logic_id: mapped.find(c"dcmi_get_device_logic_id"),
                pcie: mapped.find(c"dcmi_get_device_pcie_info_v2"),
                health: mapped.find(c"dcmi_get_device_health"),
                temperature: mapped.find(c"dcmi_get_device_temperature"),
                power: mapped.find(c"dcmi_get_device_power_info"),
                utilization: mapped.find(c"dcmi_get_device_utilization_rate"),
                clock: mapped.find(c"dcmi_get_device_frequency"),
                hbm: mapped.find(c"dcmi_get_device_hbm_info"),
                ecc: mapped.find(c"dcmi_get_device_ecc_info"),
                codes: mapped.find(c"dcmi_get_device_errorcode_v2"),
                code_text: mapped.find(c"dcmi_get_device_errorcode_string"),
            })
        }
    }

    /// Connects to the driver. There is no call that ends it.
    pub(super) fn start(&self) -> Result<(), Code> {
        // SAFETY: takes nothing.
        done(unsafe { (self.init)() })
    }

    /// NPUs that the driver knows now.
    pub(super) fn chips(&self) -> Result<Vec<Chip>, Code> {
        let (mut count, mut cards) = (0, [0; CARDS_MAX]);
        // SAFETY: the length is the array's.
        done(unsafe { (self.cards)(&raw mut count, cards.as_mut_ptr(), CARDS_MAX as c_int) })?;
        let count = usize::try_from(count).unwrap_or(0).min(CARDS_MAX);
        let mut chips = Vec::new();
        for &card in &cards[..count] {
            // How many NPUs, and the places of the two other processors on the card, which are none.
            let (mut npus, mut management, mut control) = (0, 0, 0);
            // SAFETY: three valid places for the answers.
            if unsafe { (self.chips)(card, &raw mut npus, &raw mut management, &raw mut control) } == 0 {
                chips.extend((0..npus.clamp(0, CHIPS_MAX)).map(|device| Chip { card, device }));
            }
        }
        Ok(chips)
    }

    /// The number by which programs and `hccn_tool` name it.
    pub(super) fn logic_id(&self, chip: Chip) -> Result<u32, Code> {
        let call = self.logic_id.ok_or(Code::NOT_SUPPORTED)?;
        let mut id = 0;
        // SAFETY: a valid place for the answer.
        done(unsafe { call(&raw mut id, chip.card, chip.device) })?;
        u32::try_from(id).map_err(|_| Code::NOT_SUPPORTED)
    }

    /// As sysfs writes it: "0000:3b:00.0".
    pub(super) fn pci_address(&self, chip: Chip) -> Result<String, Code> {
        let Pcie { domain, bus, device, function, .. } = self.of_chip(self.pcie, chip)?;
        Ok(format!("{domain:04x}:{bus:02x}:{device:02x}.{function:x}"))
    }

    /// 0 well, 1 a minor, 2 a major, 3 a critical alarm.
    pub(super) fn health(&self, chip: Chip) -> Result<u32, Code> {
        match self.of_chip(self.health, chip)? {
            HEALTH_ABSENT => Err(Code::DEVICE_NOT_EXIST),
            health => Ok(health),
        }
    }

    /// Degrees Celsius.
    pub(super) fn temperature_c(&self, chip: Chip) -> Result<i32, Code> {
        self.of_chip(self.temperature, chip)
    }

    /// Tenths of a watt.
    pub(super) fn power_tenths_w(&self, chip: Chip) -> Result<i32, Code> {
        self.of_chip(self.power, chip)
    }

    /// Percent of the AI cores' time.
    pub(super) fn utilization_percent(&self, chip: Chip) -> Result<u32, Code> {
        self.of_chip_and(self.utilization, chip, RATE_CORES)
    }

    /// Megahertz of the AI cores now.
    pub(super) fn clock_mhz(&self, chip: Chip) -> Result<u32, Code> {
        self.of_chip_and(self.clock, chip, CLOCK_CORES)
    }

    pub(super) fn hbm(&self, chip: Chip) -> Result<Hbm, Code> {
        self.of_chip(self.hbm, chip)
    }

    /// Of the HBM.
    pub(super) fn ecc(&self, chip: Chip) -> Result<Ecc, Code> {
        self.of_chip_and(self.ecc, chip, MEMORY_HBM)
    }

    /// Faults that it has now.
    pub(super) fn codes(&self, chip: Chip) -> Result<Vec<u32>, Code> {
        let call = self.codes.ok_or(Code::NOT_SUPPORTED)?;
        let (mut count, mut codes) = (0, [0; CODES_MAX]);
        // SAFETY: the length is the array's.
        done(unsafe { call(chip.card, chip.device, &raw mut count, codes.as_mut_ptr(), CODES_MAX as c_uint) })?;
        let count = usize::try_from(count).unwrap_or(0).min(CODES_MAX);
        Ok(codes[..count].to_vec())
    }

    /// A fault in the library's own words.
    pub(super) fn code_text(&self, chip: Chip, code: u32) -> Option<String> {
        let call = self.code_text?;
        let mut text = [0u8; 256];
        // SAFETY: the length is one less than the buffer's, so that it ends in zero whatever is written.
        done(unsafe { call(chip.card, chip.device, code, text.as_mut_ptr(), text.len() as c_int - 1) }).ok()?;
        let end = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
        let text = String::from_utf8_lossy(&text[..end]).trim().to_owned();
        (!text.is_empty()).then_some(text)
    }

    fn of_chip<T: Default>(&self, call: Option<OfChip<T>>, chip: Chip) -> Result<T, Code> {
        let call = call.ok_or(Code::NOT_SUPPORTED)?;
        let mut answer = T::default();
        // SAFETY: a valid place of the type that the function's signature names.
        done(unsafe { call(chip.card, chip.device, &raw mut answer) })?;
        Ok(answer)
    }

    fn of_chip_and<T: Default>(&self, call: Option<OfChipAnd<T>>, chip: Chip, which: c_int) -> Result<T, Code> {
        let call = call.ok_or(Code::NOT_SUPPORTED)?;
        let mut answer = T::default();
        // SAFETY: as in `of_chip`.
        done(unsafe { call(chip.card, chip.device, which, &raw mut answer) })?;
        Ok(answer)
    }
}

fn done(code: c_int) -> Result<(), Code> {
    if code == 0 { Ok(()) } else { Err(Code(code)) }
}
