//! Scenarios: what fault, where, when, how bad.
//!
//! In: a file (docs/lab.md) or the name of a built-in one, a plan, a seed. Out: an [`Injection`], the same for the same three.
//! Never: IO on the lab, a clock.

use crate::plan::{Link, LinkKind, Plan};
use anyhow::{Context, Result, bail, ensure};
use railwatch_abi::lab::FaultConfig;
use serde::Deserialize;
use std::{fs, path::Path};

/// Built-in scenarios, by name.
pub const BUILT_IN: [(&str, &str); 15] = [
    ("healthy", include_str!("../scenarios/healthy.toml")),
    ("silent-drop", include_str!("../scenarios/silent-drop.toml")),
    ("blackhole", include_str!("../scenarios/blackhole.toml")),
    ("large-packets", include_str!("../scenarios/large-packets.toml")),
    ("slow-port", include_str!("../scenarios/slow-port.toml")),
    ("link-flap", include_str!("../scenarios/link-flap.toml")),
    ("ecmp-loss", include_str!("../scenarios/ecmp-loss.toml")),
    ("dirty-optic", include_str!("../scenarios/dirty-optic.toml")),
    ("pfc-storm", include_str!("../scenarios/pfc-storm.toml")),
    ("rank-hang", include_str!("../scenarios/rank-hang.toml")),
    ("slow-rank", include_str!("../scenarios/slow-rank.toml")),
    ("gpu-oom", include_str!("../scenarios/gpu-oom.toml")),
    ("nic-link-down", include_str!("../scenarios/nic-link-down.toml")),
    ("agent-death", include_str!("../scenarios/agent-death.toml")),
    ("collector-restart", include_str!("../scenarios/collector-restart.toml")),
];

/// A value is drawn from here: lowest and highest.
type Range = [f64; 2];

/// A scenario as written.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// One line for people.
    pub about: String,
    /// Undisturbed work before the fault, at least, s.
    #[serde(default = "default_warm_up")]
    pub warm_up_s: f64,
    /// How much later the fault may come, s: the instant is drawn.
    #[serde(default = "default_spread")]
    pub spread_s: f64,
    /// How long the fault stays, s.
    #[serde(default = "default_fault")]
    pub fault_s: f64,
    /// Work after it, s.
    #[serde(default = "default_recovery")]
    pub recovery_s: f64,
    /// Lets zebra keep nexthops in the kernel.
    #[serde(default)]
    pub kernel_nexthops: bool,
    /// The fault; none in a healthy run.
    pub fault: Option<Fault>,
}

fn default_warm_up() -> f64 {
    5.0
}
fn default_spread() -> f64 {
    2.0
}
fn default_fault() -> f64 {
    12.0
}
fn default_recovery() -> f64 {
    5.0
}

/// A fault as written. Targets are `fabric-link`, `host-link`, or the name of a link or of a direction.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Fault {
    /// Packets are lost in the data plane.
    Loss {
        /// Which link.
        target: String,
        /// Both directions, not one.
        #[serde(default)]
        both_directions: bool,
        /// Of 100 packets.
        percent: Range,
        /// Only packets of this many bytes and more.
        #[serde(default)]
        length_min: u32,
        /// Routing sessions and ARP pass.
        #[serde(default)]
        spares_control: bool,
    },
    /// A port sends more slowly than it should.
    Rate {
        /// Which link.
        target: String,
        /// What is left.
        mbit_per_s: Range,
    },
    /// A switch's port goes down and up, again and again, and stays up.
    Flap {
        /// Which link.
        target: String,
        /// How often.
        times: u32,
        /// How long it is down, ms.
        down_ms: Range,
        /// How long it is up in between, ms.
        up_ms: Range,
    },
    /// A cable is out.
    LinkDown {
        /// Which link.
        target: String,
    },
    /// Less and less light on one lane of a NIC's module, then wrong symbols, then loss.
    DirtyOptic {
        /// Of 100 packets, in the end.
        percent: Range,
    },
    /// A NIC takes packets too slowly and makes its leaf wait, and that its hosts.
    PauseStorm {
        /// What the NIC still takes.
        mbit_per_s: Range,
    },
    /// SIGSTOP of a rank.
    RankHang,
    /// Other processes take a rank's processor.
    SlowRank {
        /// How many.
        hogs: u32,
    },
    /// A rank's GPU has no memory left.
    GpuMemory,
    /// kill -9 of an agent.
    AgentDeath,
    /// The collector ends and starts again.
    CollectorRestart,
}

