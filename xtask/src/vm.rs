//! Runs a command on another kernel: a distribution kernel under software emulation (QEMU TCG), with this host's
//! own userland mounted read-only under an overlay. About ten seconds from start to the command.
//!
//! In: a kernel series ("6.1") and a command line. Out: what the command printed, and its exit status.
//! Never touches this host: packages are unpacked into `target/vm`, nothing is installed.

use crate::{ebpf, packages, shell};
use anyhow::{Context, Result, bail, ensure};
use std::{
    ffi::OsStr,
    fs,
    io::{self, BufRead, BufReader, Write},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// The kernel series that can be booted, and the Debian 12 package that always names the newest of each.
const KERNELS: &[(&str, &str)] = &[("6.1", "linux-image-amd64"), ("6.12", "linux-image-6.12-amd64")];

/// What the guest needs before it can see the host's root: 9p over virtio, and overlayfs.
const BOOT_MODULES: &[&str] = &["virtio_pci", "9pnet_virtio", "9p", "overlay"];

/// QEMU's isa-debug-exit turns the byte v written to its port into exit status (v << 1) | 1.
/// The guest writes status + 1, so that 1 (a QEMU failure of its own) cannot be mistaken for a guest's 0.
const EXIT_PORT: u16 = 0xf4;

/// Disks of every guest, without anything behind them: one behind virtio whose every request takes 20 ms, an NVMe controller,
/// a SATA disk. Tests load their drivers (`virtio_blk`, `nvme`, `ahci` with `sd_mod`).
const DISKS: [(&str, &str); 3] = [
    ("driver=null-co,node-name=slow,size=67108864,latency-ns=20000000,read-zeroes=on", "virtio-blk-pci,drive=slow"),
    ("driver=null-co,node-name=flash,size=67108864,read-zeroes=on", "nvme,drive=flash,serial=RAILWATCH-NVME"),
    ("driver=null-co,node-name=sata,size=67108864,read-zeroes=on", "ide-hd,drive=sata,bus=ide.0,serial=RAILWATCH-SATA"),
];

/// The guest's line after which all output is the command's: before it speaks the firmware.
const GUEST_BEGINS: &str = "railwatch-guest-begins\n";

/// What a guest's time is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// This host's: two processors, as fast as emulation is, and timers as late as this host is busy.
    Host,
    /// Its own: one processor that takes a nanosecond for an instruction, and timers that are never late. Nothing that this host
    /// does shows. Only for what waits for no device: its time jumps to the next timer while one works.
    Exact,
}

impl Clock {
    /// Source: QEMU, docs/devel/tcg-icount.rst.
    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Host => &["-accel", "tcg,thread=multi", "-smp", "2"],
            Self::Exact => &["-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off", "-smp", "1"],
        }
    }
}

/// Boots kernel `series` and runs `command` in this folder, with these variables beside the kept ones; what it prints goes to
/// `output` as it comes. The command's exit status. Guests of different kernels may run at a time.
pub fn run(
    series: &str,
    memory_mib: u32,
    clock: Clock,
    command: &[String],
    environment: &[(&str, &Path)],
    output: &mut dyn Write,
) -> Result<i32> {
    ensure!(!command.is_empty(), "no command: cargo xtask vm {series} -- COMMAND");
    let (qemu, kernel) = fetched(series)?;
    let initramfs = kernel.initramfs(&qemu, command, environment)?;
    let status = qemu.boot(&kernel, &initramfs, memory_mib, clock, output)?;
    fs::remove_file(&initramfs)?;
    Ok(status)
}

/// The release (`uname -r`) of the kernel of this series, as it is kept here.
pub fn release(series: &str) -> Result<String> {
    Ok(fetched(series)?.1.release)
}

fn fetched(series: &str) -> Result<(Qemu, Kernel)> {
    let Some((_, meta)) = KERNELS.iter().find(|(name, _)| *name == series) else {
        let known: Vec<_> = KERNELS.iter().map(|(name, _)| *name).collect();
        bail!("no kernel {series}: one of {}", known.join(", "));
    };
    let home = std::env::current_dir()?.join("target/vm");
    let qemu = Qemu::fetch(&home)?;
    let kernel = Kernel::fetch(&home, series, meta, &qemu)?;
    Ok((qemu, kernel))
}

struct Qemu {
    prefix: PathBuf,
}

impl Qemu {
    fn fetch(home: &Path) -> Result<Self> {
        let prefix = home.join("qemu");
        let names = ["qemu-system-x86", "busybox-static", "seabios", "kmod", "xz-utils", "zstd"];
        packages::unpacked(&prefix, &names, true)?;
        Ok(Self { prefix })
    }

