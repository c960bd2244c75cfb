//! What libibverbs lays out in memory, as far as we touch it.
//!
//! The library's stable interface is its exported functions and these structures (rdma-core, `libibverbs/verbs.h`; symbol version
//! IBVERBS_1.1, since 2006). What the header makes inline goes through the table of the context: [`Ops`]. [`layouts`] says all of it
//! in the words of C, so that a test can ask a compiler whether it is so. Never: a call.

use std::ffi::{c_int, c_uint, c_void};
use std::mem::offset_of;

/// ibv_context, its beginning.
#[repr(C)]
pub(super) struct Context {
    device: *mut c_void,
    pub(super) ops: Ops,
    cmd_fd: c_int,
    pub(super) async_fd: c_int,
}

/// What a provider's function returns that gives no pointer: 0, or an errno.
type PostSend = unsafe extern "C" fn(*mut Qp, *mut SendWr, *mut *mut SendWr) -> c_int;
type PostRecv = unsafe extern "C" fn(*mut Qp, *mut RecvWr, *mut *mut RecvWr) -> c_int;

/// ibv_context_ops: what providers do without a call of the kernel.
#[repr(C)]
pub(super) struct Ops {
    before_poll_cq: [*mut c_void; 11],
    pub(super) poll_cq: Option<unsafe extern "C" fn(*mut c_void, c_int, *mut Wc) -> c_int>,
    pub(super) req_notify_cq: Option<unsafe extern "C" fn(*mut c_void, c_int) -> c_int>,
    before_post_send: [*mut c_void; 12],
    pub(super) post_send: Option<PostSend>,
    pub(super) post_recv: Option<PostRecv>,
    after_post_recv: [*mut c_void; 5],
}

/// ibv_comp_channel, its beginning.
#[repr(C)]
pub(super) struct CompChannel {
    context: *mut Context,
    pub(super) fd: c_int,
}

/// ibv_qp, its beginning.
#[repr(C)]
pub(super) struct Qp {
    before: [*mut c_void; 6],
    handle: u32,
    pub(super) qp_num: u32,
}

/// ibv_mr.
#[repr(C)]
pub(super) struct Mr {
    context: *mut Context,
    pd: *mut c_void,
    addr: *mut c_void,
    length: usize,
    handle: u32,
    pub(super) lkey: u32,
    pub(super) rkey: u32,
}

/// ibv_qp_cap.
#[repr(C)]
#[derive(Default)]
pub(super) struct QpCap {
    pub(super) max_send_wr: u32,
    pub(super) max_recv_wr: u32,
    pub(super) max_send_sge: u32,
    pub(super) max_recv_sge: u32,
    pub(super) max_inline_data: u32,
}

/// ibv_qp_init_attr.
#[repr(C)]
pub(super) struct QpInitAttr {
    pub(super) qp_context: *mut c_void,
    pub(super) send_cq: *mut c_void,
    pub(super) recv_cq: *mut c_void,
    pub(super) srq: *mut c_void,
    pub(super) cap: QpCap,
    pub(super) qp_type: c_int,
    pub(super) sq_sig_all: c_int,
}

impl Default for QpInitAttr {
    fn default() -> Self {
        let none = std::ptr::null_mut();
        let cap = QpCap::default();
        Self { qp_context: none, send_cq: none, recv_cq: none, srq: none, cap, qp_type: 0, sq_sig_all: 0 }
    }
}

/// ibv_global_route. A GID is as a union of 64-bit numbers aligned.
#[repr(C, align(8))]
#[derive(Clone, Copy, Default)]
pub(super) struct GlobalRoute {
    pub(super) dgid: [u8; 16],
    pub(super) flow_label: u32,
    pub(super) sgid_index: u8,
    pub(super) hop_limit: u8,
    pub(super) traffic_class: u8,
}

/// ibv_ah_attr.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct AhAttr {
    pub(super) grh: GlobalRoute,
    pub(super) dlid: u16,
    pub(super) sl: u8,
    pub(super) src_path_bits: u8,
    pub(super) static_rate: u8,
    pub(super) is_global: u8,
    pub(super) port_num: u8,
}

