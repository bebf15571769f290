//! The seeds of a mesh: nodes that are asked first. They come from the configuration and from `tip`.

use parking_lot::Mutex;

use crate::config::value::Endpoint;

/// Seeds that there may be.
const SEEDS_MAX: usize = 256;

/// The seeds, in the order in which they were named.
pub(crate) struct Seeds(Mutex<Vec<Endpoint>>);

impl Seeds {
    pub(super) fn new(configured: &[Endpoint]) -> Self {
        Seeds(Mutex::new(configured.to_vec()))
    }

    /// All of them.
    pub(crate) fn list(&self) -> Vec<Endpoint> {
        self.0.lock().clone()
    }

    /// Adds a seed; returns false if there are too many. One that is there already is no other.
    pub(crate) fn add(&self, host: &str, port: u16) -> bool {
        let mut seeds = self.0.lock();
        if seeds.iter().any(|seed| seed.host == host && seed.port == port) {
            return true;
        }
        if seeds.len() >= SEEDS_MAX {
            return false;
        }
        seeds.push(Endpoint { host: host.to_owned(), port, tls_name: None });
        true
    }

    /// Forgets a seed; returns whether it was there. Nodes that it led to stay.
    pub(crate) fn remove(&self, host: &str, port: u16) -> bool {
        let mut seeds = self.0.lock();
        let before = seeds.len();
        seeds.retain(|seed| seed.host != host || seed.port != port);
        seeds.len() < before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_named_once_and_forgotten() {
        let seeds = Seeds::new(&[Endpoint { host: "a".to_owned(), port: 1, tls_name: None }]);
        assert!(seeds.add("a", 1) && seeds.add("a", 2));
        assert_eq!(seeds.list().len(), 2);
        assert!(seeds.remove("a", 1) && !seeds.remove("a", 1));
        assert_eq!(seeds.list()[0].port, 2);
        (0..300).for_each(|port| _ = seeds.add("b", port));
        assert_eq!(seeds.list().len(), SEEDS_MAX);
    }
}
