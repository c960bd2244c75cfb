//! Server-sent events (WHATWG HTML, section 9.2) from a byte stream, as far as the collector sends them:
//! fields `id`, `event` and `data`, comments as heartbeats. Bounded: an overlong line ends the stream.

use std::io::{self, BufRead, BufReader, Read};

/// Longest line that is taken, bytes.
const LINE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// One event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamEvent {
    /// By which the stream can be resumed.
    pub id: String,
    /// Its name.
    pub event: String,
    /// Its payload, lines joined.
    pub data: String,
}

/// The events of a stream, until it ends.
pub struct Events<R> {
    lines: BufReader<R>,
}

impl<R: Read> Events<R> {
    /// Of this stream.
    pub fn new(stream: R) -> Self {
        Self { lines: BufReader::new(stream) }
    }

    /// Waits for the next event; `None` at the orderly end. What is cut off by the end is not an event.
    pub fn next_event(&mut self) -> io::Result<Option<StreamEvent>> {
        let mut event = StreamEvent::default();
        loop {
            let mut line = Vec::new();
            let read = self.lines.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line)? as u64;
            if line.pop() != Some(b'\n') {
                return match read {
                    LINE_BYTES_MAX => Err(io::Error::other("a line of the event stream is too long")),
                    _ => Ok(None),
                };
            }
            if line.last() == Some(&b'\r') {
                line.pop();
            }
            if line.is_empty() {
                if event.data.is_empty() {
                    event = StreamEvent::default();
                    continue;
                }
                return Ok(Some(event));
            }
            let line = String::from_utf8(line).map_err(|_| io::Error::other("the event stream is not UTF-8"))?;
            let (field, value) = line.split_once(':').unwrap_or((&line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "id" => event.id = value.to_owned(),
                "event" => event.event = value.to_owned(),
                "data" if event.data.is_empty() => event.data = value.to_owned(),
                "data" => {
                    event.data.push('\n');
                    event.data.push_str(value);
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use super::*;

    #[test]
    fn events_are_whole_heartbeats_are_skipped_and_a_torn_event_is_none() {
        let text = ": heartbeat\n\nid: 1-7\nevent: incident\ndata: {\"a\":\ndata: 1}\n\r\n:x\nevent: lost\n\nid:9\ndata:b\r\n\nid: 10\ndata: torn";
        let mut events = Events::new(text.as_bytes());
        let event =
            |id: &str, event: &str, data: &str| StreamEvent { id: id.into(), event: event.into(), data: data.into() };
        assert_eq!(events.next_event().unwrap(), Some(event("1-7", "incident", "{\"a\":\n1}")));
        assert_eq!(events.next_event().unwrap(), Some(event("9", "", "b")));
        assert_eq!(events.next_event().unwrap(), None);
    }

    #[test]
    fn a_line_without_end_is_refused_at_the_bound() {
        let mut events = Events::new(io::repeat(b'x'));
        assert!(events.next_event().unwrap_err().to_string().contains("too long"));
    }
}
