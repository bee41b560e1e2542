//! Placeholder for journal.
