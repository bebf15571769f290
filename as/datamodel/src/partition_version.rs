//! The version of a partition's data on one node. Nodes compare versions to determine which node has which
//! data. A device header stores them.
//!
//! ```text
//! bits 0-47   cluster key of the last rebalance the data took part in; 0 = no data
//!     48-51   family: 0-14 tells lines of data of one cluster key apart; 15 = unique, the line of this node alone
//!     52-59   0
//!     60      revived
//!     61      master: was the acting master
//!     62      subset: may lack records that others of the family have
//!     63      evade: not to be trusted with the partition
//! ```
//! As text `cef14538acf3.0.mp-`: cluster key; family in hex or `U`; `m` or `-`; `s` or `p`; `e`, `r` or `-`.

use std::fmt;
use std::str::FromStr;

/// The family of data that only this node has.
pub const FAMILY_UNIQUE: u8 = 15;

const CLUSTER_KEY_MASK: u64 = (1 << 48) - 1;
const FAMILY_SHIFT: u32 = 48;
const REVIVED: u64 = 1 << 60;
const MASTER: u64 = 1 << 61;
const SUBSET: u64 = 1 << 62;
const EVADE: u64 = 1 << 63;

/// A partition version. The default is the null version: no data.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(transparent)]
pub struct PartitionVersion(pub u64);

impl PartitionVersion {
    /// The version of a full copy with `cluster_key` (its low 48 bits count) and `family` (0 to 15).
    ///
    /// # Panics
    /// If `family` is out of range.
    #[must_use]
    pub const fn new(cluster_key: u64, family: u8) -> Self {
        assert!(family <= FAMILY_UNIQUE, "family of four bits");
        PartitionVersion(cluster_key & CLUSTER_KEY_MASK | (family as u64) << FAMILY_SHIFT)
    }

    /// The 48 bits of the cluster key.
    #[must_use]
    pub const fn cluster_key(self) -> u64 {
        self.0 & CLUSTER_KEY_MASK
    }

    /// The family, 0 to [`FAMILY_UNIQUE`].
    #[must_use]
    pub const fn family(self) -> u8 {
        (self.0 >> FAMILY_SHIFT) as u8 & FAMILY_UNIQUE
    }

    /// Whether the node was the acting master.
    #[must_use]
    pub const fn is_master(self) -> bool {
        self.0 & MASTER != 0
    }

    /// Whether records may be missing.
    #[must_use]
    pub const fn is_subset(self) -> bool {
        self.0 & SUBSET != 0
    }

    /// Whether the data must not be trusted.
    #[must_use]
    pub const fn is_evade(self) -> bool {
        self.0 & EVADE != 0
    }

    /// Whether untrusted data was accepted all the same.
    #[must_use]
    pub const fn is_revived(self) -> bool {
        self.0 & REVIVED != 0
    }

    /// The same version with the master bit set to `master`.
    #[must_use]
    pub const fn with_master(self, master: bool) -> Self {
        self.with(MASTER, master)
    }

    /// The same version with the subset bit set to `subset`.
    #[must_use]
    pub const fn with_subset(self, subset: bool) -> Self {
        self.with(SUBSET, subset)
    }

    /// The same version with the evade bit set to `evade`.
    #[must_use]
    pub const fn with_evade(self, evade: bool) -> Self {
        self.with(EVADE, evade)
    }

    /// The same version with the revived bit set to `revived`.
    #[must_use]
    pub const fn with_revived(self, revived: bool) -> Self {
        self.with(REVIVED, revived)
    }

    /// The version of a node that has left the cluster that gave it, as after a restart: the node is no
    /// longer master, and may lack later writes of other nodes.
    #[must_use]
    pub const fn isolated(self) -> Self {
        if self.has_data() { self.with_master(false).with_subset(true) } else { self }
    }

    const fn with(self, bit: u64, set: bool) -> Self {
        PartitionVersion(if set { self.0 | bit } else { self.0 & !bit })
    }

    /// Whether all bits are 0.
    #[must_use]
    pub const fn is_null(self) -> bool {
        self.0 == 0
    }

    /// Whether the node has data of the partition. Only then are its records loaded from a device.
    #[must_use]
    pub const fn has_data(self) -> bool {
        self.cluster_key() != 0
    }
}

impl fmt::Display for PartitionVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:012x}.", self.cluster_key())?;
        match self.family() {
            FAMILY_UNIQUE => f.write_str("U")?,
            family => write!(f, "{family:X}")?,
        }
        let master = if self.is_master() { 'm' } else { '-' };
        let subset = if self.is_subset() { 's' } else { 'p' };
        // The text never shows a unique family as revived.
        let trust = match (self.is_evade(), self.is_revived() && self.family() != FAMILY_UNIQUE) {
            (true, _) => 'e',
            (false, true) => 'r',
            (false, false) => '-',
        };
        write!(f, ".{master}{subset}{trust}")
    }
}

