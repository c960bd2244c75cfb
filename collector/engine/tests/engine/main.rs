//! The engine in a world of virtual time: scenarios as data, and histories made at random.

mod any_history;
mod scenarios;
mod world;
