//! One vocabulary: what both daemons show is in the table, what the table has is set, documented and on a dashboard, and
//! dashboards and rules ask for nothing else.
//!
//! Documented means docs/metrics.md, which is made from the table (`cargo xtask vocabulary`, tested beside it).

use anyhow::{Context, Result, ensure};
use railwatch_tests::{
    gpu,
    host::FixtureHost,
    installation::{HOST, Installation, Options, eventually},
    otlp::Receiver,
    prometheus::{Family, Prometheus, families, get, promtool, targets},
};
use railwatch_vocabulary::{Board, Declared, NoPanel, Panel, Proof, check_all, own, prometheus::plain, rows};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::UdpSocket,
    path::{Path, PathBuf},
};

const DEPLOY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy");

fn pages(installation: &Installation) -> Result<BTreeMap<String, Family>> {
    let mut all = BTreeMap::new();
    for address in targets(installation) {
        all.extend(families(&get(&format!("http://{address}/metrics"), "text/plain;version=0.0.4")?));
    }
    Ok(all)
}

/// What the table says of a page's metric: kind, meaning, labels that it must and may have.
struct Expected {
    kind: &'static str,
    meaning: &'static str,
    must: BTreeSet<String>,
    may: BTreeSet<String>,
}

fn expected() -> BTreeMap<String, Expected> {
    let of_series = rows().map(|(section, series)| {
        let keys = |is_optional: bool| {
            section
                .labels_of(series)
                .filter(move |label| label.is_optional == is_optional)
                .map(|label| plain(label.key))
        };
        let must = keys(false).chain(["entity".to_owned()]).collect();
        let kind = if series.kind.is_counter() { "counter" } else { "gauge" };
        let may = keys(true).collect();
        (series.prometheus_name(), Expected { kind, meaning: series.meaning, must, may })
    });
    let of_daemons = own::rows().map(|metric| {
        let must = metric.labels.iter().map(|key| (*key).to_owned()).collect();
        let (kind, meaning, may) = (metric.kind.word(), metric.meaning, BTreeSet::new());
        (metric.name.to_owned(), Expected { kind, meaning, must, may })
    });
    of_series.chain(of_daemons).collect()
}

/// What is wrong with what the pages show, one paragraph each.
fn wrong(shown: &BTreeMap<String, Family>) -> Vec<String> {
    let expected = expected();
    let mut wrong = Vec::new();
    for (name, Family { kind, help, labels }) in shown {
        let Some(row) = expected.get(name) else {
            wrong.push(own::row_to_add(name, kind, &labels.iter().cloned().collect::<Vec<_>>(), help));
            continue;
        };
        if row.kind != kind {
            wrong.push(format!("{name} is a {kind} on its page and a {} in the vocabulary", row.kind));
        }
        if row.meaning != help.trim_end_matches('.') {
            wrong.push(format!("{name} means {help:?} on its page and {:?} in the vocabulary", row.meaning));
        }
        let lacking: Vec<_> = row.must.difference(labels).collect();
        let unknown: Vec<_> = labels.iter().filter(|key| !row.must.contains(*key) && !row.may.contains(*key)).collect();
        if !lacking.is_empty() || !unknown.is_empty() {
            wrong.push(format!(
                "{name}: its page lacks the labels {lacking:?} and has {unknown:?}, which the vocabulary lacks"
            ));
        }
    }
    wrong
}

/// Whether a metric of the table is nowhere although its row says that this test sees it.
fn unset(shown: &BTreeMap<String, Family>, exported: &BTreeSet<String>) -> Vec<String> {
    let of_series =
        rows().filter(|(section, series)| section.proof_of(series) == Proof::Whole).filter_map(|(section, series)| {
            let is_seen = match section.panel_of(series) {
                Panel::No(NoPanel::Process) => exported.contains(series.name),
                _ => shown.contains_key(&series.prometheus_name()),
            };
            (!is_seen).then(|| series.name.to_owned())
        });
    let of_daemons = own::rows()
        .filter(|metric| metric.proof == Proof::Whole && !shown.contains_key(metric.name))
        .map(|metric| metric.name.to_owned());
    of_series.chain(of_daemons).collect()
}

/// What the receiver was told under a name or with a unit that no row has.
fn strange(received: &[Value]) -> BTreeSet<String> {
    let known: BTreeSet<_> = rows()
        .map(|(_, series)| series.convention.map_or((series.name, series.unit), |of| (of.name, of.unit)))
        .collect();
    let of = |item: &Value| {
        (item["name"].as_str().unwrap_or_default().to_owned(), item["unit"].as_str().unwrap_or_default().to_owned())
    };
    let metrics = received.iter().filter(|item| item["kind"] == "metric").map(of);
    metrics
        .filter(|(name, unit)| !known.contains(&(name.as_str(), unit.as_str())))
        .map(|(name, unit)| format!("{name} in {unit}"))
        .collect()
}

