//! Who may send: the direction attributes and the table of offer and answer (RFC 3264 section 6.1).

use serde::{Deserialize, Serialize};

/// Who may send, seen from the side that wrote the description (RFC 8866 section 6.7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Direction {
    /// Both ways; also what the absence of an attribute means.
    #[default]
    SendRecv,
    /// The writer only sends.
    SendOnly,
    /// The writer only receives.
    RecvOnly,
    /// Nobody sends.
    Inactive,
}

impl Direction {
    /// All four, for tables and tests.
    pub const ALL: [Direction; 4] =
        [Direction::SendRecv, Direction::SendOnly, Direction::RecvOnly, Direction::Inactive];

    /// The direction with these two freedoms.
    #[must_use]
    pub const fn of(sends: bool, receives: bool) -> Self {
        match (sends, receives) {
            (true, true) => Direction::SendRecv,
            (true, false) => Direction::SendOnly,
            (false, true) => Direction::RecvOnly,
            (false, false) => Direction::Inactive,
        }
    }

    /// Whether the writer sends.
    #[must_use]
    pub const fn sends(self) -> bool {
        matches!(self, Direction::SendRecv | Direction::SendOnly)
    }

    /// Whether the writer receives.
    #[must_use]
    pub const fn receives(self) -> bool {
        matches!(self, Direction::SendRecv | Direction::RecvOnly)
    }

    /// The same state seen from the other side.
    #[must_use]
    pub const fn reversed(self) -> Self {
        Direction::of(self.receives(), self.sends())
    }

    /// The name of its attribute.
    #[must_use]
    pub const fn attribute(self) -> &'static str {
        match self {
            Direction::SendRecv => "sendrecv",
            Direction::SendOnly => "sendonly",
            Direction::RecvOnly => "recvonly",
            Direction::Inactive => "inactive",
        }
    }

    /// Reads the name of an attribute.
    #[must_use]
    pub fn from_attribute(name: &str) -> Option<Self> {
        Direction::ALL.into_iter().find(|direction| direction.attribute().eq_ignore_ascii_case(name))
    }
}

/// The direction of an answer: what the offer allows of what we want (RFC 3264 section 6.1).
#[must_use]
pub const fn answer_direction(offered: Direction, wanted: Direction) -> Direction {
    let allowed = offered.reversed();
    Direction::of(allowed.sends() && wanted.sends(), allowed.receives() && wanted.receives())
}
