//! From the bytes of `/dev/kmsg` to messages. Pure: bytes and the time in, messages out.

use super::line::Line;
use super::pattern::recognise;
use super::record::{Message, Record};

/// Follows one log.
#[derive(Debug, Default)]
pub struct Follower {
    last_seq: Option<u64>,
    lines: u64,
    lost: u64,
}

impl Follower {
    /// Takes what one read brought, whole records, read at `read_ns`; returns a message for each line that was recognised.
    pub fn take(&mut self, bytes: &[u8], read_ns: u64) -> Vec<Message> {
        let text = String::from_utf8_lossy(bytes);
        let mut messages = Vec::new();
        for line in text.lines() {
            // Continuation lines of a dictionary begin with a space and are no records.
            let Some(line) = Line::parse(line) else { continue };
            self.lines += 1;
            if let Some(last) = self.last_seq.replace(line.seq) {
                self.lost += line.seq.saturating_sub(last).saturating_sub(1);
            }
            if !line.is_kernels {
                continue;
            }
            let Some((pattern, found)) = recognise(line.text) else { continue };
            let record = Record {
                kind: pattern.kind.to_owned(),
                seq: line.seq,
                at_us: line.at_us,
                read_ns,
                fields: found.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
            };
            messages.push(Message { record: Some(record), ..self.alive() });
        }
        messages
    }

    /// That the helper lives, and what it has counted.
    #[must_use]
    pub fn alive(&self) -> Message {
        Message { lines: self.lines, lost: self.lost, record: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_lines_become_records_gaps_are_counted_and_forgeries_pass_by() {
        let mut follower = Follower::default();
        let log = "6,10,1000,-;usb 1-1: new device\n SUBSYSTEM=usb\n DEVICE=+usb:1-1\n\
                   4,11,2000,-;INFO: task python:42 blocked for more than 120 seconds.\n\
                   12,12,3000,-;NVRM: Xid (PCI:0000:01:00): 79, forged by a program\n\
                   3,20,4000,-;NVRM: Xid (PCI:0000:01:00): 48, pid=1, real\n";
        let messages = follower.take(log.as_bytes(), 5_000_000);
        let told: Vec<_> = messages
            .iter()
            .filter_map(|message| message.record.as_ref().map(|r| (r.kind.as_str(), r.seq, r.at_us, message.lost)))
            .collect();
        assert_eq!(told, [("host.hung_task", 11, 2000, 0), ("gpu.xid", 20, 4000, 7)]);
        assert_eq!(follower.alive(), Message { lines: 4, lost: 7, record: None });
    }

    proptest! {
        #[test]
        fn any_bytes_are_followed_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            Follower::default().take(&bytes, 0);
        }

        #[test]
        fn read_and_lost_add_up_to_the_numbers_passed(gaps in proptest::collection::vec(1..50u64, 1..100)) {
            let mut follower = Follower::default();
            let (mut seq, first) = (1000, 1000 + gaps[0]);
            for gap in &gaps {
                seq += gap;
                follower.take(format!("6,{seq},1,-;x\n").as_bytes(), 0);
            }
            let Message { lines, lost, .. } = follower.alive();
            prop_assert_eq!(lines + lost, seq - first + 1);
        }
    }
}
