//! The relay core from outside: peers without a network, in virtual time.

mod allocation;
mod feedback;
mod recovery;
mod simulation;
mod walk;
mod world;
