//! The work that hostile clients request: its amount, its records and its requests.

use cf::msgpack::{put_integer, put_list_header, put_raw_header};

use crate::record::keys::Keys;
use crate::record::particle_type;
use crate::record::request::{Header, Target, Template, info};

const OP_WRITE: u8 = 2;
const OP_CDT_READ: u8 = 3;
const LIST_GET: u8 = 17;
const REGEX: u8 = 7;
const REGEX_EXTENDED: i64 = 1;
const BIN_OF_TYPE: u8 = 81;
/// Size of a packed number in the list, in bytes.
const ELEMENT_BYTES: usize = 5;
/// A pattern of 18 bytes with 10,000 repetitions that must be distinguished.
const PATTERN: &str = "(a{0,100}){0,100}b";
/// Number of rows of the batch whose answer is not read; at 25 bytes a row it has 13.6 kB.
const UNREAD_ROWS: usize = 544;
/// Time after which a server gives up a scan that is not read, in milliseconds.
const SCAN_TIMEOUT_MS: u32 = 10_000;

/// The records of hostile clients.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Record {
    List,
    Wide,
    Text,
    Large,
    Small,
}

impl Record {
    const ALL: [Record; 5] = [Record::List, Record::Wide, Record::Text, Record::Large, Record::Small];
}

/// The amount of work, and its namespace and set.
#[derive(Clone, Debug)]
pub(super) struct Work {
    namespace: String,
    /// Set of the ordinary clients' records.
    set: String,
    pub(super) list_operations: usize,
    pub(super) list_bytes: usize,
    pub(super) wide_reads: usize,
    pub(super) wide_bins: usize,
    pub(super) text_bytes: usize,
    pub(super) batch_rows: usize,
    pub(super) unread_rows: usize,
    pub(super) large_bytes: usize,
}

impl Work {
    /// The work with each number multiplied by `scale`.
    pub(super) fn new(namespace: &str, set: &str, scale: f64) -> Self {
        let of = |count: usize| ((count as f64 * scale.clamp(0.0, 1.0)) as usize).max(1);
        Work {
            namespace: namespace.to_owned(),
            set: set.to_owned(),
            list_operations: of(6000),
            list_bytes: of(900_000),
            wide_reads: of(65_535),
            wide_bins: of(32_000),
            text_bytes: of(10_000),
            batch_rows: of(100_000),
            unread_rows: of(UNREAD_ROWS),
            large_bytes: of(7_000_000),
        }
    }

    /// The requests that write all records.
    pub(super) fn preparing_requests(&self) -> Vec<Vec<u8>> {
        let write = Header { info2: info::INFO2_WRITE, ..Header::default() };
        let put = |record, bins: &mut dyn Iterator<Item = (String, u8, Vec<u8>)>| {
            let template = Template::new(write, self.target());
            let with_bins = bins.fold(template, |template, (name, kind, value)| {
                template.with_op(OP_WRITE, kind, &name, &value)
            });
            self.frame(&with_bins, record)
        };
        let one =
            |record, kind, value: Vec<u8>| put(record, &mut std::iter::once(("b".to_owned(), kind, value)));
        let number = || 1u64.to_be_bytes().to_vec();
        let write_of = |record| match record {
            Record::List => one(record, particle_type::LIST, self.list()),
            Record::Wide => {
                let bin = |at| (bin_name(at), particle_type::INTEGER, number());
                put(record, &mut (0..self.wide_bins).map(bin))
            }
            Record::Text => one(record, particle_type::STRING, vec![b'a'; self.text_bytes]),
            Record::Large => one(record, particle_type::BLOB, vec![0xA5; self.large_bytes]),
            Record::Small => one(record, particle_type::INTEGER, number()),
        };
        Record::ALL.into_iter().map(write_of).collect()
    }

    /// Operations each of which walks over the whole list to its last element.
    pub(super) fn list_request(&self) -> Vec<u8> {
        let mut last_element = Vec::new();
        put_list_header(&mut last_element, 2);
        put_integer(&mut last_element, i64::from(LIST_GET));
        put_integer(&mut last_element, -1);
        let read = Header { info1: info::INFO1_READ, ..Header::default() };
        let request = (0..self.list_operations).fold(Template::new(read, self.target()), |request, _| {
            request.with_op(OP_CDT_READ, particle_type::BLOB, "b", &last_element)
        });
        self.frame(&request, Record::List)
    }

