//! Gangway's packet house.
//!
//! Pinned workers forward, decrypt, encrypt and repair media; nobody is needed to keep them going.

pub mod affinity;
pub mod arena;
pub mod config;
pub mod dtls;
pub mod engine;
pub mod events;
pub mod ice_lite;
pub mod mailbox;
pub mod manager;
pub mod ports;
pub mod registry;
pub mod relay;
pub mod srtp;
pub mod stats;
pub mod transform;
pub mod wire;
pub mod worker;
