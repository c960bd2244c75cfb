//! What may come in: every message against the limits of the wire, before anything is kept of it.
//!
//! Pure: a message in, a [`Refusal`] or nothing out.

use super::refusal::Refusal;
use railwatch_wire::{limits, series, v1};

/// Lines of a state (coverage, sources, ports, balances of a process, ...), each.
const STATE_LINES_MAX: usize = 16_384;
/// Longest path or reason in a state, bytes: PATH_MAX of Linux.
const PATH_BYTES_MAX: usize = 4096;

fn name(text: &str) -> Result<(), Refusal> {
    (1..=limits::NAME_BYTES_MAX).contains(&text.len()).then_some(()).ok_or(Refusal::Name)
}

fn optional_name(text: &str) -> Result<(), Refusal> {
    (text.len() <= limits::NAME_BYTES_MAX).then_some(()).ok_or(Refusal::Name)
}

fn text(text: &str) -> Result<(), Refusal> {
    (text.len() <= limits::TEXT_BYTES_MAX).then_some(()).ok_or(Refusal::Text)
}

fn path(text: &str) -> Result<(), Refusal> {
    (text.len() <= PATH_BYTES_MAX).then_some(()).ok_or(Refusal::Text)
}

fn at_most(count: usize, bound: usize) -> Result<(), Refusal> {
    (count <= bound).then_some(()).ok_or(Refusal::StateTooLong)
}

fn lines(count: usize) -> Result<(), Refusal> {
    at_most(count, STATE_LINES_MAX)
}

fn limitations(off: &[v1::Limitation]) -> Result<(), Refusal> {
    lines(off.len())?;
    off.iter().try_for_each(|limitation| text(&limitation.what).and_then(|()| text(&limitation.why)))
}

fn labels<'a>(pairs: impl ExactSizeIterator<Item = (&'a String, &'a String)>) -> Result<(), Refusal> {
    if pairs.len() > limits::LABELS_MAX {
        return Err(Refusal::Labels);
    }
    for (key, value) in pairs {
        name(key)?;
        text(value)?;
    }
    Ok(())
}

/// A definition's names and labels are short enough, and its identifier is the hash of them.
pub fn definition(definition: &v1::SeriesDefinition) -> Result<(), Refusal> {
    name(&definition.name)?;
    optional_name(&definition.unit)?;
    labels(definition.labels.iter())?;
    let (kind, entity) = definition.entity.as_ref().map_or(("", ""), |entity| (&entity.kind, &entity.name));
    optional_name(kind)?;
    optional_name(entity)?;
    let pairs = definition.labels.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    (series::id(&definition.name, kind, entity, pairs) == definition.id).then_some(()).ok_or(Refusal::SeriesIdentifier)
}

/// All columns are as long as `series`, and not too long.
pub fn windows(windows: &v1::Windows) -> Result<(), Refusal> {
    let length = windows.series.len();
    if length > limits::SERIES_PER_FRAME_MAX {
        return Err(Refusal::FrameTooLong);
    }
    let columns = [
        windows.count.len(),
        windows.sum.len(),
        windows.min.len(),
        windows.max.len(),
        windows.last.len(),
        windows.delta.len(),
        windows.resets.len(),
    ];
    // Flags are absent where nothing happened, and from agents that know none.
    let flags = windows.flags.len();
    if columns.iter().any(|column| *column != length) || (flags != 0 && flags != length) {
        return Err(Refusal::Columns);
    }
    if windows.end_mono_ns < windows.start_mono_ns {
        return Err(Refusal::WindowOrder);
    }
    Ok(())
}

/// A signal says what, about what, in numbers.
pub fn signal(signal: &v1::Signal) -> Result<(), Refusal> {
    name(&signal.name)?;
    let entity = signal.entity.as_ref().ok_or(Refusal::Name)?;
    name(&entity.kind)?;
    optional_name(&entity.name)?;
    optional_name(&signal.unit)?;
    text(&signal.summary)?;
    labels(signal.attributes.iter())?;
    (signal.value.is_finite() && signal.previous.is_none_or(f64::is_finite)).then_some(()).ok_or(Refusal::NotFinite)
}

