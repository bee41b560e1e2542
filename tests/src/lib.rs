//! Gangway's tests: the harness that runs real binaries, real SIP peers and a real browser, and what the tests of several
//! crates share. Nothing of it ships.

pub mod baresip;
pub mod browser;
pub mod browser_leg;
pub mod dataplane;
pub mod deadline;
pub mod fuzz;
pub mod g711;
pub mod gateway;
pub mod h264;
pub mod impairment;
pub mod kamailio;
pub mod kept;
pub mod linphone;
pub mod media;
pub mod namespace;
pub mod phone;
pub mod process;
pub mod recorder;
pub mod sip_phone;
pub mod sipp;
pub mod socket;
pub mod source;
pub mod stream_peer;
pub mod tone;
pub mod trunk;
