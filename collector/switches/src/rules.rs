//! From what changed at a switch to signals, by the same kinds of rules as a host's.
//!
//! In: [`Change`]s with the state they led to, and ticks. Out: [`Signal`]s on elements of the switch: `port`, `module`, `lane`. A rule that
//! has spoken is silent until its end, which it tells too. A switch that says too much is bounded by [`BURST`] signals at once and
//! [`PER_S`] a second: what is left out is counted in the next (`suppressed`), and where a link's last word was left out it follows.
//! Never: a suspicion of whoever is at the other end; the peer's name is an attribute for people.

use crate::series::{Counted, PRIORITY};
use crate::state::{Bound, Change, CounterKey, Growth, Quantity, SwitchState};
use railwatch_engine::{Element, Severity, Signal, Timestamp};
use std::collections::BTreeMap;

/// Signals of one switch at once.
pub const BURST: u32 = 256;
/// Signals of one switch a second, in the long run.
pub const PER_S: u32 = 16;
/// A rule ends when it did not hold for this long.
const QUIET_NS: u64 = 10_000_000_000;
/// Dropped packets a second of a port, of a queue: above what a misrouted broadcast makes.
const DROPS_PER_S: f64 = 10.0;
/// Share of time that received or sent pause may have stopped a port: half is no mere throttling.
const PAUSED_SHARE: f64 = 0.5;
/// The longest pause that one frame asks for, in times of 512 bits (IEEE 802.1Qbb, 36.1.3.3; 802.3 annex 31B.2).
const PAUSE_QUANTA_MAX: f64 = 65_535.0;
const QUANTUM_BITS: f64 = 512.0;
/// Speed of a port that does not say it: the rule then needs as many frames as of a slow one.
const SPEED_UNKNOWN_BITS_PER_S: f64 = 100e9;
/// A value returns within its bounds by this part of the bound before the crossing is over.
const RETURN: f64 = 0.02;

/// A rule over a counter.
struct Rule {
    /// Signal that it begins with; its end is the same with `.over`.
    signal: &'static str,
    severity: Severity,
    /// Whether the growth breaks it.
    holds: fn(&Counted, Growth, Option<u64>) -> bool,
    /// What it is, before `at NN a second`.
    words: &'static str,
}

fn of(counted: &Counted, series: &str) -> bool {
    counted.series == series
}

/// All rules over counters.
const RULES: [Rule; 4] = [
    Rule {
        signal: "switch.drops",
        severity: Severity::Warning,
        holds: |counted, growth, _| of(counted, "hw.network.dropped") && growth.per_s() >= DROPS_PER_S,
        words: "drops packets",
    },
    Rule {
        signal: "switch.queue.drops",
        severity: Severity::Warning,
        holds: |counted, growth, _| of(counted, "hw.network.queue.dropped") && growth.per_s() >= DROPS_PER_S,
        words: "drops packets",
    },
    Rule {
        signal: "switch.errors",
        severity: Severity::Warning,
        holds: |counted, growth, _| counted.series.starts_with("hw.network.errors") && growth.by > 0,
        words: "counts errors",
    },
    Rule {
        signal: "switch.pfc.storm",
        severity: Severity::Error,
        holds: |counted, growth, speed| {
            of(counted, "hw.network.pfc.pause_frames") && paused_share(growth, speed) >= PAUSED_SHARE
        },
        words: "is full of pause frames",
    },
];

/// Share of time that these frames stop a port if each asks for the longest pause: at most the truth is that.
fn paused_share(growth: Growth, speed_bits_per_s: Option<u64>) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a speed")]
    let speed = speed_bits_per_s.map_or(SPEED_UNKNOWN_BITS_PER_S, |speed| speed as f64);
    growth.per_s() * PAUSE_QUANTA_MAX * QUANTUM_BITS / speed
}

/// Every signal that is made here; each has its page in docs/signals.
pub const SIGNALS: [&str; 12] = [
    "switch.drops",
    "switch.drops.over",
    "switch.queue.drops",
    "switch.queue.drops.over",
    "switch.errors",
    "switch.errors.over",
    "switch.pfc.storm",
    "switch.pfc.storm.over",
    "switch.link.down",
    "switch.link.up",
    "switch.optics.limit.crossed",
    "switch.optics.limit.kept",
];