/// What the agent's sources declared otherwise than the table says, from the collector's list of the host's series.
fn declared_otherwise(installation: &Installation) -> Result<String> {
    let listed = installation.railwatch("read", &["tape", "--host", HOST, "--list", "-o", "json"])?;
    ensure!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    let rows: Vec<Value> = serde_json::from_slice(&listed.stdout)?;
    ensure!(rows.len() > 100, "the host has {} series", rows.len());
    let text =
        |row: &'_ Value, key: &str| row[key].as_str().map(str::to_owned).with_context(|| format!("{key} in {row}"));
    let mut found = Vec::new();
    for row in &rows {
        let labels: Vec<_> = row["labels"].as_object().into_iter().flatten().collect();
        let labels: Vec<_> =
            labels.iter().map(|(key, value)| ((*key).clone(), value.as_str().unwrap_or_default().to_owned())).collect();
        let is_counter = row["monotonic"].as_bool().with_context(|| format!("monotonic in {row}"))?;
        found.push((text(row, "name")?, text(row, "unit")?, text(row, "entity_kind")?, is_counter, labels));
    }
    Ok(check_all(found.iter().map(|(name, unit, entity, is_counter, labels)| Declared {
        name,
        unit,
        is_counter: *is_counter,
        entity,
        labels: labels.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect(),
    })))
}

#[test]
fn what_both_daemons_show_is_in_the_table_and_what_the_table_has_is_set() -> Result<()> {
    let host = FixtureHost::new()?;
    let receiver = Receiver::start(&host.path("received.jsonl"))?;
    let installation = Installation::start(&Options {
        collector_toml: receiver.collector_toml(),
        agent_toml: host.agent_toml(),
        ..Options::default()
    })?;
    // A process that holds memory of a GPU, and an allocation that fails.
    let mut program = gpu::Caller::start(&["libcudart.so"])?;
    installation.attached(program.pid())?;
    program.call("cudaMalloc &0 4096")?;
    program.call("fixture_fail_next 2")?;
    program.call("cudaMalloc &1 4096")?;
    // Datagrams that nobody takes: packets that the kernel drops.
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    let (mut unset_last, mut wrong_last) = (Vec::new(), Vec::new());
    let seen = eventually("every metric of the table to be set", || {
        host.speak_as_helpers()?;
        // The refusals that answer them are of no interest.
        let _ = socket.send_to(b"x", "127.0.0.1:9");
        let shown = pages(&installation)?;
        if shown.contains_key("railwatch_rdma_port_retransmitted_bytes_total") {
            // A counter that says something else than a number: an error of its source.
            host.write("sys/class/infiniband/efa_0/ports/1/hw_counters/rx_drops", "N")?;
        }
        let exported = receiver.received()?.iter().filter_map(|item| Some(item["name"].as_str()?.to_owned())).collect();
        unset_last = unset(&shown, &exported);
        wrong_last = wrong(&shown);
        Ok(unset_last.is_empty().then_some(shown))
    })
    .with_context(|| {
        format!(
            "never set: {unset_last:#?}\nmake tests/src/host.rs set it, or say in its row which test does (.proven(Proof::Test(PATH))) or \
             what it needs (Proof::Needs)\non a page and otherwise in the table, or not there: {wrong_last:#?}\n{}",
            installation.agent.log_text()
        )
    })?;
    let otherwise = declared_otherwise(&installation)?;
    ensure!(otherwise.is_empty(), "{otherwise}");
    let wrong = wrong(&seen);
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    let strange = strange(&receiver.received()?);
    ensure!(strange.is_empty(), "exported over OTLP and not in the vocabulary: {strange:#?}");

    // Every query of every dashboard is one that Prometheus understands, and the ones of what is set have an answer.
    let prometheus = Prometheus::start(&installation)?;
    let mut answered = 0;
    for Query { board, panel, expression } in queries()? {
        let expression = expression
            .replace("$__rate_interval", "1m")
            .replace("$instance", ".*")
            .replace("$collector", ".*")
            .replace("$host", ".*");
        let samples = prometheus.query(&expression).with_context(|| format!("{board}, panel {panel:?}"))?;
        answered += usize::from(!samples.is_empty());
    }
    ensure!(answered > 50, "of all queries only {answered} have an answer");
    Ok(())
}

/// A query of a dashboard.
struct Query {
    board: &'static str,
    panel: String,
    expression: String,
}

fn board(board: Board) -> Result<Value> {
    let path = PathBuf::from(DEPLOY).join(format!("grafana/railwatch-{}.json", board.name()));
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is JSON", path.display()))
}

fn queries() -> Result<Vec<Query>> {
    let mut queries = Vec::new();
    for of in Board::ALL {
        let dashboard = board(of)?;
        for panel in dashboard["panels"].as_array().into_iter().flatten() {
            for target in panel["targets"].as_array().into_iter().flatten() {
                queries.push(Query {
                    board: of.name(),
                    panel: panel["title"].as_str().unwrap_or_default().to_owned(),
                    expression: target["expr"].as_str().context("a target has an expression")?.to_owned(),
                });
            }
        }
    }
    Ok(queries)
}

/// The metrics that a text of PromQL names; a recording rule's name, which has a colon, is none.
fn named(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':');
    words.filter(|word| word.starts_with("railwatch_") && !word.contains(':')).map(str::to_owned).collect()
}

