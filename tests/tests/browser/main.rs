//! The lane `browser`: Chromium and Firefox with the vendor's SDK, its unmodified example pages and our own pages.
//! docs/TESTING.md maps check numbers to test names.

mod demo;
mod echo;
mod firefox;
mod look;
mod ours;
mod page;
mod phone_ui;
mod pictures;
mod repair;
mod restart;
mod scene;
mod scripted;
mod sdk;
mod switching;
mod vendor;
mod video;
mod voice;
