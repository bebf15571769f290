//! Explanations of refused ops, which the parts of the data model return to [`crate::refusal`].

use crate::particle::{BytesType, Particle};

/// The explanation of a refused op.
pub(crate) struct Explanation {
    /// The operation's name, such as `list_append`.
    pub(crate) operation: String,
    pub(crate) reason: Option<String>,
    /// A description of the value that the op was applied to, if more is known than the type of the bin.
    pub(crate) there: Option<String>,
}

impl Explanation {
    pub(crate) const fn new(operation: String, reason: Option<String>) -> Self {
        Explanation { operation, reason, there: None }
    }
}

/// Describes the bin of an op.
pub(crate) fn found(bin: Option<&Particle<'_>>) -> String {
    bin.map_or_else(|| "the bin does not exist".to_owned(), |bin| format!("the bin is {}", type_name(bin)))
}

/// The type of a particle, with an article.
pub(crate) const fn type_name(particle: &Particle<'_>) -> &'static str {
    match particle {
        Particle::Integer(_) => "an integer",
        Particle::Float(_) => "a float",
        Particle::Bool(_) => "a boolean",
        Particle::Bytes(bytes_type, _) => match bytes_type {
            BytesType::String => "a string",
            BytesType::Hll => "a HyperLogLog",
            BytesType::Map => "a map",
            BytesType::List => "a list",
            BytesType::GeoJson => "GeoJSON",
            BytesType::Vector => "a vector",
            BytesType::Blob => "a blob",
            _ => "a blob of a client's language",
        },
    }
}

/// A name in the style of the log: `GetByIndex` becomes `get_by_index`.
pub(crate) fn snake_case(name: &str) -> String {
    let mut out = String::with_capacity(name.len() + 8);
    for c in name.chars() {
        if c.is_ascii_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_in_the_style_of_the_log() {
        assert_eq!(snake_case("IndexRange"), "index_range");
        assert_eq!(snake_case("Get"), "get");
    }
}
