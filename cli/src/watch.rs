//! `railwatch watch`: changes as they happen, over reconnects, until the time is over or a person ends it.
//! One thread reads the stream, one waits for Ctrl-C, this one prints: a line at a time, each flushed.

use crate::args::Format;
use crate::client::Client;
use crate::events::{Events, StreamEvent};
use crate::failure::{Failure, Kind};
use crate::human;
use crate::listings::{decision_tone, hypothesis, severity_tone};
use crate::output::Output;
use crate::row::Row;
use crate::table::{Tone, visible};
use nix::sys::signal::{SigSet, Signal};
use serde_json::{Map, Value, json};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Path of the stream.
const PATH: &str = "/v1/watch";
/// Waits between attempts to reconnect: doubling from the first to the second.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));

enum Notice {
    Change(StreamEvent),
    Lost(String),
    Back,
    Over(Failure),
    Interrupted,
}

/// Prints changes until `until`, Ctrl-C, or the reader of the output is gone. An error before the first
/// connection is a failure; later ones are told and the connection is made again.
pub fn watch(client: Client, format: Format, run_for: Option<Duration>, out: &mut Output) -> Result<(), Failure> {
    let deadline = run_for.map(|span| Instant::now() + span);
    let url = client.url().to_owned();
    let (notices, incoming) = sync_channel(256);
    catch_interrupts(notices.clone())?;
    std::thread::Builder::new().name("stream".into()).spawn(move || follow(&client, &notices)).map_err(no_thread)?;
    eprintln!("railwatch: watching {url}");
    loop {
        let notice = match deadline {
            Some(deadline) => incoming.recv_timeout(deadline.saturating_duration_since(Instant::now())),
            None => incoming.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match notice {
            Ok(Notice::Change(event)) => {
                out.write(&line(&event, format, out.colour)?)?;
                if out.closed {
                    return Ok(());
                }
            }
            Ok(Notice::Lost(why)) => {
                eprintln!("railwatch: lost {url}: {why}; reconnecting, and resuming where it stopped")
            }
            Ok(Notice::Back) => eprintln!("railwatch: connected to {url} again"),
            Ok(Notice::Over(failure)) => return Err(failure),
            Ok(Notice::Interrupted) | Err(_) => return Ok(()),
        }
    }
}

/// SIGINT and SIGTERM become a notice. They are blocked here before any other thread starts, so all threads inherit that.
fn catch_interrupts(notices: SyncSender<Notice>) -> Result<(), Failure> {
    let mut ending = SigSet::empty();
    ending.add(Signal::SIGINT);
    ending.add(Signal::SIGTERM);
    ending.thread_block().map_err(|error| no_thread(error.into()))?;
    let wait = move || {
        if ending.wait().is_ok() {
            // The receiver is gone only when the command ends anyway.
            let _ = notices.send(Notice::Interrupted);
        }
    };
    std::thread::Builder::new().name("interrupts".into()).spawn(wait).map(drop).map_err(no_thread)
}

fn no_thread(error: std::io::Error) -> Failure {
    Failure::new(
        Kind::Unexpected,
        format!("cannot start a thread to watch with: {error}"),
        "see the limits of this user (`ulimit -u`)",
    )
}

/// Reads the stream over reconnects until nobody listens.
fn follow(client: &Client, notices: &SyncSender<Notice>) {
    let mut last_id: Option<String> = None;
    let mut connected_once = false;
    let mut wait = RECONNECT.0;
    loop {
        let lost = match client.stream(PATH, last_id.as_deref()) {
            Ok(stream) => {
                if connected_once && notices.send(Notice::Back).is_err() {
                    return;
                }
                connected_once = true;
                let mut events = Events::new(stream);
                loop {
                    match events.next_event() {
                        Ok(Some(event)) => {
                            wait = RECONNECT.0;
                            if !event.id.is_empty() {
                                last_id = Some(event.id.clone());
                            }
                            if event.event != "start" && notices.send(Notice::Change(event)).is_err() {
                                return;
                            }
                        }
                        Ok(None) => break "the collector ended the stream".to_owned(),
                        Err(error) => break error.to_string(),
                    }
                }
            }
            // What a person must change does not change by waiting.
            Err(failure) if !connected_once || failure.kind != Kind::Unreachable => {
                let _ = notices.send(Notice::Over(failure));
                return;
            }
            Err(failure) => failure.what,
        };
        // Told once per loss, not once per attempt.
        if wait == RECONNECT.0 && notices.send(Notice::Lost(lost)).is_err() {
            return;
        }
        std::thread::sleep(wait);
        wait = (wait * 2).min(RECONNECT.1);
    }
}

/// One change as one line, or as one YAML document.
pub fn line(event: &StreamEvent, format: Format, colour: bool) -> Result<String, Failure> {
    let broken = |why: String| {
        Failure::new(
            Kind::Unexpected,
            format!("an event of {PATH} cannot be read: {why}"),
            "compare versions with `railwatch version`",
        )
    };
    let data: Value = serde_json::from_str(&event.data).map_err(|error| broken(error.to_string()))?;
    match format {
        // The collector's own text, which keeps the order of its fields. A line break in it can only be white space.
        Format::Json => {
            let (name, id) = (Value::from(event.event.as_str()), Value::from(event.id.as_str()));
            Ok(format!("{{\"event\":{name},\"id\":{id},\"data\":{}}}\n", event.data.replace('\n', " ")))
        }
        Format::Yaml => serde_yaml_ng::to_string(&json!({"event": event.event, "id": event.id, "data": data}))
            .map(|yaml| format!("---\n{yaml}"))
            .map_err(|error| broken(error.to_string())),
        Format::Table => {
            Ok(format!("{} {}\n", &human::instant(now_ns())[11..], sentence(&event.event, &Row(object(data)), colour)))
        }
    }
}

/// Now, Unix nanoseconds.
pub fn now_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn sentence(event: &str, row: &Row, colour: bool) -> String {
    let number = |field: &str| row.number(field).map_or("?".into(), |number| number.to_string());
    match event {
        "incident" => {
            let likely = row.rows("hypotheses").first().map(hypothesis).unwrap_or_default();
            let severity = severity_tone(row.text("severity")).paint(row.text("severity"), colour);
            let element = visible(&row.element("element"));
            format!(
                "incident {} {} {severity} {element}: {}  {likely}",
                number("id"),
                row.text("state"),
                visible(row.text("title"))
            )
        }
        "decision" => {
            let state = decision_tone(row.text("state")).paint(row.text("state"), colour);
            let target = visible(&row.element("target"));
            format!(
                "decision {} {state}: {} on {target} for incident {}",
                number("id"),
                visible(row.text("action")),
                number("incident")
            )
        }
        "halt" if row.flag("halted") => {
            Tone::Warn.paint(&format!("acting is halted by {}", visible(row.text("actor"))), colour)
        }
        "halt" => format!("acting is allowed again by {}", visible(row.text("actor"))),
        "lagged" => Tone::Warn.paint(&format!("changes were missed: {}", visible(row.text("detail"))), colour),
        _ => {
            let change = row.text("change");
            let change = change.strip_prefix("host_").unwrap_or(change).replace('_', " ");
            let others = row.0.iter().filter(|(field, _)| !matches!(field.as_str(), "change" | "host"));
            let others: String = others.map(|(field, value)| format!(" {field} {}", visible(&plain(value)))).collect();
            format!("host {} {}{others}", visible(row.text("host")), visible(&change))
        }
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use super::*;

    #[test]
    fn each_kind_of_change_is_a_sentence() {
        let element = json!({"host": "h1", "kind": "nic", "name": "eth0"});
        let incident = json!({"id": 3, "state": "open", "severity": "error", "element": element, "title": "eth0 lost its link",
                              "hypotheses": [{"fault_mode": "link_down", "posterior": 0.97}]});
        let decision = json!({"id": 2, "state": "proposed", "action": "ticket", "target": element, "incident": 3});
        for (event, data, expected) in [
            ("incident", incident, "incident 3 open error h1 nic eth0: eth0 lost its link  link_down (0.97)"),
            ("decision", decision, "decision 2 proposed: ticket on h1 nic eth0 for incident 3"),
            ("host", json!({"change": "host_connected", "host": "h1"}), "host h1 connected"),
            (
                "host",
                json!({"change": "port", "host": "h1", "port": "eth0", "state": "down"}),
                "host h1 port port eth0 state down",
            ),
            ("lagged", json!({"detail": "12 left out"}), "changes were missed: 12 left out"),
            ("halt", json!({"halted": true, "actor": "ann"}), "acting is halted by ann"),
        ] {
            assert_eq!(sentence(event, &Row(object(data)), false), expected);
        }
    }

    #[test]
    fn json_is_one_object_on_one_line() {
        let event = StreamEvent { id: "1-2".into(), event: "host".into(), data: "{\"host\":\n\"h\"}".into() };
        let text = line(&event, Format::Json, true).unwrap();
        assert_eq!(text.matches('\n').count(), 1);
        assert_eq!(
            serde_json::from_str::<Value>(&text).unwrap(),
            json!({"event": "host", "id": "1-2", "data": {"host": "h"}})
        );
        assert_eq!(line(&StreamEvent::default(), Format::Json, true).unwrap_err().kind, Kind::Unexpected);
    }
}
