//! Encrypted devices: the keys that open them, and the medium that encrypts writes and decrypts reads.
//!
//! [`datamodel::encryption`] describes the format and its reasons. The storage code above this module sees
//! only clear bytes. On the device the header is clear too, except for the key in it.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cf::aligned::AlignedBuf;
use cf::sys::block::{BlockError, BlockMedium};
use datamodel::device_header::{DeviceHeader, ENCRYPTED_KEY_OFFSET, Flags, HEADER_SPACE};
use datamodel::encryption::{DEVICE_KEY_SIZE, DeviceKey, Strength, UNIT_SIZE, UnitCipher};
use parking_lot::Mutex;

use super::header::DeviceSet;
use super::media::Media;
use crate::config::StorageConfig;
use crate::config::params::storage::Encryption;

/// Largest number of buffers that are kept.
const SPARES_MAX: usize = 4;
/// Largest size of a key file in bytes.
const KEY_FILE_SIZE_MAX: u64 = 10 << 20;

/// The reason why encryption prevents the use of devices.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EncryptionError {
    #[error("{name} on line {line}, {path}: {reason}")]
    KeyFile { name: &'static str, line: u32, path: String, reason: String },
    #[error("{device}: at offset {offset}: {problem}")]
    Device { device: PathBuf, offset: u64, problem: Problem },
    #[error("the system has no random numbers for a key: {0}")]
    Random(getrandom::Error),
}

/// A problem of one device.
#[derive(Debug)]
pub(crate) enum Problem {
    NoKey,
    /// The line of the key file in the configuration.
    NotEncrypted(u32),
    /// The path of the key file and its line in the configuration.
    WrongKey(String, u32),
    Strength {
        found: Strength,
        configured: Strength,
    },
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::NoKey => f.write_str(
                "the data is encrypted: configure encryption-key-file with the key file that it was encrypted with; if the \
                 data is not needed, erase the device",
            ),
            Problem::NotEncrypted(line) => write!(
                f,
                "the data is not encrypted, and cannot become so in place: take out encryption-key-file (line {line}), or \
                 start with an empty device and fill it from a backup or the cluster"
            ),
            Problem::WrongKey(path, line) => write!(
                f,
                "the key in {path} (encryption-key-file, line {line}) does not open the device: configure the file that it was encrypted by; if that was \
                 replaced, configure the former one as encryption-old-key-file"
            ),
            Problem::Strength { found, configured } => write!(
                f,
                "encrypted by {}, not by {}: configure 'encryption {}'",
                found.name(),
                configured.name(),
                found.name()
            ),
        }
    }
}

/// Reads a key file, which is given as a path, `file:` and a path, `env:` and a variable's name, or
/// `env-b64:` and the name of a variable in base64.
fn read_key(name: &'static str, line: u32, path: &str) -> Result<Vec<u8>, EncryptionError> {
    let fail = |reason: &dyn fmt::Display| EncryptionError::KeyFile {
        name,
        line,
        path: path.to_owned(),
        reason: reason.to_string(),
    };
    let variable = |variable: &str| {
        std::env::var_os(variable).ok_or_else(|| fail(&"there is no such environment variable"))
    };
    let key = if let Some(name) = path.strip_prefix("env:") {
        variable(name)?.into_encoded_bytes()
    } else if let Some(name) = path.strip_prefix("env-b64:") {
        STANDARD.decode(variable(name)?.as_encoded_bytes().trim_ascii()).map_err(|error| fail(&error))?
    } else if path.starts_with("secrets:") || path.starts_with("vault:") {
        return Err(fail(
            &"keys are not fetched from a secret manager; write it to a file, or use env: or env-b64:",
        ));
    } else {
        let file = path.strip_prefix("file:").unwrap_or(path);
        let size = std::fs::metadata(file).map_err(|error| fail(&error))?.len();
        if size > KEY_FILE_SIZE_MAX {
            return Err(fail(&format!("{size} bytes, too many for a key")));
        }
        std::fs::read(file).map_err(|error| fail(&error))?
    };
    if key.is_empty() { Err(fail(&"it is empty")) } else { Ok(key) }
}

