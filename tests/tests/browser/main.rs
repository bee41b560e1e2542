//! The lane `browser`: Chromium with the vendor's SDK, its unmodified example page and our own page.
//! docs/TESTING.md maps check numbers to test names.

mod demo;
mod echo;
mod look;
mod page;
mod scripted;
mod sdk;
mod vendor;
mod video;
mod voice;
