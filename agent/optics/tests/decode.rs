//! What people get from images: those made here from the standards' tables, any bytes at all, and, where the checkout has
//! them beside it, the images of real modules in `../shared/data/optics`.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]

mod made;

use made::Made;
use proptest::prelude::*;
use railwatch_optics::{Image, Levels, Module, Page, Problem, decode, decode_file};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

fn decoded(made: &Made) -> Module {
    decode_file(made.file().as_bytes())
}

fn value(module: &Module) -> Value {
    serde_json::to_value(module).unwrap()
}

/// One field of every lane.
fn lanes(module: &Module, field: &str) -> Vec<Value> {
    value(module)["lanes"].as_array().unwrap().iter().map(|lane| lane[field].clone()).collect()
}

#[test]
fn an_sfp_is_read_with_internal_calibration() {
    let module = decoded(&made::sfp());
    let told = value(&module);
    assert_eq!(module.problems, []);
    for (field, expected) in [
        ("standard", json!("SFF-8472")),
        ("vendor", json!("RAILWATCH OPTICS")),
        ("part_number", json!("RW-SFP-10G-SR")),
        ("serial", json!("RW0000001")),
        ("date_code", json!("260115A1")),
        ("temperature_c", json!(25.5)),
        ("vcc_v", json!(3.3)),
        ("checksum_ok", json!(true)),
    ] {
        assert_eq!(told[field], expected, "{field}");
    }
    let lane = &told["lanes"][0];
    assert_eq!(
        (&lane["tx_power_mw"], &lane["tx_bias_ma"], &lane["rx_power_mw"]),
        (&json!(0.6), &json!(6.0), &json!(0.5))
    );
    assert_eq!((&lane["tx_los"], &lane["rx_los"], &lane["tx_fault"]), (&json!(null), &json!(false), &json!(false)));
    assert_eq!(
        told["thresholds"]["temperature_c"],
        json!({"high_alarm": 75.0, "low_alarm": -5.0, "high_warning": 70.0, "low_warning": 0.0})
    );
    assert_eq!(told["thresholds"]["rx_power_mw"]["low_alarm"], json!(0.01));
}

#[test]
fn external_calibration_applies_slopes_offsets_and_the_polynomial_to_values_and_thresholds() {
    let module = decoded(&made::sfp_external());
    assert_eq!(module.problems, []);
    let lane = module.lanes[0];
    assert_eq!(module.temperature_c, Some(25.5 * 0.5 + 1.0));
    assert_eq!(module.vcc_v, Some(3.2));
    assert_eq!(lane.tx_bias_ma, Some(2.0 * (3_000.0 * 2.0 + 10.0) / 1000.0));
    assert_eq!(lane.tx_power_mw, Some((6_000.0 * 1.5 - 20.0) / 10_000.0));
    let rx = lane.rx_power_mw.unwrap();
    assert!((rx - (1e-5 * 25e6 + 0.25 * 5_000.0 - 100.0) / 10_000.0).abs() < 1e-6, "{rx}");
    assert_eq!(module.thresholds.vcc_v.unwrap().high_alarm, Some(3.53));
    // A constant that is no number takes its value with it, and nothing else.
    let not_a_number = made::sfp_external().put("A2", 56, &f32::NAN.to_be_bytes()).sum("A2", 0, 94, 95);
    let module = decoded(&not_a_number);
    assert_eq!((module.lanes[0].rx_power_mw, module.lanes[0].tx_bias_ma), (None, lane.tx_bias_ma));
    assert_eq!(module.problems, [Problem::CalibrationConstant("rx_power_mw")]);
}

#[test]
fn a2_that_is_a0_again_is_not_believed() {
    let module = decoded(&made::sfp_aliased());
    assert!(matches!(module.problems[..], [Problem::A2IsA0 { same: 96, of: 96, .. }]), "{:?}", module.problems);
    assert_eq!(module.vendor.as_deref(), Some("RAILWATCH OPTICS"));
    assert_eq!((module.temperature_c, module.vcc_v, module.thresholds.temperature_c), (None, None, None));
    assert_eq!((module.lanes[0].rx_power_mw, module.lanes[0].rx_los), (None, None));
}

