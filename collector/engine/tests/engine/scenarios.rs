//! Scenarios as data: what happens to hosts, and what an operator then sees. Each is run twice and replayed from its record.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]

use crate::world::World;
use railwatch_engine::{Options, replay};
use std::path::Path;

/// Runs a scenario; every `expect` block is compared with the whole picture at that moment.
fn run(text: &str, file: &str) -> World {
    let mut options = Options::default();
    let mut lines = text.lines().map(|line| line.split('#').next().unwrap_or("").trim_end()).enumerate().peekable();
    while let Some((_, line)) = lines.peek() {
        if let Some(action) = line.strip_prefix("automatic ") {
            options.automatic.insert(action.to_owned());
        } else if !line.is_empty() {
            break;
        }
        lines.next();
    }
    let mut world = World::new(options.clone());
    while let Some((number, line)) = lines.next() {
        match line {
            "" => {}
            "expect" => {
                let mut expected = Vec::new();
                while let Some((_, line)) = lines.next_if(|(_, line)| line.starts_with("  ")) {
                    expected.push(line.trim().to_owned());
                }
                let picture = world.picture();
                assert_eq!(picture, expected, "{file}:{}: left is what is, right what was expected", number + 1);
            }
            line => world.run_line(line),
        }
    }
    let replayed = replay(&options, world.log.clone());
    let bytes = |told| serde_json::to_string(told).unwrap();
    assert_eq!(bytes(&replayed), bytes(&world.told), "{file}: the replay tells something else");
    world
}

#[test]
fn every_scenario_ends_as_it_says_twice_the_same_and_replays() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 12, "scenarios are missing: {files:?}");
    for file in files {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&file).unwrap();
        let (first, second) = (run(&text, &name), run(&text, &name));
        let bytes = |world: &World| serde_json::to_string(&world.told).unwrap();
        assert_eq!(bytes(&first), bytes(&second), "{name}: two runs differ");
    }
}
