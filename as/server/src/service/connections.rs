//! The connections of a service thread, each at a place that others get after it.

use super::connection::Connection;
use super::mailbox::ConnectionToken;

/// A place for a connection. `generation` tells a connection from earlier ones at the same place.
struct Slot {
    generation: u32,
    connection: Option<Connection>,
}

/// Connections by their places.
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

    /// Adds the connection that [`next_token`](Self::next_token) was asked for.
    pub(super) fn add(&mut self, connection: Connection) {
        self.next_token();
        if let Some(at) = self.free.pop() {
            self.slots[at as usize].connection = Some(connection);
        }
    }

    /// Number of places, taken or free.
    pub(super) fn place_count(&self) -> u32 {
        self.slots.len() as u32
    }

    /// The place of the live connection of `token`.
    pub(super) fn place_of(&self, token: ConnectionToken) -> Option<u32> {
        let at = token.0 as u32;
        let slot = self.slots.get(at as usize)?;
        (token_of(slot.generation, at) == token && slot.connection.is_some()).then_some(at)
    }

    /// The connection at a place.
    pub(super) fn at(&mut self, at: u32) -> Option<&mut Connection> {
        self.slots.get_mut(at as usize)?.connection.as_mut()
    }

    /// Takes the connection of a place out, to be [put back](Self::put_back).
    pub(super) fn take(&mut self, at: u32) -> Option<(ConnectionToken, Connection)> {
        let slot = self.slots.get_mut(at as usize)?;
        let connection = slot.connection.take()?;
        Some((token_of(slot.generation, at), connection))
    }

    pub(super) fn put_back(&mut self, at: u32, connection: Connection) {
        self.slots[at as usize].connection = Some(connection);
    }

    /// Removes the connection of a place, if there is one. What was addressed to it finds nobody.
    pub(super) fn remove(&mut self, at: u32) -> Option<Connection> {
        let slot = &mut self.slots[at as usize];
        let connection = slot.connection.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(at);
        Some(connection)
    }
}

fn token_of(generation: u32, at: u32) -> ConnectionToken {
    ConnectionToken(u64::from(generation) << 32 | u64::from(at))
}