#[test]
fn a_qsfp_has_four_lanes_and_says_which_is_dark() {
    let module = decoded(&made::qsfp());
    assert_eq!(module.problems, []);
    assert_eq!((module.temperature_c, module.vcc_v, module.checksum_ok), (Some(31.0), Some(3.29), Some(true)));
    assert_eq!(lanes(&module, "lane"), [1, 2, 3, 4]);
    assert_eq!(lanes(&module, "rx_power_mw"), [0.5, 0.6, 0.0001, 0.7]);
    assert_eq!(lanes(&module, "tx_bias_ma"), [30.0, 30.2, 30.4, 30.6]);
    assert_eq!(lanes(&module, "tx_power_mw"), [0.8, 0.81, 0.82, 0.83]);
    assert_eq!(lanes(&module, "rx_los"), [false, false, true, false]);
    assert_eq!(lanes(&module, "rx_lol"), [false, false, true, false]);
    assert_eq!(lanes(&module, "tx_fault"), [false; 4]);
    let crossed = Levels { high_alarm: false, low_alarm: true, high_warning: false, low_warning: true };
    assert_eq!(module.lanes[2].flags.rx_power_mw, Some(crossed));
    assert_eq!(module.lanes[3].flags.rx_power_mw, Some(Levels::default()));
}

#[test]
fn a_module_read_under_other_keys_is_the_same_module() {
    let mut qsfp = made::qsfp();
    let lower = qsfp.0.remove("lower").unwrap();
    let both = [lower, qsfp.0.remove("00").unwrap()].concat();
    for key in ["A0", "lower", "00"] {
        let mut made = qsfp.clone();
        made.0.insert(key.to_owned(), both.clone());
        assert_eq!(decoded(&made), decoded(&made::qsfp()), "256 bytes as {key}");
    }
    let mut sfp = made::sfp();
    let a0 = sfp.0.remove("A0").unwrap();
    sfp.0.insert("lower".to_owned(), a0);
    assert_eq!(decoded(&sfp), decoded(&made::sfp()), "an SFP's A0 as lower memory");
    let mut banked = made::cmis();
    let lanes = banked.0.remove("11").unwrap();
    banked.0.insert("0.11".to_owned(), lanes);
    assert_eq!(decoded(&banked), decoded(&made::cmis()));
}

#[test]
fn what_a_module_does_not_measure_is_null_and_never_zero() {
    for made in [made::qsfp_copper(), made::cmis_copper(), made::sfp().put("A0", 92, &[0]).sum("A0", 64, 94, 95)] {
        let module = decoded(&made);
        assert_eq!(module.problems, [], "{:?}", module.part_number);
        let told = value(&module);
        assert!(module.part_number.is_some());
        for field in ["temperature_c", "vcc_v"] {
            assert_eq!(told[field], Value::Null, "{field} of {:?}", module.part_number);
        }
        assert!(!module.lanes.is_empty(), "{:?}", module.part_number);
        for field in ["tx_power_mw", "tx_bias_ma", "rx_power_mw", "tx_los", "rx_los", "tx_fault"] {
            assert!(lanes(&module, field).iter().all(Value::is_null), "{field} of {:?}", module.part_number);
        }
        assert!(told["thresholds"].as_object().unwrap().values().all(Value::is_null));
    }
}

#[test]
fn cmis_lanes_of_light_and_of_the_host_are_told_apart() {
    let module = decoded(&made::cmis());
    assert_eq!(module.problems, []);
    assert_eq!((module.revision.as_deref(), module.state), (Some("5.0"), Some("ready")));
    assert_eq!(lanes(&module, "tx_power_mw"), [1.5909, 0.0, 1.5928, 1.6037], "a dark laser measures 0");
    assert_eq!(lanes(&module, "tx_bias_ma"), [100.0, 0.0, 96.0, 92.0], "twice 2 µA a step");
    assert_eq!(lanes(&module, "tx_fault"), [false, true, false, false]);
    assert_eq!(lanes(&module, "rx_los"), [false, false, false, true]);
    assert_eq!(lanes(&module, "snr_db"), [json!(21.83984375), json!(21.19140625), json!(null), json!(null)]);
    assert!(module.lanes[3].flags.rx_power_mw.unwrap().low_warning);
    assert_eq!(module.thresholds.tx_bias_ma.unwrap().high_alarm, Some(130.0));
    assert_eq!(module.host_lanes.len(), 8);
    assert_eq!((module.host_lanes[4].tx_los, module.host_lanes[0].snr_db), (Some(true), Some(20.0)));
}

