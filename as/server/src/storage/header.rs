//! The devices of a namespace as one set: whether their headers belong together, and which headers to write
//! before the first record.
//!
//! This is pure logic: it takes headers and returns a decision. [`datamodel::device_header`] has the format
//! itself.

use std::fmt;
use std::path::{Path, PathBuf};

use datamodel::device_header::{
    DEVICE_COUNT_MAX, DeviceHeader, Flags, Found, HeaderError, RUN_COUNT_MAX, UNIQUE_OFFSET,
};
use datamodel::partition_copy::{self, Mended};

/// A configured device and its first bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate<'a> {
    /// The path in the configuration.
    pub(crate) path: &'a Path,
    /// Current size in bytes, before a file is brought to its configured size; 0 for a file just created.
    pub(crate) found_size: u64,
    /// Bytes to be used: a whole number of write blocks.
    pub(crate) size: u64,
    /// The first [`HEADER_SIZE`](datamodel::device_header::HEADER_SIZE) bytes, or fewer if the device is
    /// shorter.
    pub(crate) first_bytes: &'a [u8],
}

/// The reason why the devices cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum DeviceSetError {
    /// A device cannot be used by itself.
    Header { device: PathBuf, error: HeaderError },
    /// The header of a device is damaged, and records follow it.
    HeaderDamaged { device: PathBuf, error: HeaderError, record_at: u64 },
    /// A device is larger than configured, and only a clean stop would show that nothing is beyond that size.
    Cut { device: PathBuf, found_size: u64, size: u64 },
    /// A device is shorter than before, and was not stopped cleanly.
    Short { device: PathBuf, found_size: u64, size: u64 },
    /// A device's header is empty, but it holds records.
    HeaderErased { device: PathBuf, record_at: u64 },
    /// A device's header is empty, but data follows, which may be that of an encrypted device.
    KeyErased { device: PathBuf, data_at: u64 },
    /// Two devices were not used together last.
    Signature { devices: [PathBuf; 2] },
    /// Two devices disagree on the number of devices.
    DeviceCount { devices: [PathBuf; 2], counts: [u32; 2] },
    /// Two devices were the same member of the set: one is a copy.
    DeviceId { devices: [PathBuf; 2], id: u32 },
}

impl fmt::Display for DeviceSetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pair = |f: &mut fmt::Formatter<'_>, devices: &[PathBuf; 2], field: u64| {
            let [first, second] = devices;
            write!(f, "{} and {}: at offset {field}: ", first.display(), second.display())
        };
        match self {
            DeviceSetError::Header { device, error } => {
                write!(f, "{}: at offset {}: {error}", device.display(), error.offset())?;
                match error {
                    HeaderError::Foreign(_) => {
                        f.write_str("; check the path, or erase the device if its data is not needed")
                    }
                    _ if error.may_be_damage() => {
                        f.write_str("; restore the device from a copy, or erase it if its data is not needed")
                    }
                    _ => Ok(()),
                }
            }
            DeviceSetError::HeaderDamaged { device, error, record_at } => write!(
                f,
                "{}: at offset {}: {error}, yet there are records, the first at offset {record_at}; restore the header, \
                 or all of it, from a copy; do not erase it, because that would destroy them (asd-inspect shows them)",
                device.display(),
                error.offset()
            ),
            DeviceSetError::Cut { device, found_size, size } => write!(
                f,
                "{}: at offset {size}: may hold data up to {found_size}, as it was not stopped cleanly; configure the \
                 size it has, stop cleanly, then make it smaller",
                device.display()
            ),
            DeviceSetError::Short { device, found_size, size } => write!(
                f,
                "{}: at offset {found_size}: the file was cut: only {found_size} of {size} bytes are there, and it was \
                 not stopped cleanly; restore it from a copy; to use what is left of it, make it as long as it was \
                 (truncate -s {size}) and start again",
                device.display()
            ),
            DeviceSetError::HeaderErased { device, record_at } => write!(
                f,
                "{}: at offset 0: the header is empty, yet there are records, the first at offset {record_at}; restore \
                 the header, or all of it, from a copy; if the records are not needed, start with cold-start-empty or erase it",
                device.display()
            ),
            DeviceSetError::KeyErased { device, data_at } => write!(
                f,
                "{}: at offset 0: the header is empty, yet there is data, at offset {data_at}; if it is encrypted, its key was \
                 in the header: restore that from a copy; if the data is not needed, erase the device, or start with \
                 cold-start-empty",
                device.display()
            ),
            DeviceSetError::Signature { devices } => {
                pair(f, devices, 48)?;
                f.write_str(
                    "different signatures, so they were not used together last: one of them may not have been there \
                     at a start since (not mounted?), and each may hold records that the other lacks; configure \
                     only those that belong together, and erase none before its records are elsewhere",
                )
            }
            DeviceSetError::DeviceCount { devices, counts: [first, second] } => {
                pair(f, devices, 44)?;
                write!(
                    f,
                    "members of a set of {first} and of one of {second} devices; check the configured devices, or \
                     erase the one that does not belong here"
                )
            }
            DeviceSetError::DeviceId { devices, id } => {
                pair(f, devices, UNIQUE_OFFSET as u64)?;
                write!(
                    f,
                    "both are device {id} of their set, so one is a copy of the other; configure one of them"
                )
            }
        }
    }
}

