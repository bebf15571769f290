//! Module `truncate`: the last-update-times before which records of sets and namespaces are truncated; the same on all
//! nodes. Keys are `namespace` or `namespace|set`, values milliseconds since 2010-01-01.

use std::sync::Arc;

use cf::clock::StoredMillis;
use datamodel::flat::SET_NAME_SIZE_MAX;

use super::eviction::report_eviction_ahead;
use super::meaning::Moment;
use super::report::report_unusable;
use super::{Module, NOT_IN_COMMANDS, Occasion, SetError, Smd, SmdItem};
use crate::namespace::{Namespace, RemovalThresholds};

/// Between namespace and set in a key.
const DELIMITER: char = '|';
/// What is wrong with a name that no set can have which a command truncates.
const NO_SET_NAME: &str = "no set that could be truncated has such a name";

/// Whether a set of this name can be truncated: a command can name it, and an item can hold it.
pub(crate) fn is_truncatable(set_name: &str) -> bool {
    (1..=SET_NAME_SIZE_MAX).contains(&set_name.len()) && !set_name.contains(NOT_IN_COMMANDS)
}

fn key_of(namespace: &str, set_name: Option<&str>) -> String {
    match set_name {
        Some(set_name) => format!("{namespace}{DELIMITER}{set_name}"),
        None => namespace.to_owned(),
    }
}

/// Whether a principal whose clock shows `now` refuses the truncation of `namespace`, or of its set `set_name`, to
/// `last_update_time`, because that is far ahead of its clock.
pub(crate) fn is_truncation_refused_at(
    smd: &Smd,
    (namespace, set_name): (&str, Option<&str>),
    last_update_time: u64,
    now: StoredMillis,
) -> bool {
    let (key, value) = (key_of(namespace, set_name), last_update_time.to_string());
    smd.is_refused_at(Module::Truncate, &key, &value, now)
}

/// The moment before which the records of `namespace`, or of its set `set_name`, are truncated already; 0 without one.
pub(crate) fn truncated_before(smd: &Smd, namespace: &str, set_name: Option<&str>) -> u64 {
    let (key, now) = (key_of(namespace, set_name), StoredMillis::now().0);
    let items = smd.live_items(Module::Truncate);
    let item = items.iter().find(|item| item.key == key);
    item.and_then(|item| Agreed::of(item, now).last_update_time.ok().flatten()).unwrap_or(0)
}

/// Makes all nodes truncate the records of `namespace`, or of its set `set_name`, that were last updated
/// before `last_update_time`. Without that time the nodes forget the threshold. A threshold before the known
/// one has no effect.
///
/// # Errors
/// When the change cannot be made on all nodes.
pub(crate) fn agree_truncation(
    smd: &Smd,
    namespace: &str,
    set_name: Option<&str>,
    last_update_time: Option<u64>,
) -> Result<(), SetError> {
    let key = key_of(namespace, set_name);
    match last_update_time {
        Some(last_update_time) => smd.set(Module::Truncate, &key, &last_update_time.to_string()),
        None => smd.delete(Module::Truncate, &key),
    }
}

/// The meaning of an item.
#[derive(PartialEq, Eq, Debug)]
struct Agreed<'a> {
    namespace: &'a str,
    set_name: Option<&'a str>,
    /// The threshold; `None`: it is undone. An error: the reason why there is none.
    last_update_time: Result<Option<u64>, String>,
}

impl<'a> Agreed<'a> {
    /// The meaning of `item` at `now` (milliseconds since 2010-01-01).
    fn of(item: &'a SmdItem, now: u64) -> Self {
        let (namespace, set_name) = match item.key.split_once(DELIMITER) {
            Some((namespace, set_name)) => (namespace, Some(set_name)),
            None => (item.key.as_str(), None),
        };
        let last_update_time = match &item.value {
            None => Ok(None),
            Some(_) if !set_name.is_none_or(is_truncatable) => Err(NO_SET_NAME.to_owned()),
            Some(value) => {
                let moment = Moment::LastUpdateTime.of(item, now);
                moment.map_err(|error| format!("{error} ('{}')", value.escape_debug()))
            }
        };
        Agreed { namespace, set_name, last_update_time }
    }
}

/// The command that undoes a truncation.
fn undo_command(namespace: &str, set_name: Option<&str>) -> String {
    match set_name {
        Some(set_name) => format!("truncate-undo:namespace={namespace};set={}", set_name.escape_debug()),
        None => format!("truncate-namespace-undo:namespace={namespace}"),
    }
}

/// Logs that a truncation to `last_update_time` concerns records that are yet to be written, if it is after `now`.
fn report_ahead(namespace: &str, set_name: Option<&str>, last_update_time: u64, now: u64) {
    let ahead_ms = last_update_time.saturating_sub(now);
    if ahead_ms > 0 {
        let set = set_name.map_or_else(String::new, |set| format!(" of set '{}'", set.escape_debug()));
        cf::warning!(
            Truncate,
            "{{{namespace}}} records{set} that are written before {} ({last_update_time}), which is {ahead_ms} ms ahead, are \
             truncated by an item of truncate.smd: present ones are hidden and new ones refused until then; if nobody \
             truncated them, send {}",
            StoredMillis(last_update_time),
            undo_command(namespace, set_name)
        );
    }
}

