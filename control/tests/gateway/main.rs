//! The call core as its adapters see it: whole calls in virtual time, and the signalling simulation.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod budget;
mod codecs;
mod early;
mod frames;
mod golden;
mod incoming;
mod limits;
mod outgoing;
mod registration;
mod relay;
mod restart;
mod session;
mod simulation;
mod successor;
mod trunks;
mod video;
mod world;
