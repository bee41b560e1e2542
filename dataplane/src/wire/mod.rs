//! Placeholder for wire.