/// ibv_qp_attr.
#[repr(C)]
#[derive(Default)]
pub(super) struct QpAttr {
    pub(super) qp_state: c_int,
    pub(super) cur_qp_state: c_int,
    pub(super) path_mtu: c_int,
    pub(super) path_mig_state: c_int,
    pub(super) qkey: u32,
    pub(super) rq_psn: u32,
    pub(super) sq_psn: u32,
    pub(super) dest_qp_num: u32,
    pub(super) qp_access_flags: c_uint,
    pub(super) cap: QpCap,
    pub(super) ah_attr: AhAttr,
    pub(super) alt_ah_attr: AhAttr,
    pub(super) pkey_index: u16,
    pub(super) alt_pkey_index: u16,
    pub(super) en_sqd_async_notify: u8,
    pub(super) sq_draining: u8,
    pub(super) max_rd_atomic: u8,
    pub(super) max_dest_rd_atomic: u8,
    pub(super) min_rnr_timer: u8,
    pub(super) port_num: u8,
    pub(super) timeout: u8,
    pub(super) retry_cnt: u8,
    pub(super) rnr_retry: u8,
    pub(super) alt_port_num: u8,
    pub(super) alt_timeout: u8,
    pub(super) rate_limit: u32,
}

/// ibv_sge.
#[repr(C)]
pub(super) struct Sge {
    pub(super) addr: u64,
    pub(super) length: u32,
    pub(super) lkey: u32,
}

/// The part of ibv_send_wr that depends on the operation: `wr.rdma` and `wr.ud` are of one shape, a number of 64 bits and two of 32.
#[repr(C)]
#[derive(Default)]
pub(super) struct SendTo {
    /// `rdma.remote_addr`, or the pointer `ud.ah`.
    pub(super) remote_addr_or_ah: u64,
    /// `rdma.rkey`, or `ud.remote_qpn`.
    pub(super) rkey_or_qpn: u32,
    /// Nothing, or `ud.remote_qkey`.
    pub(super) qkey: u32,
    pub(super) rest: [u64; 2],
}

/// ibv_send_wr.
#[repr(C)]
pub(super) struct SendWr {
    pub(super) wr_id: u64,
    pub(super) next: *mut SendWr,
    pub(super) sg_list: *mut Sge,
    pub(super) num_sge: c_int,
    pub(super) opcode: c_int,
    pub(super) send_flags: c_uint,
    pub(super) imm_data: u32,
    pub(super) to: SendTo,
    pub(super) rest: [u64; 7],
}

/// ibv_recv_wr.
#[repr(C)]
pub(super) struct RecvWr {
    pub(super) wr_id: u64,
    pub(super) next: *mut RecvWr,
    pub(super) sg_list: *mut Sge,
    pub(super) num_sge: c_int,
}

/// ibv_wc.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct Wc {
    pub(super) wr_id: u64,
    pub(super) status: c_int,
    pub(super) opcode: c_int,
    vendor_err: u32,
    pub(super) byte_len: u32,
    imm_data: u32,
    pub(super) qp_num: u32,
    pub(super) src_qp: u32,
    pub(super) wc_flags: c_uint,
    pkey_index: u16,
    slid: u16,
    sl: u8,
    dlid_path_bits: u8,
}

/// ibv_port_attr, its beginning, and room for what the library writes behind it.
#[repr(C)]
#[derive(Default)]
pub(super) struct PortAttr {
    pub(super) state: c_int,
    max_mtu: c_int,
    pub(super) active_mtu: c_int,
    room: [u64; 16],
}

/// ibv_async_event.
#[repr(C)]
#[derive(Default)]
pub(super) struct AsyncEvent {
    element: u64,
    pub(super) event_type: c_int,
}

pub(super) const QPT_RC: c_int = 2;
pub(super) const QPT_UD: c_int = 4;
pub(super) const WR_RDMA_WRITE: c_int = 0;
pub(super) const WR_SEND: c_int = 2;
pub(super) const SEND_SIGNALED: c_uint = 2;
pub(super) const ACCESS_LOCAL_WRITE: c_int = 1;
pub(super) const ACCESS_REMOTE_WRITE: c_int = 2;
pub(super) const QPS_RESET: c_int = 0;
pub(super) const QPS_INIT: c_int = 1;
pub(super) const QPS_RTR: c_int = 2;
pub(super) const QPS_RTS: c_int = 3;
pub(super) const QPS_ERR: c_int = 6;
pub(super) const PORT_ACTIVE: c_int = 4;
pub(super) const WC_SUCCESS: c_int = 0;
pub(super) const EVENT_DEVICE_FATAL: c_int = 8;

