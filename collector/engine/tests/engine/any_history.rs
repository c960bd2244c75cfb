//! Whatever happens: the same events give the same effects byte for byte, the record replays, and nothing acts that must not.
//! What must hold of each effect is checked in [`world`].

use crate::world::World;
use proptest::prelude::*;
use railwatch_engine::{Options, replay};

fn line() -> impl Strategy<Value = String> {
    let host = || (1..6u32).prop_map(|number| format!("h{number}"));
    let late = || prop_oneof![3 => Just(0u64), 1 => 0..60_000u64];
    prop_oneof![
        6 => (host(), prop_oneof![Just("nic.link.down"), Just("nic.link.up"), Just("nic.errors"), Just("nic.counter.saturated")],
              0..2u32, late(), 0..5u64, any::<bool>())
            .prop_map(|(host, name, port, late, suppressed, lossy)| {
                let lossy = if lossy { " incomplete=1" } else { "" };
                format!("signal {name} {host} nic eth{port} late={late} suppressed={suppressed}{lossy}")
            }),
        4 => (host(), prop_oneof![Just(2u32), Just(35), Just(214), 0..2000u32], 1..4u32, late())
            .prop_map(|(host, code, pid, late)| format!("signal gpu.alloc.failed {host} process {pid} code={code} late={late}")),
        2 => (prop_oneof![Just("path_loss"), Just("path_blackhole")], 1..4u32, prop_oneof![
                Just(""), Just("l0>s0=0.99"), Just("l0>s0=0.5 s0>l1=0.5"), Just("l0>s0=0.4 s0>l1=0.3")])
            .prop_map(|(mode, hosts, suspects)| format!("explained {mode} {hosts} {suspects}")),
        1 => Just("again".to_owned()),
        2 => host().prop_map(|host| format!("mute {host}")),
        2 => host().prop_map(|host| format!("unmute {host}")),
        2 => host().prop_map(|host| format!("hang {host}")),
        1 => host().prop_map(|host| format!("dies {host}")),
        1 => (prop_oneof![Just("break"), Just("cut"), Just("given-up")], host())
            .prop_map(|(how, host)| format!("{how} {host}")),
        1 => host().prop_map(|host| format!("bye {host}")),
        2 => (host(), 1..3u32).prop_map(|(host, boot)| format!("connect {host} boot{boot}")),
        4 => (1..12u32).prop_map(|id| format!("approve {id}")),
        1 => (1..12u32).prop_map(|id| format!("reject {id}")),
        3 => (1..12u32, prop_oneof![Just("done"), Just("failed"), Just("withheld")])
            .prop_map(|(id, how)| format!("finish {id} {how}")),
        1 => Just("halt ana".to_owned()),
        1 => Just("release ana".to_owned()),
        1 => (0..3_000u64).prop_map(|ms| format!("stalled {ms}")),
        1 => (0..40_000u64).prop_map(|ms| format!("restart {ms}")),
        8 => (1..15_000u64).prop_map(|ms| format!("wait {ms}")),
    ]
}

fn run(lines: &[String], options: &Options) -> World {
    let mut world = World::new(options.clone());
    world.run_line("hosts 5");
    for line in lines {
        match line.strip_prefix("wait ") {
            Some(ms) => {
                let ms: u64 = ms.parse().expect("digits");
                let now_ms = (world.now().0 - crate::world::START) / 1_000_000;
                world.until(now_ms + ms);
            }
            None => world.run_line(line),
        }
    }
    world
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn the_same_events_give_the_same_effects_and_the_record_replays(
        lines in prop::collection::vec(line(), 1..60),
        automatic in any::<bool>(),
    ) {
        let mut options = Options::default();
        if automatic {
            options.automatic.extend(["ticket".to_owned(), "cordon_node".to_owned()]);
        }
        let (first, second) = (run(&lines, &options), run(&lines, &options));
        let bytes = |told| serde_json::to_string(told).expect("effects serialise");
        prop_assert_eq!(bytes(&first.told), bytes(&second.told));
        let replayed = replay(&options, first.log.clone());
        prop_assert_eq!(bytes(&replayed), bytes(&first.told));
    }
}
