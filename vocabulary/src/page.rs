//! docs/metrics.md: the table for people.

use crate::{Label, Panel, Proof, Section, Series, own, series};
use std::fmt::{self, Write};

const HEAD: &str = "# Metrics

Made from `vocabulary/src` by `cargo xtask vocabulary build`; do not edit. Every series that the sources of an agent read, and every
metric that the daemons say of themselves.

A series has one canonical name, which the CLI, the API, signals and the tape use. On the agent's page for Prometheus (port 7703) it has
the prefix `railwatch_`, `_` for `.`, base units and `_total`; its labels are the series' own with `_` for `.`, and `entity`. Over OTLP
(from the collector) it has the name, unit and attributes of OpenTelemetry's semantic conventions where there is one, with
`hw.id` (of a disk `system.device`) for the entity, and the canonical name where there is none; `railwatch.entity.kind` and
`railwatch.entity.name` are always there.

The last column says what sets it in a test: \"whole\" is the test of both daemons against fixtures, a path the test of a crate; anything
else is what it would take, because no test has it. Units are UCUM.

";

/// The whole page.
///
/// # Errors
/// None in practice: writing into a String cannot fail.
pub fn metrics() -> Result<String, fmt::Error> {
    let mut out = HEAD.to_owned();
    writeln!(out, "## Series of the sources\n")?;
    for section in series::ALL {
        of_section(&mut out, section)?;
    }
    writeln!(out, "## Metrics of the daemons themselves\n")?;
    for section in own::ALL {
        writeln!(out, "### {}\n", section.title)?;
        writeln!(out, "| metric | kind | labels | meaning | dashboard | set by |\n|---|---|---|---|---|---|")?;
        for metric in section.metrics {
            let labels: Vec<_> = metric.labels.iter().map(|key| format!("`{key}`")).collect();
            writeln!(
                out,
                "| `{}` | {} | {} | {} | {} | {} |",
                metric.name,
                metric.kind.word(),
                labels.join(", "),
                metric.meaning,
                shown(section.board_of(metric).name(), metric.panel),
                proof(metric.proof)
            )?;
        }
        writeln!(out)?;
    }
    // One newline ends a file.
    out.truncate(out.trim_end().len());
    out.push('\n');
    Ok(out)
}

fn of_section(out: &mut String, section: &Section) -> fmt::Result {
    let Section { title, sources, entities, entity_is, labels, board, series, .. } = section;
    let sources: Vec<_> = sources.iter().map(|source| format!("`{source}`")).collect();
    writeln!(out, "### {title}\n")?;
    writeln!(out, "From {}. About: {} ({entity_is}).{}\n", sources.join(", "), entities.join(", "), of_all(labels))?;
    writeln!(
        out,
        "| series | kind | unit | meaning | Prometheus | OTLP | dashboard | set by |\n|---|---|---|---|---|---|---|---|"
    )?;
    for one in *series {
        let panel = section.panel_of(one);
        let own: Vec<_> = one.more.iter().map(word).collect();
        let by = if own.is_empty() { String::new() } else { format!(" by {}", own.join(", ")) };
        let prometheus = if panel == Panel::No(crate::NoPanel::Process) {
            "not shown".to_owned()
        } else {
            format!("`{}`", one.prometheus_name())
        };
        writeln!(
            out,
            "| `{}`{by} | {} | `{}` | {} | {prometheus} | {} | {} | {} |",
            one.name,
            one.kind.word(),
            one.unit,
            one.meaning,
            otlp(one),
            shown(board.name(), panel),
            proof(section.proof_of(one))
        )?;
    }
    writeln!(out)
}

fn of_all(labels: &[Label]) -> String {
    if labels.is_empty() {
        return String::new();
    }
    let labels: Vec<_> = labels.iter().map(word).collect();
    format!(" Labels of all: {}.", labels.join(", "))
}

fn word(label: &Label) -> String {
    let values = if label.values.is_empty() { String::new() } else { format!(" ({})", label.values.join(", ")) };
    let absent = if label.is_optional { ", where known" } else { "" };
    format!("`{}`{values}{absent}", label.key)
}

fn otlp(series: &Series) -> String {
    let Some(convention) = series.convention else { return "none".to_owned() };
    let attributes: Vec<_> = convention.attributes.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let unit = if convention.unit == series.unit { String::new() } else { format!(" in `{}`", convention.unit) };
    let with = if attributes.is_empty() { String::new() } else { format!(" {{{}}}", attributes.join(", ")) };
    format!("`{}`{with}{unit}", convention.name)
}

fn shown(board: &str, panel: Panel) -> String {
    match panel {
        Panel::Titled(title) => format!("{board}: {title}"),
        Panel::No(why) => why.word().to_owned(),
    }
}

fn proof(proof: Proof) -> String {
    match proof {
        Proof::Whole => "whole".to_owned(),
        Proof::Test(path) => format!("`{path}`"),
        Proof::Needs(what) => format!("needs {what}"),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_page_in_docs_is_the_table() {
        let fresh = super::metrics().expect("writing into a String");
        let kept = include_str!("../../docs/metrics.md");
        assert!(fresh == kept, "docs/metrics.md is stale: run `cargo xtask vocabulary build` and commit the result");
    }
}