/// A snapshot's lists and texts are within bounds.
pub fn snapshot(snapshot: &v1::Snapshot) -> Result<(), Refusal> {
    lines(snapshot.sources.len())?;
    lines(snapshot.ports.len())?;
    lines(snapshot.modules.len())?;
    for source in &snapshot.sources {
        name(&source.source)?;
        path(&source.reason)?;
        path(&source.kernel_path)?;
    }
    for port in &snapshot.ports {
        name(&port.name)?;
        [&port.kind, &port.state, &port.driver, &port.netdev].into_iter().try_for_each(|text| optional_name(text))?;
        at_most(port.addresses.len(), limits::PORT_ADDRESSES_MAX)?;
        port.addresses.iter().try_for_each(|address| name(address))?;
    }
    snapshot.modules.iter().try_for_each(module)?;
    if let Some(loss) = &snapshot.loss {
        lines(loss.dropped.len())?;
        loss.dropped.keys().try_for_each(|reason| name(reason))?;
    }
    if let Some(drops) = &snapshot.drops {
        drop_state(drops)?;
    }
    if let Some(peers) = &snapshot.peers {
        peer_state(peers)?;
    }
    if let Some(inventory) = &snapshot.inventory {
        inventory_state(inventory)?;
    }
    if let Some(placement) = &snapshot.placement {
        placement_state(placement)?;
    }
    if let Some(probe) = &snapshot.probe {
        limitations(&probe.off)?;
    }
    if let Some(gpu) = &snapshot.gpu {
        at_most(gpu.processes.len(), limits::PROCESSES_PER_HOST_MAX)?;
        gpu.processes.iter().try_for_each(process)?;
        lines(gpu.coverage.len())?;
        for coverage in &gpu.coverage {
            optional_name(&coverage.comm)?;
            name(&coverage.status)?;
            path(&coverage.object)?;
            path(&coverage.reason)?;
        }
    }
    Ok(())
}

fn drop_state(drops: &v1::DropState) -> Result<(), Refusal> {
    let v1::DropState { flows, totals, account, off } = drops;
    for count in [flows.len(), totals.len()] {
        lines(count)?;
    }
    for flow in flows {
        [&flow.reason, &flow.class, &flow.interface, &flow.protocol, &flow.source, &flow.destination]
            .into_iter()
            .try_for_each(|text| name(text))?;
    }
    for total in totals {
        [&total.reason, &total.class, &total.interface].into_iter().try_for_each(|text| name(text))?;
    }
    if let Some(account) = account {
        lines(account.dropped.len())?;
        account.dropped.keys().try_for_each(|reason| name(reason))?;
    }
    limitations(off)
}

