//! otlp: being filled.
