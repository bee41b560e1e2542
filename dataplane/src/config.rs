//! Placeholder for config.
