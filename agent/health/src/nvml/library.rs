//! The calls of NVML that we make, made safe.
//!
//! Signatures and values: NVIDIA, `nvml.h` of the CUDA toolkit (API reference, docs.nvidia.com/deploy/nvml-api). The library
//! is looked up while running; a function that an older one lacks answers [`Code::FUNCTION_NOT_FOUND`]. The library stays mapped
//! until the process ends: it has threads and handlers of its own.

use crate::loading::Mapped;
use std::ffi::{CStr, c_char, c_int, c_uint, c_ulonglong, c_void};
use std::path::Path;

/// nvmlReturn_t.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Code(c_int);

impl Code {
    pub(super) const NOT_SUPPORTED: Self = Self(3);
    pub(super) const NO_PERMISSION: Self = Self(4);
    pub(super) const DRIVER_NOT_LOADED: Self = Self(9);
    pub(super) const TIMEOUT: Self = Self(10);
    pub(super) const FUNCTION_NOT_FOUND: Self = Self(13);
    pub(super) const GPU_IS_LOST: Self = Self(15);
    pub(super) const RESET_REQUIRED: Self = Self(16);
}

/// nvmlDevice_t: valid from its look-up until the library is shut down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Device(*mut c_void);

// SAFETY: NVML is thread-safe by its documentation, and a handle is bound to no thread.
unsafe impl Send for Device {}

#[repr(C)]
#[derive(Default)]
struct Utilization {
    gpu: c_uint,
    memory: c_uint,
}

#[repr(C)]
#[derive(Default)]
struct Memory {
    total: c_ulonglong,
    free: c_ulonglong,
    used: c_ulonglong,
}

/// nvmlPciInfo_t as of nvmlDeviceGetPciInfo_v3.
#[repr(C)]
#[derive(Default)]
struct PciInfo {
    bus_id_legacy: [c_char; 16],
    domain: c_uint,
    bus: c_uint,
    device: c_uint,
    pci_device_id: c_uint,
    pci_subsystem_id: c_uint,
    bus_id: [c_char; 32],
}

/// nvmlEventData_t as of nvmlEventSetWait_v2.
#[repr(C)]
struct EventData {
    device: *mut c_void,
    event_type: c_ulonglong,
    event_data: c_ulonglong,
    gpu_instance: c_uint,
    compute_instance: c_uint,
}

impl PciInfo {
    /// As sysfs writes it. A GPU is always function 0, and so is an NVSwitch.
    fn address(&self) -> String {
        format!("{:04x}:{:02x}:{:02x}.0", self.domain, self.bus, self.device)
    }
}

const EVENT_XID: c_ulonglong = 0x8;
/// NVML_NVLINK_MAX_LINKS.
const NVLINKS_MAX: c_uint = 18;
const UUID_BYTES: c_uint = 96;

type Call0 = unsafe extern "C" fn() -> c_int;
type Call1 = unsafe extern "C" fn(*mut c_void) -> c_int;
type Out<T> = unsafe extern "C" fn(*mut T) -> c_int;
type OfDevice<T> = unsafe extern "C" fn(*mut c_void, *mut T) -> c_int;
type OfDeviceAnd<T> = unsafe extern "C" fn(*mut c_void, c_uint, *mut T) -> c_int;

