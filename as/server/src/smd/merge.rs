//! The rules of system metadata, without I/O, clock or lock: the effect of a set on a module's items, and which item
//! wins when those of several nodes meet.
//!
//! One node of the cluster, the principal, changes a module's items. It gives each change a [`SmdVersion`] and sends it
//! to the others ([`Catalog::prepare_set`], [`Catalog::apply`]). When clusters join, the principal merges all their
//! items ([`Catalog::merge`]) and the others take the result ([`Catalog::replace`]). A single node is its own
//! principal.
//!
//! Invariants: keys are unique; an item keeps its position for ever, even after deletion; on one node an item's
//! generation only grows.

use std::collections::HashMap;

use datamodel::smd::{SmdItem, SmdVersion};

use super::meaning::{Moment, MomentError};

/// The rule that determines the winner of two values of one key. If one of them is a deletion, the later one
/// wins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ConflictRule {
    /// The later one, by timestamp, then generation. Every set is accepted.
    Latest,
    /// The later moment. A set to one that is not later is ignored. An invalid value is before all others.
    LatestMoment(Moment),
}

impl ConflictRule {
    /// Whether `new` replaces `old` when the items of two nodes meet at `now` (milliseconds since 2010-01-01).
    fn prefers(self, new: &SmdItem, old: &SmdItem, now: u64) -> bool {
        match (self, &new.value, &old.value) {
            (ConflictRule::LatestMoment(moment), Some(_), Some(_)) => is_later(moment, new, old, now),
            _ => old.is_before(new),
        }
    }
}

/// Whether `new` is a later moment than `old`, as of `now`.
fn is_later(moment: Moment, new: &SmdItem, old: &SmdItem, now: u64) -> bool {
    let of = |item| moment.of(item, now).ok();
    of(new) > of(old)
}

/// A change of one item, with the resulting version of the module.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Update {
    pub(crate) version: SmdVersion,
    pub(crate) item: SmdItem,
}

/// State that undoes an [`Catalog::apply`].
#[derive(Debug)]
pub(crate) struct Undo {
    version: SmdVersion,
    position: usize,
    /// `None`: the item is new.
    before: Option<SmdItem>,
}

/// The items of a module.
#[derive(Clone, Debug)]
pub(crate) struct Catalog {
    rule: ConflictRule,
    version: SmdVersion,
    /// In the order in which their keys were first set.
    items: Vec<SmdItem>,
    positions: HashMap<String, usize>,
}

impl Catalog {
    /// A module's items from a file. The latest of several items with one key wins.
    pub(crate) fn new(rule: ConflictRule, version: SmdVersion, items: Vec<SmdItem>) -> Self {
        let mut catalog = Catalog { rule, version, items: Vec::new(), positions: HashMap::new() };
        for item in items {
            if catalog.get(&item.key).is_none_or(|present| present.is_before(&item)) {
                catalog.put(item);
            }
        }
        catalog
    }

    pub(crate) fn version(&self) -> SmdVersion {
        self.version
    }

    /// All items, deleted ones included.
    pub(crate) fn items(&self) -> &[SmdItem] {
        &self.items
    }

    /// The items that are not deleted, in the order in which their keys were first set.
    pub(crate) fn live_items(&self) -> impl Iterator<Item = &SmdItem> {
        self.items.iter().filter(|item| item.value.is_some())
    }

    /// The item of `key`, which may be deleted.
    pub(crate) fn get(&self, key: &str) -> Option<&SmdItem> {
        self.positions.get(key).map(|position| &self.items[*position])
    }

    /// The reason why the principal, whose clock shows `now`, refuses a set of `key` to `value`: the moment would have
    /// no effect there, because that clock is far behind that of the node whose client asks, or because the latter is
    /// far ahead.
    pub(crate) fn refusal(&self, key: &str, value: Option<&str>, now: u64) -> Option<MomentError> {
        let ConflictRule::LatestMoment(moment) = self.rule else { return None };
        let item = self.next_item(key, value, now);
        moment.of(&item, now).err().filter(|error| *error == MomentError::InFuture)
    }

