//! Any bytes, as a file (what begins with a brace) or as pages: each a byte that says which kind or bank, the page, the
//! number of bytes, and so many bytes. The answer must hold only numbers, within its bounds, and be the same twice.
#![no_main]

use libfuzzer_sys::fuzz_target;
use railwatch_optics::{Image, Module, PROBLEMS_MAX, Page, decode, decode_file};

fuzz_target!(|bytes: &[u8]| {
    if bytes.first() == Some(&b'{') {
        check(&decode_file(bytes), &decode_file(bytes));
    } else {
        let image = image(bytes);
        check(&decode(&image), &decode(&image));
    }
});

fn image(mut bytes: &[u8]) -> Image {
    let mut image = Image::default();
    while let [which, page, length, rest @ ..] = bytes {
        let page = match which % 8 {
            bank @ 0..=3 => Page::Upper { bank, page: *page },
            4 => Page::A0,
            5 => Page::A2,
            _ => Page::Lower,
        };
        let length = usize::from(*length).min(rest.len());
        // What is wrong with a page is told; here it only must not panic.
        let _ = image.insert(page, &rest[..length]);
        bytes = &rest[length..];
    }
    image
}

fn check(module: &Module, again: &Module) {
    assert_eq!(module, again);
    assert!(module.lanes.len() <= 32 && module.host_lanes.len() <= 32 && module.vdm.len() <= 1024);
    assert!(module.problems.len() <= PROBLEMS_MAX + 1);
    let of_lanes =
        module.lanes.iter().flat_map(|lane| [lane.tx_power_mw, lane.tx_bias_ma, lane.rx_power_mw, lane.snr_db]);
    let values = of_lanes.chain([module.temperature_c, module.vcc_v]).chain(module.vdm.iter().map(|seen| seen.value));
    assert!(values.flatten().all(f64::is_finite), "{module:?}");
    assert!(serde_json::to_string(module).is_ok());
}
