//! Placeholder for arena.