/// What is done, with everything drawn.
#[derive(Clone, Debug, PartialEq)]
pub enum Act {
    /// See [`Fault::Loss`].
    Loss {
        /// Name of the link.
        link: String,
        /// Nodes at which the directions start.
        from: Vec<String>,
        /// For the BPF program.
        config: FaultConfig,
    },
    /// See [`Fault::Rate`].
    Rate {
        /// Name of the link.
        link: String,
        /// The node that sends.
        from: String,
        /// What is left.
        mbit_per_s: f64,
    },
    /// See [`Fault::Flap`]; also [`Fault::LinkDown`], which is one flap that lasts.
    Flap {
        /// Name of the link.
        link: String,
        /// The node whose port is set.
        at: String,
        /// Instants after the injection at which it goes down, ms, and up again; `None`: when the fault ends.
        downs: Vec<(u64, Option<u64>)>,
    },
    /// See [`Fault::DirtyOptic`].
    DirtyOptic {
        /// Name of the link.
        link: String,
        /// Host and port of the module.
        host: String,
        /// See there.
        port: String,
        /// From 0.
        lane: usize,
        /// In the end.
        config: FaultConfig,
    },
    /// See [`Fault::PauseStorm`].
    PauseStorm {
        /// Name of the link.
        link: String,
        /// The NIC's host.
        host: String,
        /// What it still takes.
        mbit_per_s: f64,
    },
    /// See [`Fault::RankHang`].
    RankHang {
        /// Which.
        rank: usize,
    },
    /// See [`Fault::SlowRank`].
    SlowRank {
        /// Which.
        rank: usize,
        /// How many.
        hogs: u32,
    },
    /// See [`Fault::GpuMemory`].
    GpuMemory {
        /// Which.
        rank: usize,
    },
    /// See [`Fault::AgentDeath`].
    AgentDeath {
        /// The host's.
        rank: usize,
    },
    /// See [`Fault::CollectorRestart`].
    CollectorRestart,
}

impl Act {
    /// The link that it is done to, where it is one.
    fn link(&self) -> Option<&str> {
        match self {
            Self::Loss { link, .. }
            | Self::Rate { link, .. }
            | Self::Flap { link, .. }
            | Self::DirtyOptic { link, .. }
            | Self::PauseStorm { link, .. } => Some(link),
            Self::RankHang { .. }
            | Self::SlowRank { .. }
            | Self::GpuMemory { .. }
            | Self::AgentDeath { .. }
            | Self::CollectorRestart => None,
        }
    }
}

/// A fault with its place and time.
#[derive(Clone, Debug, PartialEq)]
pub struct Injection {
    /// The kind, as written in the file.
    pub kind: &'static str,
    /// What is at fault: a link, a direction, a NIC, a rank, a host, `collector`.
    pub element: String,
    /// After the begin of the observation, ms.
    pub at_ms: u64,
    /// Hosts and switches whose signals may come from it.
    pub hosts: Vec<String>,
    /// What is done.
    pub act: Act,
}

