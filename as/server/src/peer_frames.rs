//! Messages of another node as they come out of a TCP connection: bytes in, whole messages out.
//!
//! What a peer announces sizes nothing: the buffer grows with what has come, and a message that is announced as larger than
//! the limit breaks the connection before any of it is kept.

use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};

use proto::peer::nested::{Address, Endpoint};
use proto::peer::{HEADER_SIZE, MessageHeader, PeerError};

/// Room that there is at least for what comes next.
const ROOM_MIN: usize = 64 << 10;
/// A buffer that grew beyond this for a large message is given back.
const KEEP_SIZE_MAX: usize = 1 << 20;

/// Bytes of a connection that are not taken apart yet.
pub(crate) struct PeerFrames {
    /// Received up to `filled`, room behind.
    bytes: Vec<u8>,
    filled: usize,
    /// Largest message, with its header.
    size_max: usize,
}

impl PeerFrames {
    /// Of a connection on which messages of up to `size_max` bytes may come.
    pub(crate) fn new(size_max: usize) -> Self {
        PeerFrames { bytes: Vec::new(), filled: 0, size_max }
    }

    /// Allows messages of up to `size_max` bytes from now on.
    pub(crate) fn allow(&mut self, size_max: usize) {
        self.size_max = size_max;
    }

    /// Reads what is there, at most as much as there was room for. Returns the number of bytes; 0 when the peer is done.
    ///
    /// # Errors
    /// Those of the connection; `WouldBlock` when nothing is there.
    pub(crate) fn receive(&mut self, stream: &mut impl Read) -> io::Result<usize> {
        if self.bytes.len() - self.filled < ROOM_MIN {
            // Twice what has come: what is copied in all stays within a constant factor of it.
            self.bytes.resize(self.filled + self.filled.max(ROOM_MIN), 0);
        }
        let size = stream.read(&mut self.bytes[self.filled..])?;
        self.filled += size;
        Ok(size)
    }

    /// Gives each whole message that has come to `each`, until that says to stop. What is left waits for its rest.
    ///
    /// # Errors
    /// When a message is announced as too large. Those before it were given.
    pub(crate) fn take_apart(&mut self, mut each: impl FnMut(&[u8]) -> bool) -> Result<(), PeerError> {
        let mut at = 0;
        let mut goes_on = true;
        while goes_on {
            let rest = &self.bytes[at..self.filled];
            let Some(header) = MessageHeader::parse(rest)? else { break };
            let size = HEADER_SIZE + header.body_size;
            if size > self.size_max {
                return Err(PeerError::TooLarge);
            }
            let Some(message) = rest.get(..size) else { break };
            at += size;
            goes_on = each(message);
        }
        self.bytes.copy_within(at..self.filled, 0);
        self.filled -= at;
        if self.filled == 0 && self.bytes.len() > KEEP_SIZE_MAX {
            self.bytes = Vec::new();
        }
        Ok(())
    }
}

/// Where another node takes connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PeerPlace {
    pub(crate) address: SocketAddr,
    pub(crate) is_tls: bool,
}

/// How this node may connect to others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PeerReach {
    /// Without TLS: it takes such connections itself.
    pub(crate) clear: bool,
    pub(crate) tls: bool,
}

impl PeerReach {
    /// Where to connect to, of what another node offers: with TLS if both speak it.
    pub(crate) fn places(self, endpoints: &[Endpoint]) -> Vec<PeerPlace> {
        let all = || endpoints.iter().map(place_of);
        let with_tls: Vec<PeerPlace> = all().filter(|place| self.tls && place.is_tls).collect();
        if with_tls.is_empty() && self.clear {
            return all().filter(|place| !place.is_tls).collect();
        }
        with_tls
    }
}

fn place_of(endpoint: &Endpoint) -> PeerPlace {
    let ip = match endpoint.address {
        Address::V4(bytes) => IpAddr::from(bytes),
        Address::V6(bytes) => IpAddr::from(bytes),
    };
    PeerPlace {
        address: SocketAddr::new(ip, endpoint.port),
        is_tls: endpoint.capabilities & Endpoint::TLS != 0,
    }
}

