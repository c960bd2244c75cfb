//! What a training job is doing, from outside: its iteration period, its phases, and when it stalls or slows down.
//!
//! In: [`Sample`]s of a host's NIC and disk rates, every 10 to 100 ms, with gaps. Out: the period of the iterations, the
//! [`Phase`] of now, and [`Event`]s: stalled, resumed, drifted. The period is found by autocorrelation of the NIC waveform on a
//! logarithmic scale, updated with each slot and forgotten exponentially: no transform, no window kept beyond the longest lag.
//! Never: a clock, IO, randomness; a stall told before a period was stable, while a disk explains the silence, or over
//! samples that are missing.
//!
//! Cost: one multiply-add per lag and slot (1500 lags of 20 ms by default), and a search over the lags every 50 slots.
//! All of it is in slots: at slots of 1 s everything is 50 times as slow as at 20 ms, and as sure.
#![forbid(unsafe_code)]

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod correlation;
mod detector;
mod levels;

pub use detector::{Config, Detector, Event, Period, Phase, Sample};