pub(super) const QP_STATE: c_int = 1;
pub(super) const QP_ACCESS_FLAGS: c_int = 1 << 3;
pub(super) const QP_PKEY_INDEX: c_int = 1 << 4;
pub(super) const QP_PORT: c_int = 1 << 5;
pub(super) const QP_QKEY: c_int = 1 << 6;
pub(super) const QP_AV: c_int = 1 << 7;
pub(super) const QP_PATH_MTU: c_int = 1 << 8;
pub(super) const QP_TIMEOUT: c_int = 1 << 9;
pub(super) const QP_RETRY_CNT: c_int = 1 << 10;
pub(super) const QP_RNR_RETRY: c_int = 1 << 11;
pub(super) const QP_RQ_PSN: c_int = 1 << 12;
pub(super) const QP_MAX_QP_RD_ATOMIC: c_int = 1 << 13;
pub(super) const QP_MIN_RNR_TIMER: c_int = 1 << 15;
pub(super) const QP_SQ_PSN: c_int = 1 << 16;
pub(super) const QP_MAX_DEST_RD_ATOMIC: c_int = 1 << 17;
pub(super) const QP_DEST_QPN: c_int = 1 << 20;

/// Expressions of C over `infiniband/verbs.h`, and what this module takes them for. Of structures of which we know the beginning
/// alone, the places in it.
#[must_use]
pub fn layouts() -> Vec<(&'static str, usize)> {
    let constants = [
        ("IBV_QPT_RC", QPT_RC),
        ("IBV_QPT_UD", QPT_UD),
        ("IBV_WR_RDMA_WRITE", WR_RDMA_WRITE),
        ("IBV_WR_SEND", WR_SEND),
        ("IBV_SEND_SIGNALED", SEND_SIGNALED.cast_signed()),
        ("IBV_ACCESS_LOCAL_WRITE", ACCESS_LOCAL_WRITE),
        ("IBV_ACCESS_REMOTE_WRITE", ACCESS_REMOTE_WRITE),
        ("IBV_QPS_RESET", QPS_RESET),
        ("IBV_QPS_INIT", QPS_INIT),
        ("IBV_QPS_RTR", QPS_RTR),
        ("IBV_QPS_RTS", QPS_RTS),
        ("IBV_QPS_ERR", QPS_ERR),
        ("IBV_PORT_ACTIVE", PORT_ACTIVE),
        ("IBV_WC_SUCCESS", WC_SUCCESS),
        ("IBV_EVENT_DEVICE_FATAL", EVENT_DEVICE_FATAL),
        ("IBV_QP_STATE", QP_STATE),
        ("IBV_QP_ACCESS_FLAGS", QP_ACCESS_FLAGS),
        ("IBV_QP_PKEY_INDEX", QP_PKEY_INDEX),
        ("IBV_QP_PORT", QP_PORT),
        ("IBV_QP_QKEY", QP_QKEY),
        ("IBV_QP_AV", QP_AV),
        ("IBV_QP_PATH_MTU", QP_PATH_MTU),
        ("IBV_QP_TIMEOUT", QP_TIMEOUT),
        ("IBV_QP_RETRY_CNT", QP_RETRY_CNT),
        ("IBV_QP_RNR_RETRY", QP_RNR_RETRY),
        ("IBV_QP_RQ_PSN", QP_RQ_PSN),
        ("IBV_QP_MAX_QP_RD_ATOMIC", QP_MAX_QP_RD_ATOMIC),
        ("IBV_QP_MIN_RNR_TIMER", QP_MIN_RNR_TIMER),
        ("IBV_QP_SQ_PSN", QP_SQ_PSN),
        ("IBV_QP_MAX_DEST_RD_ATOMIC", QP_MAX_DEST_RD_ATOMIC),
        ("IBV_QP_DEST_QPN", QP_DEST_QPN),
    ];
    let constants = constants.map(|(name, value)| (name, usize::try_from(value).unwrap_or(usize::MAX)));
    let ops = offset_of!(Context, ops);
    let mut all = vec![
        ("sizeof(struct ibv_context_ops)", size_of::<Ops>()),
        ("offsetof(struct ibv_context, ops.poll_cq)", ops + offset_of!(Ops, poll_cq)),
        ("offsetof(struct ibv_context, ops.req_notify_cq)", ops + offset_of!(Ops, req_notify_cq)),
        ("offsetof(struct ibv_context, ops.post_send)", ops + offset_of!(Ops, post_send)),
        ("offsetof(struct ibv_context, ops.post_recv)", ops + offset_of!(Ops, post_recv)),
        ("offsetof(struct ibv_context, async_fd)", offset_of!(Context, async_fd)),
        ("offsetof(struct ibv_comp_channel, fd)", offset_of!(CompChannel, fd)),
        ("offsetof(struct ibv_qp, qp_num)", offset_of!(Qp, qp_num)),
        ("sizeof(struct ibv_mr)", size_of::<Mr>()),
        ("offsetof(struct ibv_mr, lkey)", offset_of!(Mr, lkey)),
        ("offsetof(struct ibv_mr, rkey)", offset_of!(Mr, rkey)),
        ("sizeof(struct ibv_qp_init_attr)", size_of::<QpInitAttr>()),
        ("offsetof(struct ibv_qp_init_attr, send_cq)", offset_of!(QpInitAttr, send_cq)),
        ("offsetof(struct ibv_qp_init_attr, recv_cq)", offset_of!(QpInitAttr, recv_cq)),
        ("offsetof(struct ibv_qp_init_attr, cap.max_recv_wr)", offset_of!(QpInitAttr, cap.max_recv_wr)),
        ("offsetof(struct ibv_qp_init_attr, cap.max_send_sge)", offset_of!(QpInitAttr, cap.max_send_sge)),
        ("offsetof(struct ibv_qp_init_attr, qp_type)", offset_of!(QpInitAttr, qp_type)),
        ("offsetof(struct ibv_qp_init_attr, sq_sig_all)", offset_of!(QpInitAttr, sq_sig_all)),
        ("sizeof(struct ibv_ah_attr)", size_of::<AhAttr>()),
        ("offsetof(struct ibv_ah_attr, grh.flow_label)", offset_of!(AhAttr, grh.flow_label)),
        ("offsetof(struct ibv_ah_attr, grh.sgid_index)", offset_of!(AhAttr, grh.sgid_index)),
        ("offsetof(struct ibv_ah_attr, grh.hop_limit)", offset_of!(AhAttr, grh.hop_limit)),
        ("offsetof(struct ibv_ah_attr, grh.traffic_class)", offset_of!(AhAttr, grh.traffic_class)),
        ("offsetof(struct ibv_ah_attr, dlid)", offset_of!(AhAttr, dlid)),
        ("offsetof(struct ibv_ah_attr, sl)", offset_of!(AhAttr, sl)),
        ("offsetof(struct ibv_ah_attr, src_path_bits)", offset_of!(AhAttr, src_path_bits)),
        ("offsetof(struct ibv_ah_attr, static_rate)", offset_of!(AhAttr, static_rate)),
        ("offsetof(struct ibv_ah_attr, is_global)", offset_of!(AhAttr, is_global)),
        ("offsetof(struct ibv_ah_attr, port_num)", offset_of!(AhAttr, port_num)),
        ("sizeof(struct ibv_qp_attr)", size_of::<QpAttr>()),
        ("offsetof(struct ibv_qp_attr, path_mtu)", offset_of!(QpAttr, path_mtu)),
        ("offsetof(struct ibv_qp_attr, qkey)", offset_of!(QpAttr, qkey)),
        ("offsetof(struct ibv_qp_attr, rq_psn)", offset_of!(QpAttr, rq_psn)),
        ("offsetof(struct ibv_qp_attr, sq_psn)", offset_of!(QpAttr, sq_psn)),
        ("offsetof(struct ibv_qp_attr, dest_qp_num)", offset_of!(QpAttr, dest_qp_num)),
        ("offsetof(struct ibv_qp_attr, qp_access_flags)", offset_of!(QpAttr, qp_access_flags)),
        ("offsetof(struct ibv_qp_attr, ah_attr)", offset_of!(QpAttr, ah_attr)),
        ("offsetof(struct ibv_qp_attr, pkey_index)", offset_of!(QpAttr, pkey_index)),
        ("offsetof(struct ibv_qp_attr, max_rd_atomic)", offset_of!(QpAttr, max_rd_atomic)),
        ("offsetof(struct ibv_qp_attr, max_dest_rd_atomic)", offset_of!(QpAttr, max_dest_rd_atomic)),
        ("offsetof(struct ibv_qp_attr, min_rnr_timer)", offset_of!(QpAttr, min_rnr_timer)),
        ("offsetof(struct ibv_qp_attr, port_num)", offset_of!(QpAttr, port_num)),
        ("offsetof(struct ibv_qp_attr, timeout)", offset_of!(QpAttr, timeout)),
        ("offsetof(struct ibv_qp_attr, retry_cnt)", offset_of!(QpAttr, retry_cnt)),
        ("offsetof(struct ibv_qp_attr, rnr_retry)", offset_of!(QpAttr, rnr_retry)),
        ("sizeof(struct ibv_sge)", size_of::<Sge>()),
        ("offsetof(struct ibv_sge, length)", offset_of!(Sge, length)),
        ("offsetof(struct ibv_sge, lkey)", offset_of!(Sge, lkey)),
        ("sizeof(struct ibv_send_wr)", size_of::<SendWr>()),
        ("offsetof(struct ibv_send_wr, sg_list)", offset_of!(SendWr, sg_list)),
        ("offsetof(struct ibv_send_wr, num_sge)", offset_of!(SendWr, num_sge)),
        ("offsetof(struct ibv_send_wr, opcode)", offset_of!(SendWr, opcode)),
        ("offsetof(struct ibv_send_wr, send_flags)", offset_of!(SendWr, send_flags)),
        ("offsetof(struct ibv_send_wr, wr.rdma.remote_addr)", offset_of!(SendWr, to.remote_addr_or_ah)),
        ("offsetof(struct ibv_send_wr, wr.rdma.rkey)", offset_of!(SendWr, to.rkey_or_qpn)),
        ("offsetof(struct ibv_send_wr, wr.ud.ah)", offset_of!(SendWr, to.remote_addr_or_ah)),
        ("offsetof(struct ibv_send_wr, wr.ud.remote_qpn)", offset_of!(SendWr, to.rkey_or_qpn)),
        ("offsetof(struct ibv_send_wr, wr.ud.remote_qkey)", offset_of!(SendWr, to.qkey)),
        ("sizeof(struct ibv_recv_wr)", size_of::<RecvWr>()),
        ("offsetof(struct ibv_recv_wr, sg_list)", offset_of!(RecvWr, sg_list)),
        ("offsetof(struct ibv_recv_wr, num_sge)", offset_of!(RecvWr, num_sge)),
        ("sizeof(struct ibv_wc)", size_of::<Wc>()),
        ("offsetof(struct ibv_wc, status)", offset_of!(Wc, status)),
        ("offsetof(struct ibv_wc, byte_len)", offset_of!(Wc, byte_len)),
        ("offsetof(struct ibv_wc, qp_num)", offset_of!(Wc, qp_num)),
        ("offsetof(struct ibv_wc, src_qp)", offset_of!(Wc, src_qp)),
        ("offsetof(struct ibv_wc, wc_flags)", offset_of!(Wc, wc_flags)),
        ("offsetof(struct ibv_port_attr, state)", offset_of!(PortAttr, state)),
        ("offsetof(struct ibv_port_attr, active_mtu)", offset_of!(PortAttr, active_mtu)),
        ("sizeof(struct ibv_async_event)", size_of::<AsyncEvent>()),
        ("offsetof(struct ibv_async_event, event_type)", offset_of!(AsyncEvent, event_type)),
    ];
    all.extend(constants);
    all
}
