//! Placeholder for engine.
