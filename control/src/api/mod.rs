//! Placeholder for api.
