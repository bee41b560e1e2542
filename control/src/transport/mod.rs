//! Placeholder for transport.
