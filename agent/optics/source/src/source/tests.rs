//! The source over modules that a test plugs, changes and pulls out, and that count every read.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]

use super::*;
use crate::RULES;
use crate::eeprom::Piece;
use railwatch_optics::{Image, Page, parse};
use railwatch_sampling::{Catalog, Output, Recorder, Signal};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

const CMIS: &str = include_str!("../../../fixtures/cmis-dr4.json");
const QSFP: &str = include_str!("../../../fixtures/sff8636-lr4.json");
const SFP: &str = include_str!("../../../fixtures/sff8472-internal.json");

#[derive(Default)]
struct Bench {
    /// By interface: the module, or the error that a read ends with.
    cages: BTreeMap<String, Result<Image, i32>>,
    reads: Vec<(String, Page)>,
}

#[derive(Clone, Default)]
struct Doubles(Arc<Mutex<Bench>>);

impl Doubles {
    fn locked(&self) -> MutexGuard<'_, Bench> {
        self.0.lock().unwrap()
    }

    fn plug(&self, interface: &str, file: &str) {
        self.locked().cages.insert(interface.to_owned(), Ok(parse(file.as_bytes()).0));
    }

    fn fail(&self, interface: &str, errno: i32) {
        self.locked().cages.insert(interface.to_owned(), Err(errno));
    }

    /// Writes bytes at the standard's offset of a page.
    fn set(&self, interface: &str, page: Page, at: usize, bytes: &[u8]) {
        let mut bench = self.locked();
        let image = bench.cages.get_mut(interface).unwrap().as_mut().unwrap();
        let mut whole = image.page(page).unwrap().to_vec();
        let from = at - if matches!(page, Page::Upper { .. }) { 128 } else { 0 };
        whole[from..from + bytes.len()].copy_from_slice(bytes);
        image.replace(page, &whole);
    }

    /// Reads of this page so far.
    fn reads_of(&self, page: Page) -> usize {
        self.locked().reads.iter().filter(|(_, read)| *read == page).count()
    }
}

impl Eeprom for Doubles {
    fn path(&self) -> &'static str {
        "a test"
    }

    fn interfaces(&mut self) -> io::Result<Vec<Interface>> {
        let one = |(index, name): (u32, &String)| Interface { index, name: name.clone() };
        Ok((1..).zip(self.locked().cages.keys()).map(one).collect())
    }

    fn read(&mut self, interface: &Interface, piece: Piece) -> io::Result<Vec<u8>> {
        let mut bench = self.locked();
        bench.reads.push((interface.name.clone(), piece.page));
        let image = match bench.cages.get_mut(&interface.name).unwrap() {
            Ok(image) => image,
            Err(errno) => return Err(io::Error::from_raw_os_error(*errno)),
        };
        let is_sfp = image.page(Page::A0).is_some();
        let page = if is_sfp && piece.page == Page::Lower { Page::A0 } else { piece.page };
        let from = usize::from(piece.from) - if matches!(page, Page::Upper { .. }) { 128 } else { 0 };
        let whole = image.page(page).ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?.to_vec();
        if page == Page::upper(0x11) {
            // Reading clears the flags of the lanes.
            let mut cleared = whole.clone();
            cleared[134 - 128..=152 - 128].fill(0);
            image.replace(page, &cleared);
        }
        Ok(whole[from..from + usize::from(piece.length)].to_vec())
    }
}

struct Driven {
    source: OpticsSource,
    recorder: Recorder,
    catalog: Arc<Catalog>,
    out: Output,
    batch: Batch,
}

impl Driven {
    fn over(doubles: &Doubles) -> Self {
        let catalog = Arc::new(Catalog::default());
        let recorder = Recorder::new("optics", Duration::from_secs(100_000_000), &RULES, Arc::clone(&catalog));
        let source = OpticsSource::over(Box::new(doubles.clone()));
        Self { source, recorder, catalog, out: Output::default(), batch: Batch::with_capacity(4096) }
    }

    fn probe(&mut self) -> Result<(), Unavailable> {
        let Self { source, recorder, out, catalog, .. } = self;
        let outcome = recorder.probe(monotonic_ns(), out, |declare| source.probe(declare));
        assert_eq!(catalog.outside_vocabulary(), "");
        outcome
    }

    /// Reads once; returns how many readings that brought.
    fn read(&mut self) -> usize {
        self.batch.clear();
        self.source.read(&mut self.batch).unwrap();
        self.recorder.record(&self.batch, &mut self.out);
        self.batch.readings().len()
    }

    /// Name, entity and cause of each signal since the last look.
    fn told(&mut self) -> Vec<(&'static str, String, String)> {
        let cause = |s: &Signal| {
            s.attributes.iter().find(|(key, _)| *key == "cause").map(|(_, cause)| cause.clone()).unwrap_or_default()
        };
        self.out.signals.drain(..).map(|s| (s.name, s.entity.name.clone(), cause(&s))).collect()
    }

