//! Placeholder for sdp.
