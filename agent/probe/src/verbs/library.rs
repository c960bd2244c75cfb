//! The calls of libibverbs that we make, and what they give, made safe.
//!
//! In: the name of a device, sizes, addresses. Out: a device, its queue pairs and the memory that its NIC may touch, each given back
//! when dropped, in the order that the library wants. The library is mapped while running and stays; it loads the provider of the
//! NIC, code of its vendor that runs in this process. What a provider does wrong in its own memory nobody here can mend: a
//! process that must go on lets another one use this module. Never: a wait, memory beyond what was asked for.

use super::sys::{self, AhAttr, AsyncEvent, CompChannel, Context, Mr, PortAttr, Qp, QpAttr, QpInitAttr, RecvWr};
use super::sys::{SendTo, SendWr, Sge, Wc};
use railwatch_health::loading::Mapped;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::rc::Rc;

/// As the loader of every distribution finds it.
pub(super) const NAME: &str = "libibverbs.so.1";
/// ibv_device_list entries looked at.
const DEVICES_MAX: usize = 256;
/// Hops that a packet may take.
const HOP_LIMIT: u8 = 64;
/// Tries of a reliable connection after the first.
pub(super) const RETRIES: u8 = 3;
/// What a global routing header takes before each datagram that came.
pub(super) const GRH_BYTES: usize = 40;

/// A call that failed.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{doing}: {}", io::Error::from_raw_os_error(*.errno))]
pub struct VerbsError {
    /// What was tried.
    pub doing: &'static str,
    /// What the library said.
    pub errno: i32,
}

/// The library, and the functions found in it.
pub(super) struct Library {
    get_device_list: unsafe extern "C" fn(*mut c_int) -> *mut *mut c_void,
    free_device_list: unsafe extern "C" fn(*mut *mut c_void),
    get_device_name: unsafe extern "C" fn(*mut c_void) -> *const c_char,
    open_device: unsafe extern "C" fn(*mut c_void) -> *mut Context,
    close_device: unsafe extern "C" fn(*mut Context) -> c_int,
    query_port: unsafe extern "C" fn(*mut Context, u8, *mut PortAttr) -> c_int,
    alloc_pd: unsafe extern "C" fn(*mut Context) -> *mut c_void,
    dealloc_pd: unsafe extern "C" fn(*mut c_void) -> c_int,
    reg_mr: unsafe extern "C" fn(*mut c_void, *mut c_void, usize, c_int) -> *mut Mr,
    dereg_mr: unsafe extern "C" fn(*mut Mr) -> c_int,
    create_comp_channel: unsafe extern "C" fn(*mut Context) -> *mut CompChannel,
    destroy_comp_channel: unsafe extern "C" fn(*mut CompChannel) -> c_int,
    create_cq: unsafe extern "C" fn(*mut Context, c_int, *mut c_void, *mut CompChannel, c_int) -> *mut c_void,
    destroy_cq: unsafe extern "C" fn(*mut c_void) -> c_int,
    get_cq_event: unsafe extern "C" fn(*mut CompChannel, *mut *mut c_void, *mut *mut c_void) -> c_int,
    ack_cq_events: unsafe extern "C" fn(*mut c_void, c_uint),
    get_async_event: unsafe extern "C" fn(*mut Context, *mut AsyncEvent) -> c_int,
    ack_async_event: unsafe extern "C" fn(*mut AsyncEvent),
    create_qp: unsafe extern "C" fn(*mut c_void, *mut QpInitAttr) -> *mut Qp,
    modify_qp: unsafe extern "C" fn(*mut Qp, *mut QpAttr, c_int) -> c_int,
    query_qp: unsafe extern "C" fn(*mut Qp, *mut QpAttr, c_int, *mut QpInitAttr) -> c_int,
    destroy_qp: unsafe extern "C" fn(*mut Qp) -> c_int,
    create_ah: unsafe extern "C" fn(*mut c_void, *mut AhAttr) -> *mut c_void,
    destroy_ah: unsafe extern "C" fn(*mut c_void) -> c_int,
}

