//! Placeholder for demo.