    /// The item that a set makes at `now`.
    fn next_item(&self, key: &str, value: Option<&str>, now: u64) -> SmdItem {
        let present = self.get(key);
        SmdItem {
            key: key.to_owned(),
            value: value.map(str::to_owned),
            generation: present.map_or(1, |present| present.generation.wrapping_add(1)),
            // If the clock was set back, a later change must not look earlier.
            timestamp: present.map_or(now, |present| now.max(present.timestamp)),
        }
    }

    /// The update that the principal of cluster `cluster_key` makes for a set of `key` to `value`, or for its deletion
    /// without a value, at `now` (milliseconds since 2010-01-01). `None`: nothing changes, which is a success too.
    pub(crate) fn prepare_set(
        &self,
        key: &str,
        value: Option<&str>,
        now: u64,
        cluster_key: u64,
    ) -> Option<Update> {
        let item = self.next_item(key, value, now);
        if let Some(present) = self.get(key) {
            if present.value == item.value {
                return None;
            }
            if let (ConflictRule::LatestMoment(moment), Some(_), Some(_)) =
                (self.rule, &item.value, &present.value)
                && !is_later(moment, &item, present, now)
            {
                return None;
            }
        }
        Some(Update { version: SmdVersion { cluster_key, tid: self.version.tid.wrapping_add(1) }, item })
    }

    /// Applies a change that the principal decided on. Returns what undoes it; `None` if it was applied already.
    pub(crate) fn apply(&mut self, update: Update) -> Option<Undo> {
        let Update { version, item } = update;
        let before_version = std::mem::replace(&mut self.version, version);
        let is_known =
            |present: &SmdItem| (present.generation, present.timestamp) == (item.generation, item.timestamp);
        if self.get(&item.key).is_some_and(is_known) {
            return None;
        }
        let (position, before) = self.put(item);
        Some(Undo { version: before_version, position, before })
    }

    /// Undoes the last change.
    pub(crate) fn undo(&mut self, undo: Undo) {
        self.version = undo.version;
        match undo.before {
            Some(before) => self.items[undo.position] = before,
            None => {
                assert_eq!(undo.position + 1, self.items.len(), "only the last change is taken back");
                if let Some(item) = self.items.pop() {
                    self.positions.remove(&item.key);
                }
            }
        }
    }

    /// Adds an item that is valid until another value of it is known: it counts as older than any other, and makes no
    /// history. Returns whether it was added.
    pub(crate) fn add_default(&mut self, key: &str, value: &str) -> bool {
        let is_new = self.get(key).is_none();
        if is_new {
            let (key, value) = (key.to_owned(), Some(value.to_owned()));
            self.put(SmdItem { key, value, generation: 0, timestamp: 0 });
        }
        is_new
    }

    /// Removes the item that was [added](Self::add_default) last.
    pub(crate) fn remove_default(&mut self, key: &str) {
        if self.items.last().is_some_and(|item| item.key == key) {
            self.items.pop();
            self.positions.remove(key);
        }
    }

    /// Merges the items of the other nodes of a newly formed cluster. The principal calls this if their
    /// versions are not of one history. `now` is the time, in milliseconds since 2010-01-01. Returns the
    /// items that had another or no value here.
    pub(crate) fn merge(&mut self, others: Vec<Vec<SmdItem>>, cluster_key: u64, now: u64) -> Vec<SmdItem> {
        let mut next = self.clone();
        for item in others.into_iter().flatten() {
            if next.get(&item.key).is_none_or(|present| self.rule.prefers(&item, present, now)) {
                next.put(item);
            }
        }
        next.version = SmdVersion { cluster_key, tid: 1 };
        let news = self.news_in(&next);
        *self = next;
        news
    }

    /// Replaces all items with those of the principal. Returns the items that had another or no value here;
    /// missing ones are deleted.
    pub(crate) fn replace(&mut self, version: SmdVersion, items: Vec<SmdItem>) -> Vec<SmdItem> {
        let next = Catalog::new(self.rule, version, items);
        let gone = self.items.iter().filter(|item| item.value.is_some() && next.get(&item.key).is_none());
        let gone = gone.map(|item| SmdItem { value: None, ..item.clone() });
        let news = gone.chain(self.news_in(&next)).collect();
        *self = next;
        news
    }