impl Library {
    /// Maps the library and looks its functions up.
    pub(super) fn load(path: &Path) -> Result<Rc<Self>, String> {
        let mapped = Mapped::new(path)?;
        let lacks = |name: &CStr| format!("{} has no function {}", path.display(), name.to_string_lossy());
        macro_rules! find {
            ($name:literal) => {
                // SAFETY: the type of the field is the signature of the function of that name in infiniband/verbs.h, at its default
                // version IBVERBS_1.1.
                unsafe { mapped.find($name) }.ok_or_else(|| lacks($name))?
            };
        }
        Ok(Rc::new(Self {
            get_device_list: find!(c"ibv_get_device_list"),
            free_device_list: find!(c"ibv_free_device_list"),
            get_device_name: find!(c"ibv_get_device_name"),
            open_device: find!(c"ibv_open_device"),
            close_device: find!(c"ibv_close_device"),
            query_port: find!(c"ibv_query_port"),
            alloc_pd: find!(c"ibv_alloc_pd"),
            dealloc_pd: find!(c"ibv_dealloc_pd"),
            reg_mr: find!(c"ibv_reg_mr"),
            dereg_mr: find!(c"ibv_dereg_mr"),
            create_comp_channel: find!(c"ibv_create_comp_channel"),
            destroy_comp_channel: find!(c"ibv_destroy_comp_channel"),
            create_cq: find!(c"ibv_create_cq"),
            destroy_cq: find!(c"ibv_destroy_cq"),
            get_cq_event: find!(c"ibv_get_cq_event"),
            ack_cq_events: find!(c"ibv_ack_cq_events"),
            get_async_event: find!(c"ibv_get_async_event"),
            ack_async_event: find!(c"ibv_ack_async_event"),
            create_qp: find!(c"ibv_create_qp"),
            modify_qp: find!(c"ibv_modify_qp"),
            query_qp: find!(c"ibv_query_qp"),
            destroy_qp: find!(c"ibv_destroy_qp"),
            create_ah: find!(c"ibv_create_ah"),
            destroy_ah: find!(c"ibv_destroy_ah"),
        }))
    }
}

/// Runs a call that answers 0 or an errno.
fn done(doing: &'static str, code: c_int) -> Result<(), VerbsError> {
    if code == 0 { Ok(()) } else { Err(VerbsError { doing, errno: code.abs() }) }
}

/// Of a call that answers a pointer, or null and errno.
fn given<T>(doing: &'static str, pointer: *mut T) -> Result<*mut T, VerbsError> {
    if !pointer.is_null() {
        return Ok(pointer);
    }
    Err(VerbsError { doing, errno: io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO) })
}

/// What became of a request to the NIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Completion {
    /// The number it was given.
    pub(super) id: u64,
    /// Whether it was carried out.
    pub(super) is_good: bool,
    /// Of the own queue pair.
    pub(super) queue_pair: u32,
    /// Of a datagram that came: the sender's queue pair.
    pub(super) from: u32,
    /// Of a datagram that came: its bytes, the routing header's among them.
    pub(super) bytes: usize,
}

/// An open device: a protection domain, and one completion queue with its channel.
pub(super) struct Device {
    library: Rc<Library>,
    name: String,
    context: *mut Context,
    pd: *mut c_void,
    channel: *mut CompChannel,
    cq: *mut c_void,
}