#[test]
fn banks_are_lanes_nine_and_on() {
    let module = decoded(&made::cmis_two_banks());
    assert_eq!(module.problems, []);
    assert_eq!(lanes(&module, "lane"), (1..=16).collect::<Vec<_>>());
    assert_eq!((module.lanes[0].tx_power_mw, module.lanes[8].tx_power_mw), (Some(1.5909), Some(0.1)));
    assert_eq!((module.lanes[15].tx_power_mw, module.lanes[15].rx_power_mw), (Some(0.8), Some(0.1)));
    // A bank that is promised and not there is missing; one that is there and not promised is read, and told.
    let lacking = decoded(&made::cmis_two_banks().without("1.11"));
    assert_eq!(lacking.problems, [Problem::Missing { page: Page::Upper { bank: 1, page: 0x11 } }]);
    assert_eq!((lacking.lanes.len(), lacking.lanes[8].tx_power_mw), (16, None));
    let unpromised = decoded(&made::cmis_two_banks().put("01", 142, &[0x20]).cmis_sums());
    assert!(matches!(unpromised.problems[..], [Problem::BankNotAdvertised { banks: 1, .. }]));
    assert_eq!(unpromised.lanes.len(), 16);
}

#[test]
fn versatile_diagnostics_are_read_where_they_are_advertised() {
    let module = decoded(&made::cmis_vdm());
    let told: Vec<_> =
        module.vdm.iter().map(|seen| (seen.instance, seen.name.unwrap(), seen.lane, seen.value.unwrap())).collect();
    assert_eq!(
        told[..3],
        [
            (1, "laser_temperature", None, 45.5),
            (2, "snr_media", Some(1), 21.1875),
            (3, "snr_media", Some(2), 22.94921875),
        ]
    );
    assert_eq!((told[3].0, told[3].1, told[3].2), (5, "pre_fec_ber_now_media", Some(1)));
    assert!((told[3].3 - 2.5e-6).abs() < 1e-12);
    assert_eq!(decoded(&made::cmis_vdm().put("01", 142, &[0x20]).cmis_sums()).vdm, []);
}

#[test]
fn every_contradiction_is_told_and_what_can_be_read_is_read() {
    let upper = Page::upper;
    let cases: Vec<(&str, Made, &str)> = vec![
        ("checksum", made::cmis().put("00", 222, &[0]), "page 00: checksum of the page"),
        ("checksum", made::sfp().put("A2", 95, &[0]), "checksum CC_DMI"),
        ("checksum", made::qsfp().put("00", 223, &[0xff]), "checksum CC_EXT"),
        (
            "identifiers",
            made::qsfp().put("00", 128, &[0x18]).sum("00", 128, 190, 191),
            "says identifier 0x11, page 00 says 0x18",
        ),
        ("cut", made::cmis().cut("11", 60), "page 11 has 60 bytes, expected 128"),
        ("cut", made::sfp().cut("A2", 97), "A2 has 97 bytes, expected 128 or 256"),
        ("cut", made::qsfp().cut("lower", 1), "lower memory has 1 bytes"),
        ("missing", made::cmis().without("01"), "page 01 is missing"),
        ("missing", made::qsfp().without("03"), "page 03 is missing"),
        ("missing", made::sfp().without("A2"), "A2 is missing"),
        ("missing", made::sfp().without("A0"), "A0 is missing"),
        ("missing", made::cmis().without("lower"), "lower memory is missing"),
        ("nothing", Made::default(), "lower memory is missing"),
        ("order", made::qsfp().words("03", 184, &[5_000, 40_000]), "thresholds of tx_bias_ma contradict"),
        ("order", made::qsfp().words("03", 128, &[70 << 8, 0, 75 << 8, 0]), "the high warning is above the high alarm"),
        ("calibration", made::sfp().put("A0", 92, &[0x78]).sum("A0", 64, 94, 95), "both internal and external"),
        ("bias", made::cmis().put("01", 160, &[0x1f]).cmis_sums(), "scale of bias currents"),
        ("revision", made::cmis().put("lower", 1, &[0x70]), "revision 7.0 of CMIS"),
        ("flat", made::cmis().put("lower", 2, &[0x80]), "memory is flat"),
        ("kinds", Made(made::sfp().0.into_iter().chain(made::qsfp().0).collect()), "cannot be of one module"),
        ("unknown", made::qsfp().put("lower", 0, &[0x42]), "identifier 0x42"),
        ("ones", made::qsfp().put("lower", 0, &[0xff; 128]), "nobody answered"),
        (
            "name",
            made::qsfp().put("00", 196, &[0xff, 0xff]).sum("00", 192, 222, 223),
            "2 byte(s) that are not printable",
        ),
    ];
    for (what, made, words) in cases {
        let module = decoded(&made);
        assert!(
            module.problems.iter().any(|problem| problem.to_string().contains(words)),
            "{what}: {:?}",
            module.problems
        );
        if what == "checksum" {
            assert_eq!(module.checksum_ok, Some(false));
        }
    }
    let mut copied = made::cmis();
    copied.0.insert("11".to_owned(), copied.0["00"].clone());
    let module = decoded(&copied);
    assert_eq!(module.problems, [Problem::CopyOfPage00 { page: upper(0x11) }, Problem::Missing { page: upper(0x11) }]);
    assert!(module.lanes.iter().all(|lane| lane.rx_power_mw.is_none()));
}

