//! A release that fits the one before it and cannot start: it says the layout, and ends before it serves, or hangs when its file is
//! called `hangs`.

use std::{env, process::ExitCode};

use gangway_dataplane::keeper::process::layout;

fn main() -> ExitCode {
    if env::args().any(|argument| argument == "--layout") {
        println!("{}", layout());
        return ExitCode::SUCCESS;
    }
    while env::current_exe().is_ok_and(|path| path.ends_with("hangs")) {
        std::thread::park();
    }
    ExitCode::FAILURE
}
