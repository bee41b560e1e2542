//! Placeholder for mailbox.
