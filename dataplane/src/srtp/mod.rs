//! Placeholder for srtp.