impl std::error::Error for DeviceSetError {}

/// The decision on the configured devices.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct DeviceSet {
    /// The header to write on each device now, in the order of the configuration: with a new number, not
    /// trusted, and with the new signature if the set has changed.
    pub(crate) headers: Vec<DeviceHeader>,
    /// Whether each device was never used.
    pub(crate) fresh: Vec<bool>,
    /// Whether each device was not stopped cleanly. The log and strong consistency use this.
    pub(crate) unclean: Vec<bool>,
    /// Whether the header of each device states its former size.
    pub(crate) size_known: Vec<bool>,
    /// Whether each device was last used by this server, which writes blocks in the order in which they are
    /// taken.
    pub(crate) written_in_order: Vec<bool>,
    /// The damage of each header's partition table, and whether its second copy had the entries.
    pub(crate) mended: Vec<Mended>,
    /// Ids in the former set of devices that are no longer configured. This start loses records that only
    /// they hold.
    pub(crate) missing_ids: Vec<u32>,
}

impl DeviceSet {
    /// Whether there is nothing to load.
    pub(crate) fn all_fresh(&self) -> bool {
        self.fresh.iter().all(|fresh| *fresh)
    }

    /// Judges the devices of `namespace`. `signature` is drawn at random, not 0, and is also the number of
    /// this run. As on the C server, fresh devices may join used ones, used ones may be left out, and all
    /// used ones must have been used together last. No device is written before this has succeeded.
    ///
    /// # Errors
    /// The first device that cannot be used, or the first two that do not belong together.
    ///
    /// # Panics
    /// If `signature` is 0, or there are no devices or too many.
    pub(crate) fn judge(
        namespace: &[u8],
        devices: &[Candidate<'_>],
        signature: u64,
    ) -> Result<Self, DeviceSetError> {
        assert!(signature != 0, "a signature of 0 says fresh");
        let count = u32::try_from(devices.len()).unwrap_or(u32::MAX);
        assert!((1..=DEVICE_COUNT_MAX).contains(&count), "{count} devices");
        let mut found = devices.iter().map(|device| device.read(namespace)).collect::<Result<Vec<_>, _>>()?;
        let mended = found.iter_mut().zip(devices).map(|(header, device)| match header {
            Some(header) => partition_copy::mend(device.first_bytes, header),
            None => Mended::default(),
        });
        let mended = mended.collect();
        let used: Vec<_> = found
            .iter()
            .zip(devices)
            .filter_map(|(header, device)| header.as_ref().map(|header| (header, device.path)))
            .collect();
        check_together(&used)?;
        let template = match used.first() {
            Some((first, _)) => (*first).clone(),
            None => DeviceHeader::fresh(namespace, count, signature, 0),
        };
        let former_count = used.first().map_or(0, |(first, _)| first.device_count);
        let missing_ids: Vec<u32> =
            (0..former_count).filter(|id| used.iter().all(|(header, _)| header.device_id != *id)).collect();
        // Only a changed set needs a new signature. If the set has not changed, a crash between the writes of
        // two headers leaves their signatures equal.
        let is_changed = !missing_ids.is_empty() || found.iter().any(Option::is_none);
        let (run, signature) = (signature, if is_changed { signature } else { template.signature });
        let headers = (0..count).zip(&found).zip(devices).map(|((device_id, header), device)| DeviceHeader {
            device_id,
            size: device.size,
            end_mark_key: end_mark_key(run, header.as_ref()),
            encrypted_key: header.as_ref().and_then(|header| header.encrypted_key),
            device_count: count,
            signature,
            flags: template.flags.with(Flags::TRUSTED, false),
            wblock_size: super::WBLOCK_SIZE,
            pristine_offset: header.as_ref().map_or(0, |header| header.pristine_offset),
            runs: runs_with(run, header.as_ref()),
            ..template.clone()
        });
        let is_unclean = |header: &DeviceHeader| !header.flags.contains(Flags::TRUSTED);
        Ok(DeviceSet {
            headers: headers.collect(),
            fresh: found.iter().map(Option::is_none).collect(),
            unclean: found.iter().map(|header| header.as_ref().is_some_and(is_unclean)).collect(),
            size_known: found
                .iter()
                .map(|header| header.as_ref().is_some_and(|header| header.size > 0))
                .collect(),
            written_in_order: found
                .iter()
                .map(|header| header.as_ref().is_some_and(|header| header.end_mark_key != 0))
                .collect(),
            mended,
            missing_ids,
        })
    }
}

impl Candidate<'_> {
    /// The device's header if it can be used and is not fresh.
    fn read(&self, namespace: &[u8]) -> Result<Option<DeviceHeader>, DeviceSetError> {
        let fail = |error| DeviceSetError::Header { device: self.path.to_owned(), error };
        if self.found_size == 0 {
            return Ok(None);
        }
        match DeviceHeader::parse(self.first_bytes).map_err(fail)? {
            Found::Fresh => Ok(None),
            Found::Used(header) => {
                // A file cut short is treated like a size configured too small.
                header.check(namespace, self.size.min(self.found_size)).map_err(fail)?;
                let wblock_size = u64::from(super::WBLOCK_SIZE);
                let (found_size, is_clean) = (self.found_size, header.flags.contains(Flags::TRUSTED));
                if !is_clean && found_size < header.size {
                    let size = header.size;
                    return Err(DeviceSetError::Short { device: self.path.to_owned(), found_size, size });
                }
                // A header without a size is one of the C server.
                let used_size = if header.size > 0 { header.size } else { found_size };
                if !is_clean && used_size / wblock_size * wblock_size > self.size {
                    let (found_size, size) = (used_size, self.size);
                    return Err(DeviceSetError::Cut { device: self.path.to_owned(), found_size, size });
                }
                Ok(Some(*header))
            }
        }
    }
}