/// The row's name of a name in a query: of a histogram, without the end that its samples have.
fn metric(name: &str, known: &BTreeMap<String, Expected>) -> Option<String> {
    let bases = ["", "_bucket", "_sum", "_count"].iter().filter_map(|end| name.strip_suffix(end));
    bases.map(str::to_owned).find(|base| known.contains_key(base))
}

#[test]
fn every_metric_is_on_a_dashboard_or_says_why_not_and_dashboards_ask_for_nothing_else() -> Result<()> {
    let known = expected();
    let mut asked: BTreeMap<String, BTreeSet<(&str, String)>> = BTreeMap::new();
    for Query { board, panel, expression } in queries()? {
        for name in named(&expression) {
            let metric = metric(&name, &known).with_context(|| {
                format!("dashboard {board}, panel {panel:?}: {name} is not in the vocabulary: add it or run `cargo xtask vocabulary build`")
            })?;
            asked.entry(metric).or_default().insert((board, panel.clone()));
        }
    }
    let of_series = rows().map(|(section, series)| (series.prometheus_name(), section.board, section.panel_of(series)));
    let of_daemons = own::ALL.iter().flat_map(|section| {
        section.metrics.iter().map(|metric| (metric.name.to_owned(), section.board_of(metric), metric.panel))
    });
    for (name, board, panel) in of_series.chain(of_daemons) {
        if let Panel::Titled(title) = panel {
            let is_there = asked.get(&name).is_some_and(|places| places.contains(&(board.name(), title.to_owned())));
            ensure!(
                is_there,
                "{name} is not in panel {title:?} of dashboard {}: `cargo xtask vocabulary build`",
                board.name()
            );
        }
    }
    Ok(())
}

#[test]
fn dashboards_can_be_provisioned_and_imported() -> Result<()> {
    let mut uids = BTreeSet::new();
    for of in Board::ALL {
        let dashboard = board(of)?;
        ensure!(uids.insert(dashboard["uid"].to_string()), "{}: its UID is another's", of.name());
        ensure!(
            dashboard["uid"].as_str().is_some_and(|uid| (1..=40).contains(&uid.len())),
            "Grafana takes UIDs of up to 40"
        );
        // A fixed id would overwrite whatever has it.
        ensure!(dashboard["id"].is_null(), "{}: an id of its own belongs to one Grafana alone", of.name());
        let variables: Vec<_> = dashboard["templating"]["list"].as_array().context("variables")?.iter().collect();
        ensure!(variables[0]["type"] == "datasource" && variables[0]["name"] == "datasource", "{}", of.name());
        let mut ids = BTreeSet::new();
        let mut taken: BTreeSet<(u64, u64)> = BTreeSet::new();
        for panel in dashboard["panels"].as_array().context("panels")? {
            ensure!(ids.insert(panel["id"].as_u64()), "{}: panel id {} twice", of.name(), panel["id"]);
            let at = |key: &str| panel["gridPos"][key].as_u64().context("a panel has a place");
            let (x, y, w, h) = (at("x")?, at("y")?, at("w")?, at("h")?);
            ensure!(x + w <= 24, "{}: {} leaves the grid", of.name(), panel["title"]);
            for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
                ensure!(taken.insert(cell), "{}: {} covers another panel", of.name(), panel["title"]);
            }
            if panel["type"] == "row" {
                continue;
            }
            ensure!(
                panel["datasource"]["uid"] == "${datasource}",
                "{}: {} has a data source of its own",
                of.name(),
                panel["title"]
            );
            let references: BTreeSet<_> =
                panel["targets"].as_array().context("targets")?.iter().map(|t| t["refId"].to_string()).collect();
            ensure!(
                Some(references.len()) == panel["targets"].as_array().map(Vec::len),
                "{}: a refId twice",
                panel["title"]
            );
            // What a query asks for must be among the variables.
            for variable in ["instance", "collector", "host"] {
                let is_used = panel["targets"].to_string().contains(&format!("${variable}"));
                let is_there = variables.iter().any(|known| known["name"] == variable);
                ensure!(!is_used || is_there, "{}: {} uses ${variable}", of.name(), panel["title"]);
            }
        }
    }
    Ok(())
}

#[test]
fn rules_are_valid_say_what_their_test_says_and_ask_for_metrics_that_exist() -> Result<()> {
    let folder = format!("{DEPLOY}/prometheus");
    promtool(&folder, &["check", "rules", "railwatch.rules.yml"])?;
    promtool(&folder, &["test", "rules", "railwatch.rules.test.yml"])?;
    let known = expected();
    let text = std::fs::read_to_string(format!("{folder}/railwatch.rules.yml"))?;
    for name in named(&text) {
        ensure!(metric(&name, &known).is_some(), "a rule asks for {name}, which is not in the vocabulary");
    }
    for page in text.split(|c: char| c.is_whitespace()).filter(|word| word.starts_with("docs/")) {
        let page = page.trim_end_matches([',', '.']);
        ensure!(Path::new(DEPLOY).join("..").join(page).exists(), "a rule points at {page}, which is not there");
    }
    Ok(())
}