/// Makes `namespaces` follow further agreed truncations. Earlier ones were known when records were loaded.
pub(crate) fn follow_truncation(smd: &Smd, namespaces: &Arc<[Arc<Namespace>]>) {
    let namespaces = Arc::clone(namespaces);
    smd.listen(Module::Truncate, move |items: &[&SmdItem], occasion| {
        let now = StoredMillis::now().0;
        for item in items {
            let Agreed { namespace, set_name, last_update_time } = Agreed::of(item, now);
            let Some(namespace) = namespaces.iter().find(|own| own.name() == namespace) else {
                continue;
            };
            match last_update_time {
                Err(why) => {
                    let remedy = set_name.is_none_or(is_truncatable).then(|| {
                        format!("truncate again or send {}", undo_command(namespace.name(), set_name))
                    });
                    report_unusable(Module::Truncate, &item.key, why, remedy.as_deref());
                }
                Ok(_) if occasion == Occasion::Start => {}
                Ok(Some(last_update_time)) => namespace.truncate(set_name, last_update_time),
                Ok(None) => namespace.undo_truncate(set_name),
            }
        }
    });
}

/// The agreed thresholds of `namespace`, without those that cannot be: [`follow_truncation`] and
/// [`follow_eviction`](super::follow_eviction) report them. Logs those that are ahead of the clock.
pub(crate) fn removal_thresholds(smd: &Smd, namespace: &str) -> RemovalThresholds {
    let now = StoredMillis::now().0;
    let mut thresholds = RemovalThresholds::default();
    for item in smd.live_items(Module::Truncate) {
        match Agreed::of(&item, now) {
            Agreed { namespace: name, set_name, last_update_time: Ok(Some(lut)) } if name == namespace => {
                report_ahead(namespace, set_name, lut, now);
                match set_name {
                    None => thresholds.truncate_lut = lut,
                    Some(set_name) => _ = thresholds.set_truncate_luts.insert(set_name.to_owned(), lut),
                }
            }
            _ => {}
        }
    }
    let evicted = smd.live_items(Module::Evict).into_iter().find(|item| item.key == namespace);
    let void_time = evicted.and_then(|item| Moment::VoidTime.of(&item, now).ok()?);
    thresholds.evict_void_time = void_time.and_then(|void_time| u32::try_from(void_time).ok()).unwrap_or(0);
    report_eviction_ahead(namespace, thresholds.evict_void_time, now);
    thresholds
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::smd::CrashingFolder;

    /// A file of a module whose items have this timestamp.
    fn file(timestamp: u64, items: &[(&str, &str)]) -> Vec<u8> {
        let items = items.iter().map(|(key, value)| SmdItem {
            key: (*key).to_owned(),
            value: Some((*value).to_owned()),
            generation: 1,
            timestamp,
        });
        datamodel::smd::encode_file(crate::smd::SmdVersion::default(), &items.collect::<Vec<_>>())
    }

    #[test]
    fn impossible_values_are_no_thresholds() {
        let now = StoredMillis::now().0;
        let (late, good) = ((now + 7 * 24 * 60 * 60 * 1_000).to_string(), now.to_string());
        let huge = "9".repeat(23);
        let (long, longest) = (format!("c|{}", "s".repeat(64)), format!("c|{}", "s".repeat(63)));
        let truncate = file(
            1,
            &[
                ("c", &huge),
                ("c|late", &late),
                ("c|huge", &huge),
                ("c|word", "abc"),
                ("c|negative", "-5"),
                ("c|zero", "0"),
                ("c|a;b", &good),
                ("c|a\nb", &good),
                ("c|", &good),
                (&long, &good),
                (&longest, &good),
                ("c|a|b", "7"),
                ("nope|a", &good),
            ],
        );
        let evict = file(1, &[("c", "99999999999"), ("d", "633609292")]);
        let folder = CrashingFolder::with(&[("truncate.smd", &truncate), ("evict.smd", &evict)]);
        let smd = Smd::open_for_tests(&folder);
        let luts = [(longest[2..].to_owned(), now), ("a|b".to_owned(), 7)];
        let expected =
            RemovalThresholds { set_truncate_luts: HashMap::from(luts), ..RemovalThresholds::default() };
        assert_eq!(removal_thresholds(&smd, "c"), expected);
        assert_eq!(removal_thresholds(&smd, "d").evict_void_time, 633_609_292);
        assert_eq!(smd.live_items(Module::Truncate).len(), 13);
    }

    /// The items are from before the clock was set back by two days.
    #[test]
    fn thresholds_stay_in_force_while_the_clock_is_behind() {
        let made = StoredMillis::now().0 + 2 * 24 * 60 * 60 * 1_000;
        let void_time = made / 1_000 + u64::from(crate::config::params::namespace::TTL_SECONDS_MAX);
        let truncate = file(made, &[("c", &made.to_string()), ("c|a", &made.to_string())]);
        let evict = file(made, &[("c", &void_time.to_string())]);
        let folder = CrashingFolder::with(&[("truncate.smd", &truncate), ("evict.smd", &evict)]);
        let expected = RemovalThresholds {
            truncate_lut: made,
            set_truncate_luts: HashMap::from([("a".to_owned(), made)]),
            evict_void_time: u32::try_from(void_time).expect("32 bits"),
        };
        assert_eq!(removal_thresholds(&Smd::open_for_tests(&folder), "c"), expected);
    }
}