    /// The items of `next` that have another or no value here.
    fn news_in(&self, next: &Catalog) -> Vec<SmdItem> {
        let value = |key: &str| self.get(key).and_then(|item| item.value.as_ref());
        next.items.iter().filter(|item| value(&item.key) != item.value.as_ref()).cloned().collect()
    }

    /// Puts `item` in its position. Returns the position and the previous item.
    fn put(&mut self, item: SmdItem) -> (usize, Option<SmdItem>) {
        match self.positions.get(&item.key) {
            Some(position) => (*position, Some(std::mem::replace(&mut self.items[*position], item))),
            None => {
                let position = self.items.len();
                self.positions.insert(item.key.clone(), position);
                self.items.push(item);
                (position, None)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LATEST_MOMENT: ConflictRule = ConflictRule::LatestMoment(Moment::LastUpdateTime);

    fn item(key: &str, value: Option<&str>, generation: u32, timestamp: u64) -> SmdItem {
        SmdItem { key: key.to_owned(), value: value.map(str::to_owned), generation, timestamp }
    }

    fn empty(rule: ConflictRule) -> Catalog {
        Catalog::new(rule, SmdVersion::default(), Vec::new())
    }

    fn set(catalog: &mut Catalog, key: &str, value: Option<&str>, now: u64) -> Option<(u32, u64, u64)> {
        let update = catalog.prepare_set(key, value, now, 7)?;
        let told = (update.item.generation, update.item.timestamp, update.version.tid);
        assert!(catalog.apply(update).is_some());
        Some(told)
    }

    #[test]
    fn a_moment_that_has_no_effect_at_the_principal_is_refused() {
        let mut catalog = empty(LATEST_MOMENT);
        let day = 24 * 60 * 60 * 1_000;
        let (behind, right) = (10 * day, 20 * day);
        let fresh = right.to_string();
        let refusal = |catalog: &Catalog, value, now| catalog.refusal("a", value, now);
        assert_eq!(refusal(&catalog, Some(&fresh), right), None);
        assert_eq!(refusal(&catalog, Some(&fresh), behind), Some(MomentError::InFuture));
        assert_eq!(refusal(&catalog, None, behind), None);
        assert_eq!(refusal(&empty(ConflictRule::Latest), Some(&fresh), behind), None);
        // An earlier moment whose time stamp is right tells that the clock was right then.
        set(&mut catalog, "a", Some("5"), right - 1);
        assert_eq!(refusal(&catalog, Some(&fresh), behind), None);
        assert!(set(&mut catalog, "a", Some(&fresh), behind).is_some());
    }

    #[test]
    fn a_set_counts_generation_and_version() {
        let mut catalog = empty(ConflictRule::Latest);
        assert_eq!(set(&mut catalog, "a", Some("1"), 100), Some((1, 100, 1)));
        assert_eq!(set(&mut catalog, "b", None, 101), Some((1, 101, 2)));
        assert_eq!(set(&mut catalog, "a", Some("1"), 102), None);
        assert_eq!(set(&mut catalog, "b", None, 102), None);
        assert_eq!(set(&mut catalog, "a", Some("0"), 103), Some((2, 103, 3)));
        // The clock went back.
        assert_eq!(set(&mut catalog, "a", None, 50), Some((3, 103, 4)));
        assert_eq!(set(&mut catalog, "a", Some("0"), 104), Some((4, 104, 5)));
        assert_eq!(catalog.live_items().map(|item| item.key.as_str()).collect::<Vec<_>>(), ["a"]);
        assert_eq!(catalog.version(), SmdVersion { cluster_key: 7, tid: 5 });
    }

    #[test]
    fn an_earlier_moment_is_ignored_where_the_latest_counts() {
        let mut catalog = empty(LATEST_MOMENT);
        assert!(set(&mut catalog, "a", Some("100"), 1).is_some());
        assert!(set(&mut catalog, "a", Some("99"), 2).is_none());
        assert!(set(&mut catalog, "a", Some("100 "), 3).is_none());
        assert!(set(&mut catalog, "a", Some("101"), 4).is_some());
        assert!(set(&mut catalog, "a", None, 5).is_some());
        assert!(set(&mut catalog, "a", Some("1"), 6).is_some());
    }

    /// A damaged item must not prevent later truncations.
    #[test]
    fn an_invalid_value_gives_way_to_a_moment() {
        for damaged in ["99999999999999999999999", "9999999999999", "abc", "-5", ""] {
            let items = || vec![item("k", Some(damaged), 7, 1)];
            let mut catalog = Catalog::new(LATEST_MOMENT, SmdVersion::default(), items());
            assert!(set(&mut catalog, "k", Some("100"), 200).is_some(), "{damaged}");
            catalog.merge(vec![items()], 5, 300);
            assert_eq!(catalog.items()[0].value.as_deref(), Some("100"), "{damaged}");
            let mut other = Catalog::new(LATEST_MOMENT, SmdVersion::default(), items());
            other.merge(vec![catalog.items().to_vec()], 5, 300);
            assert_eq!(other.items()[0].value.as_deref(), Some("100"), "{damaged}");
        }
    }

    /// The clock is two days behind, as after a start without a battery.
    #[test]
    fn a_later_moment_stays_while_the_clock_is_behind() {
        let now = 600_000_000_000;
        let made = now + 2 * 24 * 60 * 60 * 1_000;
        let (text, earlier) = (made.to_string(), (now - 5).to_string());
        let items = || vec![item("k", Some(&text), 1, made)];
        let mut catalog = Catalog::new(LATEST_MOMENT, SmdVersion::default(), items());
        assert!(set(&mut catalog, "k", Some(&earlier), now).is_none());
        assert!(catalog.merge(vec![vec![item("k", Some(&earlier), 2, now)]], 5, now).is_empty());
        assert_eq!(catalog.items(), items());
        let mut other = empty(LATEST_MOMENT);
        set(&mut other, "k", Some(&earlier), now);
        assert_eq!(other.merge(vec![items()], 5, now), items());
    }

    #[test]
    fn a_merge_returns_the_changed_items() {
        let mut catalog = empty(ConflictRule::Latest);
        set(&mut catalog, "same", Some("1"), 100);
        set(&mut catalog, "older", Some("1"), 100);
        set(&mut catalog, "newer", Some("1"), 300);
        let (same, older) = (item("same", Some("1"), 1, 200), item("older", Some("2"), 1, 200));
        let theirs =
            vec![older.clone(), item("newer", Some("2"), 1, 200), same.clone(), item("gone", None, 1, 1)];
        assert_eq!(catalog.merge(vec![theirs], 5, 400), [older]);
        assert_eq!(catalog.get("same"), Some(&same));
        assert!(catalog.get("gone").is_some());
    }

    #[test]
    fn the_last_version_is_no_end() {
        let version = SmdVersion { cluster_key: 1, tid: u64::MAX };
        let mut catalog = Catalog::new(ConflictRule::Latest, version, Vec::new());
        assert_eq!(set(&mut catalog, "a", Some("1"), 100), Some((1, 100, 0)));
    }

    #[test]
    fn a_change_can_be_taken_back() {
        let mut catalog = empty(ConflictRule::Latest);
        set(&mut catalog, "a", Some("1"), 100);
        let before = catalog.clone();
        for (key, value) in [("a", Some("2")), ("a", None), ("b", Some("x"))] {
            let update = catalog.prepare_set(key, value, 200, 8).expect("a change");
            let undo = catalog.apply(update).expect("a change");
            catalog.undo(undo);
            assert_eq!((catalog.items(), catalog.version()), (before.items(), before.version()));
            assert!(catalog.get("b").is_none());
        }
    }

    #[test]
    fn a_change_that_comes_twice_is_made_once() {
        let principal = empty(ConflictRule::Latest);
        let update = principal.prepare_set("a", Some("1"), 100, 8).expect("a change");
        let mut other = empty(ConflictRule::Latest);
        assert!(other.apply(update.clone()).is_some());
        assert!(other.apply(update.clone()).is_none());
        assert_eq!(other.version(), update.version);
    }

    #[test]
    fn the_rule_decides_between_items_of_one_key() {
        let winner = |rule, ours: SmdItem, theirs: SmdItem| {
            let mut catalog = Catalog::new(rule, SmdVersion { cluster_key: 1, tid: 9 }, vec![ours]);
            catalog.merge(vec![vec![theirs]], 5, 100);
            assert_eq!(catalog.version(), SmdVersion { cluster_key: 5, tid: 1 });
            catalog.items()[0].value.clone()
        };
        let by = |rule| {
            (
                winner(rule, item("k", Some("5"), 1, 20), item("k", Some("9"), 1, 10)).unwrap_or_default(),
                winner(rule, item("k", Some("5"), 1, 10), item("k", Some("4"), 1, 20)).unwrap_or_default(),
                winner(rule, item("k", Some("5"), 1, 10), item("k", None, 1, 20)).unwrap_or_default(),
                winner(rule, item("k", None, 2, 10), item("k", Some("3"), 1, 10)).unwrap_or_default(),
            )
        };
        let own = |four: [&str; 4]| {
            let [first, second, third, fourth] = four.map(str::to_owned);
            (first, second, third, fourth)
        };
        assert_eq!(by(ConflictRule::Latest), own(["5", "4", "", ""]));
        assert_eq!(by(LATEST_MOMENT), own(["9", "5", "", ""]));
    }

    #[test]
    fn a_replacement_returns_the_changed_items() {
        let mut catalog = empty(ConflictRule::Latest);
        set(&mut catalog, "same", Some("1"), 100);
        set(&mut catalog, "older", Some("1"), 100);
        set(&mut catalog, "ours", Some("1"), 100);
        let theirs =
            vec![item("older", Some("2"), 2, 200), item("same", Some("1"), 1, 100), item("new", None, 1, 1)];
        let news = catalog.replace(SmdVersion { cluster_key: 3, tid: 4 }, theirs.clone());
        assert_eq!(news, [item("ours", None, 1, 100), theirs[0].clone()]);
        assert_eq!(catalog.items(), theirs);
        assert!(catalog.get("ours").is_none() && catalog.get("same").is_some());
    }

    #[test]
    fn defaults_give_way_to_everything() {
        let mut catalog = empty(ConflictRule::Latest);
        assert!(catalog.add_default("user", "first") && !catalog.add_default("user", "second"));
        assert_eq!(catalog.version(), SmdVersion::default());
        catalog.merge(vec![vec![item("user", None, 1, 1)]], 5, 100);
        assert_eq!(catalog.get("user").and_then(|item| item.value.clone()), None);
        assert!(catalog.add_default("last", "1"));
        catalog.remove_default("last");
        assert!(catalog.get("last").is_none());
    }

    fn any_items() -> impl Strategy<Value = Vec<SmdItem>> {
        let value = prop::option::of((0..4u32).prop_map(|number| number.to_string()));
        let one = (0..4usize, value, 1..4u32, 0..4u64);
        prop::collection::vec(one, 0..6).prop_map(|all| {
            let mut catalog = empty(ConflictRule::Latest);
            for (key, value, generation, timestamp) in all {
                let _ = catalog.put(item(["a", "b", "c", "d"][key], value.as_deref(), generation, timestamp));
            }
            catalog.items
        })
    }

    proptest! {
        /// All nodes of a new cluster get the same values, whoever is its principal, unless the rule cannot order two
        /// items.
        #[test]
        fn the_outcome_of_a_merge_does_not_depend_on_the_principal(
            first in any_items(),
            second in any_items(),
        ) {
            let catalog = |items: &[SmdItem]| {
                Catalog::new(ConflictRule::Latest, SmdVersion::default(), items.to_vec())
            };
            let (mut one, mut two) = (catalog(&first), catalog(&second));
            one.merge(vec![second], 1, 100);
            two.merge(vec![first], 1, 100);
            for item in one.items() {
                let other = two.get(&item.key).expect("both have all keys");
                prop_assert_eq!((item.timestamp, item.generation), (other.timestamp, other.generation));
            }
            prop_assert_eq!(one.items().len(), two.items().len());
        }
    }
}
