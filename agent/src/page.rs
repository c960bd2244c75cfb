//! A page of metrics as data: families of samples, encoded at each scrape.
//!
//! Nothing is registered beforehand, so that a series leaves the page with the object it was about.

use prometheus_client::encoding::{DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::Unit;
use std::borrow::Cow;
use std::fmt;

/// Labels of a sample.
pub type Labels = Vec<(Cow<'static, str>, String)>;

/// Labels with names known here.
pub fn labels<const N: usize>(pairs: [(&'static str, &str); N]) -> Labels {
    pairs.into_iter().map(|(key, value)| (Cow::Borrowed(key), value.to_owned())).collect()
}

/// One metric with all its samples.
pub struct Family {
    name: String,
    help: String,
    unit: Option<Unit>,
    is_counter: bool,
    samples: Vec<(Labels, Number)>,
}

/// A value, exact where it is a count.
#[derive(Clone, Copy)]
pub enum Number {
    /// A whole number.
    Whole(u64),
    /// Any other.
    Real(f64),
}

impl From<u64> for Number {
    fn from(value: u64) -> Self {
        Self::Whole(value)
    }
}

impl From<f64> for Number {
    fn from(value: f64) -> Self {
        Self::Real(value)
    }
}

impl From<bool> for Number {
    fn from(value: bool) -> Self {
        Self::Whole(value.into())
    }
}

/// A page being filled.
#[derive(Default)]
pub struct Page(Vec<Family>);

impl Page {
    /// A metric that only grows; its samples are called `NAME_UNIT_total`.
    pub fn counter<V: Into<Number>>(
        &mut self,
        name: impl Into<String>,
        help: impl Into<String>,
        unit: Option<Unit>,
        samples: impl IntoIterator<Item = (Labels, V)>,
    ) {
        self.add(name.into(), help.into(), unit, true, samples);
    }

    /// A metric that goes up and down.
    pub fn gauge<V: Into<Number>>(
        &mut self,
        name: impl Into<String>,
        help: impl Into<String>,
        unit: Option<Unit>,
        samples: impl IntoIterator<Item = (Labels, V)>,
    ) {
        self.add(name.into(), help.into(), unit, false, samples);
    }

    fn add<V: Into<Number>>(
        &mut self,
        name: String,
        help: String,
        unit: Option<Unit>,
        is_counter: bool,
        samples: impl IntoIterator<Item = (Labels, V)>,
    ) {
        let samples: Vec<_> = samples.into_iter().map(|(labels, value)| (labels, value.into())).collect();
        if !samples.is_empty() {
            self.0.push(Family { name, help, unit, is_counter, samples });
        }
    }

    /// Writes every family.
    pub fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for Family { name, help, unit, is_counter, samples } in &self.0 {
            let kind = if *is_counter { MetricType::Counter } else { MetricType::Gauge };
            let mut family = encoder.encode_descriptor(name, help, unit.as_ref(), kind)?;
            for (labels, value) in samples {
                let mut metric = family.encode_family(labels)?;
                if *is_counter {
                    metric.encode_counter(value, None::<&Exemplar<Labels, f64>>)?;
                } else {
                    metric.encode_gauge(value)?;
                }
            }
        }
        Ok(())
    }
}

impl EncodeCounterValue for Number {
    fn encode(&self, encoder: &mut prometheus_client::encoding::CounterValueEncoder<'_>) -> fmt::Result {
        match self {
            Self::Whole(value) => EncodeCounterValue::encode(value, encoder),
            Self::Real(value) => EncodeCounterValue::encode(value, encoder),
        }
    }
}

impl EncodeGaugeValue for Number {
    fn encode(&self, encoder: &mut prometheus_client::encoding::GaugeValueEncoder<'_>) -> fmt::Result {
        match self {
            Self::Whole(value) => EncodeGaugeValue::encode(value, encoder),
            Self::Real(value) => EncodeGaugeValue::encode(value, encoder),
        }
    }
}
