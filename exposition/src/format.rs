//! The two text formats of Prometheus, and which one a scraper asks for.
//!
//! OpenMetrics 1.0 is what the client library writes. The older format 0.0.4 (docs/instrumenting/exposition_formats.md
//! of Prometheus) is derived from it line by line: a counter's metadata carries the sample's name (`_total`), units,
//! exemplars and the end mark do not exist there.

use prometheus_client::{encoding::text, registry::Registry};
use std::fmt::{self, Write};

/// A text format of Prometheus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// The older text format, 0.0.4: what everything understands.
    Text,
}

impl Format {
    /// The format that an `Accept` header asks for; the older one when it names none of the two, or refuses both.
    ///
    /// Of two named ones the greater `q` wins (RFC 9110, section 12.5.1), and OpenMetrics where they are equal.
    pub fn negotiate(accept: Option<&str>) -> Self {
        let (mut open_metrics, mut older) = (0.0_f32, 0.0_f32);
        for range in accept.unwrap_or_default().split(',') {
            let mut parts = range.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default();
            let mut weight = 1.0_f32;
            let mut known = true;
            for (key, value) in parts.filter_map(|part| part.split_once('=')) {
                let value = value.trim().trim_matches('"');
                match key.trim() {
                    "q" => weight = value.parse().unwrap_or(0.0),
                    "version" if kind == "application/openmetrics-text" => known = matches!(value, "1.0.0" | "0.0.1"),
                    "version" => known = value == "0.0.4",
                    _ => {}
                }
            }
            match kind {
                "application/openmetrics-text" if known => open_metrics = weight.max(open_metrics),
                "text/plain" | "text/*" | "*/*" if known => older = weight.max(older),
                _ => {}
            }
        }
        if open_metrics > 0.0 && open_metrics >= older { Self::OpenMetrics } else { Self::Text }
    }

    /// The `Content-Type` of an answer in this format.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// Every metric of `registry` in this format.
    pub fn encode(self, registry: &Registry) -> Result<String, fmt::Error> {
        let mut open_metrics = String::new();
        text::encode(&mut open_metrics, registry)?;
        match self {
            Self::OpenMetrics => Ok(open_metrics),
            Self::Text => older(&open_metrics),
        }
    }
}

/// The older format of a page in OpenMetrics.
fn older(page: &str) -> Result<String, fmt::Error> {
    let mut out = String::with_capacity(page.len());
    let mut lines = page.lines().peekable();
    while let Some(line) = lines.next() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (family, help) = rest.split_once(' ').unwrap_or((rest, ""));
            // The type follows the help in the client library's output, and it decides both names.
            let kind = lines
                .next_if(|next| next.starts_with("# TYPE "))
                .and_then(|next| next.rsplit_once(' '))
                .map_or("unknown", |(_, kind)| kind);
            let (suffix, kind) = match kind {
                "counter" => ("_total", "counter"),
                "info" => ("_info", "gauge"),
                "unknown" => ("", "untyped"),
                other => ("", other),
            };
            writeln!(out, "# HELP {family}{suffix} {help}\n# TYPE {family}{suffix} {kind}")?;
        } else if !line.starts_with('#') {
            writeln!(out, "{}", without_exemplar(line))?;
        }
    }
    Ok(out)
}

/// A sample line up to its exemplar, which begins with ` # ` outside the quotes of a label value.
fn without_exemplar(line: &str) -> &str {
    let (mut quoted, mut escaped) = (false, false);
    for (at, byte) in line.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'#' if !quoted => return line[..at].trim_end(),
            _ => {}
        }
    }
    line
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use super::Format;
    use prometheus_client::{
        metrics::{counter::Counter, family::Family, gauge::Gauge, info::Info},
        registry::{Registry, Unit},
    };

    #[test]
    fn a_scraper_gets_the_format_it_asks_for() {
        let prometheus_2_42 = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        for (accept, expected) in [
            (None, Format::Text),
            (Some(""), Format::Text),
            (Some("*/*"), Format::Text),
            (Some("text/plain"), Format::Text),
            (Some("application/json"), Format::Text),
            (Some("application/openmetrics-text"), Format::OpenMetrics),
            (Some("application/openmetrics-text; version=1.0.0; charset=utf-8"), Format::OpenMetrics),
            (Some("application/openmetrics-text; version=7.0.0, text/plain"), Format::Text),
            (Some("application/openmetrics-text;q=0"), Format::Text),
            (Some("text/plain;q=0.9, application/openmetrics-text;q=0.2"), Format::Text),
            (Some(prometheus_2_42), Format::OpenMetrics),
        ] {
            assert_eq!(Format::negotiate(accept), expected, "{accept:?}");
        }
    }

    fn registry() -> Registry {
        let mut registry = Registry::with_prefix("railwatch");
        let frames = Family::<Vec<(String, String)>, Counter>::default();
        frames.get_or_create(&vec![("host".into(), "a \"#\" b".into())]).inc_by(3);
        registry.register("frames", "Frames taken", frames);
        let age: Gauge = Gauge::default();
        registry.register_with_unit("age", "How old", Unit::Seconds, age);
        registry.register("build", "What runs", Info::new(vec![("version", "1")]));
        registry
    }

    #[test]
    fn the_older_format_names_counters_by_their_samples_and_has_no_end_mark() {
        let page = Format::Text.encode(&registry()).unwrap();
        assert_eq!(
            page,
            "# HELP railwatch_frames_total Frames taken.\n# TYPE railwatch_frames_total counter\n\
             railwatch_frames_total{host=\"a \\\"#\\\" b\"} 3\n\
             # HELP railwatch_age_seconds How old.\n# TYPE railwatch_age_seconds gauge\n\
             railwatch_age_seconds 0\n\
             # HELP railwatch_build_info What runs.\n# TYPE railwatch_build_info gauge\n\
             railwatch_build_info{version=\"1\"} 1\n"
        );
    }

    #[test]
    fn open_metrics_ends_with_its_end_mark() {
        let page = Format::OpenMetrics.encode(&registry()).unwrap();
        assert!(page.contains("# TYPE railwatch_frames counter\n"), "{page}");
        assert!(page.ends_with("# EOF\n"), "{page}");
    }

    #[test]
    fn an_exemplar_leaves_the_line_and_a_hash_in_a_label_stays() {
        for (line, expected) in [
            ("a_bucket{le=\"1\"} 3 # {trace=\"x\"} 0.5", "a_bucket{le=\"1\"} 3"),
            ("a{b=\"#\"} 1", "a{b=\"#\"} 1"),
            ("a{b=\"\\\" # \"} 1", "a{b=\"\\\" # \"} 1"),
        ] {
            assert_eq!(super::without_exemplar(line), expected);
        }
    }
}
