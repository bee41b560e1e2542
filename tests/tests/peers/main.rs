//! The lane `peers`: real binaries of Gangway against real SIP peers. docs/TESTING.md maps check numbers to test names.

mod harness;
