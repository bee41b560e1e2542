//! Bounded mailboxes between the manager and the workers, one each way per worker.
//!
//! A full mailbox is an ordinary outcome that the sender handles; nothing blocks and nothing grows.

use std::sync::Arc;

use crossbeam::queue::ArrayQueue;

use crate::engine::Wake;

/// The sending end.
pub struct Sender<T> {
    queue: Arc<ArrayQueue<T>>,
    wake: Arc<dyn Wake>,
}

/// The receiving end.
pub struct Receiver<T> {
    queue: Arc<ArrayQueue<T>>,
}

/// Makes a mailbox of `capacity` messages; `wake` tells its reader that there is one.
#[must_use]
pub fn mailbox<T>(capacity: usize, wake: Arc<dyn Wake>) -> (Sender<T>, Receiver<T>) {
    let queue = Arc::new(ArrayQueue::new(capacity));
    (Sender { queue: queue.clone(), wake }, Receiver { queue })
}

impl<T> Sender<T> {
    /// Posts a message and wakes the reader.
    ///
    /// # Errors
    /// The message itself, when the mailbox is full.
    pub fn send(&self, message: T) -> Result<(), T> {
        self.queue.push(message)?;
        self.wake.wake();
        Ok(())
    }
}

impl<T> Receiver<T> {
    /// Takes the oldest message.
    #[must_use]
    pub fn receive(&self) -> Option<T> {
        self.queue.pop()
    }

    /// True when no message waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    struct Counter(AtomicUsize);

    impl Wake for Counter {
        fn wake(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_full_mailbox_gives_the_message_back_and_wakes_nobody() {
        let wakes = Arc::new(Counter(AtomicUsize::new(0)));
        let (sender, receiver) = mailbox(2, wakes.clone());
        assert_eq!([sender.send(1), sender.send(2), sender.send(3)], [Ok(()), Ok(()), Err(3)]);
        assert_eq!(wakes.0.load(Ordering::Relaxed), 2);
        assert_eq!([receiver.receive(), receiver.receive(), receiver.receive()], [Some(1), Some(2), None]);
        assert!(receiver.is_empty());
        assert_eq!(sender.send(4), Ok(()));
    }
}