/// What the rules remember of a switch.
#[derive(Debug, Default)]
pub struct Rules {
    /// Of each port whose link moved, what was told last.
    links: BTreeMap<String, Link>,
    /// Of each rule, port and counter that holds: since it was last seen to hold.
    holding: BTreeMap<(usize, String, CounterKey), u64>,
    /// Of each value, the bound that it is beyond.
    beyond: BTreeMap<(String, Option<u16>, Quantity), Option<Bound>>,
    tokens: Tokens,
    /// Left out since the last one that was told.
    suppressed: u64,
}

#[derive(Debug)]
struct Link {
    told_up: bool,
    /// Edges left out.
    hidden: u64,
}

#[derive(Debug)]
struct Tokens {
    left: f64,
    at: Timestamp,
}

impl Default for Tokens {
    fn default() -> Self {
        Self { left: f64::from(BURST), at: Timestamp(0) }
    }
}

impl Tokens {
    fn take(&mut self, now: Timestamp) -> bool {
        #[expect(clippy::cast_precision_loss, reason = "some seconds")]
        let gained = now.0.saturating_sub(self.at.0) as f64 / 1e9 * f64::from(PER_S);
        self.at = self.at.max(now);
        self.left = (self.left + gained).min(f64::from(BURST));
        let is_there = self.left >= 1.0;
        self.left -= f64::from(u8::from(is_there));
        is_there
    }
}

impl Rules {
    /// Judges what a notification changed. `half_width_ns`: the instants may be off by so much.
    pub fn take(&mut self, state: &SwitchState, changes: &[Change], now: Timestamp, half_width_ns: u64) -> Vec<Signal> {
        let mut told = Telling { state, now, half_width_ns, signals: Vec::new() };
        for change in changes {
            match change {
                Change::Link { port } => self.link(&mut told, port),
                Change::Counted { port, counter, growth } => self.counted(&mut told, port, counter, *growth),
                Change::Measured { module, lane, quantity, value } => {
                    self.measured(&mut told, module, *lane, *quantity, *value);
                }
            }
        }
        told.signals
    }

    /// Ends what has not held for a while, and catches up with links whose last word was left out.
    pub fn tick(&mut self, state: &SwitchState, now: Timestamp, half_width_ns: u64) -> Vec<Signal> {
        let mut told = Telling { state, now, half_width_ns, signals: Vec::new() };
        let over: Vec<_> = self.holding.iter().filter(|(_, at)| now.0.saturating_sub(**at) >= QUIET_NS).collect();
        let over: Vec<_> = over.into_iter().map(|(key, _)| key.clone()).collect();
        for key in over {
            self.holding.remove(&key);
            let (rule, port, counter) = key;
            let summary = format!("Port {port} of {} no longer {}", state.name, RULES[rule].words);
            let mut signal =
                told.signal(&format!("{}.over", RULES[rule].signal), "port", &port, Severity::Info, summary);
            counter_attributes(&mut signal, &counter);
            self.tell(&mut told, signal);
        }
        let behind = |link: &Link, port: &str| state.ports.get(port).and_then(|port| port.up) == Some(!link.told_up);
        let late: Vec<_> =
            self.links.iter().filter(|(port, link)| behind(link, port)).map(|(port, _)| port.clone()).collect();
        for port in late {
            if let Some(link) = self.links.get_mut(&port) {
                // The edge that is told now is one of those left out.
                link.hidden = link.hidden.saturating_sub(1);
            }
            self.tell_link(&mut told, &port);
        }
        self.links.retain(|port, _| state.ports.contains_key(port));
        self.beyond.retain(|(module, ..), _| state.modules.contains_key(module));
        told.signals
    }

    fn tell(&mut self, told: &mut Telling<'_>, signal: Signal) -> bool {
        if !self.tokens.take(told.now) {
            self.suppressed += 1;
            return false;
        }
        let suppressed = signal.suppressed + std::mem::take(&mut self.suppressed);
        told.signals.push(Signal { suppressed, ..signal });
        true
    }

    fn link(&mut self, told: &mut Telling<'_>, port: &str) {
        let Some(up) = told.state.ports.get(port).and_then(|port| port.up) else { return };
        let link = self.links.entry(port.to_owned()).or_insert(Link { told_up: !up, hidden: 0 });
        if link.told_up == up {
            // Fell and rose before the fall could be told.
            link.hidden += 1;
            return;
        }
        self.tell_link(told, port);
    }