/// The endpoint at a place.
pub(crate) fn endpoint_of(place: PeerPlace) -> Endpoint {
    let address = match place.address.ip() {
        IpAddr::V4(ip) => Address::V4(ip.octets()),
        IpAddr::V6(ip) => Address::V6(ip.octets()),
    };
    let capabilities = if place.is_tls { Endpoint::TLS } else { 0 };
    Endpoint { capabilities, address, port: place.address.port() }
}

#[cfg(test)]
mod tests {
    use proto::peer::hello::{Channel, Hello};
    use proto::peer::{MESSAGE_SIZE_MAX, NodeId};

    use super::*;

    fn messages(count: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        (1..=count).for_each(|node| Hello { node: NodeId(node), channel: Channel::Bulk }.encode(&mut bytes));
        bytes
    }

    #[test]
    fn messages_come_out_whole_wherever_the_bytes_are_cut() {
        let bytes = messages(3);
        for step in 1..bytes.len() {
            let mut frames = PeerFrames::new(1000);
            let mut nodes = Vec::new();
            for part in bytes.chunks(step) {
                assert_eq!(frames.receive(&mut &*part).unwrap(), part.len());
                frames
                    .take_apart(|message| Hello::decode(message).map(|hello| nodes.push(hello.node)).is_ok())
                    .unwrap();
            }
            assert_eq!(nodes, [NodeId(1), NodeId(2), NodeId(3)]);
        }
    }

    #[test]
    fn tls_is_preferred_and_nothing_clear_is_used_by_a_node_that_takes_none() {
        let place = |port: u16, is_tls| PeerPlace { address: ([10, 0, 0, 1], port).into(), is_tls };
        let both = [place(1, false), place(2, true)];
        let endpoints = both.map(endpoint_of);
        let reach = |clear, tls| PeerReach { clear, tls };
        assert_eq!(reach(true, false).places(&endpoints), [both[0]]);
        assert_eq!(reach(true, true).places(&endpoints), [both[1]]);
        assert_eq!(reach(true, true).places(&endpoints[..1]), [both[0]]);
        assert_eq!(reach(false, true).places(&endpoints), [both[1]]);
        assert_eq!(reach(false, true).places(&endpoints[..1]), []);
    }

    #[test]
    fn taking_apart_stops_when_told_to() {
        let mut frames = PeerFrames::new(1000);
        let bytes = messages(2);
        frames.receive(&mut &*bytes).unwrap();
        let mut count = 0;
        for expected in [1, 2, 2] {
            frames
                .take_apart(|_| {
                    count += 1;
                    false
                })
                .unwrap();
            assert_eq!(count, expected);
        }
    }

    proptest::proptest! {
        /// Whatever comes is taken apart or refused, and nothing is kept that has not come.
        #[test]
        fn any_bytes_are_taken_apart_or_refused(parts: Vec<Vec<u8>>) {
            let mut frames = PeerFrames::new(100);
            let (mut given, mut received) = (0, 0);
            for part in &parts {
                received += frames.receive(&mut &part[..]).unwrap();
                if frames.take_apart(|message| { given += message.len(); true }).is_err() {
                    break;
                }
            }
            proptest::prop_assert!(given <= received && frames.bytes.len() <= received + 2 * ROOM_MIN);
        }
    }

    #[test]
    fn what_is_announced_sizes_nothing() {
        let mut header = (MESSAGE_SIZE_MAX as u32).to_be_bytes().to_vec();
        header.extend([0, 7, 1]);
        let mut frames = PeerFrames::new(HEADER_SIZE + MESSAGE_SIZE_MAX);
        frames.receive(&mut &*header).unwrap();
        frames.take_apart(|_| panic!("no message")).unwrap();
        assert!(frames.bytes.len() <= 2 * ROOM_MIN);
        frames.allow(100);
        assert_eq!(frames.take_apart(|_| true), Err(PeerError::TooLarge));
        let mut frames = PeerFrames::new(usize::MAX);
        frames.receive(&mut &[0xFF; 6][..]).unwrap();
        assert_eq!(frames.take_apart(|_| true), Err(PeerError::TooLarge));
    }
}
