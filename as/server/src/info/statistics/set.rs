//! Statistics and parameters of sets.

use std::fmt::Write;
use std::sync::atomic::Ordering::Relaxed;

use super::Value::{self, Flag, Number};
use crate::config::spec::rows;
use crate::info::request::Joined;
use crate::namespace::{Namespace, Set};

/// A figure of a set.
type Row = (&'static str, fn(&Set) -> Value);

/// The figures of a set, in the order in which they are printed.
static ROWS: &[Row] = &[
    ("objects", |set| Number(set.objects.load(Relaxed))),
    ("tombstones", |set| Number(set.tombstones.load(Relaxed))),
    ("data_used_bytes", |set| Number(set.data_used_bytes.load(Relaxed))),
    ("truncate_lut", |set| Number(set.truncation.last_update_time())),
    ("sindexes", |set| Number(set.sindexes.load(Relaxed))),
    ("index_populating", |set| Flag(set.is_index_populating())),
    ("truncating", |set| Flag(set.truncation.is_removing())),
];

/// Writes `key=value:…;` for one set.
pub(in crate::info) fn write_set(set: &Set, out: &mut String) {
    let mut pairs = Joined::new(out, ':');
    for (key, value) in ROWS {
        pairs.pair(key, value(set));
    }
    for (spec, field) in rows(&*set.params) {
        pairs.pair(spec.name, spec.kind.text(field));
    }
    out.push(';');
}

/// Writes `ns=…:set=…:key=value:…;` for each set of a namespace.
pub(in crate::info) fn write_sets(namespace: &Namespace, out: &mut String) {
    for set in namespace.sets.iter() {
        // The name comes from a client, and must not end the line.
        let name = set.display_name().replace(char::is_control, "?");
        let _ = write!(out, "ns={}:set={name}:", namespace.name());
        write_set(set, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SetDirectory;
    use crate::namespace::Sets;

    #[test]
    fn a_set_shows_its_figures_and_parameters() {
        let (sets, directory) = (Sets::new(), SetDirectory::default());
        directory.get_or_create("demo").expect("room").stop_writes_count.set(9);
        let set = sets.find_or_create(b"demo", &directory).unwrap_or_else(|error| panic!("{error:?}"));
        set.objects.store(3, Relaxed);
        set.data_used_bytes.store(96, Relaxed);
        let mut text = String::new();
        write_set(set, &mut text);
        assert_eq!(
            text,
            "objects=3:tombstones=0:data_used_bytes=96:truncate_lut=0:sindexes=0:index_populating=false:\
             truncating=false:default-read-touch-ttl-pct=0:default-ttl=0:disable-eviction=false:enable-index=false:\
             stop-writes-count=9:stop-writes-size=0;"
        );
    }
}
