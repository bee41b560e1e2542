//! The call core as its adapters see it: whole calls in virtual time, and the signalling simulation.

mod incoming;
mod outgoing;
mod registration;
mod relay;
mod session;
mod simulation;
mod world;
