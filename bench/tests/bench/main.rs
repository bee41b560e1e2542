//! The benches, small, on Gangway and where it is installed on Janus: that they work, that they notice what they should notice. Their
//! figures are not looked at.

mod attacks;
mod smoke;