impl Device {
    /// Opens it, with room for so many completions.
    pub(super) fn open(library: &Rc<Library>, name: &str, completions: u16) -> Result<Rc<Self>, VerbsError> {
        let mut device = Self {
            library: Rc::clone(library),
            name: name.to_owned(),
            context: Self::context(library, name)?,
            pd: std::ptr::null_mut(),
            channel: std::ptr::null_mut(),
            cq: std::ptr::null_mut(),
        };
        // From here on a failure drops what there is.
        // SAFETY: an open context.
        device.pd = given("allocate a protection domain", unsafe { (library.alloc_pd)(device.context) })?;
        // SAFETY: an open context.
        let channel = unsafe { (library.create_comp_channel)(device.context) };
        device.channel = given("make a completion channel", channel)?;
        // SAFETY: context and channel are open; vector 0 is always there.
        let cq =
            unsafe { (library.create_cq)(device.context, completions.into(), std::ptr::null_mut(), device.channel, 0) };
        device.cq = given("make a completion queue", cq)?;
        // SAFETY: the channel is open, and outlives the borrow.
        let fds = unsafe { [(*device.channel).fd, (*device.context).async_fd] };
        for fd in fds {
            // SAFETY: a file of this device, open as long as it is; no memory is passed.
            if unsafe { libc::fcntl(fd, libc::F_SETFL, libc::O_NONBLOCK) } != 0 {
                return Err(VerbsError {
                    doing: "make a channel not block",
                    errno: io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO),
                });
            }
        }
        Ok(Rc::new(device))
    }

    fn context(library: &Library, name: &str) -> Result<*mut Context, VerbsError> {
        let mut count = 0;
        // SAFETY: `count` is a valid place for the number of devices.
        let list = given("list RDMA devices", unsafe { (library.get_device_list)(&raw mut count) })?;
        let count = usize::try_from(count).unwrap_or(0).min(DEVICES_MAX);
        let found = (0..count).find_map(|at| {
            // SAFETY: the list has `count` entries and lives until it is freed below.
            let device = unsafe { *list.add(at) };
            // SAFETY: an entry of the list.
            let text = unsafe { (library.get_device_name)(device) };
            // SAFETY: not null, and terminated, as the library promises of a device of its list.
            let is_it = !text.is_null() && unsafe { CStr::from_ptr(text) }.to_bytes() == name.as_bytes();
            is_it.then_some(device)
        });
        let opened = match found {
            // SAFETY: an entry of the list, which is not freed yet.
            Some(device) => given("open the RDMA device", unsafe { (library.open_device)(device) }),
            // The kernel has the device, the library no provider for it.
            None => Err(VerbsError { doing: "find the RDMA device's provider", errno: libc::ENODEV }),
        };
        // SAFETY: the list of above; an open context does not need it.
        unsafe { (library.free_device_list)(list) };
        opened
    }

    /// As the kernel calls it.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The largest packet of a port that is up, as a code: 1 is 256 bytes, 5 is 4,096.
    pub(super) fn mtu(&self, port: u8) -> Result<u8, VerbsError> {
        let mut attributes = PortAttr::default();
        // SAFETY: an open context; the place is as large as any version of the structure.
        done("ask for the port", unsafe { (self.library.query_port)(self.context, port, &raw mut attributes) })?;
        if attributes.state != sys::PORT_ACTIVE {
            return Err(VerbsError { doing: "use the port, which is not active", errno: libc::ENETDOWN });
        }
        u8::try_from(attributes.active_mtu)
            .ok()
            .filter(|mtu| (1..=5).contains(mtu))
            .ok_or(VerbsError { doing: "ask for the port's MTU", errno: libc::EPROTO })
    }

    /// Becomes readable when something completed after [`Self::arm`].
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the channel and its file are open as long as this device.
        unsafe { BorrowedFd::borrow_raw((*self.channel).fd) }
    }

    /// Becomes readable when something happened to the device.
    pub(super) fn trouble_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the context and its file are open as long as this device.
        unsafe { BorrowedFd::borrow_raw((*self.context).async_fd) }
    }

    /// Takes what happened to the device; whether it can be used no more.
    pub(super) fn is_lost(&self) -> bool {
        let mut event = AsyncEvent::default();
        let mut is_lost = false;
        // SAFETY: an open context whose file does not block, and a valid place for an event.
        while unsafe { (self.library.get_async_event)(self.context, &raw mut event) } == 0 {
            is_lost |= event.event_type == sys::EVENT_DEVICE_FATAL;
            // SAFETY: the event just taken.
            unsafe { (self.library.ack_async_event)(&raw mut event) };
        }
        is_lost
    }

    /// Asks for a word at the next completion, and forgets earlier ones: completions are to be looked for afterwards.
    pub(super) fn arm(&self) -> Result<(), VerbsError> {
        let (mut cq, mut of) = (std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: an open channel that does not block, and valid places for two pointers.
        while unsafe { (self.library.get_cq_event)(self.channel, &raw mut cq, &raw mut of) } == 0 {
            // SAFETY: the queue that the event just taken is of.
            unsafe { (self.library.ack_cq_events)(cq, 1) };
        }
        // SAFETY: the context is open; its table was written when it was opened.
        let call = unsafe { (*self.context).ops.req_notify_cq };
        let call = call.ok_or(VerbsError { doing: "ask for completions", errno: libc::ENOSYS })?;
        // SAFETY: the provider's own function, for an open queue of its own.
        done("ask for completions", unsafe { call(self.cq, 0) })
    }

    /// Takes what has completed, up to a turn's worth.
    pub(super) fn completed(&self, mut each: impl FnMut(Completion)) -> Result<usize, VerbsError> {
        const TURN: usize = 32;
        let failed = |errno| VerbsError { doing: "take completions", errno };
        let mut taken = [Wc::default(); TURN];
        // SAFETY: the context is open; its table was written when it was opened.
        let call = unsafe { (*self.context).ops.poll_cq }.ok_or(failed(libc::ENOSYS))?;
        // SAFETY: the provider's own function, for an open queue of its own, with room for as many as are asked for.
        let count = unsafe { call(self.cq, TURN as c_int, taken.as_mut_ptr()) };
        let count = usize::try_from(count).map_err(|_| failed(libc::EIO))?.min(TURN);
        for wc in &taken[..count] {
            each(Completion {
                id: wc.wr_id,
                is_good: wc.status == sys::WC_SUCCESS,
                queue_pair: wc.qp_num,
                from: wc.src_qp,
                bytes: wc.byte_len as usize,
            });
        }
        Ok(count)
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let Self { library, name: _, context, pd, channel, cq } = self;
        // SAFETY: each was given by the library, is given back once, and nothing of it is left: whatever is made of this device
        // holds it.
        unsafe {
            if !cq.is_null() {
                (library.destroy_cq)(*cq);
            }
            if !channel.is_null() {
                (library.destroy_comp_channel)(*channel);
            }
            if !pd.is_null() {
                (library.dealloc_pd)(*pd);
            }
            (library.close_device)(*context);
        }
    }
}