    fn module(&self, interface: &str) -> railwatch_optics::Module {
        self.source.modules().all().into_iter().find(|(name, _)| name == interface).unwrap().1
    }

    /// The last value and the movement of each series, by entity, name and quantity.
    fn window(&mut self) -> BTreeMap<String, (f64, u64)> {
        self.recorder.finish(monotonic_ns(), &mut self.out);
        let frame = self.out.frames.pop().unwrap();
        let row = |(at, id): (usize, &railwatch_sampling::SeriesId)| {
            let def = self.catalog.get(*id).unwrap();
            let quantity = def.label("hw.optics.quantity").unwrap_or_default();
            let key = format!("{} {} {quantity}", def.entity().name, def.name()).trim().to_owned();
            (key, (frame.last[at], frame.delta[at]))
        };
        frame.series.iter().enumerate().map(row).collect()
    }
}

const PAGE_11: Page = Page::upper(0x11);

#[test]
fn every_kind_of_module_gives_its_series_and_what_it_does_not_measure_gives_none() {
    let doubles = Doubles::default();
    for (interface, file) in
        [("a", SFP), ("b", QSFP), ("c", CMIS), ("d", include_str!("../../../fixtures/sff8636-copper.json"))]
    {
        doubles.plug(interface, file);
    }
    let mut driven = Driven::over(&doubles);
    driven.probe().unwrap();
    assert!(driven.read() > 0);
    let window = driven.window();
    for (series, value) in [
        ("a hw.optics.temperature", 25.5),
        ("a/1 hw.optics.rx_power", 0.5),
        ("a/1 hw.optics.rx_light", 1.0),
        ("b hw.optics.voltage", 3.29),
        ("b/4 hw.optics.tx_bias", 30.6),
        ("b/3 hw.optics.rx_light", 0.0),
        ("c/1 hw.optics.snr", 21.83984375),
        ("c/4 hw.optics.tx_power", 1.6037),
    ] {
        assert_eq!(window[series].0, value, "{series}: {window:?}");
    }
    for absent in ["a/1 hw.optics.snr", "a/2 hw.optics.rx_power", "c/5 hw.optics.tx_power", "c/3 hw.optics.snr"] {
        assert!(!window.contains_key(absent), "{absent}");
    }
    assert!(!window.keys().any(|key| key.starts_with('d')), "{window:?}");
    assert_eq!(driven.module("d").part_number.as_deref(), Some("RW-DAC-100G-2M"));
}

#[test]
fn what_does_not_change_is_read_once_a_plug_and_what_does_at_every_reading() {
    let doubles = Doubles::default();
    doubles.plug("eth0", CMIS);
    let mut driven = Driven::over(&doubles);
    driven.probe().unwrap();
    for _ in 0..3 {
        driven.read();
        driven.probe().unwrap();
    }
    for (page, reads) in
        [(Page::upper(1), 1), (Page::upper(2), 1), (PAGE_11, 4), (Page::upper(0x14), 4), (Page::Lower, 4)]
    {
        assert_eq!(doubles.reads_of(page), reads, "{page}");
    }
    assert_eq!(doubles.reads_of(Page::upper(0)), 4, "the serial number, which says that it is the same module");
}

#[test]
fn a_flag_that_clears_when_read_is_counted_and_told_once() {
    let doubles = Doubles::default();
    doubles.plug("eth0", CMIS);
    let mut driven = Driven::over(&doubles);
    // What it had latched before anybody looked is history, and cleared by the first look.
    driven.probe().unwrap();
    driven.read();
    assert_eq!(driven.told(), []);
    doubles.set("eth0", PAGE_11, 147, &[0b0101]);
    doubles.set("eth0", PAGE_11, 152, &[0b0001]);
    driven.read();
    let lost = |lane: &str| ("optics.light.lost", lane.to_owned(), String::new());
    assert_eq!(driven.told(), [lost("eth0/1"), lost("eth0/3")]);
    driven.read();
    let back = |lane: &str| ("optics.light.back", lane.to_owned(), String::new());
    assert_eq!(driven.told(), [back("eth0/1"), back("eth0/3")]);
    let window = driven.window();
    for (series, delta) in [
        ("eth0/1 hw.optics.rx_los", 1),
        ("eth0/2 hw.optics.rx_los", 0),
        ("eth0/3 hw.optics.rx_los", 1),
        ("eth0/1 hw.optics.crossings rx_power", 1),
        ("eth0/2 hw.optics.crossings rx_power", 0),
        ("eth0/2 hw.optics.tx_faults", 0),
    ] {
        assert_eq!(window[series].1, delta, "{series}");
    }
}

