//! Any bytes, as an LLDPDU. The answer must be the same twice and within its bounds.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pdu::{ADDRESSES_MAX, Announcement, TEXT_BYTES_MAX, decode};

#[path = "../../src/lldp/pdu.rs"]
mod pdu;

fuzz_target!(|bytes: &[u8]| {
    let said = decode(bytes);
    assert_eq!(said, decode(bytes));
    let Ok(Announcement { chassis, port, port_description, system_name, system_description, management_addresses, .. }) =
        said
    else {
        return;
    };
    assert!(!chassis.text.is_empty() && !port.text.is_empty());
    assert!(management_addresses.len() <= ADDRESSES_MAX);
    let texts = [chassis.text, port.text, port_description, system_name, system_description];
    assert!(texts.iter().chain(&management_addresses).all(|text| text.len() <= TEXT_BYTES_MAX));
});
