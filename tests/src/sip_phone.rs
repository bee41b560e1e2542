//! What the tests of the pages ask of a SIP phone, whichever program it is.

use std::{fmt, time::Duration};

use crate::deadline::Deadline;

/// A SIP phone that sends [`SipPhone::TONE_HZ`] and, if it was started so, pictures.
pub trait SipPhone {
    /// Its number at the registrar.
    const NUMBER: &'static str;
    /// Frequency that it sends, Hz.
    const TONE_HZ: u32 = 660;

    /// Time from one picture of its camera to the next when a call begins.
    const PICTURE_EVERY: Duration;

    /// Calls a number at its registrar.
    fn dial(&mut self, number: &str);

    /// Ends the call.
    fn hangup(&mut self);

    /// Waits until a call of it is established and its media runs.
    fn wait_established(&mut self, deadline: Deadline);

    /// Waits for the end of its call.
    fn wait_closed(&mut self, deadline: Deadline);

    /// Waits until it has heard `hz` for at least `length` in one call.
    fn wait_heard(&self, hz: f64, length: Duration, deadline: Deadline);

    /// Waits until it decodes the next picture and hands that back.
    fn wait_picture(&mut self, deadline: Deadline) -> Picture;
}

/// A picture that a phone decoded, as it wrote it: PNG or JPEG.
#[derive(Clone, PartialEq, Eq)]
pub struct Picture(pub Vec<u8>);

impl Picture {
    /// Width and height of a PNG, pixels: the first fields of IHDR, its first chunk. `None` of anything else.
    pub fn size(&self) -> Option<(u32, u32)> {
        let field = |at: usize| Some(u32::from_be_bytes(self.0.get(at..at + 4)?.try_into().ok()?));
        (self.0.get(12..16)? == b"IHDR").then_some(())?;
        Some((field(16)?, field(20)?))
    }

    /// Whether it is wider than 3:2, as 16:9 is and 4:3 is not. A browser that is short of processor or bit rate sends a picture
    /// smaller than it was captured, but never of another shape.
    ///
    /// # Panics
    /// When it is no PNG.
    pub fn is_wide(&self) -> bool {
        let (width, height) = self.size().expect("the phone writes PNG");
        width * 2 > height * 3
    }
}

impl fmt::Debug for Picture {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "a picture of {} bytes, {:?}", self.0.len(), self.size())
    }
}
