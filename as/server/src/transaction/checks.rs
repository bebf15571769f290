//! Checks that reads, writes and deletes share.

use datamodel::flat::FlatRecord;
use proto::ResultCode;
use proto::message::{Request, info1, info2};
use proto::reply::ReplyWriter;

use super::Call;
use super::filter::{self, OpenQuestion};
use crate::config::params::namespace::TTL_SECONDS_MAX;
use crate::index::RecordMeta;
use crate::metrics::{NamespaceCounter, Origin};
use crate::namespace::{Namespace, Set, TTL_NEVER_EXPIRE};

/// TTL of a request that leaves the choice to the server.
pub(super) const TTL_USE_DEFAULT: u32 = 0;
/// TTL of a request that keeps the record's void-time.
pub(super) const TTL_DONT_UPDATE: u32 = u32::MAX - 1;

const PARTICLE_TYPE_INTEGER: u8 = 1;
/// A stored integer key: its type byte and eight bytes.
const INTEGER_KEY_SIZE: usize = 9;

/// Largest reply to a request for one record, equal to the largest request. Without this limit a few ops could make a
/// huge reply by reading the same large bin again and again.
const REPLY_SIZE_MAX: usize = proto::frame::BODY_SIZE_MAX as usize;

/// Checks after each op that the reply does not get too large.
#[inline]
pub(super) fn check_reply_size(reply: &ReplyWriter<'_>) -> Result<(), ResultCode> {
    if reply.size() <= REPLY_SIZE_MAX { Ok(()) } else { Err(ResultCode::RecordTooBig) }
}

impl Call<'_> {
    /// Checks whether the namespace accepts writes from this kind of client.
    pub(super) fn check_xdr_filter(&self) -> Result<(), ResultCode> {
        let params = &self.namespace.config().params;
        let rejected = if self.request.info1 & info1::XDR != 0 {
            params.reject_xdr_writes.get()
        } else {
            params.reject_non_xdr_writes.get()
        };
        if rejected {
            self.namespace.metrics.add(NamespaceCounter::FailXdrForbidden, 1);
            return Err(ResultCode::Forbidden);
        }
        Ok(())
    }

    /// Checks that the set named in a read or delete is the record's; a request without a set matches any.
    pub(super) fn check_set_if_named(&self, record: &RecordMeta) -> Result<(), ResultCode> {
        if self.request.set_name().is_empty() { Ok(()) } else { self.check_set(record) }
    }

    /// Checks that the set named in a write is the record's.
    pub(super) fn check_set(&self, record: &RecordMeta) -> Result<(), ResultCode> {
        let name = self.namespace.set_of(record).map_or(&[][..], |set| &set.name);
        let is_own = matches!(self.origin, Origin::OpsSub | Origin::UdfSub);
        let is_cut = || !name.is_empty() && name == self.request.set_name_of_record();
        // A background query takes the record from the index, so its set needs no check.
        if is_own || name == self.request.set_name() || is_cut() {
            return Ok(());
        }
        cf::warning_limited!(
            Rw,
            "{{{}}} set name mismatch: record {} is in '{}', request says '{}'",
            self.namespace.name(),
            self.digest,
            String::from_utf8_lossy(name),
            String::from_utf8_lossy(self.request.set_name())
        );
        Err(ResultCode::Parameter)
    }

    /// Checks the generation that the request expects, if any. A record that does not exist has generation 0.
    pub(super) fn check_generation(&self, generation: u16) -> Result<(), ResultCode> {
        let generation = u32::from(generation);
        let holds = if self.request.info2 & info2::GENERATION != 0 {
            self.request.generation == generation
        } else if self.request.info2 & info2::GENERATION_GT != 0 {
            self.request.generation > generation
        } else {
            true
        };
        if holds {
            return Ok(());
        }
        self.namespace.metrics.add(NamespaceCounter::FailGeneration, 1);
        Err(ResultCode::Generation)
    }

    /// Evaluates the filter, if there is one, on the metadata of a record that has not been read. Returns an open
    /// question if the metadata does not decide.
    #[inline]
    pub(super) fn check_filter(&self, record: &RecordMeta) -> Result<Option<OpenQuestion<'_>>, ResultCode> {
        match self.filter {
            None => Ok(None),
            Some(Ok(filter)) => {
                let metadata = filter::metadata_of(self.namespace, &self.digest, record, self.now);
                filter::ask(filter, metadata, self.budget)
            }
            Some(Err(_)) if self.budget.is_exhausted() => Err(ResultCode::Timeout),
            Some(Err(result)) => {
                cf::warning_limited!(Rw, "{{{}}} bad filter expression", self.namespace.name());
                Err(*result)
            }
        }
    }

    /// Checks that the key sent with the request equals the stored one, if both exist.
    pub(super) fn check_key(&self, flat: &FlatRecord<'_>) -> Result<(), ResultCode> {
        match (self.request.key, flat.key) {
            (Some(sent), Some(stored)) if sent != stored => {
                cf::warning_limited!(
                    Rw,
                    "{{{}}} key mismatch: record {} has another key",
                    self.namespace.name(),
                    self.digest
                );
                Err(ResultCode::KeyMismatch)
            }
            _ => Ok(()),
        }
    }
}

