//! Placeholder for worker.
