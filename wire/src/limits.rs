//! Bounds of everything that crosses the wire. What breaks one is rejected and counted, never cut in silence.

/// Largest encoded message in either direction, bytes.
pub const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Distinct series one host may define.
pub const SERIES_PER_HOST_MAX: usize = 20_000;
/// Series in one `Windows` frame.
pub const SERIES_PER_FRAME_MAX: usize = 10_000;
/// Longest name of a host, entity, series, label key or attribute key, bytes.
pub const NAME_BYTES_MAX: usize = 255;
/// Longest label value, attribute value or summary, bytes.
pub const TEXT_BYTES_MAX: usize = 1024;
/// Labels of a series, or attributes of a signal.
pub const LABELS_MAX: usize = 32;
/// GPU processes in one snapshot.
pub const PROCESSES_PER_HOST_MAX: usize = 4096;
/// Series in one `TapeRequest`.
pub const TAPE_SERIES_MAX: usize = 512;
/// Readings that answer one `TapeRequest`, all series together.
pub const TAPE_READINGS_MAX: usize = 200_000;
/// Readings in one `TapePiece`: small, so that a signal never stands behind much of a tape.
pub const TAPE_PIECE_READINGS_MAX: usize = 4096;
/// LLDP neighbours in one snapshot.
pub const NEIGHBOURS_PER_HOST_MAX: usize = 256;
/// RDMA queue pairs in one snapshot.
pub const QUEUE_PAIRS_PER_HOST_MAX: usize = 4096;
/// TCP flows in one snapshot.
pub const FLOWS_PER_HOST_MAX: usize = 2048;
/// Addresses of one LLDP neighbour.
pub const MANAGEMENT_ADDRESSES_MAX: usize = 8;
/// Items of one host's inventory.
pub const INVENTORY_ITEMS_MAX: usize = 4096;
/// Longest value of an inventory item, bytes.
pub const INVENTORY_VALUE_BYTES_MAX: usize = 512;
/// Devices in one `PlacementState`.
pub const DEVICES_PER_HOST_MAX: usize = 512;
/// Paths between devices in one `PlacementState`.
pub const DEVICE_PATHS_PER_HOST_MAX: usize = 4096;
/// Bridges above a device, and other names of one.
pub const DEVICE_NAMES_MAX: usize = 64;
/// Tasks in one `PlacementState`, ended ones included.
pub const TASKS_PER_HOST_MAX: usize = 1280;
/// Variables of a task's environment.
pub const TASK_VARIABLES_MAX: usize = 64;
/// Contradictions of a task.
pub const TASK_CONTRADICTIONS_MAX: usize = 8;
/// Routes of one host.
pub const ROUTES_PER_HOST_MAX: usize = 512;
/// Addresses of one port.
pub const PORT_ADDRESSES_MAX: usize = 16;
/// Flows in one `ProbePlan`, and in the results of one interval.
pub const PROBE_FLOWS_MAX: usize = 2048;
/// Quiet windows in one `ProbePlan`.
pub const QUIET_WINDOWS_MAX: usize = 64;
/// Flows in one `TraceRequest`.
pub const TRACE_FLOWS_MAX: usize = 256;
/// Hops of one traced flow.
pub const TRACE_HOPS_MAX: usize = 32;