/// The library, and the functions found in it.
pub(super) struct Library {
    init: Call0,
    shutdown: Call0,
    error_string: Option<unsafe extern "C" fn(c_int) -> *const c_char>,
    count: Out<c_uint>,
    handle_by_index: unsafe extern "C" fn(c_uint, *mut *mut c_void) -> c_int,
    pci_info: OfDevice<PciInfo>,
    uuid: Option<unsafe extern "C" fn(*mut c_void, *mut c_char, c_uint) -> c_int>,
    utilization: Option<OfDevice<Utilization>>,
    memory: Option<OfDevice<Memory>>,
    clock: Option<OfDeviceAnd<c_uint>>,
    throttle_reasons: Option<OfDevice<c_ulonglong>>,
    temperature: Option<OfDeviceAnd<c_uint>>,
    power: Option<OfDevice<c_uint>>,
    energy: Option<OfDevice<c_ulonglong>>,
    ecc: Option<unsafe extern "C" fn(*mut c_void, c_uint, c_uint, *mut c_ulonglong) -> c_int>,
    remapped_rows:
        Option<unsafe extern "C" fn(*mut c_void, *mut c_uint, *mut c_uint, *mut c_uint, *mut c_uint) -> c_int>,
    nvlink_state: Option<OfDeviceAnd<c_uint>>,
    nvlink_remote: Option<OfDeviceAnd<PciInfo>>,
    nvlink_errors: Option<unsafe extern "C" fn(*mut c_void, c_uint, c_uint, *mut c_ulonglong) -> c_int>,
    pcie_replays: Option<OfDevice<c_uint>>,
    persistence: Option<OfDevice<c_int>>,
    ecc_mode: Option<unsafe extern "C" fn(*mut c_void, *mut c_int, *mut c_int) -> c_int>,
    event_set_create: Option<Out<*mut c_void>>,
    event_set_free: Option<Call1>,
    register_events: Option<unsafe extern "C" fn(*mut c_void, c_ulonglong, *mut c_void) -> c_int>,
    event_set_wait: Option<unsafe extern "C" fn(*mut c_void, *mut EventData, c_uint) -> c_int>,
    /// Null until started, and where the library has no events.
    events: std::cell::Cell<*mut c_void>,
    is_started: std::cell::Cell<bool>,
}

// SAFETY: NVML is thread-safe by its documentation; the cells are only touched through the one owner of the value.
unsafe impl Send for Library {}

impl Library {
    /// Maps the library and looks its functions up. Nothing of it runs yet but its constructors.
    pub(super) fn load(path: &Path) -> Result<Self, String> {
        let mapped = Mapped::new(path)?;
        let lacks = |name: &str| format!("{} is no NVML: function {name} is missing", path.display());
        // SAFETY: each type is the documented signature of the function of that name in nvml.h.
        unsafe {
            Ok(Self {
                init: mapped.find(c"nvmlInit_v2").ok_or_else(|| lacks("nvmlInit_v2"))?,
                shutdown: mapped.find(c"nvmlShutdown").ok_or_else(|| lacks("nvmlShutdown"))?,
                error_string: mapped.find(c"nvmlErrorString"),
                count: mapped.find(c"nvmlDeviceGetCount_v2").ok_or_else(|| lacks("nvmlDeviceGetCount_v2"))?,
                handle_by_index: mapped
                    .find(c"nvmlDeviceGetHandleByIndex_v2")
                    .ok_or_else(|| lacks("nvmlDeviceGetHandleByIndex_v2"))?,
                pci_info: mapped.find(c"nvmlDeviceGetPciInfo_v3").ok_or_else(|| lacks("nvmlDeviceGetPciInfo_v3"))?,
                uuid: mapped.find(c"nvmlDeviceGetUUID"),
                utilization: mapped.find(c"nvmlDeviceGetUtilizationRates"),
                memory: mapped.find(c"nvmlDeviceGetMemoryInfo"),
                clock: mapped.find(c"nvmlDeviceGetClockInfo"),
                // Renamed in 2023; libraries before know the old name alone.
                throttle_reasons: mapped
                    .find(c"nvmlDeviceGetCurrentClocksEventReasons")
                    .or_else(|| mapped.find(c"nvmlDeviceGetCurrentClocksThrottleReasons")),
                temperature: mapped.find(c"nvmlDeviceGetTemperature"),
                power: mapped.find(c"nvmlDeviceGetPowerUsage"),
                energy: mapped.find(c"nvmlDeviceGetTotalEnergyConsumption"),
                ecc: mapped.find(c"nvmlDeviceGetTotalEccErrors"),
                remapped_rows: mapped.find(c"nvmlDeviceGetRemappedRows"),
                nvlink_state: mapped.find(c"nvmlDeviceGetNvLinkState"),
                nvlink_remote: mapped.find(c"nvmlDeviceGetNvLinkRemotePciInfo_v2"),
                nvlink_errors: mapped.find(c"nvmlDeviceGetNvLinkErrorCounter"),
                pcie_replays: mapped.find(c"nvmlDeviceGetPcieReplayCounter"),
                persistence: mapped.find(c"nvmlDeviceGetPersistenceMode"),
                ecc_mode: mapped.find(c"nvmlDeviceGetEccMode"),
                event_set_create: mapped.find(c"nvmlEventSetCreate"),
                event_set_free: mapped.find(c"nvmlEventSetFree"),
                register_events: mapped.find(c"nvmlDeviceRegisterEvents"),
                event_set_wait: mapped.find(c"nvmlEventSetWait_v2"),
                events: std::cell::Cell::new(std::ptr::null_mut()),
                is_started: std::cell::Cell::new(false),
            })
        }
    }

