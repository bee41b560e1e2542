//! Placeholder for manager.