/// The key of the device's end marks: its current key, or a random one like `run`.
fn end_mark_key(run: u64, before: Option<&DeviceHeader>) -> u64 {
    let known = before.map_or(0, |header| header.end_mark_key);
    if known != 0 {
        known
    } else {
        cf::wyhash::hash64(&[&b"end mark"[..], &run.to_le_bytes()].concat()).max(1)
    }
}

/// The runs of a device, including the new one with number `run`.
fn runs_with(run: u64, before: Option<&DeviceHeader>) -> Vec<u64> {
    let before = before.map_or_else(Vec::new, DeviceHeader::lineage);
    std::iter::once(run).chain(before).take(RUN_COUNT_MAX).collect()
}

fn check_together(used: &[(&DeviceHeader, &Path)]) -> Result<(), DeviceSetError> {
    let Some(((first, first_path), others)) = used.split_first() else { return Ok(()) };
    for (at, (header, path)) in others.iter().enumerate() {
        let devices = || [first_path.to_path_buf(), path.to_path_buf()];
        if header.signature != first.signature {
            return Err(DeviceSetError::Signature { devices: devices() });
        }
        if header.device_count != first.device_count {
            let counts = [first.device_count, header.device_count];
            return Err(DeviceSetError::DeviceCount { devices: devices(), counts });
        }
        let twin = used[..=at].iter().find(|(earlier, _)| earlier.device_id == header.device_id);
        if let Some((_, twin_path)) = twin {
            let devices = [twin_path.to_path_buf(), path.to_path_buf()];
            return Err(DeviceSetError::DeviceId { devices, id: header.device_id });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use datamodel::device_header::{HEADER_SIZE, PartitionEntry};
    use datamodel::partition_version::PartitionVersion;

    use super::*;

    const SIZE: u64 = 128 << 20;
    const OLD: u64 = 11;
    const NEW: u64 = 12;

    /// Makes header number `id` of a set of two with signature [`OLD`], stopped cleanly.
    fn used(id: u32) -> DeviceHeader {
        let mut header = DeviceHeader::fresh(b"bar", 2, OLD, id);
        header.flags = Flags::TRUSTED.with(Flags::COMMIT_TO_DEVICE, true);
        header.pristine_offset = u64::from(id + 2) * u64::from(super::super::WBLOCK_SIZE);
        header.partitions[7] = PartitionEntry { version: PartitionVersion::new(0xABC, 0), tree_id: 3 };
        header
    }

    fn bytes(header: &DeviceHeader) -> Vec<u8> {
        let mut bytes = vec![0; HEADER_SIZE];
        header.encode(&mut bytes);
        bytes
    }

    fn judge(devices: &[Vec<u8>]) -> Result<DeviceSet, DeviceSetError> {
        judge_sized(devices, SIZE)
    }

    fn judge_sized(devices: &[Vec<u8>], found_size: u64) -> Result<DeviceSet, DeviceSetError> {
        let paths: Vec<PathBuf> = (0..devices.len()).map(|n| PathBuf::from(format!("/dev/d{n}"))).collect();
        let candidates: Vec<Candidate<'_>> = devices
            .iter()
            .zip(&paths)
            .map(|(first_bytes, path)| Candidate { path, found_size, size: SIZE, first_bytes })
            .collect();
        DeviceSet::judge(b"bar", &candidates, NEW)
    }

    fn fresh() -> Vec<u8> {
        vec![0; HEADER_SIZE]
    }

    #[test]
    fn fresh_devices_make_a_new_set() {
        let set = judge(&[fresh(), fresh()]).unwrap();
        assert!(set.all_fresh() && set.missing_ids.is_empty());
        assert_eq!(set.unclean, [false, false]);
        for (id, header) in (0..).zip(&set.headers) {
            let (size, end_mark_key) = (SIZE, header.end_mark_key);
            let fresh = DeviceHeader::fresh(b"bar", 2, NEW, id);
            assert_eq!(*header, DeviceHeader { runs: vec![NEW], size, end_mark_key, ..fresh });
            assert!(end_mark_key != 0);
        }
        assert!(judge_sized(&[Vec::new()], 0).unwrap().all_fresh(), "a file just created");
    }

    #[test]
    fn used_devices_keep_what_they_know_in_any_order() {
        let set = judge(&[bytes(&used(1)), bytes(&used(0))]).unwrap();
        assert!(!set.all_fresh() && set.missing_ids.is_empty());
        assert_eq!((&set.fresh, &set.unclean), (&vec![false; 2], &vec![false; 2]));
        for (id, header) in (0..).zip(&set.headers) {
            assert_eq!(
                (header.device_id, header.signature, header.flags),
                (id, OLD, Flags::COMMIT_TO_DEVICE)
            );
            assert_eq!(header.partitions, used(0).partitions);
        }
        assert_eq!(set.headers[0].pristine_offset, used(1).pristine_offset);
        assert_eq!(set.headers[0].runs, [NEW, OLD], "the first run here, after one of another server");
        let mut known = used(0);
        (known.device_count, known.runs) = (1, vec![3; RUN_COUNT_MAX]);
        let set = judge(&[bytes(&known)]).unwrap();
        assert_eq!(
            (set.headers[0].runs[..2].to_vec(), set.headers[0].runs.len()),
            (vec![NEW, 3], RUN_COUNT_MAX)
        );
    }

    #[test]
    fn devices_are_added_and_left_out() {
        let mut unclean = used(1);
        unclean.flags = Flags::default();
        let set = judge(&[fresh(), bytes(&unclean), fresh()]).unwrap();
        assert_eq!(set.fresh, [true, false, true]);
        assert_eq!(set.unclean, [false, true, false]);
        assert_eq!(set.missing_ids, [0]);
        assert!(
            set.headers.iter().all(|header| (header.signature, header.device_count) == (NEW, 3)
                && header.partitions[7].tree_id == 3)
        );
        assert_eq!(set.headers[0].pristine_offset, 0);
    }

    #[test]
    fn devices_that_do_not_belong_together_are_named() {
        let (mut stranger, mut miscounted) = (used(1), used(1));
        stranger.signature = 5;
        miscounted.device_count = 3;
        for (other, message) in [
            (stranger, "/dev/d0 and /dev/d1: at offset 48: different signatures"),
            (miscounted, "/dev/d0 and /dev/d1: at offset 44: members of a set of 2 and of one of 3"),
            (used(0), "/dev/d0 and /dev/d1: at offset 69632: both are device 0"),
        ] {
            let error = judge(&[bytes(&used(0)), bytes(&other)]).unwrap_err();
            assert!(error.to_string().starts_with(message), "{error}");
        }
        let mut foreign = fresh();
        foreign[1000] = 1;
        let error = judge(&[fresh(), foreign]).unwrap_err().to_string();
        assert!(error.starts_with("/dev/d1: at offset 1000: holds data that is not Aerospike's"), "{error}");
    }

    #[test]
    fn files_are_made_smaller_only_after_a_clean_stop() {
        let mut header = used(0);
        header.device_count = 1;
        assert!(judge_sized(&[bytes(&header)], SIZE + (64 << 20)).is_ok());
        header.flags = Flags::default();
        let error = judge_sized(&[bytes(&header)], SIZE + (64 << 20)).unwrap_err().to_string();
        assert!(error.starts_with("/dev/d0: at offset 134217728: may hold data up to 201326592"), "{error}");
        assert!(judge_sized(&[bytes(&header)], SIZE + 4096).is_ok(), "less than a write block more");
        // It was made smaller after a clean stop, and stopped uncleanly then. Its longer rest is not used.
        (header.size, header.end_mark_key) = (SIZE, 9);
        assert!(judge_sized(&[bytes(&header)], SIZE + (64 << 20)).is_ok());
        header.size = SIZE + (64 << 20);
        assert!(judge_sized(&[bytes(&header)], SIZE + (64 << 20)).is_err());
    }

    #[test]
    fn a_file_that_was_cut_is_refused() {
        let mut header = used(0);
        (header.device_count, header.flags, header.size, header.end_mark_key) =
            (1, Flags::default(), SIZE, 9);
        assert!(judge_sized(&[bytes(&header)], SIZE).is_ok());
        let error = judge_sized(&[bytes(&header)], SIZE - 1).unwrap_err().to_string();
        assert!(error.starts_with("/dev/d0: at offset 134217727: the file was cut"), "{error}");
        assert!(error.contains("truncate -s 134217728"), "{error}");
        // The configured size was increased.
        header.size = SIZE / 2;
        assert!(judge_sized(&[bytes(&header)], SIZE / 2).is_ok());
        let set = judge(&[bytes(&header)]).unwrap();
        assert_eq!((set.headers[0].size, set.headers[0].end_mark_key), (SIZE, 9), "the key stays");
    }

    #[test]
    fn short_files_are_not_taken_for_whole() {
        let error = judge_sized(&[bytes(&used(0))], 10 << 20).unwrap_err().to_string();
        assert!(error.contains("up to 16777216, but only 10485760 bytes"), "{error}");
        let error = judge_sized(&[bytes(&used(0))[..5000].to_vec()], 5000).unwrap_err().to_string();
        assert!(error.starts_with("/dev/d0: at offset 0: only 5000 bytes"), "{error}");
    }
}
