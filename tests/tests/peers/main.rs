//! The lane `peers`: real binaries of Gangway against real SIP peers. docs/TESTING.md maps check numbers to test names.

mod dtls;
mod engines;
mod failures;
mod fragments;
mod h264;
mod harness;
mod incoming;
mod outgoing;
mod programs;
mod registration;
mod restart;
mod websocket;
