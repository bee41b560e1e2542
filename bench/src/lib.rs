//! What the benches share. Each bench compares with a peer or a baseline in the same run and prints the ratio: a figure alone
//! says more about the machine than about us.

#![allow(clippy::disallowed_methods, reason = "measurements read clocks")]

pub mod attack;
pub mod baseline;
pub mod call;
pub mod compare;
pub mod load;
pub mod pipeline;
pub mod process;
pub mod sys;
pub mod systems;
pub mod ticks;