    fn tell_link(&mut self, told: &mut Telling<'_>, port: &str) {
        let Some(of_port) = told.state.ports.get(port) else { return };
        let Some(up) = of_port.up else { return };
        let (name, severity, words) = if up {
            ("switch.link.up", Severity::Info, "is up")
        } else {
            ("switch.link.down", Severity::Critical, "is down")
        };
        let summary = format!("Port {port} of {} {words}", told.state.name);
        let mut signal = told.signal(name, "port", port, severity, summary);
        signal.value = f64::from(u8::from(up));
        signal.previous = Some(f64::from(u8::from(!up)));
        if !up && of_port.admin_up == Some(false) {
            signal.attributes.insert("cause".to_owned(), "admin_down".to_owned());
            signal.summary.push_str(", taken down by its administrator");
        }
        signal.suppressed = self.links.get(port).map_or(0, |link| link.hidden);
        let is_told = self.tell(told, signal);
        if let Some(link) = self.links.get_mut(port) {
            if is_told {
                (link.told_up, link.hidden) = (up, 0);
            } else {
                link.hidden += 1;
                self.suppressed = self.suppressed.saturating_sub(1);
            }
        }
    }

    fn counted(&mut self, told: &mut Telling<'_>, port: &str, counter: &CounterKey, growth: Growth) {
        let speed = told.state.ports.get(port).and_then(|port| port.speed_bits_per_s);
        for (number, rule) in RULES.iter().enumerate().filter(|(_, rule)| (rule.holds)(counter.0, growth, speed)) {
            let key = (number, port.to_owned(), counter.clone());
            if self.holding.insert(key.clone(), told.now.0).is_some() {
                continue;
            }
            let (series, rate) = (counter.0.series, growth.per_s());
            let summary = format!(
                "Port {port} of {} {}: {series}{} at {rate:.0} a second",
                told.state.name,
                rule.words,
                part(counter)
            );
            let mut signal = told.signal(rule.signal, "port", port, rule.severity, summary);
            (signal.value, signal.unit) = (rate, format!("{}/s", counter.0.unit));
            signal.half_width_ns = signal.half_width_ns.max(growth.over_ns);
            counter_attributes(&mut signal, counter);
            if !self.tell(told, signal) {
                // Not told, so it did not begin: the next reading tries again.
                self.holding.remove(&key);
            }
        }
    }

    fn measured(&mut self, told: &mut Telling<'_>, module: &str, lane: Option<u16>, quantity: Quantity, value: f64) {
        let Some(of_module) = told.state.modules.get(module) else { return };
        let key = (module.to_owned(), lane, quantity);
        let is_first = !self.beyond.contains_key(&key);
        let before = self.beyond.get(&key).copied().flatten();
        let beyond = |slack: f64| {
            [Bound::Alarm, Bound::Warning].into_iter().find_map(|bound| {
                let (low, high) = of_module.limits.get(&(quantity, bound))?;
                let is_low = low.is_some_and(|low| value < low + slack * low.abs());
                let is_high = high.is_some_and(|high| value > high - slack * high.abs());
                (is_low || is_high).then_some((bound, if is_low { "low" } else { "high" }))
            })
        };
        let now = beyond(if before.is_some() { RETURN } else { 0.0 });
        let bound = now.map(|(bound, _)| bound);
        let keep = |rules: &mut Self| {
            rules.beyond.insert(key.clone(), bound);
        };
        // What was beyond a bound when it was first read is no event.
        if is_first || bound == before || (bound.is_some() && bound < before) {
            return keep(self);
        }
        let port = told.state.port_of_module(module).unwrap_or(module).to_owned();
        let (kind, name) = lane.map_or(("module", port.clone()), |lane| ("lane", format!("{port}/{}", lane + 1)));
        let (unit, quantity_name) = (quantity.unit(), quantity.name());
        let mut signal = match now {
            Some((bound, side)) => {
                let (severity, word) =
                    if bound == Bound::Alarm { (Severity::Error, "alarm") } else { (Severity::Warning, "warning") };
                let summary = format!(
                    "{quantity_name} of {kind} {name} of {} is {value:.2} {unit}, beyond its {side} {word}",
                    told.state.name
                );
                let mut signal = told.signal("switch.optics.limit.crossed", kind, &name, severity, summary);
                signal.attributes.insert("cause".to_owned(), format!("{side}_{word}"));
                signal
            }
            None => {
                let summary =
                    format!("{quantity_name} of {kind} {name} of {} is within its bounds again", told.state.name);
                told.signal("switch.optics.limit.kept", kind, &name, Severity::Info, summary)
            }
        };
        (signal.value, signal.unit) = (value, unit.to_owned());
        signal.attributes.insert("quantity".to_owned(), quantity_name.to_owned());
        told.peer(&mut signal, &port);
        if self.tell(told, signal) {
            keep(self);
        }
    }
}

