//! The dataplane alone: programmed over its socket, with browsers and SIP peers made by the test, all on loopback.

mod faults;
mod kills;
mod media;
mod restart;
mod room;
mod rounds;
mod wall;
