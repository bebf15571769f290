//! A disk and its shadow: whether they belong together, and which of them is read at start.
//!
//! Both get the same writes, the disk first. The disk is read if it has everything that the shadow has: after
//! a clean stop, and if it was used without its shadow meanwhile. The shadow is read if the disk is empty, as
//! in the cloud, where a machine may come back with empty local disks; if it was used without the disk
//! meanwhile; and after a crash. The other one then gets a copy. A medium that is neither empty nor an older
//! copy of the same device is never overwritten.
//!
//! This is pure logic: it takes the first bytes and returns a decision.

use std::fmt;
use std::path::{Path, PathBuf};

use datamodel::device_header::{
    DeviceHeader, Flags, Found, HeaderError, UNIQUE_OFFSET, same_but_for_pristine_offset,
};

/// A disk or a shadow with its first bytes.
#[derive(Clone, Copy)]
pub(super) struct Copy<'a> {
    pub(super) path: &'a Path,
    /// As many bytes as a header has.
    pub(super) first_bytes: &'a [u8],
    /// Current size in bytes, or the size to be used, whichever is less.
    pub(super) size: u64,
}

/// The medium of a disk that is read at start, and the one that gets a copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Source {
    pub(super) from_shadow: bool,
    pub(super) copies: bool,
    pub(super) reason: Reason,
}

/// The reason for the choice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Reason {
    /// There is no other medium, both are equal, or there is nothing to read.
    Alike,
    /// The other one is empty.
    OtherEmpty,
    /// The other one is older, because the server was started without it.
    OtherStale,
    /// They were not stopped cleanly.
    Unclean,
}

/// The reason why a disk and its shadow cannot be used together.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ShadowError {
    /// One of them cannot be used by itself.
    Header { is_shadow: bool, error: HeaderError },
    /// They are different devices of their set.
    DeviceId([u32; 2]),
    /// Neither is an older copy of the other.
    Strangers,
}

/// A disk, its shadow, and the problem with them.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ShadowMismatch {
    pub(crate) main: PathBuf,
    pub(crate) shadow: PathBuf,
    pub(crate) error: ShadowError,
}

impl fmt::Display for ShadowMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (main, shadow) = (self.main.display(), self.shadow.display());
        match &self.error {
            ShadowError::Header { is_shadow: false, error } => write!(
                f,
                "{main}: at offset {}: {error}; its shadow {shadow} can replace it only after it is erased",
                error.offset()
            ),
            ShadowError::Header { is_shadow: true, error } => write!(
                f,
                "{shadow}: at offset {}: {error}; as the shadow of {main} it is overwritten only after it is erased",
                error.offset()
            ),
            ShadowError::DeviceId([of_main, of_shadow]) => write!(
                f,
                "{main} and its shadow {shadow}: at offset {UNIQUE_OFFSET}: device {of_main} of their set, and device \
                 {of_shadow}; check which shadow is configured for which device"
            ),
            ShadowError::Strangers => write!(
                f,
                "{main} and its shadow {shadow}: each was written to without the other, so it is unknown which of them \
                 is out of date; erase the one that is, or configure the other one alone"
            ),
        }
    }
}

impl std::error::Error for ShadowMismatch {}

/// Decides on a disk of `namespace` and its shadow.
///
/// # Errors
/// When a medium would have to be overwritten that is neither empty nor an older copy of the other.
pub(super) fn choose(
    namespace: &[u8],
    main: Copy<'_>,
    shadow: Copy<'_>,
) -> Result<Source, Box<ShadowMismatch>> {
    let fail = |error| Box::new(ShadowMismatch { main: main.path.into(), shadow: shadow.path.into(), error });
    let read = |copy: Copy<'_>, is_shadow| match DeviceHeader::parse(copy.first_bytes) {
        Ok(Found::Fresh) => Ok(None),
        Ok(Found::Used(header)) => match header.check(namespace, copy.size) {
            Ok(()) => Ok(Some(*header)),
            Err(error) => Err(fail(ShadowError::Header { is_shadow, error })),
        },
        Err(error) => Err(fail(ShadowError::Header { is_shadow, error })),
    };
    let source = |from_shadow, reason| Source { from_shadow, copies: reason != Reason::Alike, reason };
    let (of_main, of_shadow) = match (read(main, false)?, read(shadow, true)?) {
        (None, None) => return Ok(source(false, Reason::Alike)),
        (Some(_), None) => return Ok(source(false, Reason::OtherEmpty)),
        (None, Some(_)) => return Ok(source(true, Reason::OtherEmpty)),
        (Some(of_main), Some(of_shadow)) => (of_main, of_shadow),
    };
    let (run_of_main, run_of_shadow) = (of_main.lineage(), of_shadow.lineage());
    let is_before = |run: &[u64], lineage: &[u64]| run.first().is_some_and(|run| lineage.contains(run));
    if run_of_main.first() == run_of_shadow.first() {
        let ids = [of_main.device_id, of_shadow.device_id];
        if ids[0] != ids[1] {
            return Err(fail(ShadowError::DeviceId(ids)));
        }
        let is_clean = of_shadow.flags.contains(Flags::TRUSTED)
            && same_but_for_pristine_offset(main.first_bytes, shadow.first_bytes);
        return Ok(if is_clean { source(false, Reason::Alike) } else { source(true, Reason::Unclean) });
    }
    match (is_before(&run_of_shadow, &run_of_main), is_before(&run_of_main, &run_of_shadow)) {
        (true, false) => Ok(source(false, Reason::OtherStale)),
        (false, true) => Ok(source(true, Reason::OtherStale)),
        _ => Err(fail(ShadowError::Strangers)),
    }
}

