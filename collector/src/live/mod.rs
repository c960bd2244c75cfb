//! Live state: what every host says of itself right now. Being filled; [`rows`] is the contract.
pub mod rows;
