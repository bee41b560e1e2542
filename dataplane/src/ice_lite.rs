//! Placeholder for ice_lite.