/// Memory that the NIC may read and write. It is pinned.
pub(super) struct Region {
    mr: *mut Mr,
    memory: *mut [u8],
    device: Rc<Device>,
}

impl Region {
    /// So many bytes, zeros; `is_target` lets the other end write into them.
    pub(super) fn new(device: &Rc<Device>, bytes: usize, is_target: bool) -> Result<Self, VerbsError> {
        let memory = Box::into_raw(vec![0u8; bytes].into_boxed_slice());
        let access = sys::ACCESS_LOCAL_WRITE | if is_target { sys::ACCESS_REMOTE_WRITE } else { 0 };
        // SAFETY: an open domain; the memory is allocated, of that length, and freed only after it is given back.
        let mr = unsafe { (device.library.reg_mr)(device.pd, memory.cast(), bytes, access) };
        match given("pin memory (LimitMEMLOCK= of the unit bounds it)", mr) {
            Ok(mr) => Ok(Self { mr, memory, device: Rc::clone(device) }),
            Err(error) => {
                // SAFETY: it came from a box above, and the NIC was not given it.
                drop(unsafe { Box::from_raw(memory) });
                Err(error)
            }
        }
    }

    /// What the other end needs to write into it.
    pub(super) fn remote_key(&self) -> u32 {
        // SAFETY: the library's description of this region, which lives as long as it.
        unsafe { (*self.mr).rkey }
    }

