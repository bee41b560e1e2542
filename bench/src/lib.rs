//! What the benches share. Each bench compares with a peer or a baseline in the same run and prints the ratio: a figure alone
//! says more about the machine than about us.

pub mod cpu;
