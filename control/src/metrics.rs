//! Placeholder for metrics.
