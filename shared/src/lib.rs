//! The words both Gangway programs agree on.
//!
//! Owns the relay control protocol, ids, time, secrets and the grammar of the settings file. It does no I/O, reads no clock,
//! draws no entropy and holds no `unsafe`: whoever owns a socket or a clock passes values in.

#![forbid(unsafe_code)]

pub mod entropy;
pub mod ids;
pub mod rcp;
pub mod secret;
pub mod settings;
pub mod time;
