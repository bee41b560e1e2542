//! Bounded mailboxes between the manager and the workers, one each way per worker.
//!
//! A full mailbox is an ordinary outcome that the sender handles; nothing blocks and nothing grows.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use crossbeam::queue::ArrayQueue;

use crate::engine::Wake;

/// The sending end. Dropping it closes the mailbox.
pub struct Sender<T> {
    mailbox: Arc<Mailbox<T>>,
    wake: Arc<dyn Wake>,
}

/// The receiving end.
pub struct Receiver<T> {
    mailbox: Arc<Mailbox<T>>,
}

struct Mailbox<T> {
    queue: ArrayQueue<T>,
    is_closed: AtomicBool,
}

/// Makes a mailbox of `capacity` messages; `wake` tells its reader that there is one.
#[must_use]
pub fn mailbox<T>(capacity: usize, wake: Arc<dyn Wake>) -> (Sender<T>, Receiver<T>) {
    let mailbox = Arc::new(Mailbox { queue: ArrayQueue::new(capacity), is_closed: AtomicBool::new(false) });
    (Sender { mailbox: mailbox.clone(), wake }, Receiver { mailbox })
}

impl<T> Sender<T> {
    /// Whether the next message would find no room. Only this end makes it so.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.mailbox.queue.is_full()
    }

    /// Posts a message and wakes the reader.
    ///
    /// # Errors
    /// The message itself, when the mailbox is full.
    pub fn send(&self, message: T) -> Result<(), T> {
        self.mailbox.queue.push(message)?;
        self.wake.wake();
        Ok(())
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.mailbox.is_closed.store(true, Ordering::Release);
        self.wake.wake();
    }
}

impl<T> Receiver<T> {
    /// Takes the oldest message.
    #[must_use]
    pub fn receive(&self) -> Option<T> {
        self.mailbox.queue.pop()
    }

    /// True when no message waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.mailbox.queue.is_empty()
    }

    /// True when no message will be sent any more. Those sent before may still wait.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.mailbox.is_closed.load(Ordering::Acquire)
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
        assert!(sender.is_full());
        assert_eq!(wakes.0.load(Ordering::Relaxed), 2);
        assert_eq!([receiver.receive(), receiver.receive(), receiver.receive()], [Some(1), Some(2), None]);
        assert!(receiver.is_empty() && !sender.is_full());
        assert_eq!(sender.send(4), Ok(()));
    }

    #[test]
    fn a_full_mailbox_can_be_closed_and_its_reader_is_woken() {
        let wakes = Arc::new(Counter(AtomicUsize::new(0)));
        let (sender, receiver) = mailbox(1, wakes.clone());
        assert_eq!(sender.send(1), Ok(()));
        assert!(!receiver.is_closed());
        drop(sender);
        assert!(receiver.is_closed());
        assert_eq!((wakes.0.load(Ordering::Relaxed), receiver.receive()), (2, Some(1)));
    }
}
