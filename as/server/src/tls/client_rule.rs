//! The rule that decides which client certificates are accepted: `tls-authenticate-client`.

/// The certificates that are accepted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum ClientRule {
    /// No certificate is requested.
    NotAsked,
    /// Any certificate signed by the authorities of the context.
    Any,
    /// A certificate as for `Any` that is for one of these names.
    Names(Vec<String>),
}

impl ClientRule {
    /// Reads the values of the parameter, which the configuration has checked. No value means any
    /// certificate.
    pub(super) fn new(values: &[String]) -> Self {
        match values {
            [] => ClientRule::Any,
            [only] if only == "any" => ClientRule::Any,
            [only] if only == "false" => ClientRule::NotAsked,
            names => ClientRule::Names(names.to_vec()),
        }
    }

    /// The names of which a certificate must have one; `None` accepts any name.
    pub(super) fn names(&self) -> Option<Vec<String>> {
        match self {
            ClientRule::Names(names) => Some(names.clone()),
            ClientRule::NotAsked | ClientRule::Any => None,
        }
    }
}
