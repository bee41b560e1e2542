//! Who reads a system's statistics while it is measured, as what watches it in operation does.

use std::{
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    thread,
    time::Duration,
};

use crate::systems::Watcher;

/// Statistics are read so often.
const EVERY: Duration = Duration::from_secs(1);

enum Order {
    Begin,
    End,
}

/// A thread that reads in turns with everybody, on the generator's core. Dropping it lets the thread end.
pub(super) struct Watch {
    orders: Sender<Order>,
    thread: thread::JoinHandle<(u64, u64)>,
}

impl Watch {
    pub(super) fn start(watcher: Watcher) -> Self {
        let (orders, receiver) = channel();
        Watch { orders, thread: thread::spawn(move || watch(watcher, &receiver)) }
    }

    /// From now on: once, and then once a second.
    pub(super) fn begin(&self) {
        self.orders.send(Order::Begin).expect("it listens until it is stopped");
    }

    /// No more.
    pub(super) fn end(&self) {
        self.orders.send(Order::End).expect("it listens until it is stopped");
    }

    /// How often they were read, and how often that failed.
    pub(super) fn stop(self) -> (u64, u64) {
        drop(self.orders);
        self.thread.join().expect("a watcher does not panic")
    }
}

fn watch(mut watcher: Watcher, orders: &Receiver<Order>) -> (u64, u64) {
    let (mut reads, mut failed, mut is_due) = (0, 0, false);
    loop {
        if is_due {
            match watcher() {
                Ok(()) => reads += 1,
                Err(_) => failed += 1,
            }
        }
        let order = if is_due { orders.recv_timeout(EVERY) } else { orders.recv().map_err(RecvTimeoutError::from) };
        is_due = match order {
            Ok(Order::Begin) | Err(RecvTimeoutError::Timeout) => true,
            Ok(Order::End) => false,
            Err(RecvTimeoutError::Disconnected) => return (reads, failed),
        };
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn a_watcher_reads_between_begin_and_end_and_counts_what_fails() {
        let (told, heard) = channel();
        let watch = Watch::start(Box::new(move || told.send(()).map_err(io::Error::other)));
        assert!(heard.try_recv().is_err(), "not before it is told to");
        watch.begin();
        heard.recv().unwrap();
        watch.end();
        assert_eq!(watch.stop(), (1, 0));
        let watch = Watch::start(Box::new(|| Err(io::Error::other("gone"))));
        watch.begin();
        watch.end();
        assert_eq!(watch.stop(), (0, 1));
    }
}
