//! Placeholder for dtls.
