//! Relay control protocol.
