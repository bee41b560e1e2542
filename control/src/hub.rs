//! Placeholder for hub.
