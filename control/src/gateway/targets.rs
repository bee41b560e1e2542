//! The addresses of a name, tried one after the other (RFC 3263 section 4.3).

use std::collections::VecDeque;

use crate::sip::dialog::Target;

/// Addresses of one name: the one in use, and those not tried yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Targets {
    current: Option<Target>,
    left: VecDeque<Target>,
}

impl Targets {
    /// Addresses in their order, but `preferred` first when it is among them: what served before is likely to serve again, and
    /// another may take half a minute to be found silent.
    pub(super) fn new(found: impl IntoIterator<Item = Target>, preferred: Option<Target>) -> Self {
        let mut left: VecDeque<Target> = found.into_iter().collect();
        if let Some(at) = left.iter().position(|target| Some(*target) == preferred)
            && let Some(first) = left.remove(at)
        {
            left.push_front(first);
        }
        Targets { current: left.pop_front(), left }
    }

    /// The address in use.
    pub(super) const fn current(&self) -> Option<Target> {
        self.current
    }

    /// How many were not tried yet.
    pub(super) fn left(&self) -> usize {
        self.left.len()
    }

    /// The address in use failed: gives the next, which is in use from now on. `None`, and no change, when all were tried.
    pub(super) fn advance(&mut self) -> Option<Target> {
        let next = self.left.pop_front()?;
        self.current = Some(next);
        self.current
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::Transport;

    fn target(last: u8) -> Target {
        Target { transport: Transport::Udp, remote: ([192, 0, 2, last], 5060).into(), flow: None }
    }

    #[test]
    fn the_preferred_address_comes_first_and_the_others_keep_their_order() {
        let mut targets = Targets::new([1, 2, 3].map(target), Some(target(2)));
        assert_eq!(targets.current(), Some(target(2)));
        assert_eq!(targets.advance(), Some(target(1)));
        assert_eq!(targets.advance(), Some(target(3)));
        assert_eq!((targets.advance(), targets.current()), (None, Some(target(3))));
        assert_eq!(Targets::new([1, 2].map(target), Some(target(9))).current(), Some(target(1)));
        assert_eq!(Targets::default().current(), None);
    }
}
