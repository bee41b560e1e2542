//! Placeholder for supervisor.