impl Scenario {
    /// A built-in scenario by name, or a file by path.
    ///
    /// # Errors
    /// Neither, or a file that is no scenario, with line and field.
    pub fn find(name: &str) -> Result<(String, Self)> {
        if let Some((name, text)) = BUILT_IN.iter().find(|(built_in, _)| *built_in == name) {
            return Ok((
                (*name).to_owned(),
                Self::parse(text).with_context(|| format!("the built-in scenario {name}"))?,
            ));
        }
        let path = Path::new(name);
        if !path.exists() {
            let names: Vec<_> = BUILT_IN.iter().map(|(name, _)| *name).collect();
            bail!("`{name}` is neither a file nor a built-in scenario: {}", names.join(", "));
        }
        let text = fs::read_to_string(path).with_context(|| format!("read {name}"))?;
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Ok((stem, Self::parse(&text).with_context(|| name.to_owned())?))
    }

    /// From the text of a file.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn parse(text: &str) -> Result<Self> {
        let scenario: Self = toml::from_str(text)?;
        for (name, value, most) in [
            ("warm_up_s", scenario.warm_up_s, 3600.0),
            ("spread_s", scenario.spread_s, 3600.0),
            ("fault_s", scenario.fault_s, 3600.0),
            ("recovery_s", scenario.recovery_s, 3600.0),
        ] {
            ensure!((0.0..=most).contains(&value), "{name} = {value} is not within 0 and {most}");
        }
        Ok(scenario)
    }

    /// Draws place, time and extent. `None` where nothing is done.
    ///
    /// # Errors
    /// A target that the plan does not have, a range that is none.
    pub fn draw(&self, name: &str, plan: &Plan, seed: u64) -> Result<Option<Injection>> {
        let Some(fault) = &self.fault else { return Ok(None) };
        // Two scenarios of one seed have nothing to do with each other.
        let mut dice =
            Dice(name.bytes().fold(seed, |seed, byte| (seed ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)));
        let at_ms = ((self.warm_up_s + self.spread_s * dice.unit()) * 1000.0) as u64;
        let (kind, element, mut hosts, act) = draw(fault, plan, &mut dice)?;
        // The switches at a link have a word of their own.
        let ends = act.link().and_then(|link| plan.link(link)).into_iter().flat_map(|(link, _)| [&link.a, &link.b]);
        hosts.extend(ends.filter(|end| plan.switch(&end.node).is_some()).map(|end| end.node.clone()));
        Ok(Some(Injection { kind, element, at_ms, hosts, act }))
    }
}

