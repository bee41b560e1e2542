//! Placeholder for events.