fn part(counter: &CounterKey) -> String {
    match counter.0.part {
        Some(PRIORITY) => format!(" of priority {}", counter.1),
        Some(_) => format!(" of queue {}", counter.1),
        None => String::new(),
    }
}

fn counter_attributes(signal: &mut Signal, counter: &CounterKey) {
    let (counted, part) = counter;
    signal.attributes.insert("series".to_owned(), counted.series.to_owned());
    if let Some(direction) = counted.direction {
        signal.attributes.insert("direction".to_owned(), direction.to_owned());
    }
    if let Some(label) = counted.part {
        signal.attributes.insert(if label == PRIORITY { "priority" } else { "queue" }.to_owned(), part.clone());
    }
}

/// What is told of one look.
struct Telling<'a> {
    state: &'a SwitchState,
    now: Timestamp,
    half_width_ns: u64,
    signals: Vec<Signal>,
}

impl Telling<'_> {
    fn signal(&self, name: &str, kind: &str, element: &str, severity: Severity, summary: String) -> Signal {
        let mut signal = Signal {
            name: name.to_owned(),
            element: Element { host: self.state.name.clone(), kind: kind.to_owned(), name: element.to_owned() },
            severity,
            observed: self.now,
            half_width_ns: self.half_width_ns,
            value: 0.0,
            previous: None,
            unit: "1".to_owned(),
            summary,
            attributes: BTreeMap::new(),
            incomplete_since: None,
            suppressed: 0,
        };
        self.peer(&mut signal, element);
        signal
    }

    fn peer(&self, signal: &mut Signal, port: &str) {
        if let Some(peer) = self.state.peer_lately(port) {
            signal.attributes.insert("peer".to_owned(), peer.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use super::*;
    use crate::gnmi::{Notification, TypedValue, Update, typed_value};
    use crate::paths;

    const S: u64 = 1_000_000_000;

    /// A switch and its rules, by the second.
    struct Watched {
        state: SwitchState,
        rules: Rules,
        now: u64,
    }

    impl Watched {
        fn new() -> Self {
            let mut watched = Self { state: SwitchState::new("leaf0"), rules: Rules::default(), now: 0 };
            watched.says("/interfaces/interface[name=eth0]/ethernet/state/port-speed", "\"SPEED_100GB\"");
            watched.says(
                "/lldp/interfaces/interface[name=eth0]/neighbors/neighbor[id=1]/state",
                r#"{"system-name":"host0","port-id":"eth1"}"#,
            );
            watched
        }

        /// One second later the switch says this.
        fn says(&mut self, path: &str, json: &str) -> Vec<Signal> {
            self.now += S;
            self.says_at_once(path, json)
        }

        fn says_at_once(&mut self, path: &str, json: &str) -> Vec<Signal> {
            let update = Update {
                path: Some(paths::parse(path).unwrap()),
                val: Some(TypedValue { value: Some(typed_value::Value::JsonIetfVal(json.as_bytes().to_vec())) }),
                ..Update::default()
            };
            let notification = Notification { update: vec![update], ..Notification::default() };
            let applied = self.state.apply(&notification, self.now);
            assert_eq!(applied.malformed, 0);
            self.rules.take(&self.state, &applied.changes, Timestamp(self.now), 1)
        }

        /// So many seconds later, with nothing said.
        fn later(&mut self, seconds: u64) -> Vec<Signal> {
            self.now += seconds * S;
            self.rules.tick(&self.state, Timestamp(self.now), 1)
        }
    }

    fn names(signals: &[Signal]) -> Vec<&str> {
        signals.iter().map(|signal| signal.name.as_str()).collect()
    }

    #[test]
    fn a_counter_that_breaks_a_rule_is_told_once_and_its_end_once() {
        let discards = "/interfaces/interface[name=eth0]/state/counters/out-discards";
        let errors = "/interfaces/interface[name=eth0]/state/counters/in-errors";
        let queue = "/qos/interfaces/interface[interface-id=eth0]/output/queues/queue[name=q3]/state/dropped-pkts";
        let pause = "/qos/interfaces/interface[interface-id=eth0]/pfc/pfc-priorities/pfc-priority[dot1p=3]/state/statistics/pause-frames-rx";
        for (path, signal, values) in [
            (discards, "switch.drops", [0, 9, 19, 29]),
            (errors, "switch.errors", [0, 0, 1, 2]),
            (queue, "switch.queue.drops", [0, 9, 19, 29]),
            // 100 Gbit/s: 1,490 frames of 335.5 µs stop it for half of a second.
            (pause, "switch.pfc.storm", [0, 1_480, 2_980, 4_480]),
        ] {
            let mut watched = Watched::new();
            let mut told = Vec::new();
            for value in values {
                told.extend(watched.says(path, &value.to_string()));
                told.extend(watched.later(0));
            }
            told.extend(watched.later(9));
            assert_eq!(names(&told), [signal], "{path}");
            assert_eq!((told[0].element.host.as_str(), told[0].element.name.as_str()), ("leaf0", "eth0"));
            assert_eq!(told[0].attributes["peer"], "host0:eth1");
            let over = watched.later(1);
            assert_eq!(names(&over), [format!("{signal}.over")], "{path}");
            assert!(watched.later(100).is_empty());
        }
    }

    #[test]
    fn a_link_is_told_by_its_edges_with_their_cause_where_it_is_known() {
        let mut watched = Watched::new();
        let oper = "/interfaces/interface[name=eth0]/state";
        assert!(watched.says(oper, r#"{"oper-status":"UP","admin-status":"UP"}"#).is_empty());
        let down = watched.says(oper, r#"{"oper-status":"DOWN","admin-status":"DOWN"}"#);
        assert_eq!(
            (names(&down), down[0].attributes.get("cause").map(String::as_str)),
            (vec!["switch.link.down"], Some("admin_down"))
        );
        assert_eq!(names(&watched.says(oper, r#"{"oper-status":"UP","admin-status":"UP"}"#)), ["switch.link.up"]);
        let cut = watched.says(oper, r#"{"oper-status":"LOWER_LAYER_DOWN"}"#);
        assert_eq!((names(&cut), cut[0].attributes.get("cause")), (vec!["switch.link.down"], None));
    }

    #[test]
    fn a_flapping_link_is_bounded_counted_and_its_last_word_follows() {
        let mut watched = Watched::new();
        let path = "/interfaces/interface[name=eth0]/state/oper-status";
        watched.says(path, "\"UP\"");
        let mut told = Vec::new();
        for edge in 0..1_001 {
            told.extend(watched.says_at_once(path, if edge % 2 == 0 { "\"DOWN\"" } else { "\"UP\"" }));
        }
        assert_eq!(told.len(), BURST as usize);
        assert_eq!(told.last().unwrap().name, "switch.link.up", "the last word is not told yet");
        let late = watched.later(1);
        assert_eq!(names(&late), ["switch.link.down"]);
        assert_eq!(told.len() as u64 + 1 + late[0].suppressed, 1_001);
        assert!(watched.later(1).is_empty());
    }

    #[test]
    fn a_lane_is_told_when_it_leaves_its_bounds_gets_worse_and_returns() {
        let mut watched = Watched::new();
        let component = "/components/component[name=x0]/transceiver";
        watched.says("/interfaces/interface[name=eth0]/state/transceiver", "\"x0\"");
        watched.says(
            &format!("{component}/thresholds"),
            r#"{"threshold":[{"severity":"WARNING","state":{"input-power-lower":"-8"}},{"severity":"CRITICAL","state":{"input-power-lower":"-10"}}]}"#,
        );
        let path = format!("{component}/physical-channels/channel[index=1]/state/input-power/instant");
        let told: Vec<_> = [-2.0, -8.5, -8.6, -11.0, -8.5, -7.9, -7.0]
            .iter()
            .flat_map(|power| watched.says(&path, &format!("\"{power}\"")))
            .map(|signal| (signal.name, signal.element.name, signal.attributes.get("cause").cloned()))
            .collect();
        let crossed =
            |cause: &str| ("switch.optics.limit.crossed".to_owned(), "eth0/2".to_owned(), Some(cause.to_owned()));
        let kept = ("switch.optics.limit.kept".to_owned(), "eth0/2".to_owned(), None);
        assert_eq!(told, [crossed("low_warning"), crossed("low_alarm"), kept]);
    }

    #[test]
    fn every_signal_has_its_page() {
        let pages = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/signals");
        for signal in SIGNALS {
            assert!(pages.join(format!("{signal}.md")).exists(), "docs/signals/{signal}.md is missing");
        }
        for rule in &RULES {
            assert!(SIGNALS.contains(&rule.signal) && SIGNALS.contains(&format!("{}.over", rule.signal).as_str()));
        }
    }
}
