//! `railwatch optics decode` as people and scripts run it: the real binary, files, no collector anywhere.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]

use serde_json::{Value, json};
use std::path::Path;
use std::process::{Command, Output};

fn decode(file: &Path, format: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_railwatch"));
    for name in ["RAILWATCH_COLLECTOR", "RAILWATCH_TOKEN", "RAILWATCH_TOKEN_FILE", "XDG_RUNTIME_DIR"] {
        command.env_remove(name);
    }
    command.args(["optics", "decode"]).arg(file).args(["-o", format]).output().unwrap()
}

fn fixture(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../agent/optics/fixtures").join(name)
}

#[test]
fn a_good_image_ends_with_0_and_has_exactly_the_promised_fields() {
    let output = decode(&fixture("sff8636-lr4.json"), "json");
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
    let module: Value = serde_json::from_slice(&output.stdout).unwrap();
    for field in [
        "standard",
        "vendor",
        "part_number",
        "serial",
        "date_code",
        "temperature_c",
        "vcc_v",
        "lanes",
        "thresholds",
        "checksum_ok",
        "problems",
    ] {
        assert!(module.get(field).is_some_and(|value| !value.is_null()), "{field}: {module}");
    }
    assert_eq!(module["standard"], "SFF-8636");
    assert_eq!(module["problems"], json!([]));
    let lane = &module["lanes"][2];
    for field in ["lane", "tx_power_mw", "tx_bias_ma", "rx_power_mw", "tx_los", "rx_los", "tx_fault"] {
        assert!(!lane[field].is_null(), "{field}: {lane}");
    }
    for quantity in ["temperature_c", "vcc_v", "tx_power_mw", "tx_bias_ma", "rx_power_mw"] {
        for level in ["high_alarm", "low_alarm", "high_warning", "low_warning"] {
            assert!(module["thresholds"][quantity][level].is_number(), "{quantity} {level}");
        }
    }
    let yaml = decode(&fixture("sff8636-lr4.json"), "yaml");
    assert!(String::from_utf8(yaml.stdout).unwrap().starts_with("standard: SFF-8636\n"));
    let table = String::from_utf8(decode(&fixture("sff8636-lr4.json"), "table").stdout).unwrap();
    for words in ["RAILWATCH OPTICS", "31.00 °C", "0.0001", "no light", "75.0000"] {
        assert!(table.contains(words), "{words}: {table}");
    }
}

#[test]
fn an_image_with_problems_is_shown_as_far_as_it_goes_and_ends_with_1() {
    let directory = tempfile::tempdir().unwrap();
    let whole = std::fs::read_to_string(fixture("cmis-dr4.json")).unwrap();
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    for path in [
        fixture("cmis-truncated.json"),
        fixture("cmis-wrong-checksum.json"),
        fixture("sff8472-aliased.json"),
        fixture("sff8636-identifiers.json"),
        file("cut.json", &whole[..whole.len() / 2]),
        file("empty.json", ""),
        file("no-pages.json", r#"{"pages": {}}"#),
        file("list.json", "[1, 2]"),
        file("bytes.json", "\u{0}\u{1}"),
        file("odd.json", &whole.replacen("18", "1", 1)),
    ] {
        let output = decode(&path, "json");
        assert_eq!(output.status.code(), Some(1), "{}: {output:?}", path.display());
        let module: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(!module["problems"].as_array().unwrap().is_empty(), "{}", path.display());
        assert!(module["lanes"].is_array(), "{}", path.display());
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(told.contains("problem(s)") && !told.contains("panicked"), "{told}");
    }
}

#[test]
fn a_file_that_cannot_be_read_says_so_and_prints_nothing() {
    let directory = tempfile::tempdir().unwrap();
    for (path, status) in [(directory.path().join("none.json"), 5), (directory.path().to_owned(), 2)] {
        let output = decode(&path, "json");
        assert_eq!((output.status.code(), output.stdout.len()), (Some(status), 0), "{output:?}");
        assert!(String::from_utf8(output.stderr).unwrap().contains("cannot read"));
    }
}