    fn local_key(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.mr).lkey }
    }

    /// Where it is, for the other end.
    pub(super) fn address(&self) -> u64 {
        self.memory.cast::<u8>() as u64
    }

    /// Writes `bytes` at `at`. The NIC is not at work on that part.
    pub(super) fn write(&mut self, at: usize, bytes: &[u8]) {
        assert!(at + bytes.len() <= self.memory.len(), "beyond the region");
        // SAFETY: inside the allocation; this thread's alone until it is handed to the NIC.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.memory.cast::<u8>().add(at), bytes.len()) };
    }

    /// What stands at `at`. The NIC is not at work on that part.
    pub(super) fn read<const N: usize>(&self, at: usize) -> [u8; N] {
        assert!(at + N <= self.memory.len(), "beyond the region");
        let mut bytes = [0; N];
        // SAFETY: inside the allocation; the NIC has told that it is done with it.
        unsafe { std::ptr::copy_nonoverlapping(self.memory.cast::<u8>().add(at), bytes.as_mut_ptr(), N) };
        bytes
    }

    fn part(&self, at: usize, bytes: usize) -> Sge {
        assert!(at + bytes <= self.memory.len(), "beyond the region");
        let length = u32::try_from(bytes).unwrap_or(0);
        Sge { addr: self.address() + at as u64, length, lkey: self.local_key() }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: given by the library, given back once; queue pairs that use it are dropped before it by their owners.
        let is_back = unsafe { (self.device.library.dereg_mr)(self.mr) } == 0;
        if is_back {
            // SAFETY: it came from a box, and the NIC has it no more. Otherwise it is left: better lost than written into.
            drop(unsafe { Box::from_raw(self.memory) });
        }
    }
}

/// Where packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Route {
    /// The own port.
    pub(super) port: u8,
    /// Which of its addresses.
    pub(super) gid_index: u8,
    /// The other end's address.
    pub(super) gid: [u8; 16],
    /// 20 bits; RoCEv2's UDP source port follows from it where the NIC's driver does so.
    pub(super) flow_label: u32,
    /// DSCP in the upper six bits.
    pub(super) traffic_class: u8,
}

impl Route {
    fn attributes(&self) -> AhAttr {
        let Self { port, gid_index, gid, flow_label, traffic_class } = *self;
        let grh =
            sys::GlobalRoute { dgid: gid, flow_label, sgid_index: gid_index, hop_limit: HOP_LIMIT, traffic_class };
        AhAttr { grh, is_global: 1, port_num: port, ..AhAttr::default() }
    }
}

/// The other end of a datagram, as the NIC wants it.
pub(super) struct Address {
    ah: *mut c_void,
    device: Rc<Device>,
}

impl Address {
    pub(super) fn new(device: &Rc<Device>, route: &Route) -> Result<Self, VerbsError> {
        let mut attributes = route.attributes();
        // SAFETY: an open domain and a structure of the library's layout.
        let ah = unsafe { (device.library.create_ah)(device.pd, &raw mut attributes) };
        Ok(Self { ah: given("make an address", ah)?, device: Rc::clone(device) })
    }
}

impl Drop for Address {
    fn drop(&mut self) {
        // SAFETY: given by the library, given back once.
        unsafe { (self.device.library.destroy_ah)(self.ah) };
    }
}

/// How a queue pair is joined to its other end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Join {
    pub(super) route: Route,
    /// The other end's queue pair.
    pub(super) number: u32,
    /// Path MTU, as a code.
    pub(super) mtu: u8,
    /// Of the first packet that comes.
    pub(super) receive_psn: u32,
    /// Of the first packet that is sent.
    pub(super) send_psn: u32,
    /// Time of one try as the exponent of 4.096 µs × 2^t.
    pub(super) timeout: u8,
}

/// A queue pair. What it uses of memory is to be dropped after it.
pub(super) struct QueuePair {
    qp: *mut Qp,
    device: Rc<Device>,
}

impl QueuePair {
    /// Reliably connected, with so many requests at once.
    pub(super) fn connected(device: &Rc<Device>, depth: u16) -> Result<Self, VerbsError> {
        Self::new(device, sys::QPT_RC, depth, 1)
    }

    /// For datagrams: so many on their way out, and so many awaited, at once.
    pub(super) fn datagram(device: &Rc<Device>, sends: u16, receives: u16) -> Result<Self, VerbsError> {
        Self::new(device, sys::QPT_UD, sends, receives)
    }