    /// Reads of bins by name. The last bins of the record come first.
    pub(super) fn wide_request(&self) -> Vec<u8> {
        let read = Header { info1: info::INFO1_READ, ..Header::default() };
        let request = (0..self.wide_reads).fold(Template::new(read, self.target()), |request, at| {
            request.with_read(&bin_name(self.wide_bins - 1 - at % self.wide_bins))
        });
        self.frame(&request, Record::Wide)
    }

    pub(super) fn regex_request(&self) -> Vec<u8> {
        self.frame(&Template::new(read_all(), self.target()).with_filter(&regex_filter()), Record::Text)
    }

    /// A batch of reads of the large record.
    pub(super) fn batch_request(&self, rows: usize) -> Vec<u8> {
        let digest = self.keys().digest(Record::Large as u64);
        let mut out = Vec::new();
        Template::batch(&Template::new(read_all(), self.target()), rows).append_each(&mut out, || digest);
        out
    }

    pub(super) fn read_request(&self, record: Record) -> Vec<u8> {
        self.frame(&Template::new(read_all(), self.target()), record)
    }

    pub(super) fn scan_request(&self) -> Vec<u8> {
        let target = Target { namespace: &self.namespace, set: &self.set, send_key: false };
        Template::scan(target, SCAN_TIMEOUT_MS)
    }

    fn target(&self) -> Target<'_> {
        Target { namespace: &self.namespace, set: HOSTILE_SET, send_key: false }
    }

    fn keys(&self) -> Keys {
        Keys::new(HOSTILE_SET, 0, Record::ALL.len() as u64)
    }

    fn frame(&self, template: &Template, record: Record) -> Vec<u8> {
        let (keys, index) = (self.keys(), record as u64);
        let mut out = Vec::new();
        template.append(&keys.digest(index), keys.key(index), &mut out);
        out
    }

    fn list(&self) -> Vec<u8> {
        let count = (self.list_bytes / ELEMENT_BYTES).max(1);
        let mut out = Vec::with_capacity(self.list_bytes + ELEMENT_BYTES);
        put_list_header(&mut out, count as u32);
        // Each of these numbers takes five bytes.
        (0..count as i64).for_each(|value| put_integer(&mut out, (1 << 24) + value));
        out
    }
}

/// Set of the records of hostile clients.
const HOSTILE_SET: &str = "hostile";

fn read_all() -> Header {
    Header { info1: info::INFO1_READ | info::INFO1_GET_ALL, ..Header::default() }
}

fn bin_name(at: usize) -> String {
    format!("b{at}")
}

/// The filter that matches the bin against [`PATTERN`].
fn regex_filter() -> Vec<u8> {
    let mut out = vec![0x94, REGEX];
    put_integer(&mut out, REGEX_EXTENDED);
    put_raw_header(&mut out, PATTERN.len() as u32);
    out.extend_from_slice(PATTERN.as_bytes());
    out.extend_from_slice(&[0x93, BIN_OF_TYPE, particle_type::STRING]);
    put_raw_header(&mut out, 1);
    out.push(b'b');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::request::{MESSAGE_SIZE, PROTO_SIZE};

    fn op_count(frame: &[u8]) -> u16 {
        u16::from_be_bytes(frame[PROTO_SIZE + 20..PROTO_SIZE + MESSAGE_SIZE].try_into().unwrap())
    }

    #[test]
    fn requests_have_their_stated_sizes() {
        let work = Work::new("test", "s", 1.0);
        assert_eq!(op_count(&work.list_request()), 6000);
        assert_eq!(op_count(&work.wide_request()), 65_535);
        assert_eq!(op_count(&work.preparing_requests()[Record::Wide as usize]), 32_000);
        let list = work.list();
        assert!((895_000..905_000).contains(&list.len()), "{}", list.len());
        assert!(
            datamodel::Particle::from_wire(particle_type::LIST, &list, &datamodel::Budget::unlimited())
                .is_ok()
        );
        assert!(datamodel::exp::Filter::compile(&regex_filter(), &datamodel::Budget::unlimited()).is_ok());
        assert_eq!(work.batch_request(work.unread_rows).len() / 100, 136, "13.6 kB");
    }

    #[test]
    fn a_share_of_the_work_is_never_empty() {
        let work = Work::new("test", "s", 0.0);
        assert_eq!((op_count(&work.list_request()), op_count(&work.wide_request())), (1, 1));
        assert_eq!(work.preparing_requests().len(), Record::ALL.len());
        assert_eq!(Work::new("test", "s", 9.0).batch_rows, 100_000);
    }
}