    /// Connects to the driver.
    pub(super) fn start(&self) -> Result<(), Code> {
        // SAFETY: takes nothing; may be called at any time.
        done(unsafe { (self.init)() })?;
        self.is_started.set(true);
        let mut events = std::ptr::null_mut();
        if let Some(create) = self.event_set_create {
            // SAFETY: `events` is a valid place for one handle.
            if unsafe { create(&raw mut events) } == 0 {
                self.events.set(events);
            }
        }
        Ok(())
    }

    /// A code in the library's own words.
    pub(super) fn describe(&self, code: Code) -> String {
        // SAFETY: answers with a string of its own that lives as long as the library, or null.
        let text = self.error_string.map(|describe| unsafe { describe(code.0) }).filter(|text| !text.is_null());
        // SAFETY: not null, NUL-terminated, and static, as above.
        let text = text.map(|text| unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned());
        format!("{} (code {})", text.unwrap_or_else(|| "an error".to_owned()), code.0)
    }

    /// GPUs that the driver knows.
    pub(super) fn count(&self) -> Result<u32, Code> {
        let mut count = 0;
        // SAFETY: `count` is a valid place for the answer.
        done(unsafe { (self.count)(&raw mut count) })?;
        Ok(count)
    }

    pub(super) fn device(&self, index: u32) -> Result<Device, Code> {
        let mut device = std::ptr::null_mut();
        // SAFETY: `device` is a valid place for one handle.
        done(unsafe { (self.handle_by_index)(index, &raw mut device) })?;
        Ok(Device(device))
    }

    /// As sysfs writes it: "0000:3b:00.0".
    pub(super) fn pci_address(&self, device: Device) -> Result<String, Code> {
        let mut info = PciInfo::default();
        // SAFETY: `info` has the layout of the structure of this version of the call.
        done(unsafe { (self.pci_info)(device.0, &raw mut info) })?;
        Ok(info.address())
    }