/// The key to store with a record that has none: the one in the request.
pub(super) fn key_to_store<'a>(request: &Request<'a>) -> Result<Option<&'a [u8]>, ResultCode> {
    match request.key {
        None => Ok(None),
        Some(&[]) => Err(ResultCode::UnsupportedFeature),
        Some(key) if key[0] == PARTICLE_TYPE_INTEGER && key.len() != INTEGER_KEY_SIZE => {
            Err(ResultCode::UnsupportedFeature)
        }
        Some(key) => Ok(Some(key)),
    }
}

/// TTL in seconds of records whose writer leaves it to the server; 0 = never.
fn default_ttl(namespace: &Namespace, set: Option<&Set>) -> u32 {
    match set.map_or(0, |set| set.params.default_ttl.get()) {
        0 => namespace.config().params.default_ttl.get(),
        TTL_NEVER_EXPIRE => 0,
        seconds => seconds,
    }
}

/// The TTL of a write, checked. `is_new`: there is no live record, so no void-time can be kept.
pub(super) fn checked_ttl(call: &Call<'_>, set: Option<&Set>, is_new: bool) -> Result<u32, ResultCode> {
    checked_ttl_of(call, call.request.record_ttl, set, is_new)
}

/// As [`checked_ttl`], for a write whose `ttl` comes from elsewhere.
pub(super) fn checked_ttl_of(
    call: &Call<'_>,
    ttl: u32,
    set: Option<&Set>,
    is_new: bool,
) -> Result<u32, ResultCode> {
    let ttl = match ttl {
        TTL_DONT_UPDATE if is_new => TTL_USE_DEFAULT,
        ttl => ttl,
    };
    if ttl > TTL_SECONDS_MAX && ttl != TTL_NEVER_EXPIRE && ttl != TTL_DONT_UPDATE {
        cf::warning_limited!(Rw, "{{{}}} invalid ttl {ttl}", call.namespace.name());
        return Err(ResultCode::Parameter);
    }
    let expires = match ttl {
        TTL_NEVER_EXPIRE | TTL_DONT_UPDATE => false,
        TTL_USE_DEFAULT => default_ttl(call.namespace, set) != 0,
        _ => true,
    };
    let params = &call.namespace.config().params;
    if expires && params.nsup_period.get() == 0 && !params.allow_ttl_without_nsup.get() {
        cf::warning_limited!(
            Rw,
            "{{{}}} disallowed ttl with nsup-period 0 (see allow-ttl-without-nsup)",
            call.namespace.name()
        );
        return Err(ResultCode::Forbidden);
    }
    Ok(ttl)
}

/// The void-time that `ttl` gives a record whose void-time is `present`; `None` if the record is new. Without
/// `apply-ttl-reductions` the void-time never becomes earlier. "Never" counts as earlier than any other void-time, as
/// in the C server.
pub(super) fn void_time_after(call: &Call<'_>, set: Option<&Set>, ttl: u32, present: Option<u32>) -> u32 {
    let void_time = wanted_void_time(call, set, ttl, present.unwrap_or(0));
    match present {
        Some(present)
            if (present == 0 && void_time != 0 || void_time < present)
                && !call.namespace.config().params.apply_ttl_reductions.get() =>
        {
            present
        }
        _ => void_time,
    }
}

fn wanted_void_time(call: &Call<'_>, set: Option<&Set>, ttl: u32, present: u32) -> u32 {
    let from_now = |seconds: u32| call.now.seconds().saturating_add(seconds);
    match ttl {
        TTL_DONT_UPDATE => present,
        TTL_NEVER_EXPIRE => 0,
        TTL_USE_DEFAULT => match default_ttl(call.namespace, set) {
            0 => 0,
            seconds => from_now(seconds),
        },
        seconds => from_now(seconds),
    }
}
