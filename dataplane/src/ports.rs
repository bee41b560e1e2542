//! Placeholder for ports.
