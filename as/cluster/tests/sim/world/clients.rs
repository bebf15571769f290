//! Clients in a run: they send requests at their times and learn from the answers.

use super::{Item, REQUEST_MS, World};
use crate::network::{Choice, Message};
use crate::store::{Answer, RecordMessage, Token};

impl World {
    pub(super) fn client_turn(&mut self, client: usize) {
        let time_ms = self.time_ms;
        let state = &mut self.clients[client];
        if let Some(token) = state.token {
            if state.deadline_ms <= time_ms {
                state.token = None;
                state.is_certain = false;
                state.favourite = self.random.below(self.hosts.len() as u64) as usize;
                self.figures.in_doubt += 1;
                self.schedule(1, Item::Client { client });
                return;
            }
            let (key, to) = (state.key, state.favourite);
            let from = self.client_place(client);
            self.send(from, to, Message::Record(RecordMessage::Request { client, token, key }));
            self.schedule(REQUEST_MS / 4, Item::Client { client });
            return;
        }
        if self.clients_rest {
            self.schedule(100, Item::Client { client });
            return;
        }
        state.token = Some(state.next_token);
        state.next_token += 1;
        state.deadline_ms = time_ms + REQUEST_MS;
        state.hops = 0;
        self.client_turn(client);
    }

    pub(super) fn reply(&mut self, client: usize, token: Token, answer: Answer) {
        if self.clients[client].token != Some(token) {
            return;
        }
        match answer {
            Answer::Done => {
                self.print(|| format!("key {client}: client has {token}"));
                let state = &mut self.clients[client];
                state.token = None;
                state.acknowledged.push(token);
                state.is_certain = true;
            }
            Answer::Elsewhere(node) => {
                let place = self.place_of(node).unwrap();
                let state = &mut self.clients[client];
                state.hops += 1;
                state.favourite = place;
                if state.hops < 20 {
                    let (key, from) = (state.key, self.client_place(client));
                    self.send(from, place, Message::Record(RecordMessage::Request { client, token, key }));
                }
            }
            Answer::Unavailable => {
                self.clients[client].favourite = self.random.below(self.hosts.len() as u64) as usize;
            }
            // The next repetition of the request may find out.
            Answer::InDoubt => {}
        }
    }
}