    /// A program that was unpacked here, or the host's own where its package was installed already.
    fn program(&self, path: &str) -> PathBuf {
        let unpacked = self.prefix.join(path);
        if unpacked.exists() { unpacked } else { Path::new("/").join(path) }
    }

    fn boot(
        &self,
        kernel: &Kernel,
        initramfs: &Path,
        memory_mib: u32,
        clock: Clock,
        output: &mut dyn Write,
    ) -> Result<i32> {
        let libraries = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"].map(|path| self.prefix.join(path));
        let mut qemu = Command::new(self.prefix.join("usr/bin/qemu-system-x86_64"))
            .env("LD_LIBRARY_PATH", std::env::join_paths(libraries)?)
            .arg("-L")
            .arg(self.prefix.join("usr/share/qemu"))
            .arg("-L")
            .arg(self.prefix.join("usr/share/seabios"))
            .args(["-machine", "q35", "-cpu", "max"])
            .args(clock.arguments())
            .args(["-m", &format!("{memory_mib}M"), "-nodefaults", "-nographic", "-no-reboot", "-serial", "stdio"])
            .args(["-device", &format!("isa-debug-exit,iobase={EXIT_PORT:#x},iosize=1")])
            .args(["-fsdev", "local,id=root,path=/,security_model=none,readonly=on,multidevs=remap"])
            .args(["-device", "virtio-9p-pci,fsdev=root,mount_tag=root"])
            .args(DISKS.into_iter().flat_map(|(behind, device)| ["-blockdev", behind, "-device", device]))
            .arg("-kernel")
            .arg(&kernel.vmlinux)
            .arg("-initrd")
            .arg(initramfs)
            .args(["-append", "console=ttyS0 quiet loglevel=1 panic=-1 nokaslr mitigations=off"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("start qemu-system-x86_64")?;
        let mut console = BufReader::new(qemu.stdout.take().context("QEMU has a console")?);
        let mut firmware = Vec::new();
        while console.read_until(b'\n', &mut firmware)? > 0 && !firmware.ends_with(GUEST_BEGINS.as_bytes()) {}
        io::copy(&mut console, output)?;
        match qemu.wait()?.code() {
            // 127 is the dynamic loader's, not a guest's 62.
            Some(code) if code >= 3 && code & 1 == 1 && code != 127 => Ok((code >> 1) - 1),
            other => bail!(
                "the virtual machine ended without the command's status (QEMU: {other:?}); before the command it said:\n{}",
                String::from_utf8_lossy(&firmware)
            ),
        }
    }
}

struct Kernel {
    folder: PathBuf,
    vmlinux: PathBuf,
    release: String,
}

impl Kernel {
    fn fetch(home: &Path, series: &str, meta: &str, qemu: &Qemu) -> Result<Self> {
        let folder = home.join(format!("kernel-{series}"));
        let vmlinux = folder.join("vmlinux");
        if !vmlinux.exists() {
            let package = newest(meta)?;
            packages::unpacked(&folder, &[&package], false)?;
            let release = only_entry(&folder.join("lib/modules"))?;
            let image = fs::read(folder.join(format!("boot/vmlinuz-{release}")))?;
            let elf = elf_of(&image, qemu)?;
            // kmod is every module tool, by the name it is called with.
            shell::quiet(Command::new(qemu.program("bin/kmod")).arg0("depmod").arg("-b").arg(&folder).arg(&release))?;
            fs::write(&vmlinux, elf)?;
        }
        let release = only_entry(&folder.join("lib/modules"))?;
        Ok(Self { folder, vmlinux, release })
    }

    fn modules(&self) -> PathBuf {
        self.folder.join("lib/modules").join(&self.release)
    }

    /// A small cpio archive: busybox, the modules that mount the host's root, and the command.
    fn initramfs(&self, qemu: &Qemu, command: &[String], environment: &[(&str, &Path)]) -> Result<PathBuf> {
        let tree = self.folder.join(format!("initramfs-{}", std::process::id()));
        for folder in ["bin", "modules", "root", "proc", "sys", "dev"] {
            fs::create_dir_all(tree.join(folder))?;
        }
        fs::copy(qemu.program("bin/busybox"), tree.join("bin/busybox"))?;
        let order = load_order(&fs::read_to_string(self.modules().join("modules.dep"))?, BOOT_MODULES);
        let mut names = Vec::new();
        for (index, module) in order.iter().enumerate() {
            let name = format!("{index:02}.ko");
            fs::write(tree.join("modules").join(&name), plain_module(&self.modules().join(module), qemu)?)?;
            names.push(name);
        }
        let modules = self.folder.join("lib/modules");
        let init = guest_init(&names, &modules, &std::env::current_dir()?, command, environment);
        fs::write(tree.join("init"), init)?;
        fs::set_permissions(tree.join("init"), fs::Permissions::from_mode(0o755))?;

        let archive = tree.with_extension("cpio");
        let mut cpio = Command::new(qemu.program("bin/busybox"))
            .args(["cpio", "-o", "-H", "newc"])
            .current_dir(&tree)
            .stdin(Stdio::piped())
            .stdout(fs::File::create(&archive)?)
            .stderr(Stdio::null())
            .spawn()
            .context("start busybox cpio")?;
        let mut list = cpio.stdin.take().context("cpio reads names")?;
        for path in paths_below(&tree)? {
            writeln!(list, "{}", path.strip_prefix(&tree)?.display())?;
        }
        drop(list);
        ensure!(cpio.wait()?.success(), "busybox cpio failed");
        fs::remove_dir_all(&tree)?;
        Ok(archive)
    }
}

/// The guest's first process: mounts, then the command in the host's own userland, then its status out of the port.
fn guest_init(
    modules: &[String],
    module_tree: &Path,
    folder: &Path,
    command: &[String],
    environment: &[(&str, &Path)],
) -> String {
    let insmod: String = modules.iter().map(|name| format!("$b insmod /modules/{name}\n")).collect();
    let command: Vec<_> = command.iter().map(|word| quoted(word)).collect();
    let inner = format!(
        "cd {folder} && exec {command}",
        folder = quoted(&folder.display().to_string()),
        command = command.join(" "),
    );
    // The environment that decides what the command finds, as it is here.
    let kept = ["PATH", "HOME", "CARGO_HOME", "RUSTUP_HOME", "RUST_BACKTRACE"];
    let kept: String = kept
        .into_iter()
        .chain(ebpf::VARIABLES.map(|(variable, _)| variable))
        .filter_map(|key| Some((key, std::env::var(key).ok()?)))
        .chain(environment.iter().map(|(key, path)| (*key, path.display().to_string())))
        .map(|(key, value)| format!("export {key}={}\n", quoted(&value)))
        .collect();
    format!(
        r#"#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sysfs /sys
$b mount -t devtmpfs dev /dev
$b stty -F /dev/ttyS0 raw -echo
exec </dev/null >/dev/ttyS0 2>&1
{insmod}
$b mkdir -p /lower /scratch /merged
$b mount -t 9p -o trans=virtio,version=9p2000.L,ro,cache=loose,msize=262144 root /lower
$b mount -t tmpfs -o size=60% tmpfs /scratch
$b mkdir /scratch/upper /scratch/work
$b mount -t overlay -o lowerdir=/lower,upperdir=/scratch/upper,workdir=/scratch/work overlay /merged
for m in proc sys dev; do $b mount -o move /$m /merged/$m; done
$b mkdir -p /merged/lib/modules /merged/run /merged/dev/shm /merged/dev/pts
$b mount -o bind /merged{module_tree} /merged/lib/modules
$b mount -t tmpfs tmpfs /merged/run
{scratch}
$b mount -t tmpfs tmpfs /merged/dev/shm
$b mount -t devpts devpts /merged/dev/pts
$b mount -t cgroup2 cgroup2 /merged/sys/fs/cgroup
$b mount -t bpf bpf /merged/sys/fs/bpf
$b mount -t tracefs tracefs /merged/sys/kernel/tracing
$b mount -t securityfs securityfs /merged/sys/kernel/security
$b ln -sf /proc/self/fd /merged/dev/fd
for tool in modprobe insmod rmmod; do $b cp $b /merged/usr/local/sbin/$tool; done
$b ip link set lo up
{kept}
# Tests that change their kernel for good look for this.
export RAILWATCH_VM=1
echo {begins}
# Opened before the command: a kernel that is locked down meanwhile refuses that.
exec 3>/merged/dev/port
$b chroot /merged /bin/sh -c {inner} 3>&-
status=$?
$b printf "$($b printf '\\%03o' $((status + 1)))" | $b dd bs=1 seek={port} >&3 2>/dev/null
$b sleep 5
"#,
        // A checkout below /tmp must stay in sight.
        scratch = if folder.starts_with("/tmp") { "" } else { "$b mount -t tmpfs tmpfs /merged/tmp" },
        module_tree = module_tree.display(),
        inner = quoted(&inner),
        port = EXIT_PORT,
        begins = GUEST_BEGINS.trim_end(),
    )
}

fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// The package that a meta package depends on: the newest kernel of its series.
fn newest(meta: &str) -> Result<String> {
    let text = shell::output(Command::new("apt-cache").args(["depends", "--important", meta]))?;
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|name| name.starts_with("linux-image-"))
        .map(str::to_owned)
        .with_context(|| format!("{meta} names no kernel: did `apt-get update` run on this Debian 12?"))
}

fn only_entry(folder: &Path) -> Result<String> {
    let entry = fs::read_dir(folder)
        .with_context(|| format!("read {}", folder.display()))?
        .next()
        .with_context(|| format!("{} is empty", folder.display()))??;
    Ok(entry.file_name().to_string_lossy().into_owned())
}

/// The ELF kernel inside a bzImage: QEMU starts it directly (PVH) and skips the boot loader and the slow decompressor.
/// Offsets: Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header" (setup_sects, payload_offset, payload_length).
fn elf_of(image: &[u8], qemu: &Qemu) -> Result<Vec<u8>> {
    let word = |at: usize| -> Result<usize> {
        let bytes = image.get(at..at + 4).context("the kernel image is truncated")?;
        Ok(u32::from_le_bytes(bytes.try_into()?) as usize)
    };
    ensure!(image.get(0x202..0x206) == Some(b"HdrS".as_slice()), "not a bzImage");
    let sectors = match image[0x1f1] {
        0 => 4,
        sectors => usize::from(sectors),
    };
    let start = (sectors + 1) * 512 + word(0x248)?;
    // The last four bytes repeat the unpacked size.
    let end = start + word(0x24c)? - 4;
    let payload = image.get(start..end).context("the kernel image is truncated")?;
    let tool = match payload {
        [0xfd, b'7', b'z', ..] => "usr/bin/xz",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "usr/bin/zstd",
        [0x1f, 0x8b, ..] => "bin/gzip",
        _ => bail!("the kernel is packed in a way not known here"),
    };
    filtered(&qemu.program(tool), payload)
}

fn plain_module(path: &Path, qemu: &Qemu) -> Result<Vec<u8>> {
    let bytes = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    match path.extension().and_then(OsStr::to_str) {
        Some("xz") => filtered(&qemu.program("usr/bin/xz"), &bytes),
        Some("zst") => filtered(&qemu.program("usr/bin/zstd"), &bytes),
        _ => Ok(bytes),
    }
}

/// `bytes` through `tool -dc`.
fn filtered(tool: &Path, bytes: &[u8]) -> Result<Vec<u8>> {
    let mut child = Command::new(tool)
        .arg("-dc")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {}", tool.display()))?;
    let mut input = child.stdin.take().context("the filter reads")?;
    std::thread::scope(|scope| {
        scope.spawn(move || input.write_all(bytes));
        let output = child.wait_with_output()?;
        ensure!(output.status.success(), "{} could not unpack the kernel", tool.display());
        Ok(output.stdout)
    })
}

/// Module files in the order they must be inserted, from the lines `a.ko: needs.ko these.ko` of modules.dep.
fn load_order(dependencies: &str, wanted: &[&str]) -> Vec<String> {
    let mut order: Vec<String> = Vec::new();
    for name in wanted {
        let Some((module, needs)) = dependencies.lines().filter_map(|line| line.split_once(':')).find(|(path, _)| {
            Path::new(path)
                .file_name()
                .and_then(OsStr::to_str)
                .is_some_and(|file| file.split('.').next() == Some(*name))
        }) else {
            continue; // built into this kernel
        };
        for path in needs.split_whitespace().rev().chain([module]) {
            if !order.iter().any(|known| known == path) {
                order.push(path.to_owned());
            }
        }
    }
    order
}

fn paths_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        found.push(entry.path());
        if entry.file_type()?.is_dir() {
            found.extend(paths_below(&entry.path())?);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::{load_order, quoted};

    #[test]
    fn modules_load_after_what_they_need_and_built_in_ones_are_left_out() {
        let dep = "kernel/fs/9p/9p.ko.xz: kernel/net/9p/9pnet.ko.xz kernel/fs/netfs/netfs.ko.xz\n\
                   kernel/net/9p/9pnet.ko.xz:\n\
                   kernel/net/9p/9pnet_virtio.ko.xz: kernel/drivers/virtio/virtio.ko.xz kernel/net/9p/9pnet.ko.xz\n";
        assert_eq!(
            load_order(dep, &["9pnet_virtio", "9p", "overlay"]),
            [
                "kernel/net/9p/9pnet.ko.xz",
                "kernel/drivers/virtio/virtio.ko.xz",
                "kernel/net/9p/9pnet_virtio.ko.xz",
                "kernel/fs/netfs/netfs.ko.xz",
                "kernel/fs/9p/9p.ko.xz",
            ]
        );
    }

    #[test]
    fn words_reach_the_guest_as_they_were() {
        assert_eq!(quoted("it's $HOME"), r"'it'\''s $HOME'");
    }
}
