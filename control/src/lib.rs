//! Gangway's signalling house.
//!
//! SIP, websocket, REST and SDP; it programs the dataplane and never touches a packet of media.

pub mod api;
pub mod config;
pub mod demo;
pub mod fairness;
pub mod gateway;
pub mod house;
pub mod hub;
pub mod journal;
pub mod lock;
pub mod metrics;
pub mod relay_client;
pub mod sdp;
pub mod seal;
pub mod sip;
pub mod supervisor;
pub mod tracked;
pub mod transport;
