//! The benches, small, on Gangway and where it is installed on Janus and rtpengine: that they work, that they notice what they should
//! notice. Their figures are not looked at.

use std::{cell::Cell, thread};

use gangway_dataplane::engine::choice::{Wanted, choose};

mod attacks;
mod smoke;

thread_local! {
    static ENGINE: Cell<Option<&'static str>> = const { Cell::new(None) };
}

/// Runs a test whose dataplanes use this engine.
fn on_engine(engine: &'static str, test: impl FnOnce()) {
    ENGINE.set(Some(engine));
    test();
}

/// The engine of the dataplanes of this test: the ring where this machine has one, unless the test says another.
fn engine() -> &'static str {
    // By a thread of its own: the end of a ring interrupts what the thread that had it waits for.
    let has_ring = || thread::spawn(|| choose(Wanted::Uring).is_ok()).join().expect("looking does not panic");
    ENGINE.get().unwrap_or_else(|| if has_ring() { "uring" } else { "epoll" })
}

/// Runs tests of the module above on epoll too: without that they use the ring, where there is one.
macro_rules! also_on_epoll {
    ($($test:ident),+ $(,)?) => {
        mod on_epoll {
            $(#[test] fn $test() { $crate::on_engine("epoll", super::$test); })+
        }
    };
}
use also_on_epoll;
