//! Placeholder for stats.