#[cfg(test)]
mod tests {
    use datamodel::device_header::HEADER_SIZE;

    use super::*;

    const SIZE: u64 = 128 << 20;

    fn header(runs: &[u64], change: impl Fn(&mut DeviceHeader)) -> Vec<u8> {
        let mut header = DeviceHeader::fresh(b"bar", 1, 5, 0);
        header.runs = runs.to_vec();
        header.flags = Flags::TRUSTED;
        change(&mut header);
        let mut bytes = vec![0; HEADER_SIZE];
        header.encode(&mut bytes);
        bytes
    }

    fn of_runs(runs: &[u64]) -> Vec<u8> {
        header(runs, |_| ())
    }

    fn chosen(main: &[u8], shadow: &[u8]) -> Result<(bool, Reason), String> {
        let copy = |path, first_bytes| Copy { path: Path::new(path), first_bytes, size: SIZE };
        let source = choose(b"bar", copy("/dev/m", main), copy("/dev/s", shadow));
        source.map(|it| (it.from_shadow, it.reason)).map_err(|error| error.to_string())
    }

    #[test]
    fn whichever_has_everything_is_read() {
        let empty = vec![0; HEADER_SIZE];
        let crashed = header(&[3, 2], |header| header.flags = Flags::default());
        for (main, shadow, expected) in [
            (&empty, &empty, (false, Reason::Alike)),
            (&of_runs(&[3]), &empty, (false, Reason::OtherEmpty)),
            (&empty, &of_runs(&[3]), (true, Reason::OtherEmpty)),
            (&of_runs(&[3, 2]), &of_runs(&[3, 2]), (false, Reason::Alike)),
            (&crashed, &crashed, (true, Reason::Unclean)),
            (&of_runs(&[4, 3, 2]), &of_runs(&[3, 2]), (false, Reason::OtherStale)),
            (&of_runs(&[6, 5, 4, 3, 2]), &crashed, (false, Reason::OtherStale)),
            (&of_runs(&[3, 2]), &of_runs(&[4, 3, 2]), (true, Reason::OtherStale)),
        ] {
            assert_eq!(chosen(main, shadow), Ok(expected));
        }
    }

    #[test]
    fn writes_of_another_server_are_known_by_its_signature() {
        let by_other = |signature| header(&[], |header| header.signature = signature);
        assert_eq!(chosen(&by_other(5), &by_other(5)), Ok((false, Reason::Alike)));
        assert_eq!(chosen(&of_runs(&[9, 5]), &by_other(5)), Ok((false, Reason::OtherStale)));
        let error = chosen(&by_other(6), &by_other(5)).unwrap_err();
        assert!(error.starts_with("/dev/m and its shadow /dev/s: each was written to without"), "{error}");
        assert!(chosen(&by_other(6), &of_runs(&[9, 5])).is_err(), "used by another without its shadow");
    }

    #[test]
    fn nothing_is_written_over_that_is_not_an_older_copy() {
        let mut foreign = vec![0; HEADER_SIZE];
        foreign[700] = 1;
        let other = header(&[3], |header| header.namespace = b"foo".to_vec());
        let unknown = {
            let mut bytes = of_runs(&[3]);
            bytes[8] = 9;
            bytes
        };
        let fine = of_runs(&[3]);
        for (bytes, offset, what) in [
            (&foreign, 700, "not Aerospike's"),
            (&other, 12, "holds namespace \"foo\""),
            (&unknown, 8, "version 9 is unknown"),
        ] {
            for (error, first, second) in [
                (chosen(bytes, &fine).unwrap_err(), "/dev/m", "/dev/s"),
                (chosen(&fine, bytes).unwrap_err(), "/dev/s", "/dev/m"),
                (chosen(&vec![0; HEADER_SIZE], bytes).unwrap_err(), "/dev/s", "/dev/m"),
            ] {
                assert!(error.starts_with(&format!("{first}: at offset {offset}: ")), "{error}");
                assert!(error.contains(what) && error.contains(second) && error.contains("erase"), "{error}");
            }
        }
        let error = chosen(&fine, &of_runs(&[4])).unwrap_err();
        assert!(error.contains("each was written to without the other"), "{error}");
        let second = header(&[3], |header| header.device_id = 1);
        let error = chosen(&fine, &second).unwrap_err();
        assert!(error.contains("device 0 of their set, and device 1"), "{error}");
    }
}
