//! Splits the bytes of another node's TCP connection into whole messages.
//!
//! A length announced by a peer reserves no memory: the buffer grows with the received bytes. A message with
//! an announced size above the limit breaks the connection before any byte of it is kept.

use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};

use proto::peer::nested::{Address, Endpoint};
use proto::peer::{HEADER_SIZE, MessageHeader, PeerError};

/// Minimum room for the next bytes.
const ROOM_MIN: usize = 64 << 10;
/// A buffer that grew beyond this for a large message is freed.
const KEEP_SIZE_MAX: usize = 1 << 20;

/// Received bytes of a connection that have not been split yet.
pub(crate) struct PeerFrames {
    /// Received bytes up to `filled`, free room behind.
    bytes: Vec<u8>,
    filled: usize,
    /// Largest message, with its header.
    size_max: usize,
}

impl PeerFrames {
    /// Frames of a connection with messages of up to `size_max` bytes.
    pub(crate) fn new(size_max: usize) -> Self {
        PeerFrames { bytes: Vec::new(), filled: 0, size_max }
    }

    /// Allows messages of up to `size_max` bytes from now on.
    pub(crate) fn allow(&mut self, size_max: usize) {
        self.size_max = size_max;
    }

    /// Reads the available bytes, up to the free room. Returns their number; 0 if the peer has closed.
    ///
    /// # Errors
    /// Errors of the connection; `WouldBlock` if nothing is available.
    pub(crate) fn receive(&mut self, stream: &mut impl Read) -> io::Result<usize> {
        if self.bytes.len() - self.filled < ROOM_MIN {
            // Doubling limits the copied bytes to a constant factor of the received ones.
            self.bytes.resize(self.filled + self.filled.max(ROOM_MIN), 0);
        }
        let size = stream.read(&mut self.bytes[self.filled..])?;
        self.filled += size;
        Ok(size)
    }

    /// The bytes that have not been split yet.
    pub(crate) fn unsplit(&self) -> &[u8] {
        &self.bytes[..self.filled]
    }

    /// Whether the last read filled all free room: more bytes may be available.
    pub(crate) fn is_full(&self) -> bool {
        self.filled == self.bytes.len()
    }

    /// Passes each complete message to `each`, until that returns false. An incomplete message stays in the
    /// buffer.
    ///
    /// # Errors
    /// When the announced size of a message is too large. The messages before it have been passed.
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

/// An address where another node accepts connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PeerPlace {
    pub(crate) address: SocketAddr,
    pub(crate) is_tls: bool,
}

/// How this node may connect to other nodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PeerReach {
    /// Without TLS. The node itself accepts such connections.
    pub(crate) clear: bool,
    pub(crate) tls: bool,
}

impl PeerReach {
    /// The places to connect to among another node's endpoints. They use TLS if both nodes do.
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
    fn splitting_stops_on_request() {
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
        /// Any bytes are split or refused, and the buffer holds no more than the received bytes.
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
    fn announced_sizes_reserve_no_memory() {
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
