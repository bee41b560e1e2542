//! Settings grammar.