    fn new(device: &Rc<Device>, kind: c_int, sends: u16, receives: u16) -> Result<Self, VerbsError> {
        let mut attributes = QpInitAttr {
            qp_context: std::ptr::null_mut(),
            send_cq: device.cq,
            recv_cq: device.cq,
            srq: std::ptr::null_mut(),
            cap: sys::QpCap {
                max_send_wr: sends.into(),
                max_recv_wr: receives.into(),
                max_send_sge: 1,
                max_recv_sge: 1,
                max_inline_data: 0,
            },
            qp_type: kind,
            sq_sig_all: 1,
        };
        // SAFETY: an open domain, and a structure of the library's layout whose queue is open.
        let qp = unsafe { (device.library.create_qp)(device.pd, &raw mut attributes) };
        Ok(Self { qp: given("make a queue pair", qp)?, device: Rc::clone(device) })
    }

    /// Its number.
    pub(super) fn number(&self) -> u32 {
        // SAFETY: the library's description of this queue pair, which lives as long as it.
        unsafe { (*self.qp).qp_num }
    }

    fn modify(&self, doing: &'static str, mut attributes: QpAttr, mask: c_int) -> Result<(), VerbsError> {
        // SAFETY: an open queue pair and a structure of the library's layout.
        done(doing, unsafe { (self.device.library.modify_qp)(self.qp, &raw mut attributes, mask) })
    }

    /// Puts it into the error state, in which what is under way comes to an end.
    pub(super) fn fail(&self) -> Result<(), VerbsError> {
        let failed = QpAttr { qp_state: sys::QPS_ERR, ..QpAttr::default() };
        self.modify("have a queue pair give up", failed, sys::QP_STATE)
    }

    /// Whether its NIC has put it into the error state.
    pub(super) fn is_in_error(&self) -> Result<bool, VerbsError> {
        let (mut attributes, mut made_with) = (QpAttr::default(), QpInitAttr::default());
        // SAFETY: an open queue pair, and valid places of the library's layout, which it fills before it returns.
        let code =
            unsafe { (self.device.library.query_qp)(self.qp, &raw mut attributes, sys::QP_STATE, &raw mut made_with) };
        done("ask for the state of a queue pair", code)?;
        Ok(attributes.qp_state == sys::QPS_ERR)
    }

    /// Makes a queue pair for datagrams ready, at this port, for those that carry the key.
    pub(super) fn open_datagrams(&self, port: u8, qkey: u32, psn: u32) -> Result<(), VerbsError> {
        let state = |qp_state| QpAttr { qp_state, ..QpAttr::default() };
        let at_first = QpAttr { port_num: port, qkey, ..state(sys::QPS_INIT) };
        let mask = sys::QP_STATE | sys::QP_PKEY_INDEX | sys::QP_PORT | sys::QP_QKEY;
        self.modify("begin with a queue pair", at_first, mask)?;
        self.modify("let a queue pair receive", state(sys::QPS_RTR), sys::QP_STATE)?;
        let sending = QpAttr { sq_psn: psn, ..state(sys::QPS_RTS) };
        self.modify("let a queue pair send", sending, sys::QP_STATE | sys::QP_SQ_PSN)
    }

    /// Joins a reliably connected one to its other end, from whatever state it is in. Nothing is under way.
    pub(super) fn join(&self, join: &Join) -> Result<(), VerbsError> {
        let Join { route, number, mtu, receive_psn, send_psn, timeout } = *join;
        let state = |qp_state| QpAttr { qp_state, ..QpAttr::default() };
        self.modify("reset a queue pair", state(sys::QPS_RESET), sys::QP_STATE)?;
        let access = (sys::ACCESS_LOCAL_WRITE | sys::ACCESS_REMOTE_WRITE).cast_unsigned();
        let at_first = QpAttr { port_num: route.port, qp_access_flags: access, ..state(sys::QPS_INIT) };
        let mask = sys::QP_STATE | sys::QP_PKEY_INDEX | sys::QP_PORT | sys::QP_ACCESS_FLAGS;
        self.modify("begin with a queue pair", at_first, mask)?;
        let receiving = QpAttr {
            path_mtu: mtu.into(),
            dest_qp_num: number,
            rq_psn: receive_psn,
            ah_attr: route.attributes(),
            max_dest_rd_atomic: 1,
            // 0.64 ms (InfiniBand architecture, 9.7.5.2.8): never used, since writes need no receiver's buffer.
            min_rnr_timer: 12,
            ..state(sys::QPS_RTR)
        };
        let mask = sys::QP_STATE
            | sys::QP_AV
            | sys::QP_PATH_MTU
            | sys::QP_DEST_QPN
            | sys::QP_RQ_PSN
            | sys::QP_MAX_DEST_RD_ATOMIC
            | sys::QP_MIN_RNR_TIMER;
        self.modify("let a queue pair receive", receiving, mask)?;
        let sending = QpAttr {
            sq_psn: send_psn,
            timeout,
            retry_cnt: RETRIES,
            rnr_retry: RETRIES,
            max_rd_atomic: 1,
            ..state(sys::QPS_RTS)
        };
        let mask = sys::QP_STATE
            | sys::QP_SQ_PSN
            | sys::QP_TIMEOUT
            | sys::QP_RETRY_CNT
            | sys::QP_RNR_RETRY
            | sys::QP_MAX_QP_RD_ATOMIC;
        self.modify("let a queue pair send", sending, mask)
    }