#[test]
fn an_image_cut_anywhere_gives_only_values_of_the_whole_one() {
    for made in [made::sfp(), made::qsfp(), made::cmis()] {
        let whole = value(&decoded(&made));
        for page in made.0.keys() {
            for bytes in 0..128 {
                let module = decoded(&made.clone().cut(page, bytes));
                assert!(!module.problems.is_empty() || page == "14", "{page} cut at {bytes}");
                let told = value(&module);
                for field in ["vendor", "serial", "temperature_c", "vcc_v"] {
                    assert!(
                        told[field].is_null() || told[field] == whole[field],
                        "{field}, {page} cut at {bytes}: {told}"
                    );
                }
                for (lane, of_whole) in told["lanes"].as_array().unwrap().iter().zip(whole["lanes"].as_array().unwrap())
                {
                    for field in ["tx_power_mw", "rx_power_mw"] {
                        assert!(
                            lane[field].is_null() || lane[field] == of_whole[field],
                            "{field}, {page} cut at {bytes}"
                        );
                    }
                }
            }
        }
    }
}

/// The kept files, as examples of the format and as seeds of the fuzzer in both of its forms, are the images made here. To
/// make them anew: `RAILWATCH_WRITE_FIXTURES=1 cargo test -p railwatch-optics --test decode`.
#[test]
fn the_kept_files_are_the_images_made_here() {
    let home = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (fixtures, seeds) = (home.join("fixtures"), home.join("fuzz/seeds"));
    for (name, made) in made::all() {
        let kept = [(fixtures.join(format!("{name}.json")), made.file().into_bytes()), (seeds.join(name), made.seed())];
        for (path, bytes) in kept {
            if std::env::var_os("RAILWATCH_WRITE_FIXTURES").is_some() {
                std::fs::write(&path, &bytes).unwrap();
            }
            assert!(std::fs::read(&path).unwrap() == bytes, "{} is not what is made here", path.display());
        }
    }
    for directory in [fixtures, seeds] {
        let kept = std::fs::read_dir(&directory).unwrap().count();
        assert_eq!(kept, made::all().len(), "{}: a file that nothing makes", directory.display());
    }
}

