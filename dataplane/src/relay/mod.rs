//! Placeholder for relay.