/// The configured keys.
struct FileKeys {
    path: String,
    /// The line of the configuration that names the key file.
    line: u32,
    key: Vec<u8>,
    old_key: Option<Vec<u8>>,
    strength: Strength,
}

impl FileKeys {
    /// The keys of `config`; `None` without encryption.
    fn configured(config: &StorageConfig) -> Result<Option<Self>, EncryptionError> {
        let params = &config.params;
        let Some(path) = params.encryption_key_file.get() else { return Ok(None) };
        let old = params.encryption_old_key_file.get();
        let [line, old_line] = [0, 1].map(|at: usize| config.key_lines[at].get());
        let old_key = old.map(|path| read_key("encryption-old-key-file", old_line, &path)).transpose()?;
        let strength = match params.encryption.get() {
            Encryption::Aes128 => Strength::Aes128,
            Encryption::Aes256 => Strength::Aes256,
        };
        let key = read_key("encryption-key-file", line, &path)?;
        Ok(Some(FileKeys { path: path.to_string(), line, key, old_key, strength }))
    }

    /// The key of a device with `header`. It is wrapped anew if the old key file had wrapped it.
    fn open(&self, header: &mut DeviceHeader, device: &Path) -> Result<DeviceKey, Problem> {
        let Some(wrapped) = &header.encrypted_key else { return Err(Problem::NotEncrypted(self.line)) };
        if let Some(key) = DeviceKey::unwrap(wrapped, &self.key, self.strength) {
            return Ok(key);
        }
        let by_old = self.old_key.as_ref().and_then(|old| DeviceKey::unwrap(wrapped, old, self.strength));
        if let Some(key) = by_old {
            cf::info!(DrvSsd, "{}: its key is wrapped by {} from now on", device.display(), self.path);
            header.encrypted_key = Some(key.wrap(&self.key, self.strength));
            return Ok(key);
        }
        let keys = || std::iter::once(&self.key).chain(&self.old_key);
        let opens =
            |strength: &Strength| keys().any(|key| DeviceKey::unwrap(wrapped, key, *strength).is_some());
        Err(match Strength::ALL.into_iter().find(opens) {
            Some(found) => Problem::Strength { found, configured: self.strength },
            None => Problem::WrongKey(self.path.clone(), self.line),
        })
    }
}

/// Reads the configured keys, to check them before a start.
///
/// # Errors
/// When a key cannot be read.
pub(super) fn check_keys(config: &StorageConfig) -> Result<(), EncryptionError> {
    FileKeys::configured(config).map(drop)
}

/// The ciphers of the devices of `set`; `None` for one that is not encrypted. New devices get a key. Their
/// headers must be written afterwards, as must those whose key was wrapped anew.
///
/// # Errors
/// When a device's encryption does not match the configuration, or no key opens it.
pub(super) fn unlock(
    config: &StorageConfig,
    set: &mut DeviceSet,
    devices: &[&Path],
) -> Result<Vec<Option<Arc<UnitCipher>>>, EncryptionError> {
    let keys = FileKeys::configured(config)?;
    let mut ciphers = Vec::new();
    for ((header, is_fresh), device) in set.headers.iter_mut().zip(&set.fresh).zip(devices) {
        let fail = |problem| {
            let offset = ENCRYPTED_KEY_OFFSET as u64;
            EncryptionError::Device { device: device.to_path_buf(), offset, problem }
        };
        header.flags = header.flags.with(Flags::ENCRYPTED, keys.is_some());
        let Some(keys) = &keys else {
            if header.encrypted_key.is_some() {
                return Err(fail(Problem::NoKey));
            }
            ciphers.push(None);
            continue;
        };
        let key = if *is_fresh {
            let mut random = [0; DEVICE_KEY_SIZE];
            getrandom::fill(&mut random).map_err(EncryptionError::Random)?;
            let key = DeviceKey::new(random);
            header.encrypted_key = Some(key.wrap(&keys.key, keys.strength));
            key
        } else {
            keys.open(header, device).map_err(fail)?
        };
        ciphers.push(Some(Arc::new(key.cipher(keys.strength))));
    }
    Ok(ciphers)
}

