//! What browsers, scripts and operators reach over TCP: websocket signalling, REST, pages, metrics.
//!
//! Owns the listeners and every limit in front of them: connections in all and per address, the TLS handshake's deadline, the time a
//! request's header may take. No logic: what is asked goes to the hub.

mod admission;
mod guard;
mod listener;
mod pages;
mod rest;
pub mod schema;
pub mod socket;
pub mod tls;

pub use admission::Admission;
pub use listener::{Api, ApiError, BoundApi, Surface};
pub use pages::{Demo, PageFacts};
pub use rest::MetricSources;
