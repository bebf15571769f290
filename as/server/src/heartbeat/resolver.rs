//! Resolves seeds that are names, on a separate thread, because resolving may take long.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

use crossbeam::channel::{Receiver, Sender, unbounded};

use crate::config::value::Endpoint;

/// The sending end for requests.
pub(super) struct Resolver(Sender<Endpoint>);

/// The receiving end.
pub(super) struct Requests(Receiver<Endpoint>);

impl Resolver {
    pub(super) fn new() -> (Self, Requests) {
        let (sender, receiver) = unbounded();
        (Resolver(sender), Requests(receiver))
    }

    /// The addresses of a seed that is an address. A name is passed to the resolver thread.
    pub(super) fn ask(&self, seed: &Endpoint) -> Option<Vec<SocketAddr>> {
        if let Ok(ip) = seed.host.parse::<IpAddr>() {
            return Some(vec![SocketAddr::new(ip, seed.port)]);
        }
        // The receiver is gone when the server stops.
        let _ = self.0.send(seed.clone());
        None
    }
}

impl Requests {
    /// Answers requests until the sender is gone.
    pub(super) fn serve(&self, answer: impl Fn(Endpoint, Vec<SocketAddr>)) {
        for seed in &self.0 {
            cf::fault_point!("heartbeat-dns");
            let found = (seed.host.as_str(), seed.port).to_socket_addrs();
            if let Err(error) = &found {
                cf::warning_limited!(Hb, "cannot resolve seed {}: {error}", seed.host);
            }
            answer(seed, found.into_iter().flatten().collect());
        }
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;

    #[test]
    fn addresses_need_no_question_and_names_get_an_answer() {
        let (resolver, requests) = Resolver::new();
        let seed = |host: &str| Endpoint { host: host.to_owned(), port: 3002, tls_name: None };
        assert_eq!(resolver.ask(&seed("10.0.0.1")), Some(vec!["10.0.0.1:3002".parse().unwrap()]));
        assert_eq!(resolver.ask(&seed("localhost")), None);
        drop(resolver);
        let answers = Mutex::new(Vec::new());
        requests.serve(|seed, found| answers.lock().push((seed.host, found)));
        let (host, found) = answers.lock().remove(0);
        assert!(host == "localhost" && found.iter().all(|address| address.ip().is_loopback()));
        assert!(!found.is_empty());
    }
}
