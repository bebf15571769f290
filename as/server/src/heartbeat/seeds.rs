//! The seeds of a mesh: nodes to connect to first. They come from the configuration and from `tip`. A seed with a TLS
//! name, even an empty one, uses TLS.

use parking_lot::Mutex;

use crate::config::value::Endpoint;

/// Largest number of seeds.
const SEEDS_MAX: usize = 256;

/// The seeds, in the order in which they were added.
pub(crate) struct Seeds(Mutex<Vec<Endpoint>>);

impl Seeds {
    /// Takes the seeds of the configuration: those without TLS, and those with TLS.
    pub(super) fn new(clear: &[Endpoint], tls: &[Endpoint]) -> Self {
        let with_tls = tls.iter().map(|seed| Endpoint { tls_name: Some(String::new()), ..seed.clone() });
        Seeds(Mutex::new(clear.iter().cloned().chain(with_tls).collect()))
    }

    /// All seeds.
    pub(crate) fn list(&self) -> Vec<Endpoint> {
        self.0.lock().clone()
    }

    /// Adds a seed, unless it is known. Returns false if there are too many.
    pub(crate) fn add(&self, host: &str, port: u16, is_tls: bool) -> bool {
        let mut seeds = self.0.lock();
        if seeds.iter().any(|seed| seed.host == host && seed.port == port) {
            return true;
        }
        if seeds.len() >= SEEDS_MAX {
            return false;
        }
        seeds.push(Endpoint { host: host.to_owned(), port, tls_name: is_tls.then(String::new) });
        true
    }

    /// Removes a seed; returns whether it was there. Nodes that it led to stay.
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
        let seeds = Seeds::new(&[Endpoint { host: "a".to_owned(), port: 1, tls_name: None }], &[]);
        assert!(seeds.add("a", 1, false) && seeds.add("a", 2, true));
        assert_eq!(seeds.list().len(), 2);
        assert!(seeds.remove("a", 1) && !seeds.remove("a", 1));
        assert_eq!(seeds.list()[0].port, 2);
        (0..300).for_each(|port| _ = seeds.add("b", port, false));
        assert_eq!(seeds.list().len(), SEEDS_MAX);
    }
}