/// Pages of any content: mostly real lengths and the identifiers that lead somewhere.
fn any_image() -> impl Strategy<Value = Vec<(u8, u8, Vec<u8>)>> {
    let bytes = prop_oneof![
        prop::collection::vec(any::<u8>(), 128),
        prop::collection::vec(any::<u8>(), 0..260),
        prop::collection::vec(prop_oneof![Just(0u8), Just(0xff)], 128),
    ];
    let page = prop_oneof![Just(0u8), Just(1), Just(2), Just(3), Just(0x11), Just(0x14), 0x20u8..0x28, any::<u8>()];
    prop::collection::vec((0u8..8, page, bytes), 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn any_bytes_give_a_module_whose_values_are_numbers(
        pages in any_image(),
        identifier in prop::sample::select(vec![0x03u8, 0x0c, 0x0d, 0x11, 0x18, 0x19, 0x1e, 0x21, 0x00, 0xff]),
    ) {
        let mut image = Image::default();
        for (which, page, mut bytes) in pages {
            let page = match which {
                bank @ 0..=3 => Page::Upper { bank, page },
                4 => Page::A0,
                5 => Page::A2,
                _ => Page::Lower,
            };
            if matches!(page, Page::Lower | Page::A0) && let Some(first) = bytes.first_mut() {
                *first = identifier;
            }
            // A page too many or too long is told, and is what this is about.
            let _ = image.insert(page, &bytes);
        }
        let module = decode(&image);
        prop_assert!(module.lanes.len() <= 32 && module.vdm.len() <= 1024);
        for lane in &module.lanes {
            for power in [lane.tx_power_mw, lane.rx_power_mw, lane.tx_bias_ma, lane.snr_db].into_iter().flatten() {
                prop_assert!(power.is_finite() && power >= 0.0, "{lane:?}");
            }
        }
        prop_assert!(serde_json::to_string(&module).is_ok());
    }

    #[test]
    fn any_text_gives_an_answer(text in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(!decode_file(&text).problems.is_empty());
    }
}

// ---- images of real modules, where the checkout has them beside it ------------------------------------------------

fn shared() -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/optics");
    if path.is_dir() {
        return Some(path);
    }
    eprintln!("SKIPPED: {} is not there: the images made in this test cover the same code", path.display());
    None
}

