//! Asking a disk: three commands that read and change nothing.
//!
//! In: a device node, opened for reading. Out: the bytes of its answer. NVMe: Get Log Page 02h by `NVME_IOCTL_ADMIN_CMD`
//! (include/uapi/linux/nvme_ioctl.h; CAP_SYS_ADMIN). ATA: SMART READ DATA and SMART RETURN STATUS by ATA PASS-THROUGH (16) of
//! `SG_IO` (include/scsi/sg.h, SAT-3 section 12.2.2; CAP_SYS_RAWIO). Never: another command.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// A disk that takes longer is not waited for.
const TIMEOUT_MS: u32 = 5_000;
/// Sense data that is asked for.
const SENSE_BYTES: usize = 32;

/// `struct nvme_passthru_cmd`.
#[repr(C)]
#[derive(Default)]
struct NvmeCommand {
    opcode: u8,
    flags: u8,
    reserved: u16,
    namespace: u32,
    cdw2: u32,
    cdw3: u32,
    metadata: u64,
    address: u64,
    metadata_length: u32,
    length: u32,
    cdw10: u32,
    cdw11: u32,
    cdw12: u32,
    cdw13: u32,
    cdw14: u32,
    cdw15: u32,
    timeout_ms: u32,
    result: u32,
}

nix::ioctl_readwrite!(nvme_admin_command, b'N', 0x41, NvmeCommand);

/// `struct sg_io_hdr`.
#[repr(C)]
struct ScsiCommand {
    interface: libc::c_int,
    direction: libc::c_int,
    command_length: u8,
    sense_length_max: u8,
    pieces: u16,
    length: u32,
    data: *mut libc::c_void,
    command: *mut u8,
    sense: *mut u8,
    timeout_ms: u32,
    flags: u32,
    pack: libc::c_int,
    user: *mut libc::c_void,
    status: u8,
    masked_status: u8,
    message_status: u8,
    sense_length: u8,
    host_status: u16,
    driver_status: u16,
    resid: libc::c_int,
    duration: u32,
    info: u32,
}

/// `SG_IO`.
const SG_IO: u16 = 0x2285;
/// `SG_DXFER_NONE` and `SG_DXFER_FROM_DEV`.
const NOTHING: libc::c_int = -1;
const FROM_DEVICE: libc::c_int = -3;

nix::ioctl_readwrite_bad!(scsi_command, SG_IO, ScsiCommand);

/// Opens a device node to ask it.
pub(super) fn open(path: &Path) -> io::Result<File> {
    // Without O_NONBLOCK the open of a drive waits for its medium.
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open(path)
}

/// The SMART log page of an NVMe controller, of all its namespaces.
pub(super) fn nvme_smart_log(device: &File) -> io::Result<[u8; 512]> {
    let mut page = [0u8; 512];
    // Number of 4-byte words less one, above the log's identifier (Base Specification 1.4, figure 190).
    let words = 512 / 4 - 1;
    let mut command = NvmeCommand {
        opcode: 0x02,
        namespace: u32::MAX,
        address: page.as_mut_ptr().addr() as u64,
        length: 512,
        cdw10: words << 16 | 0x02,
        timeout_ms: TIMEOUT_MS,
        ..NvmeCommand::default()
    };
    // SAFETY: the structure is the kernel's (its size is in the request's number, which the kernel checks), and the page
    // that it points to is as long as it says and outlives the call.
    let status = unsafe { nvme_admin_command(device.as_raw_fd(), &raw mut command) }?;
    match status {
        0 => Ok(page),
        status => Err(io::Error::other(format!("the controller answered with status {status:#x}"))),
    }
}

/// The attributes of an ATA disk.
pub(super) fn ata_smart_data(device: &File) -> io::Result<[u8; 512]> {
    let mut page = [0u8; 512];
    // Protocol PIO data-in; from the device, in blocks, as many as the count says.
    let (status, _) = ata(device, 0xd0, 4 << 1, 0x0e, 1, &mut page)?;
    match status {
        0 => Ok(page),
        status => Err(io::Error::other(format!("SMART READ DATA ended with SCSI status {status:#x}"))),
    }
}

/// The sense data with an ATA disk's own judgement.
pub(super) fn ata_smart_status(device: &File) -> io::Result<[u8; SENSE_BYTES]> {
    // Protocol non-data; the registers are wanted back (CK_COND).
    ata(device, 0xda, 3 << 1, 0x20, 0, &mut []).map(|(_, sense)| sense)
}

fn ata(
    device: &File,
    feature: u8,
    protocol: u8,
    flags: u8,
    count: u8,
    data: &mut [u8],
) -> io::Result<(u8, [u8; SENSE_BYTES])> {
    let mut sense = [0; SENSE_BYTES];
    // ATA PASS-THROUGH (16): the command SMART (B0h) with its signature C24Fh in the LBA.
    let mut block = [0x85, protocol, flags, 0, feature, 0, count, 0, 0, 0, 0x4f, 0, 0xc2, 0, 0xb0, 0];
    let mut command = ScsiCommand {
        interface: libc::c_int::from(b'S'),
        direction: if data.is_empty() { NOTHING } else { FROM_DEVICE },
        command_length: block.len() as u8,
        sense_length_max: SENSE_BYTES as u8,
        pieces: 0,
        length: data.len() as u32,
        data: data.as_mut_ptr().cast(),
        command: block.as_mut_ptr(),
        sense: sense.as_mut_ptr(),
        timeout_ms: TIMEOUT_MS,
        flags: 0,
        pack: 0,
        user: std::ptr::null_mut(),
        status: 0,
        masked_status: 0,
        message_status: 0,
        sense_length: 0,
        host_status: 0,
        driver_status: 0,
        resid: 0,
        duration: 0,
        info: 0,
    };
    // SAFETY: the structure is the kernel's; its three pointers name buffers of the lengths it says, which outlive the call.
    unsafe { scsi_command(device.as_raw_fd(), &raw mut command) }?;
    match command.host_status {
        0 => Ok((command.status, sense)),
        status => Err(io::Error::other(format!("the disk's adapter answered with host status {status:#x}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_kernels_sizes() {
        assert_eq!(size_of::<NvmeCommand>(), 72);
        assert_eq!(size_of::<ScsiCommand>(), if cfg!(target_pointer_width = "64") { 88 } else { 64 });
    }
}
