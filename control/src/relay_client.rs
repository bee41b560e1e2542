//! Placeholder for relay_client.