#[test]
fn a_value_beyond_the_modules_own_threshold_is_told_with_that_threshold() {
    let doubles = Doubles::default();
    doubles.plug("eth0", QSFP);
    let mut driven = Driven::over(&doubles);
    driven.probe().unwrap();
    driven.read();
    assert_eq!(driven.told(), [], "lane 3 was dark before we looked");
    // Lane 1 of the received power: 0.015 mW, between the low alarm and the low warning; then 71 °C.
    doubles.set("eth0", Page::Lower, 34, &150u16.to_be_bytes());
    driven.read();
    doubles.set("eth0", Page::Lower, 22, &[76, 0]);
    driven.read();
    doubles.set("eth0", Page::Lower, 34, &5_000u16.to_be_bytes());
    driven.read();
    let summaries: Vec<_> = driven.out.signals.drain(..).map(|signal| signal.summary).collect();
    assert_eq!(
        summaries,
        [
            "lane eth0/1: received power of 0.015 mW is below its low warning of 0.02 mW",
            "module eth0: the temperature of 76 °C is above its high alarm of 75 °C",
            "lane eth0/1: received power of 0.5 mW is within its bounds again",
        ]
    );
}

#[test]
fn thresholds_that_contradict_each_other_raise_nothing() {
    let doubles = Doubles::default();
    doubles.plug("eth0", QSFP);
    doubles.set("eth0", Page::upper(3), 128, &[0, 0, 75, 0]);
    let mut driven = Driven::over(&doubles);
    driven.probe().unwrap();
    driven.read();
    doubles.set("eth0", Page::Lower, 22, &[90, 0]);
    driven.read();
    assert_eq!(driven.told(), []);
    assert!(driven.module("eth0").problems.iter().any(|problem| problem.to_string().contains("contradict")));
}

#[test]
fn another_module_in_the_same_cage_is_noticed_by_its_serial_number() {
    let doubles = Doubles::default();
    doubles.plug("eth0", QSFP);
    let mut driven = Driven::over(&doubles);
    driven.probe().unwrap();
    driven.read();
    doubles.set("eth0", Page::upper(0), 196, b"RW0000099");
    doubles.set("eth0", Page::upper(3), 128, &[60, 0, 0xfb, 0, 55, 0]);
    assert_eq!(driven.read(), 0);
    driven.probe().unwrap();
    assert!(driven.read() > 0);
    assert_eq!(driven.module("eth0").serial.as_deref(), Some("RW0000099"));
    // The thresholds are the new module's.
    doubles.set("eth0", Page::Lower, 22, &[65, 0]);
    driven.read();
    assert_eq!(driven.told()[0].2, "high_alarm");
}

#[test]
fn a_module_pulled_out_takes_its_light_with_it_and_its_cage_is_not_hammered() {
    let doubles = Doubles::default();
    doubles.plug("eth0", SFP);
    let mut driven = Driven::over(&doubles);
    driven.probe().unwrap();
    driven.read();
    doubles.fail("eth0", libc::EIO);
    driven.read();
    driven.probe().unwrap();
    let told = driven.told();
    assert!(told.contains(&("optics.light.lost", "eth0/1".to_owned(), "vanished".to_owned())), "{told:?}");
    assert!(told.iter().all(|(name, ..)| *name != "optics.limit.crossed"), "{told:?}");
    assert_eq!(driven.module("eth0").state, Some("unplugged"));
    let before = doubles.locked().reads.len();
    for _ in 0..5 {
        driven.probe().unwrap();
        driven.read();
    }
    assert_eq!(doubles.locked().reads.len(), before, "an empty cage is tried once a minute");
}

#[test]
fn a_driver_without_modules_is_asked_once_and_a_host_without_any_says_so() {
    let doubles = Doubles::default();
    doubles.fail("veth0", libc::EOPNOTSUPP);
    let mut driven = Driven::over(&doubles);
    for _ in 0..3 {
        let off = driven.probe().unwrap_err();
        assert_eq!(off.reason, ErrorReason::Missing);
        assert!(off.text.contains("no network interface whose driver reads its module"), "{off}");
    }
    assert_eq!(doubles.locked().reads.len(), 1);
    doubles.fail("eth0", libc::EPERM);
    let off = driven.probe().unwrap_err();
    assert!(off.reason == ErrorReason::Denied && off.text.contains("CAP_NET_ADMIN"), "{off}");
}

#[test]
fn what_one_reading_has_no_time_for_comes_first_in_the_next() {
    let doubles = Doubles::default();
    for interface in ["a", "b", "c"] {
        doubles.plug(interface, QSFP);
    }
    let mut driven = Driven::over(&doubles);
    driven.probe().unwrap();
    driven.source.at_once_ns = 0;
    doubles.locked().reads.clear();
    for _ in 0..4 {
        driven.read();
    }
    let order: Vec<_> =
        doubles.locked().reads.iter().filter(|(_, page)| *page == Page::Lower).map(|(name, _)| name.clone()).collect();
    assert_eq!(order, ["a", "b", "c", "a"]);
}
