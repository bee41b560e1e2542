//! Placeholder for affinity.