fn json_file(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// A module of the collection in this project's file format.
fn converted(module: &Value) -> String {
    let mut pages = serde_json::Map::new();
    if let Some(a2) = module["lower"].get("ADDR_QSFP_A2") {
        pages.insert("A0".into(), module["lower"]["ADDR_QSFP"].clone());
        pages.insert("A2".into(), a2.clone());
    } else {
        pages.insert("lower".into(), module["lower"]["ADDR_QSFP"].clone());
        pages.extend(module["upper"]["ADDR_QSFP"].as_object().unwrap().clone());
    }
    json!({ "pages": pages }).to_string()
}

fn close(told: &Value, expected: &Value, what: &str) {
    let expected_number = expected.as_f64().unwrap();
    // As many digits as the collection gives.
    let tolerance = if what.contains("snr") { 6e-4 } else { 6e-5 };
    match told.as_f64() {
        Some(told) => assert!((told - expected_number).abs() <= tolerance, "{what}: {told} {expected}"),
        // The collection shows what is not there as 0.
        None => assert!(told.is_null() && expected_number == 0.0, "{what}: {told} {expected}"),
    }
}

#[test]
fn images_of_real_modules_decode_to_what_their_own_tests_assert() {
    let Some(shared) = shared() else { return };
    let module_of =
        |name: &str| value(&decode_file(converted(&json_file(&shared.join("modules").join(name))).as_bytes()));
    let mut asserted = 0;
    for (name, expected) in json_file(&shared.join("expected.json")).as_object().unwrap() {
        let name = name.strip_prefix("fboss/").unwrap();
        let told = module_of(name);
        for (key, expected) in expected.as_object().unwrap() {
            let of_lanes = |field: &str, of: &dyn Fn(&Value) -> Value| {
                let (told, expected) = (told["lanes"].as_array().unwrap(), expected.as_array().unwrap());
                assert_eq!(told.len(), expected.len(), "{name} {field}");
                for (at, (lane, expected)) in told.iter().zip(expected).enumerate() {
                    match of(lane) {
                        Value::Bool(told) => assert_eq!(json!(u8::from(told)), *expected, "{name} {field} {at}"),
                        told => close(&told, expected, &format!("{name} {field} {at}")),
                    }
                }
            };
            let limits = |field: &str| {
                for (level, expected) in LEVELS.iter().zip(expected.as_array().unwrap()) {
                    close(&told["thresholds"][field][level], expected, &format!("{name} {field} {level}"));
                }
            };
            let flags = |field: &str| {
                for (level, expected) in LEVELS.iter().zip(expected.as_array().unwrap()) {
                    assert_eq!(told["flags"][field][level], json!(expected == 1), "{name} {field} {level}");
                }
            };
            match key.as_str() {
                "std" => assert!(expected.as_str().unwrap().starts_with(told["standard"].as_str().unwrap()), "{name}"),
                "vendor" => assert_eq!(&told["vendor"], expected, "{name}"),
                "pn" => assert_eq!(&told["part_number"], expected, "{name}"),
                "temp_c" => close(&told["temperature_c"], expected, name),
                "vcc_v" => close(&told["vcc_v"], expected, name),
                "page0_checksum_ok" => assert_eq!(&told["checksum_ok"], expected, "{name}"),
                "media_snr_db" => of_lanes("snr_db", &|lane| lane["snr_db"].clone()),
                "tx_bias_ma" | "tx_power_mw" | "rx_power_mw" | "tx_los" | "rx_los" | "tx_lol" | "rx_lol"
                | "tx_fault" => {
                    of_lanes(key, &|lane| lane[key.as_str()].clone());
                }
                "txp_high_alarm" => of_lanes(key, &|lane| lane["flags"]["tx_power_mw"]["high_alarm"].clone()),
                "txp_low_alarm" => of_lanes(key, &|lane| lane["flags"]["tx_power_mw"]["low_alarm"].clone()),
                "rxp_high_alarm" => of_lanes(key, &|lane| lane["flags"]["rx_power_mw"]["high_alarm"].clone()),
                "rxp_low_alarm" => of_lanes(key, &|lane| lane["flags"]["rx_power_mw"]["low_alarm"].clone()),
                "temp_flags_HA_LA_HW_LW" => flags("temperature_c"),
                "vcc_flags_HA_LA_HW_LW" => flags("vcc_v"),
                "thr_temp" => limits("temperature_c"),
                "thr_vcc" => limits("vcc_v"),
                "thr_rxp_mw" => limits("rx_power_mw"),
                "thr_txp_mw" => limits("tx_power_mw"),
                "thr_bias_ma" => limits("tx_bias_ma"),
                "from" | "note" | "fw" | "diag_sel" | "diag_latch_wait" | "independent_decode" => continue,
                other => panic!("{name} asserts {other}, which this test does not know"),
            }
            asserted += 1;
        }
    }
    assert!(asserted > 40, "{asserted}");
}

const LEVELS: [&str; 4] = ["high_alarm", "low_alarm", "high_warning", "low_warning"];

#[test]
fn images_of_real_modules_decode_as_another_decoder_has_them() {
    let Some(shared) = shared() else { return };
    for (name, expected) in json_file(&shared.join("independent_decode.json")).as_object().unwrap() {
        let module = decode_file(converted(&json_file(&shared.join("modules").join(name))).as_bytes());
        let told = value(&module);
        close(&told["temperature_c"], &expected["temp"], name);
        close(&told["vcc_v"], &expected["vcc"], name);
        for (field, key) in [("vendor", "vendor"), ("part_number", "pn"), ("serial", "sn"), ("date_code", "date")] {
            let expected = expected[key].as_str().unwrap();
            // It shows zeros and ones as dots.
            let is_filler = expected.bytes().all(|byte| byte == b'.');
            assert!(
                told[field] == expected || (is_filler && told[field].is_null()),
                "{name} {field}: {} {expected}",
                told[field]
            );
        }
        for field in ["tx_power_mw", "tx_bias_ma", "rx_power_mw"] {
            let expected = match &expected[field] {
                Value::Array(lanes) => lanes.clone(),
                Value::Null => continue,
                one => vec![one.clone()],
            };
            for (at, expected) in expected.iter().enumerate() {
                close(
                    told["lanes"].get(at).map_or(&Value::Null, |lane| &lane[field]),
                    expected,
                    &format!("{name} {field} {at}"),
                );
            }
        }
        if let Some(snr) = expected["media_snr_db"].as_array() {
            for (at, expected) in snr.iter().enumerate() {
                close(
                    told["lanes"].get(at).map_or(&Value::Null, |lane| &lane["snr_db"]),
                    expected,
                    &format!("{name} snr {at}"),
                );
            }
        }
        let keys = [
            ("temp(HA,LA,HW,LW)", "temperature_c"),
            ("vcc", "vcc_v"),
            ("txp_mw", "tx_power_mw"),
            ("txb_ma", "tx_bias_ma"),
            ("rxp_mw", "rx_power_mw"),
        ];
        for (key, field) in keys {
            let Some(limits) = expected["thr"][key].as_array() else { continue };
            for (level, expected) in LEVELS.iter().zip(limits) {
                close(&told["thresholds"][field][level], expected, &format!("{name} {field} {level}"));
            }
        }
        let sums = ["cc_base_ok", "cc_ext_ok", "page0_csum_ok", "a2_csum_ok"];
        let all_fit = sums.iter().filter_map(|sum| expected[sum].as_bool()).all(|fits| fits);
        assert_eq!(told["checksum_ok"], json!(all_fit), "{name}");
        if let Some(count) = expected["vdm_n"].as_u64() {
            assert_eq!(module.vdm.len() as u64, count, "{name}");
            for (told, expected) in module.vdm.iter().zip(expected["vdm"].as_array().unwrap()) {
                assert_eq!(json!([told.instance, told.kind, told.lane.unwrap() - 1, told.raw]), *expected, "{name}");
            }
        }
    }
}

/// Hexadecimal digits behind `ADDRESS:`, of the table whose heading says so.
fn dump(text: &str, first: usize, bytes: usize) -> String {
    let digits: String = text
        .lines()
        .filter_map(|line| line.split_once(':'))
        .filter(|(address, _)| address.len() == 4 && address.bytes().all(|byte| byte.is_ascii_hexdigit()))
        .flat_map(|(_, digits)| digits.chars().filter(char::is_ascii_hexdigit))
        .collect();
    digits[2 * first..2 * (first + bytes)].to_owned()
}

#[test]
fn dumps_of_a_manufacturer_decode_without_a_problem() {
    let Some(shared) = shared() else { return };
    let read = |name: &str| std::fs::read(shared.join("oom").join(name)).unwrap();
    let qsfp = |name: &str| {
        let text = String::from_utf8(read(name)).unwrap();
        let page = |at: usize| dump(&text, at * 128, 128);
        decode_file(
            json!({"pages": {"lower": page(0), "00": page(1), "01": page(2), "02": page(3), "03": page(4)}})
                .to_string()
                .as_bytes(),
        )
    };
    let lr4 = qsfp("qsfpdatafile.txt");
    assert_eq!(lr4.problems, []);
    assert_eq!((lr4.vendor.as_deref(), lr4.part_number.as_deref()), (Some("FINISAR CORP"), Some("FTL410QE3C")));
    assert_eq!((lr4.temperature_c, lr4.vcc_v), (Some(43.359375), Some(3.2689)));
    assert_eq!(lanes(&lr4, "rx_power_mw"), [0.8153, 1.0209, 0.8582, 0.8445]);
    assert_eq!(lanes(&lr4, "tx_bias_ma"), [6.308, 7.612, 6.242, 6.37]);
    let sr4 = qsfp("qsfp28datafile.txt");
    assert_eq!((sr4.serial.as_deref(), sr4.checksum_ok), (Some("XUB0AAQ"), Some(true)));
    for serial in ["MUP0WB0_EEPROM_20160108_192637.txt", "MUQ1BZB_EEPROM_20160108_192514.txt"] {
        let a0: String = read(serial).iter().map(|byte| format!("{byte:02x}")).collect();
        let a2 = dump(&String::from_utf8(read(&serial.replace("EEPROM", "FCCABY"))).unwrap(), 0, 256);
        let module = decode_file(json!({"pages": {"A0": a0, "A2": a2}}).to_string().as_bytes());
        assert_eq!(module.problems, [], "{serial}");
        assert_eq!(module.serial.as_deref(), Some(&serial[..7]));
        assert_eq!(module.lanes[0].rx_los, Some(true), "nothing was plugged in");
        assert!(
            module.temperature_c.is_some_and(|celsius| (5.0..30.0).contains(&celsius)),
            "{:?}",
            module.temperature_c
        );
    }
}
