//! The connections of a service thread, in slots that are reused.

use super::connection::Connection;
use super::delivery::ConnectionToken;

/// A slot for a connection. `generation` distinguishes a connection from earlier ones in the same slot.
struct Slot {
    generation: u32,
    connection: Option<Connection>,
}

/// Connections by their slots.
#[derive(Default)]
pub(super) struct Connections {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

impl Connections {
    /// The token that the next connection will have.
    pub(super) fn next_token(&mut self) -> ConnectionToken {
        let at = match self.free.last() {
            Some(&at) => at,
            None => {
                let at = self.slots.len() as u32;
                self.slots.push(Slot { generation: 0, connection: None });
                self.free.push(at);
                at
            }
        };
        token_of(self.slots[at as usize].generation, at)
    }

    /// Adds the connection for which [`next_token`](Self::next_token) was called.
    pub(super) fn add(&mut self, connection: Connection) {
        self.next_token();
        if let Some(at) = self.free.pop() {
            self.slots[at as usize].connection = Some(connection);
        }
    }

    /// Number of slots, taken or free.
    pub(super) fn slot_count(&self) -> u32 {
        self.slots.len() as u32
    }

    /// The slot of the live connection of `token`.
    #[inline]
    pub(super) fn slot_of(&self, token: ConnectionToken) -> Option<u32> {
        let at = token.0 as u32;
        let slot = self.slots.get(at as usize)?;
        (token_of(slot.generation, at) == token && slot.connection.is_some()).then_some(at)
    }

    /// The token of the live connection in a slot.
    #[inline]
    pub(super) fn token(&self, slot: u32) -> Option<ConnectionToken> {
        let Slot { generation, connection } = self.slots.get(slot as usize)?;
        connection.is_some().then(|| token_of(*generation, slot))
    }

    /// The connection in a slot.
    #[inline]
    pub(super) fn get(&mut self, slot: u32) -> Option<&mut Connection> {
        self.slots.get_mut(slot as usize)?.connection.as_mut()
    }

    /// Removes the connection of a slot, if there is one. Later mail to its token is dropped.
    pub(super) fn remove(&mut self, slot: u32) -> Option<Connection> {
        let at = slot as usize;
        let connection = self.slots.get_mut(at)?.connection.take()?;
        self.slots[at].generation = self.slots[at].generation.wrapping_add(1);
        self.free.push(slot);
        Some(connection)
    }
}

fn token_of(generation: u32, at: u32) -> ConnectionToken {
    ConnectionToken(u64::from(generation) << 32 | u64::from(at))
}
