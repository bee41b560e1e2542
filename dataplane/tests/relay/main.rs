//! The relay core from outside: peers without a network, in virtual time.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the message")]

mod allocation;
mod alone;
mod congestion;
mod dtmf;
mod feedback;
mod fill;
mod handshake;
mod keyframe;
mod parameters;
mod phone;
mod recovery;
mod repair;
mod simulation;
mod steps;
mod sync;
mod walk;
mod world;
