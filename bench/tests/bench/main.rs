//! The benches on Gangway alone, small: that they work, that they notice what they should notice. Their figures are not looked at.

mod attacks;
mod smoke;
