//! Placeholder for sip.