fn draw(fault: &Fault, plan: &Plan, dice: &mut Dice) -> Result<(&'static str, String, Vec<String>, Act)> {
    let everybody = || plan.hosts.iter().map(|host| host.name.clone()).collect::<Vec<_>>();
    Ok(match fault {
        Fault::Loss { target, both_directions, percent, length_min, spares_control } => {
            let (link, from) = direction(plan, target, dice)?;
            let config = FaultConfig {
                seed: dice.next(),
                loss_per_million: per_million(dice.between(*percent)?)?,
                length_min: *length_min,
                spares_control: u32::from(*spares_control),
                ..FaultConfig::default()
            };
            let (element, from) = if *both_directions {
                (link.name.clone(), vec![link.a.node.clone(), link.b.node.clone()])
            } else {
                (link.directed(&from), vec![from])
            };
            ("loss", element, everybody(), Act::Loss { link: link.name.clone(), from, config })
        }
        Fault::Rate { target, mbit_per_s } => {
            let (link, from) = direction(plan, target, dice)?;
            let mbit_per_s = dice.between(*mbit_per_s)?;
            ensure!(mbit_per_s > 0.0, "mbit_per_s is above 0");
            ("rate", link.directed(&from), everybody(), Act::Rate { link: link.name.clone(), from, mbit_per_s })
        }
        Fault::Flap { target, times, down_ms, up_ms } => {
            let (link, _) = direction(plan, target, dice)?;
            ensure!((1..=100).contains(times), "times is from 1 to 100");
            let (mut downs, mut at) = (Vec::new(), 0);
            for _ in 0..*times {
                let up = at + dice.between(*down_ms)? as u64;
                downs.push((at, Some(up)));
                at = up + dice.between(*up_ms)? as u64;
            }
            let act = Act::Flap { link: link.name.clone(), at: switch_of(link), downs };
            ("flap", link.name.clone(), hosts_of(link, plan), act)
        }
        Fault::LinkDown { target } => {
            let (link, _) = direction(plan, target, dice)?;
            let act = Act::Flap { link: link.name.clone(), at: switch_of(link), downs: vec![(0, None)] };
            ("link-down", link.name.clone(), hosts_of(link, plan), act)
        }
        Fault::DirtyOptic { percent } => {
            let (link, _) = direction(plan, "host-link", dice)?;
            let config = FaultConfig {
                seed: dice.next(),
                loss_per_million: per_million(dice.between(*percent)?)?,
                ..FaultConfig::default()
            };
            let act = Act::DirtyOptic {
                link: link.name.clone(),
                host: link.a.node.clone(),
                port: link.a.port.clone(),
                lane: dice.below(crate::optic::LANES),
                config,
            };
            ("dirty-optic", link.directed(&link.b.node), everybody(), act)
        }
        Fault::PauseStorm { mbit_per_s } => {
            let (link, _) = direction(plan, "host-link", dice)?;
            let mbit_per_s = dice.between(*mbit_per_s)?;
            ensure!(mbit_per_s > 0.0, "mbit_per_s is above 0");
            let act = Act::PauseStorm { link: link.name.clone(), host: link.a.node.clone(), mbit_per_s };
            ("pause-storm", link.a.to_string(), everybody(), act)
        }
        Fault::RankHang => of_rank("rank-hang", plan, dice, |rank| Act::RankHang { rank }),
        Fault::SlowRank { hogs } => {
            ensure!((1..=16).contains(hogs), "hogs is from 1 to 16");
            of_rank("slow-rank", plan, dice, |rank| Act::SlowRank { rank, hogs: *hogs })
        }
        Fault::GpuMemory => of_rank("gpu-memory", plan, dice, |rank| Act::GpuMemory { rank }),
        Fault::AgentDeath => {
            let rank = dice.below(plan.hosts.len());
            let host = plan.hosts[rank].name.clone();
            ("agent-death", host.clone(), vec![host], Act::AgentDeath { rank })
        }
        Fault::CollectorRestart => ("collector-restart", "collector".into(), Vec::new(), Act::CollectorRestart),
    })
}

fn of_rank(
    kind: &'static str,
    plan: &Plan,
    dice: &mut Dice,
    act: impl FnOnce(usize) -> Act,
) -> (&'static str, String, Vec<String>, Act) {
    let rank = dice.below(plan.hosts.len());
    let host = &plan.hosts[rank].name;
    (kind, format!("{host}/rank{rank}"), vec![host.clone()], act(rank))
}

/// Who may notice that a link is down by itself: the host at it; anybody behind a fabric link.
fn hosts_of(link: &Link, plan: &Plan) -> Vec<String> {
    match link.kind {
        LinkKind::Host => vec![link.a.node.clone()],
        LinkKind::Fabric => plan.hosts.iter().map(|host| host.name.clone()).collect(),
    }
}

/// The end of a link that is set down: always a switch's, as no host does that to itself.
fn switch_of(link: &Link) -> String {
    if link.kind == LinkKind::Host { link.b.node.clone() } else { link.a.node.clone() }
}

fn direction<'a>(plan: &'a Plan, target: &str, dice: &mut Dice) -> Result<(&'a Link, String)> {
    let kind = match target {
        "fabric-link" => Some(LinkKind::Fabric),
        "host-link" => Some(LinkKind::Host),
        _ => None,
    };
    let (link, from) = match kind {
        Some(kind) => {
            let links: Vec<_> = plan.links.iter().filter(|link| link.kind == kind).collect();
            (links[dice.below(links.len())], None)
        }
        None => plan.link(target).with_context(|| {
            format!("target `{target}` is neither fabric-link nor host-link nor a link or direction of this plan")
        })?,
    };
    let either = if dice.below(2) == 0 { &link.a.node } else { &link.b.node };
    Ok((link, from.map_or_else(|| either.clone(), str::to_owned)))
}

