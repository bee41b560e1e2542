//! Placeholder for gateway.
