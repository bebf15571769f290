//! The times that items of system metadata can mean. Pure.
//!
//! A file may be damaged in its meaning although it is well formed, and a peer may send anything. A value
//! that is not a time, or that no clock could show, has no effect: see `report.rs`.
//!
//! This node's clock may be far behind, as after a start without a battery. So the timestamp of the item
//! counts as well: a genuine moment is not after it, and damage does not change value and timestamp in the
//! same way.

use datamodel::smd::SmdItem;

use crate::config::params::namespace::TTL_SECONDS_MAX;

/// Maximum by which the clock of a moment may be ahead of the clock of its item's timestamp. A clock that is
/// set to another time zone is wrong by less.
const CLOCK_ERROR_MAX_SECONDS: u64 = 24 * 60 * 60;

/// The reason why a text is not a [`Moment`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum MomentError {
    #[error("its value is no decimal number")]
    NoNumber,
    #[error("its value is 0, and no record is older")]
    Zero,
    #[error("its value is a time in the future beyond any clock that could be right")]
    InFuture,
}

/// The kind of time below which records are removed. A value is the decimal number of milliseconds or seconds since
/// 2010-01-01.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Moment {
    /// In milliseconds. No record has a later one than the present time.
    LastUpdateTime,
    /// In seconds. No record has one later than the longest TTL from the present time.
    VoidTime,
}

impl Moment {
    /// The moment that `item` means at `now` (milliseconds since 2010-01-01); `None`: it is deleted.
    ///
    /// # Errors
    /// When its value is no number, zero, or so late that it would remove all records, and later ones too.
    pub(super) fn of(self, item: &SmdItem, now: u64) -> Result<Option<u64>, MomentError> {
        item.value.as_deref().map(|value| self.parse(value, now.max(item.timestamp))).transpose()
    }

    /// The number in `value`, if the present time is at most `now`.
    fn parse(self, value: &str, now: u64) -> Result<u64, MomentError> {
        if value.is_empty() || !value.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(MomentError::NoNumber);
        }
        let latest = match self {
            Moment::LastUpdateTime => now.saturating_add(CLOCK_ERROR_MAX_SECONDS * 1_000),
            Moment::VoidTime => {
                let latest =
                    (now / 1_000).saturating_add(u64::from(TTL_SECONDS_MAX) + CLOCK_ERROR_MAX_SECONDS);
                latest.min(u64::from(u32::MAX))
            }
        };
        match value.parse() {
            Ok(0) => Err(MomentError::Zero),
            Ok(moment) if moment <= latest => Ok(moment),
            // What does not fit is too late as well.
            _ => Err(MomentError::InFuture),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_number_that_a_clock_could_have_shown() {
        let now = 533_609_292_607;
        let day = 24 * 60 * 60 * 1_000;
        let lut = |value: &str| Moment::LastUpdateTime.parse(value, now);
        for good in [1, now, now + day] {
            assert_eq!(lut(&good.to_string()), Ok(good));
        }
        for bad in ["", "abc", "-5", "+5", " 5", "5x", "0x10", "5.0", "\u{661}"] {
            assert_eq!(lut(bad), Err(MomentError::NoNumber), "{bad:?}");
        }
        for zero in ["0", "000"] {
            assert_eq!(lut(zero), Err(MomentError::Zero));
            assert_eq!(Moment::VoidTime.parse(zero, now), Err(MomentError::Zero));
        }
        for late in [(now + day + 1).to_string(), "1099511627776".to_owned(), "9".repeat(30)] {
            assert_eq!(lut(&late), Err(MomentError::InFuture), "{late}");
        }
        let void_time = |value: u64| Moment::VoidTime.parse(&value.to_string(), now);
        let latest = now / 1_000 + u64::from(TTL_SECONDS_MAX) + day / 1_000;
        assert_eq!(void_time(latest), Ok(latest));
        assert_eq!(void_time(latest + 1), Err(MomentError::InFuture));
        assert_eq!(Moment::VoidTime.parse("99999999999", u64::MAX), Err(MomentError::InFuture));
    }

    #[test]
    fn a_moment_is_valid_although_the_clock_is_behind() {
        let made = 533_609_292_607;
        let item = |value: u64, timestamp| SmdItem {
            key: "k".to_owned(),
            value: Some(value.to_string()),
            generation: 1,
            timestamp,
        };
        let void_time = made / 1_000 + u64::from(TTL_SECONDS_MAX);
        for now in [0, made - 2 * 24 * 60 * 60 * 1_000, made, made + 1] {
            assert_eq!(Moment::LastUpdateTime.of(&item(made, made), now), Ok(Some(made)));
            assert_eq!(Moment::VoidTime.of(&item(void_time, made), now), Ok(Some(void_time)));
            let deleted = SmdItem { value: None, ..item(0, made) };
            assert_eq!(Moment::VoidTime.of(&deleted, now), Ok(None));
            let damaged = item(made + 2 * 24 * 60 * 60 * 1_000, made);
            assert_eq!(Moment::LastUpdateTime.of(&damaged, now), Err(MomentError::InFuture));
        }
    }
}