fn peer_state(peers: &v1::PeerState) -> Result<(), Refusal> {
    let v1::PeerState { neighbours, queue_pairs, flows, off, beyond, routes } = peers;
    for (count, count_max) in [
        (neighbours.len(), limits::NEIGHBOURS_PER_HOST_MAX),
        (queue_pairs.len(), limits::QUEUE_PAIRS_PER_HOST_MAX),
        (flows.len(), limits::FLOWS_PER_HOST_MAX),
        (beyond.len(), limits::LABELS_MAX),
        (routes.len(), limits::ROUTES_PER_HOST_MAX),
    ] {
        at_most(count, count_max)?;
    }
    for neighbour in neighbours {
        name(&neighbour.interface)?;
        [&neighbour.chassis_id, &neighbour.port_id].into_iter().try_for_each(|text| name(text))?;
        let v1::Neighbour { chassis_id_subtype, port_id_subtype, system_name, port_description, .. } = neighbour;
        [chassis_id_subtype, port_id_subtype, system_name, port_description]
            .into_iter()
            .try_for_each(|text| optional_name(text))?;
        text(&neighbour.system_description)?;
        let addresses = &neighbour.management_addresses;
        at_most(addresses.len(), limits::MANAGEMENT_ADDRESSES_MAX)?;
        addresses.iter().try_for_each(|address| name(address))?;
    }
    for pair in queue_pairs {
        name(&pair.device)?;
        let v1::QueuePair { r#type, state, comm, source, destination, .. } = pair;
        [r#type, state, comm, source, destination].into_iter().try_for_each(|text| optional_name(text))?;
    }
    for flow in flows {
        [&flow.protocol, &flow.source, &flow.destination].into_iter().try_for_each(|text| name(text))?;
        [&flow.comm, &flow.interface, &flow.state].into_iter().try_for_each(|text| optional_name(text))?;
    }
    for v1::Route { destination, gateway, interface, source, metric: _ } in routes {
        [destination, interface].into_iter().try_for_each(|text| name(text))?;
        [gateway, source].into_iter().try_for_each(|text| optional_name(text))?;
    }
    beyond.keys().try_for_each(|what| name(what))?;
    limitations(off)
}

/// An answer to a request for traces is within bounds.
pub fn trace_result(result: &v1::TraceResult) -> Result<(), Refusal> {
    at_most(result.flows.len(), limits::TRACE_FLOWS_MAX)?;
    text(&result.refused)?;
    for v1::Traced { hops, reached: _, failed } in &result.flows {
        at_most(hops.len(), limits::TRACE_HOPS_MAX)?;
        text(failed)?;
        hops.iter().try_for_each(|hop| optional_name(&hop.address))?;
    }
    Ok(())
}

fn inventory_state(inventory: &v1::InventoryState) -> Result<(), Refusal> {
    at_most(inventory.items.len(), limits::INVENTORY_ITEMS_MAX)?;
    for v1::InventoryItem { entity_kind, entity, key, value, source, role } in &inventory.items {
        name(entity_kind)?;
        name(key)?;
        [entity, role].into_iter().try_for_each(|text| optional_name(text))?;
        let is_short = |text: &String| text.len() <= limits::INVENTORY_VALUE_BYTES_MAX;
        (is_short(value) && is_short(source)).then_some(()).ok_or(Refusal::Text)?;
    }
    Ok(())
}

fn placement_state(placement: &v1::PlacementState) -> Result<(), Refusal> {
    let v1::PlacementState { devices, paths, tasks, off } = placement;
    at_most(devices.len(), limits::DEVICES_PER_HOST_MAX)?;
    at_most(paths.len(), limits::DEVICE_PATHS_PER_HOST_MAX)?;
    at_most(tasks.len(), limits::TASKS_PER_HOST_MAX)?;
    for device in devices {
        let v1::Device { kind, name: called, pci_address, numa_node: _, upstream, uuid, aliases } = device;
        name(kind)?;
        name(called)?;
        optional_name(pci_address)?;
        optional_name(uuid)?;
        at_most(upstream.len(), limits::DEVICE_NAMES_MAX)?;
        at_most(aliases.len(), limits::DEVICE_NAMES_MAX)?;
        upstream.iter().chain(aliases).try_for_each(|other| name(other))?;
    }
    for v1::DevicePath { from, to, kind, links: _ } in paths {
        [from, to, kind].into_iter().try_for_each(|text| name(text))?;
    }
    for task in tasks {
        [&task.comm, &task.container, &task.pod, &task.scheduler, &task.job, &task.step]
            .into_iter()
            .try_for_each(|text| optional_name(text))?;
        at_most(task.environment.len(), limits::TASK_VARIABLES_MAX)?;
        for (key, value) in &task.environment {
            name(key)?;
            optional_name(value)?;
        }
        at_most(task.contradictions.len(), limits::TASK_CONTRADICTIONS_MAX)?;
        task.contradictions.iter().try_for_each(|contradiction| text(contradiction))?;
    }
    limitations(off)
}

fn module(module: &v1::ModuleState) -> Result<(), Refusal> {
    name(&module.interface)?;
    let texts = [&module.standard, &module.revision, &module.vendor, &module.part_number, &module.serial];
    texts.into_iter().chain([&module.date_code, &module.state]).try_for_each(|text| optional_name(text))?;
    for count in [module.lanes.len(), module.thresholds.len(), module.problems.len()] {
        lines(count)?;
    }
    module.thresholds.iter().try_for_each(|limits| name(&limits.quantity))?;
    module.problems.iter().try_for_each(|problem| text(problem))?;
    let of_lanes = module.lanes.iter().flat_map(|l| [l.tx_power_mw, l.tx_bias_ma, l.rx_power_mw, l.snr_db]);
    let of_thresholds =
        module.thresholds.iter().flat_map(|l| [l.high_alarm, l.low_alarm, l.high_warning, l.low_warning]);
    let mut values = of_lanes.chain(of_thresholds).chain([module.temperature_c, module.vcc_v]).flatten();
    values.all(f64::is_finite).then_some(()).ok_or(Refusal::NotFinite)
}

fn process(process: &v1::GpuProcess) -> Result<(), Refusal> {
    optional_name(&process.comm)?;
    optional_name(&process.container)?;
    text(&process.incomplete_reason)?;
    for count in [process.balances.len(), process.calls.len(), process.failures.len(), process.communicators.len()] {
        lines(count)?;
    }
    for balance in &process.balances {
        optional_name(&balance.device_uuid)?;
        optional_name(&balance.api)?;
        text(&balance.device_unknown_reason)?;
    }
    process.calls.iter().try_for_each(|call| name(&call.function))?;
    process.failures.iter().try_for_each(|failure| name(&failure.function))?;
    for communicator in &process.communicators {
        optional_name(&communicator.library)?;
        optional_name(&communicator.state)?;
        lines(communicator.collectives.len())?;
        communicator.collectives.iter().try_for_each(|collective| name(&collective.operation))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Refusal, definition, signal, snapshot, windows};
    use railwatch_wire::{limits, series, v1};

    fn long(bytes: usize) -> String {
        "x".repeat(bytes)
    }

    #[test]
    fn each_way_a_signal_can_be_wrong_has_its_name() {
        let good = || v1::Signal {
            name: "nic.link.down".into(),
            entity: Some(v1::Entity { kind: "nic".into(), name: "eth0".into() }),
            ..v1::Signal::default()
        };
        assert_eq!(signal(&good()), Ok(()));
        let attributes = |count: usize| (0..count).map(|n| (format!("k{n}"), String::new())).collect();
        for (bad, expected) in [
            (v1::Signal { name: String::new(), ..good() }, Refusal::Name),
            (v1::Signal { name: long(limits::NAME_BYTES_MAX + 1), ..good() }, Refusal::Name),
            (v1::Signal { entity: None, ..good() }, Refusal::Name),
            (v1::Signal { summary: long(limits::TEXT_BYTES_MAX + 1), ..good() }, Refusal::Text),
            (v1::Signal { attributes: attributes(limits::LABELS_MAX + 1), ..good() }, Refusal::Labels),
            (v1::Signal { attributes: [(long(256), String::new())].into(), ..good() }, Refusal::Name),
            (v1::Signal { value: f64::NAN, ..good() }, Refusal::NotFinite),
            (v1::Signal { previous: Some(f64::NEG_INFINITY), ..good() }, Refusal::NotFinite),
        ] {
            assert_eq!(signal(&bad), Err(expected), "{bad:?}");
        }
        assert_eq!(signal(&v1::Signal { attributes: attributes(limits::LABELS_MAX), ..good() }), Ok(()));
    }

    #[test]
    fn columns_must_be_equally_long_and_not_too_long() {
        let columns = |n: usize| v1::Windows {
            series: vec![1; n],
            count: vec![1; n],
            sum: vec![0.0; n],
            min: vec![0.0; n],
            max: vec![0.0; n],
            last: vec![0.0; n],
            delta: vec![0; n],
            resets: vec![0; n],
            start_mono_ns: 1,
            end_mono_ns: 2,
            ..v1::Windows::default()
        };
        assert_eq!(windows(&columns(0)), Ok(()));
        assert_eq!(windows(&columns(limits::SERIES_PER_FRAME_MAX)), Ok(()));
        assert_eq!(windows(&columns(limits::SERIES_PER_FRAME_MAX + 1)), Err(Refusal::FrameTooLong));
        assert_eq!(windows(&v1::Windows { end_mono_ns: 0, ..columns(1) }), Err(Refusal::WindowOrder));
        assert_eq!(windows(&v1::Windows { flags: vec![0; 3], ..columns(3) }), Ok(()));
        let shorten: [fn(&mut v1::Windows); 8] = [
            |w| w.flags = vec![0; 2],
            |w| _ = w.count.pop(),
            |w| _ = w.sum.pop(),
            |w| _ = w.min.pop(),
            |w| _ = w.max.pop(),
            |w| _ = w.last.pop(),
            |w| _ = w.delta.pop(),
            |w| _ = w.resets.pop(),
        ];
        for (at, shorten) in shorten.iter().enumerate() {
            let mut short = columns(3);
            shorten(&mut short);
            assert_eq!(windows(&short), Err(Refusal::Columns), "column {at}");
        }
    }

    #[test]
    fn an_identifier_must_be_the_hash_of_what_it_stands_for() {
        let good = v1::SeriesDefinition {
            id: series::id("network.io", "nic", "eth0", [("direction", "receive")]),
            name: "network.io".into(),
            entity: Some(v1::Entity { kind: "nic".into(), name: "eth0".into() }),
            labels: [("direction".to_owned(), "receive".to_owned())].into(),
            ..v1::SeriesDefinition::default()
        };
        assert_eq!(definition(&good), Ok(()));
        assert_eq!(
            definition(&v1::SeriesDefinition { id: good.id + 1, ..good.clone() }),
            Err(Refusal::SeriesIdentifier)
        );
        assert_eq!(definition(&v1::SeriesDefinition { name: String::new(), ..good }), Err(Refusal::Name));
    }

    #[test]
    fn a_state_is_bounded_in_lines_and_texts() {
        let processes = |count| v1::Snapshot {
            gpu: Some(v1::GpuState { processes: vec![v1::GpuProcess::default(); count], coverage: vec![] }),
            ..v1::Snapshot::default()
        };
        assert_eq!(snapshot(&processes(limits::PROCESSES_PER_HOST_MAX)), Ok(()));
        assert_eq!(snapshot(&processes(limits::PROCESSES_PER_HOST_MAX + 1)), Err(Refusal::StateTooLong));
        let port = v1::PortState { name: long(256), ..v1::PortState::default() };
        assert_eq!(snapshot(&v1::Snapshot { ports: vec![port], ..v1::Snapshot::default() }), Err(Refusal::Name));
    }

    #[test]
    fn a_placement_is_bounded_in_every_list_and_text() {
        let check = |placement| snapshot(&v1::Snapshot { placement: Some(placement), ..v1::Snapshot::default() });
        let device = || v1::Device { kind: "gpu".into(), name: "0".into(), ..v1::Device::default() };
        let path = || v1::DevicePath { from: "gpu/0".into(), to: "nic/eth0".into(), kind: "system".into(), links: 0 };
        let of_devices = |devices| v1::PlacementState { devices, ..Default::default() };
        let of_tasks = |tasks| v1::PlacementState { tasks, ..Default::default() };
        let of_paths = |paths| v1::PlacementState { paths, ..Default::default() };
        let variables = |count: usize| (0..count).map(|n| (format!("K{n}"), String::new())).collect();
        for (state, expected) in [
            (of_devices(vec![device(); limits::DEVICES_PER_HOST_MAX]), Ok(())),
            (of_devices(vec![device(); limits::DEVICES_PER_HOST_MAX + 1]), Err(Refusal::StateTooLong)),
            (of_devices(vec![v1::Device { name: String::new(), ..device() }]), Err(Refusal::Name)),
            (
                of_devices(vec![v1::Device { aliases: vec!["a".into(); limits::DEVICE_NAMES_MAX + 1], ..device() }]),
                Err(Refusal::StateTooLong),
            ),
            (of_paths(vec![path(); limits::DEVICE_PATHS_PER_HOST_MAX]), Ok(())),
            (of_paths(vec![path(); limits::DEVICE_PATHS_PER_HOST_MAX + 1]), Err(Refusal::StateTooLong)),
            (of_paths(vec![v1::DevicePath { to: String::new(), ..path() }]), Err(Refusal::Name)),
            (of_tasks(vec![v1::Task::default(); limits::TASKS_PER_HOST_MAX]), Ok(())),
            (of_tasks(vec![v1::Task::default(); limits::TASKS_PER_HOST_MAX + 1]), Err(Refusal::StateTooLong)),
            (of_tasks(vec![v1::Task { job: long(256), ..Default::default() }]), Err(Refusal::Name)),
            (
                of_tasks(vec![v1::Task { environment: variables(limits::TASK_VARIABLES_MAX), ..Default::default() }]),
                Ok(()),
            ),
            (
                of_tasks(vec![v1::Task {
                    environment: variables(limits::TASK_VARIABLES_MAX + 1),
                    ..Default::default()
                }]),
                Err(Refusal::StateTooLong),
            ),
            (of_tasks(vec![v1::Task { contradictions: vec![long(1025)], ..Default::default() }]), Err(Refusal::Text)),
        ] {
            assert_eq!(check(state), expected);
        }
    }

    #[test]
    fn a_module_is_bounded_and_its_values_are_numbers() {
        let good = || v1::ModuleState { interface: "eth0".into(), ..v1::ModuleState::default() };
        let check = |module| snapshot(&v1::Snapshot { modules: vec![module], ..v1::Snapshot::default() });
        assert_eq!(check(good()), Ok(()));
        let lane = v1::ModuleLane { rx_power_mw: Some(f64::NAN), ..v1::ModuleLane::default() };
        for (bad, expected) in [
            (v1::ModuleState::default(), Refusal::Name),
            (v1::ModuleState { serial: long(limits::NAME_BYTES_MAX + 1), ..good() }, Refusal::Name),
            (v1::ModuleState { problems: vec![long(limits::TEXT_BYTES_MAX + 1)], ..good() }, Refusal::Text),
            (v1::ModuleState { lanes: vec![lane], ..good() }, Refusal::NotFinite),
            (v1::ModuleState { vcc_v: Some(f64::INFINITY), ..good() }, Refusal::NotFinite),
        ] {
            assert_eq!(check(bad.clone()), Err(expected), "{bad:?}");
        }
    }

    #[test]
    fn peers_are_bounded_in_number_and_in_what_each_says() {
        let check = |peers| snapshot(&v1::Snapshot { peers: Some(peers), ..v1::Snapshot::default() });
        let neighbour = || v1::Neighbour {
            interface: "eth0".into(),
            chassis_id: "c".into(),
            port_id: "p".into(),
            ..v1::Neighbour::default()
        };
        let pair = || v1::QueuePair { device: "mlx5_0".into(), ..v1::QueuePair::default() };
        let flow = || v1::Flow {
            protocol: "tcp".into(),
            source: "10.0.0.1".into(),
            destination: "10.0.0.2".into(),
            ..v1::Flow::default()
        };
        let neighbours = |neighbours| v1::PeerState { neighbours, ..v1::PeerState::default() };
        let pairs = |queue_pairs| v1::PeerState { queue_pairs, ..v1::PeerState::default() };
        let flows = |flows| v1::PeerState { flows, ..v1::PeerState::default() };
        let addresses = |count| v1::Neighbour { management_addresses: vec!["10.0.0.1".into(); count], ..neighbour() };
        let beyond = |count: usize| v1::PeerState {
            beyond: (0..count).map(|n| (format!("k{n}"), 1)).collect(),
            ..v1::PeerState::default()
        };
        for (good, bad, expected) in [
            (
                neighbours(vec![neighbour(); limits::NEIGHBOURS_PER_HOST_MAX]),
                neighbours(vec![neighbour(); limits::NEIGHBOURS_PER_HOST_MAX + 1]),
                Refusal::StateTooLong,
            ),
            (
                pairs(vec![pair(); limits::QUEUE_PAIRS_PER_HOST_MAX]),
                pairs(vec![pair(); limits::QUEUE_PAIRS_PER_HOST_MAX + 1]),
                Refusal::StateTooLong,
            ),
            (
                flows(vec![flow(); limits::FLOWS_PER_HOST_MAX]),
                flows(vec![flow(); limits::FLOWS_PER_HOST_MAX + 1]),
                Refusal::StateTooLong,
            ),
            (
                neighbours(vec![addresses(limits::MANAGEMENT_ADDRESSES_MAX)]),
                neighbours(vec![addresses(limits::MANAGEMENT_ADDRESSES_MAX + 1)]),
                Refusal::StateTooLong,
            ),
            (beyond(limits::LABELS_MAX), beyond(limits::LABELS_MAX + 1), Refusal::StateTooLong),
            (
                neighbours(vec![neighbour()]),
                neighbours(vec![v1::Neighbour { chassis_id: String::new(), ..neighbour() }]),
                Refusal::Name,
            ),
            (
                neighbours(vec![v1::Neighbour { system_description: long(1024), ..neighbour() }]),
                neighbours(vec![v1::Neighbour { system_description: long(1025), ..neighbour() }]),
                Refusal::Text,
            ),
            (pairs(vec![pair()]), pairs(vec![v1::QueuePair { comm: long(256), ..pair() }]), Refusal::Name),
            (flows(vec![flow()]), flows(vec![v1::Flow { destination: String::new(), ..flow() }]), Refusal::Name),
        ] {
            assert_eq!(check(good), Ok(()));
            assert_eq!(check(bad), Err(expected));
        }
    }

    #[test]
    fn an_inventory_is_bounded_in_items_names_and_values() {
        let item =
            || v1::InventoryItem { entity_kind: "port".into(), key: "mtu".into(), ..v1::InventoryItem::default() };
        let check = |items| {
            let inventory = Some(v1::InventoryState { items });
            snapshot(&v1::Snapshot { inventory, ..v1::Snapshot::default() })
        };
        assert_eq!(check(vec![item(); limits::INVENTORY_ITEMS_MAX]), Ok(()));
        assert_eq!(check(vec![item(); limits::INVENTORY_ITEMS_MAX + 1]), Err(Refusal::StateTooLong));
        for (bad, expected) in [
            (v1::InventoryItem { key: String::new(), ..item() }, Refusal::Name),
            (v1::InventoryItem { entity: long(limits::NAME_BYTES_MAX + 1), ..item() }, Refusal::Name),
            (v1::InventoryItem { role: long(limits::NAME_BYTES_MAX + 1), ..item() }, Refusal::Name),
            (v1::InventoryItem { value: long(limits::INVENTORY_VALUE_BYTES_MAX + 1), ..item() }, Refusal::Text),
        ] {
            assert_eq!(check(vec![bad.clone()]), Err(expected), "{bad:?}");
        }
    }
}
