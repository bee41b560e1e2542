//! Placeholder for transform.
