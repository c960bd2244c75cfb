//! Why something that arrived was not taken. Every refusal is counted by its label, per collector and per host.

/// A reason not to take a frame, a sample, a definition or a state message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Refusal {
    /// A message or frame without a body this version knows.
    Empty,
    /// Columns of a `Windows` frame of different lengths.
    Columns,
    /// More series in a frame than [`railwatch_wire::limits::SERIES_PER_FRAME_MAX`].
    FrameTooLong,
    /// A name that is empty or longer than [`railwatch_wire::limits::NAME_BYTES_MAX`].
    Name,
    /// A text longer than [`railwatch_wire::limits::TEXT_BYTES_MAX`].
    Text,
    /// More labels or attributes than [`railwatch_wire::limits::LABELS_MAX`].
    Labels,
    /// A number that is not one, or is infinite.
    NotFinite,
    /// A window that ends before it starts.
    WindowOrder,
    /// Much older than what the same stream brought before.
    TimeBackwards,
    /// Later than now: stamped by another boot, or by a broken clock.
    TimeAhead,
    /// Sequence zero, which no frame has.
    SequenceZero,
    /// Sequence taken already.
    Replayed,
    /// A sample of a series that the host has not defined.
    Undefined,
    /// One more series than [`railwatch_wire::limits::SERIES_PER_HOST_MAX`].
    SeriesLimit,
    /// An identifier that is not the hash of what it stands for.
    SeriesIdentifier,
    /// More processes than [`railwatch_wire::limits::PROCESSES_PER_HOST_MAX`], or more lines than a state may have.
    StateTooLong,
    /// An answer to no clock probe of this stream, or one whose stamps contradict each other.
    ClockReply,
    /// A second `Hello`.
    HelloAgain,
    /// Results of probes that contradict themselves: more lost and answered than sent, or times out of order.
    ProbeResults,
    /// Windows that came while the collector had more to do than it could.
    Overloaded,
}

impl Refusal {
    /// As a label of a metric and a key of `rejected_frames`.
    pub fn label(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Columns => "columns",
            Self::FrameTooLong => "frame_too_long",
            Self::Name => "name",
            Self::Text => "text",
            Self::Labels => "labels",
            Self::NotFinite => "not_finite",
            Self::WindowOrder => "window_order",
            Self::TimeBackwards => "time_backwards",
            Self::TimeAhead => "time_ahead",
            Self::SequenceZero => "sequence_zero",
            Self::Replayed => "replayed",
            Self::Undefined => "undefined_series",
            Self::SeriesLimit => "series_limit",
            Self::SeriesIdentifier => "series_identifier",
            Self::StateTooLong => "state_too_long",
            Self::ClockReply => "clock_reply",
            Self::HelloAgain => "hello_again",
            Self::ProbeResults => "probe_results",
            Self::Overloaded => "overloaded",
        }
    }
}