impl fmt::Debug for PartitionVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The error for a text that is not a partition version.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotAVersion;

impl fmt::Display for NotAVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a partition version like cef14538acf3.0.mp-")
    }
}

impl std::error::Error for NotAVersion {}

impl FromStr for PartitionVersion {
    type Err = NotAVersion;

    fn from_str(text: &str) -> Result<Self, NotAVersion> {
        let &[ref key @ .., b'.', family, b'.', master, subset, trust] = text.as_bytes() else {
            return Err(NotAVersion);
        };
        if key.len() != 12 || !key.iter().all(u8::is_ascii_hexdigit) {
            return Err(NotAVersion);
        }
        let key = u64::from_str_radix(&text[..12], 16).map_err(|_| NotAVersion)?;
        let family = match family {
            b'U' => FAMILY_UNIQUE,
            digit => (digit as char).to_digit(15).ok_or(NotAVersion)? as u8,
        };
        let flag = |byte, on, off| match byte {
            _ if byte == on => Ok(true),
            _ if byte == off => Ok(false),
            _ => Err(NotAVersion),
        };
        let version = PartitionVersion::new(key, family)
            .with_master(flag(master, b'm', b'-')?)
            .with_subset(flag(subset, b's', b'p')?);
        match trust {
            b'e' => Ok(version.with_evade(true)),
            b'r' => Ok(version.with_revived(true)),
            b'-' => Ok(version),
            _ => Err(NotAVersion),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn text_is_that_of_the_info_protocol() {
        let version = PartitionVersion(u64::from_le_bytes([0xE5, 0x96, 0xD2, 0x40, 0x85, 0x41, 0x00, 0x20]));
        assert_eq!(version.to_string(), "418540d296e5.0.mp-");
        assert!(version.has_data() && version.is_master() && !version.is_subset() && !version.is_evade());
        let unique = PartitionVersion::new(0xCEF1_4538_ACF3, FAMILY_UNIQUE).with_subset(true);
        assert_eq!(unique.with_evade(true).to_string(), "cef14538acf3.U.-se");
        assert_eq!(PartitionVersion::new(1, 11).with_revived(true).to_string(), "000000000001.B.-pr");
        assert_eq!(PartitionVersion::default().to_string(), "000000000000.0.-p-");
        assert!(PartitionVersion::default().is_null() && !PartitionVersion::default().has_data());
        assert!(!PartitionVersion::default().with_evade(true).has_data());
    }

    #[test]
    fn isolation_takes_mastership_and_completeness() {
        let version = |text: &str| text.parse::<PartitionVersion>();
        for (before, after) in [
            ("418540d296e5.0.mp-", "418540d296e5.0.-s-"),
            ("418540d296e5.3.-pe", "418540d296e5.3.-se"),
            ("418540d296e5.U.-s-", "418540d296e5.U.-s-"),
            ("000000000000.0.-p-", "000000000000.0.-p-"),
            ("000000000000.0.-pe", "000000000000.0.-pe"),
        ] {
            assert_eq!(version(before).map(PartitionVersion::isolated), version(after), "{before}");
        }
    }

    #[test]
    fn other_text_is_refused() {
        for text in [
            "",
            "418540d296e5",
            "418540d296e5.0.mp",
            "418540d296e5.F.mp-",
            "418540d296e.0.mp-",
            "418540d296g5.0.mp-",
            "+18540d296e5.0.mp-",
            "418540d296e5.0.xp-",
            "é18540d296e5.0.mp-",
        ] {
            assert_eq!(text.parse::<PartitionVersion>(), Err(NotAVersion), "{text}");
        }
    }

    proptest! {
        #[test]
        fn text_is_read_back(key in 0..=CLUSTER_KEY_MASK, family in 0..=FAMILY_UNIQUE, master: bool, subset: bool,
            evade: bool) {
            let version = PartitionVersion::new(key, family)
                .with_master(master).with_subset(subset).with_evade(evade);
            prop_assert_eq!(version.to_string().parse(), Ok(version));
            prop_assert_eq!((version.cluster_key(), version.family()), (key, family));
            prop_assert_eq!((version.is_master(), version.is_subset(), version.is_evade()), (master, subset, evade));
        }

        #[test]
        fn any_text_is_an_answer(text in "\\PC{0,24}") {
            let _ = text.parse::<PartitionVersion>();
        }
    }
}
