//! Services: nodes tell each other their addresses for clients, for the answers to `peers-…` and `services`.
//!
//! Fields: 0 op u32, 1 generation u32, and texts like `host:port,…`: 2 services, 3 alternate services, 4 clear, 5 TLS,
//! 6 clear alternate, 7 TLS alternate; 8 TLS name. Channel: control. An ack has only 0 and 1.

use super::fields::{Fields, MessageType, PeerError, Value, Writer, text};

/// Ids of the text fields.
const TEXT_FIELDS: std::ops::RangeInclusive<u16> = 2..=8;

/// A services message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Services {
    pub kind: ServicesKind,
    /// Number of changes of the sender's addresses; an ack repeats it.
    pub generation: u32,
    /// Field ids and texts, ascending.
    pub texts: Vec<(u16, Vec<u8>)>,
}

/// The purpose of a services message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum ServicesKind {
    Update = 0,
    Ack = 1,
    /// An update that also asks for the receiver's addresses.
    UpdateRequest = 2,
}

impl Services {
    /// The text of field `id`.
    #[must_use]
    pub fn text(&self, id: u16) -> Option<&[u8]> {
        self.texts.iter().find(|(field, _)| *field == id).map(|(_, text)| text.as_slice())
    }

    /// Reads a whole message.
    ///
    /// # Errors
    /// When it is no services message, or incomplete.
    pub fn decode(message: &[u8]) -> Result<Self, PeerError> {
        let (mut op, mut generation, mut texts) = (None, None, Vec::<(u16, Vec<u8>)>::new());
        for field in Fields::of(message, MessageType::Services)? {
            match field? {
                (0, Value::U32(number)) => op = Some(number),
                (1, Value::U32(number)) => generation = Some(number),
                (id, Value::Text(bytes)) if TEXT_FIELDS.contains(&id) => {
                    let bytes = text(id, bytes)?.to_vec();
                    texts.retain(|(field, _)| *field != id);
                    texts.push((id, bytes));
                }
                _ => {}
            }
        }
        texts.sort_unstable();
        let kind = match op {
            Some(0) => ServicesKind::Update,
            Some(1) => ServicesKind::Ack,
            Some(2) => ServicesKind::UpdateRequest,
            _ => return Err(PeerError::Unknown),
        };
        Ok(Services { kind, generation: generation.ok_or(PeerError::Missing(1))?, texts })
    }

    /// Appends the message.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut writer = Writer::new(out, MessageType::Services);
        writer.u32(0, self.kind as u32);
        writer.u32(1, self.generation);
        for (id, text) in &self.texts {
            writer.text(*id, text);
        }
        writer.finish();
    }
}