fn per_million(percent: f64) -> Result<u32> {
    ensure!((0.0..=100.0).contains(&percent), "percent = {percent} is not within 0 and 100");
    Ok((percent * 10_000.0).round() as u32)
}

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let word = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ word >> 31
    }

    /// Within 0 and 1.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// `count` is above 0: plans have at least one host and one link of each kind.
    fn below(&mut self, count: usize) -> usize {
        (self.next() % count as u64) as usize
    }

    fn between(&mut self, [low, high]: Range) -> Result<f64> {
        ensure!(low <= high && low >= 0.0 && high.is_finite(), "[{low}, {high}] is no range");
        Ok(low + (high - low) * self.unit())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Sizes;
    use std::collections::BTreeSet;

    #[test]
    fn the_same_seed_draws_the_same_and_others_go_elsewhere() -> Result<()> {
        let plan = Plan::new(Sizes::default())?;
        for (name, _) in BUILT_IN {
            let (name, scenario) = Scenario::find(name)?;
            let drawn = |seed| scenario.draw(&name, &plan, seed);
            assert_eq!(drawn(7)?, drawn(7)?, "{name}");
            let elements: BTreeSet<_> = (0..20)
                .map(drawn)
                .collect::<Result<Vec<_>>>()?
                .into_iter()
                .flatten()
                .map(|drawn| drawn.element)
                .collect();
            let expected = match name.as_str() {
                "healthy" => 0..=0,
                "collector-restart" => 1..=1,
                _ => 3..=20,
            };
            assert!(expected.contains(&elements.len()), "{name}: {elements:?}");
        }
        Ok(())
    }

    #[test]
    fn built_in_scenarios_fit_the_smallest_fabric_and_a_minute() -> Result<()> {
        let plan = Plan::new(Sizes { rails: 1, leaves_per_rail: 1, hosts_per_leaf: 1, spines: 1 })?;
        for (name, _) in BUILT_IN {
            let (name, scenario) = Scenario::find(name)?;
            scenario.draw(&name, &plan, 1)?;
            let Scenario { warm_up_s, spread_s, fault_s, recovery_s, .. } = scenario;
            assert!(warm_up_s + spread_s + fault_s + recovery_s <= 40.0, "{name}");
        }
        Ok(())
    }

    #[test]
    fn a_wrong_file_is_refused_with_its_field() {
        for (text, word) in [
            ("about = \"x\"\nspeed = 1", "speed"),
            ("about = \"x\"\nfault_s = -1", "fault_s"),
            ("about = \"x\"\n[fault]\nkind = \"fire\"", "fire"),
            ("about = \"x\"\n[fault]\nkind = \"loss\"\ntarget = \"host-link\"", "percent"),
            ("", "about"),
        ] {
            let error = format!("{:#}", Scenario::parse(text).expect_err(text));
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    #[test]
    fn a_target_can_be_one_direction_by_name() -> Result<()> {
        let plan = Plan::new(Sizes::default())?;
        let text =
            |target: &str| format!("about = \"x\"\n[fault]\nkind = \"loss\"\ntarget = \"{target}\"\npercent = [1, 1]");
        for name in ["leaf1:eth4>spine0:eth1", "leaf0:eth0>host0:eth0"] {
            let drawn = Scenario::parse(&text(name))?.draw("x", &plan, 3)?.expect("a fault");
            assert_eq!(drawn.element, name);
        }
        assert!(Scenario::parse(&text("leaf9:eth0>leaf8:eth0"))?.draw("x", &plan, 3).is_err());
        Ok(())
    }
}