/// Makes `media` encrypted.
pub(super) fn encrypted(media: Media, cipher: Arc<UnitCipher>) -> Media {
    let wrap = |inner: Arc<dyn BlockMedium>| -> Arc<dyn BlockMedium> {
        Arc::new(EncryptedMedium { inner, cipher: Arc::clone(&cipher), spares: Mutex::default() })
    };
    Media {
        main: wrap(media.main),
        shadow: media.shadow.map(wrap),
        cached: media.cached.map(wrap),
        is_volatile: media.is_volatile,
    }
}

/// A medium that is encrypted after the header.
struct EncryptedMedium {
    inner: Arc<dyn BlockMedium>,
    cipher: Arc<UnitCipher>,
    /// Memory for encrypted writes. Taken alone.
    spares: Mutex<Vec<AlignedBuf>>,
}

/// The part of `range`, a range of a buffer for `offset` of the medium, that is behind the header, and its
/// offset.
fn behind_header(offset: u64, range: Range<usize>) -> (u64, Range<usize>) {
    let clear = HEADER_SPACE.saturating_sub(offset).min(range.len() as u64) as usize;
    (offset + clear as u64, range.start + clear..range.end)
}

impl BlockMedium for EncryptedMedium {
    fn path(&self) -> &Path {
        self.inner.path()
    }

    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn io_size(&self) -> u32 {
        self.inner.io_size().max(UNIT_SIZE as u32)
    }

    fn read_at(&self, offset: u64, buffer: &mut AlignedBuf, range: Range<usize>) -> Result<(), BlockError> {
        self.inner.read_at(offset, buffer, range.clone())?;
        let (offset, range) = behind_header(offset, range);
        self.cipher.decrypt(offset, &mut buffer[range]);
        Ok(())
    }

    fn read_for(
        &self,
        offset: u64,
        buffer: &mut AlignedBuf,
        range: Range<usize>,
        needed: Range<usize>,
    ) -> Result<(), BlockError> {
        self.inner.read_at(offset, buffer, range.clone())?;
        // Only the units of the record are decrypted.
        let start = range.start + (needed.start - range.start) / UNIT_SIZE * UNIT_SIZE;
        let end = (range.start + (needed.end - range.start).next_multiple_of(UNIT_SIZE)).min(range.end);
        let (offset, range) = behind_header(offset + (start - range.start) as u64, start..end);
        self.cipher.decrypt(offset, &mut buffer[range]);
        Ok(())
    }

    fn write_at(&self, offset: u64, buffer: &AlignedBuf, range: Range<usize>) -> Result<(), BlockError> {
        let size = range.len();
        let (encrypted_at, part) = behind_header(offset, 0..size);
        if part.is_empty() {
            return self.inner.write_at(offset, buffer, range);
        }
        let spare = self.spares.lock().pop().filter(|spare| spare.len() >= size);
        let mut bytes = spare.unwrap_or_else(|| AlignedBuf::zeroed(size));
        bytes[..size].copy_from_slice(&buffer[range]);
        self.cipher.encrypt(encrypted_at, &mut bytes[part]);
        let written = self.inner.write_at(offset, &bytes, 0..size);
        let mut spares = self.spares.lock();
        if spares.len() < SPARES_MAX {
            spares.push(bytes);
        }
        written
    }

    fn sync(&self) -> Result<(), BlockError> {
        self.inner.sync()
    }

    fn grow(&self) -> Result<(), BlockError> {
        self.inner.grow()
    }

    fn next_data(&self, offset: u64) -> Option<u64> {
        self.inner.next_data(offset)
    }

    fn check(&self) -> Result<(), BlockError> {
        self.inner.check()
    }
}