    /// Awaits a datagram at `at` of the region, which is this queue pair's as long as both live.
    pub(super) fn receive(&self, id: u64, region: &Region, at: usize, bytes: usize) -> Result<(), VerbsError> {
        let failed = |errno| VerbsError { doing: "await a datagram", errno };
        let mut part = region.part(at, bytes);
        let mut request = RecvWr { wr_id: id, next: std::ptr::null_mut(), sg_list: &raw mut part, num_sge: 1 };
        let mut bad = std::ptr::null_mut();
        // SAFETY: the context is open; its table was written when it was opened.
        let call = unsafe { (*self.device.context).ops.post_recv }.ok_or(failed(libc::ENOSYS))?;
        // SAFETY: the provider's own function; what the pointers lead to is read before it returns, but for the region, which lives on.
        done("await a datagram", unsafe { call(self.qp, &raw mut request, &raw mut bad) })
    }

    /// Sends a datagram of the region to a queue pair.
    pub(super) fn send(
        &self,
        id: u64,
        (region, at, bytes): (&Region, usize, usize),
        to: &Address,
        (number, qkey): (u32, u32),
    ) -> Result<(), VerbsError> {
        let to = SendTo { remote_addr_or_ah: to.ah as u64, rkey_or_qpn: number, qkey, ..SendTo::default() };
        self.post(id, region.part(at, bytes), sys::WR_SEND, to)
    }

    /// Writes the region into the other end's memory.
    pub(super) fn write(
        &self,
        id: u64,
        (region, at, bytes): (&Region, usize, usize),
        (address, key): (u64, u32),
    ) -> Result<(), VerbsError> {
        let to = SendTo { remote_addr_or_ah: address, rkey_or_qpn: key, ..SendTo::default() };
        self.post(id, region.part(at, bytes), sys::WR_RDMA_WRITE, to)
    }

    fn post(&self, id: u64, mut part: Sge, opcode: c_int, to: SendTo) -> Result<(), VerbsError> {
        let failed = |errno| VerbsError { doing: "hand a probe to the NIC", errno };
        let mut request = SendWr {
            wr_id: id,
            next: std::ptr::null_mut(),
            sg_list: &raw mut part,
            num_sge: 1,
            opcode,
            send_flags: sys::SEND_SIGNALED,
            imm_data: 0,
            to,
            rest: [0; 7],
        };
        let mut bad = std::ptr::null_mut();
        // SAFETY: the context is open; its table was written when it was opened.
        let call = unsafe { (*self.device.context).ops.post_send }.ok_or(failed(libc::ENOSYS))?;
        // SAFETY: the provider's own function; what the pointers lead to is read before it returns, but for the region, which lives on.
        done("hand a probe to the NIC", unsafe { call(self.qp, &raw mut request, &raw mut bad) })
    }
}

impl Drop for QueuePair {
    fn drop(&mut self) {
        // SAFETY: given by the library, given back once; its events of the device are taken and acknowledged by the device.
        unsafe { (self.device.library.destroy_qp)(self.qp) };
    }
}