    pub(super) fn uuid(&self, device: Device) -> Result<String, Code> {
        let call = self.uuid.ok_or(Code::FUNCTION_NOT_FOUND)?;
        let mut buffer: [c_char; UUID_BYTES as usize] = [0; UUID_BYTES as usize];
        // SAFETY: the length is the buffer's; the call writes a terminated string or fails.
        done(unsafe { call(device.0, buffer.as_mut_ptr(), UUID_BYTES) })?;
        // A char of C has a sign on x86-64 and none on arm64.
        let bytes: Vec<u8> = buffer.iter().map(|byte| byte.to_ne_bytes()[0]).take_while(|byte| *byte != 0).collect();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Percent of the last sample period: kernels ran, memory was read or written.
    pub(super) fn utilization(&self, device: Device) -> Result<(u64, u64), Code> {
        let Utilization { gpu, memory } = of_device(self.utilization, device)?;
        Ok((gpu.into(), memory.into()))
    }

    /// Bytes used and in all.
    pub(super) fn memory(&self, device: Device) -> Result<(u64, u64), Code> {
        let Memory { total, free: _, used } = of_device(self.memory, device)?;
        Ok((used, total))
    }

    /// Megahertz now; `clock` is an nvmlClockType_t: 1 SM, 2 memory.
    pub(super) fn clock_mhz(&self, device: Device, clock: u32) -> Result<u64, Code> {
        of_device_and(self.clock, device, clock).map(u64::from)
    }

    /// A bitmask of nvmlClocksEventReason*.
    pub(super) fn throttle_reasons(&self, device: Device) -> Result<u64, Code> {
        of_device(self.throttle_reasons, device)
    }

    /// Degrees Celsius of the chip.
    pub(super) fn temperature_c(&self, device: Device) -> Result<u64, Code> {
        of_device_and(self.temperature, device, 0).map(u64::from)
    }

    /// Milliwatts.
    pub(super) fn power_mw(&self, device: Device) -> Result<u64, Code> {
        of_device(self.power, device).map(u64::from)
    }

    /// Millijoules since the driver was loaded.
    pub(super) fn energy_mj(&self, device: Device) -> Result<u64, Code> {
        of_device(self.energy, device)
    }

    /// `kind`: 0 corrected, 1 uncorrected. `counter`: 0 since the driver was loaded, 1 of the GPU's lifetime.
    pub(super) fn ecc_errors(&self, device: Device, kind: u32, counter: u32) -> Result<u64, Code> {
        let call = self.ecc.ok_or(Code::FUNCTION_NOT_FOUND)?;
        let mut count = 0;
        // SAFETY: a handle of this library, and a valid place for the answer.
        done(unsafe { call(device.0, kind, counter, &raw mut count) })?;
        Ok(count)
    }

    /// Rows remapped for corrected and for uncorrected errors, whether a remap waits, whether one failed.
    pub(super) fn remapped_rows(&self, device: Device) -> Result<[u64; 4], Code> {
        let call = self.remapped_rows.ok_or(Code::FUNCTION_NOT_FOUND)?;
        let [mut corrected, mut uncorrected, mut pending, mut failure] = [0; 4];
        // SAFETY: a handle of this library, and four valid places for the answers.
        done(unsafe { call(device.0, &raw mut corrected, &raw mut uncorrected, &raw mut pending, &raw mut failure) })?;
        Ok([corrected, uncorrected, pending, failure].map(u64::from))
    }

    /// Replays, recoveries and CRC errors summed over the active links, and how many are active.
    pub(super) fn nvlink_errors(&self, device: Device) -> Result<[u64; 4], Code> {
        /// nvmlNvLinkErrorCounter_t: replay, recovery, CRC of flits, CRC of data; and the sum it goes to.
        const COUNTERS: [(c_uint, usize); 4] = [(0, 0), (1, 1), (2, 2), (3, 2)];
        let call = self.nvlink_errors.ok_or(Code::FUNCTION_NOT_FOUND)?;
        let mut sums = [0u64; 4];
        for link in 0..NVLINKS_MAX {
            match of_device_and(self.nvlink_state, device, link) {
                Ok(0) => continue,
                Ok(_) => {}
                // Beyond the GPU's last link.
                Err(code) if link > 0 && code != Code::GPU_IS_LOST => break,
                Err(code) => return Err(code),
            }
            sums[3] += 1;
            for (counter, sum) in COUNTERS {
                let mut count = 0;
                // SAFETY: a handle of this library, and a valid place for the answer.
                done(unsafe { call(device.0, link, counter, &raw mut count) })?;
                sums[sum] = sums[sum].saturating_add(count);
            }
        }
        if sums[3] == 0 { Err(Code::NOT_SUPPORTED) } else { Ok(sums) }
    }

    /// PCI addresses at the other ends of the active links, an entry a link. None where this library or GPU does not tell.
    pub(super) fn nvlink_ends(&self, device: Device) -> Vec<String> {
        (0..NVLINKS_MAX)
            .filter(|link| of_device_and(self.nvlink_state, device, *link).is_ok_and(|active: c_uint| active != 0))
            .filter_map(|link| of_device_and(self.nvlink_remote, device, link).ok())
            .map(|info: PciInfo| info.address())
            .collect()
    }

    pub(super) fn pcie_replays(&self, device: Device) -> Result<u64, Code> {
        of_device(self.pcie_replays, device).map(u64::from)
    }

    /// The driver stays loaded while nobody uses the GPU.
    pub(super) fn persistence(&self, device: Device) -> Result<bool, Code> {
        of_device(self.persistence, device).map(|mode| mode == 1)
    }

    /// Error correction is on, as it is now and not as it will be after the next reset.
    pub(super) fn ecc_mode(&self, device: Device) -> Result<bool, Code> {
        let call = self.ecc_mode.ok_or(Code::FUNCTION_NOT_FOUND)?;
        let [mut current, mut pending] = [0; 2];
        // SAFETY: a handle of this library, and two valid places for the answers.
        done(unsafe { call(device.0, &raw mut current, &raw mut pending) })?;
        Ok(current == 1)
    }

    /// Asks for the XIDs of a GPU from now on. One that gives none is left.
    pub(super) fn watch(&self, device: Device) {
        if let Some(register) = self.register_events.filter(|_| !self.events.get().is_null()) {
            // SAFETY: a handle and an event set of this library.
            let _ = unsafe { register(device.0, EVENT_XID, self.events.get()) };
        }
    }

    /// An XID that waits, without waiting for one.
    pub(super) fn next_xid(&self) -> Option<(Device, u32)> {
        let wait = self.event_set_wait.filter(|_| !self.events.get().is_null())?;
        let mut event = EventData {
            device: std::ptr::null_mut(),
            event_type: 0,
            event_data: 0,
            gpu_instance: 0,
            compute_instance: 0,
        };
        // SAFETY: an event set of this library, and a place of the layout of this version of the call.
        done(unsafe { wait(self.events.get(), &raw mut event, 0) }).ok()?;
        if event.event_type != EVENT_XID {
            return None;
        }
        Some((Device(event.device), u32::try_from(event.event_data).unwrap_or(u32::MAX)))
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        if let Some(free) = self.event_set_free.filter(|_| !self.events.get().is_null()) {
            // SAFETY: an event set of this library, not used after.
            let _ = unsafe { free(self.events.get()) };
        }
        if self.is_started.get() {
            // SAFETY: once for each successful start; no handle is used after, as they end with their owner's list.
            let _ = unsafe { (self.shutdown)() };
        }
    }
}

fn done(code: c_int) -> Result<(), Code> {
    if code == 0 { Ok(()) } else { Err(Code(code)) }
}

fn of_device<T: Default>(call: Option<OfDevice<T>>, device: Device) -> Result<T, Code> {
    let call = call.ok_or(Code::FUNCTION_NOT_FOUND)?;
    let mut answer = T::default();
    // SAFETY: a handle of this library, and a valid place of the type that the function's signature names.
    done(unsafe { call(device.0, &raw mut answer) })?;
    Ok(answer)
}

fn of_device_and<T: Default>(call: Option<OfDeviceAnd<T>>, device: Device, which: c_uint) -> Result<T, Code> {
    let call = call.ok_or(Code::FUNCTION_NOT_FOUND)?;
    let mut answer = T::default();
    // SAFETY: as in `of_device`.
    done(unsafe { call(device.0, which, &raw mut answer) })?;
    Ok(answer)
}
