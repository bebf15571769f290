//! Rows of the parameter tables and the macro that declares a table.
//!
//! A table is declared once with [`params!`]: the struct of cells, their defaults and one [`Spec`] per
//! parameter. Parsing, validation, get-config, set-config and the printed reference all walk the specs;
//! nothing else lists parameters. The order of the rows is the order in which get-config prints them.

use super::kind::{Kind, NumberRule};
use super::setting::{Choices, Field};

/// Whether a parameter does anything in this build.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// It has the effect that its line describes.
    Now,
    /// Accepted and checked; the part of the server that reads it does not exist yet.
    Later,
    /// Accepted and checked, and permanently without effect: this server does not have the feature.
    Unsupported,
}

/// Bits that distinguish variants of one context; a parameter may belong to only some of them.
pub mod variant {
    /// Every variant.
    pub const ALL: u8 = u8::MAX;
    /// `storage-engine memory`.
    pub const MEMORY: u8 = 1;
    /// `storage-engine pmem`, `index-type pmem`, `sindex-type pmem`.
    pub const PMEM: u8 = 2;
    /// `storage-engine device`.
    pub const DEVICE: u8 = 4;
    /// `storage-engine memory` with files or devices behind it.
    pub const BACKED: u8 = 8;
    /// A storage engine with a key file.
    pub const ENCRYPTED: u8 = 16;
    /// `index-type flash`, `sindex-type flash`.
    pub const FLASH: u8 = 32;
    /// Heartbeat mode mesh.
    pub const MESH: u8 = 1;
    /// Heartbeat mode multicast.
    pub const MULTICAST: u8 = 2;
    /// A log sink on the console or a file.
    pub const PLAIN_SINK: u8 = 1;
    /// A log sink on syslog.
    pub const SYSLOG: u8 = 2;
}

/// One row: all properties of a parameter except its current value.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// Name in the configuration file.
    pub name: &'static str,
    /// The kind of its values.
    pub kind: Kind,
    /// One sentence for the reference.
    pub doc: &'static str,
    /// The meaning of the default, if the value alone does not show it.
    pub default_note: &'static str,
    /// May be changed by set-config.
    pub dynamic: bool,
    /// Only the Enterprise Edition of the C server has it.
    pub enterprise: bool,
    pub effect: Effect,
    /// May stand in the configuration file.
    pub in_file: bool,
    /// Variants of the context that know the parameter.
    pub known_to: u8,
    /// Variants of the context whose get-config shows it.
    pub shown_by: u8,
}

impl Spec {
    const fn new(name: &'static str, kind: Kind) -> Self {
        Self {
            name,
            kind,
            doc: "",
            default_note: "",
            dynamic: false,
            enterprise: false,
            effect: Effect::Now,
            in_file: true,
            known_to: variant::ALL,
            shown_by: variant::ALL,
        }
    }

    /// May be changed by set-config.
    #[must_use]
    pub const fn dynamic(mut self) -> Self {
        self.dynamic = true;
        self
    }

    /// Only the Enterprise Edition of the C server has it.
    #[must_use]
    pub const fn enterprise(mut self) -> Self {
        self.enterprise = true;
        self
    }

    /// It is not in effect yet: nothing reads it.
    #[must_use]
    pub const fn later(mut self) -> Self {
        self.effect = Effect::Later;
        self
    }

    /// It will never have an effect: nothing will read it.
    #[must_use]
    pub const fn unsupported(mut self) -> Self {
        self.effect = Effect::Unsupported;
        self
    }

    /// Sets the meaning of the default.
    #[must_use]
    pub const fn note(mut self, note: &'static str) -> Self {
        self.default_note = note;
        self
    }

    /// Not accepted in the configuration file.
    #[must_use]
    pub const fn not_in_file(mut self) -> Self {
        self.in_file = false;
        self
    }

    /// Not printed by get-config.
    #[must_use]
    pub const fn hidden(mut self) -> Self {
        self.shown_by = 0;
        self
    }

    /// Only these variants of the context know and show it.
    #[must_use]
    pub const fn only(mut self, variants: u8) -> Self {
        self.known_to = variants;
        self.shown_by = variants;
        self
    }

    /// Only these variants of the context show it.
    #[must_use]
    pub const fn shown_by(mut self, variants: u8) -> Self {
        self.shown_by = variants;
        self
    }

    /// Attaches the sentence for the reference.
    #[must_use]
    pub const fn doc(mut self, doc: &'static str) -> Self {
        self.doc = doc;
        self
    }
}

/// A switch.
pub const fn boolean(name: &'static str) -> Spec {
    Spec::new(name, Kind::Bool { bare: false })
}

/// A switch whose value may be left out, which means true.
pub const fn bare_boolean(name: &'static str) -> Spec {
    Spec::new(name, Kind::Bool { bare: true })
}

/// A number from `min` to `max`.
pub const fn number(name: &'static str, min: u64, max: u64) -> Spec {
    Spec::new(name, Kind::Number { min, max, shape: NumberRule::Any, bytes: false })
}

/// Any 32-bit number.
pub const fn any_u32(name: &'static str) -> Spec {
    number(name, 0, u32::MAX as u64)
}

/// Any 64-bit number.
pub const fn any_u64(name: &'static str) -> Spec {
    number(name, 0, u64::MAX)
}

/// A power of two from `min` to `max`.
pub const fn power_of_2(name: &'static str, min: u64, max: u64) -> Spec {
    Spec::new(name, Kind::Number { min, max, shape: NumberRule::PowerOf2, bytes: false })
}

/// A multiple of `factor` up to 2³² − 1.
pub const fn multiple_of(name: &'static str, factor: u64) -> Spec {
    let shape = NumberRule::MultipleOf(factor);
    Spec::new(name, Kind::Number { min: 0, max: u32::MAX as u64, shape, bytes: false })
}

/// A number of bytes from `min` to `max`.
pub const fn size(name: &'static str, min: u64, max: u64) -> Spec {
    Spec::new(name, Kind::Number { min, max, shape: NumberRule::Any, bytes: true })
}

/// A number of bytes from `min` to `max` that is a power of two.
pub const fn size_power_of_2(name: &'static str, min: u64, max: u64) -> Spec {
    Spec::new(name, Kind::Number { min, max, shape: NumberRule::PowerOf2, bytes: true })
}

/// A time from `min` to `max` seconds.
pub const fn seconds(name: &'static str, min: u32, max: u32) -> Spec {
    Spec::new(name, Kind::Seconds { min, max, never: false })
}

/// A time of any 32-bit number of seconds.
pub const fn any_seconds(name: &'static str) -> Spec {
    seconds(name, 0, u32::MAX)
}

/// A time of 0 to `max` seconds, or −1 for never.
pub const fn seconds_or_never(name: &'static str, max: u32) -> Spec {
    Spec::new(name, Kind::Seconds { min: 0, max, never: true })
}

/// 0 to 100, or −1 for off.
pub const fn pct_or_off(name: &'static str) -> Spec {
    Spec::new(name, Kind::PctOrOff)
}

/// A port.
pub const fn port(name: &'static str) -> Spec {
    Spec::new(name, Kind::Port { or_any: true })
}

/// A port that clients are told; its default is the port that the server listens on.
pub const fn told_port(name: &'static str) -> Spec {
    Spec::new(name, Kind::Port { or_any: false })
}

/// A 64-bit hexadecimal number.
pub const fn hex(name: &'static str) -> Spec {
    Spec::new(name, Kind::Hex)
}

/// One of the names of `E`.
pub const fn choice<E: Choices>(name: &'static str) -> Spec {
    Spec::new(name, Kind::Choice(E::NAMES))
}

/// A word.
pub const fn text(name: &'static str) -> Spec {
    Spec::new(name, Kind::Text { max: usize::MAX })
}

/// A word of at most `max` bytes.
pub const fn short_text(name: &'static str, max: usize) -> Spec {
    Spec::new(name, Kind::Text { max })
}

/// From `min` to `max` words, kept with colons between them.
pub const fn joined(name: &'static str, min: usize, max: usize) -> Spec {
    Spec::new(name, Kind::Joined { min, max })
}

/// Words on up to `count_max` lines.
pub const fn texts(name: &'static str, count_max: usize, max: usize) -> Spec {
    Spec::new(name, Kind::Texts { count_max, max, words: 1, indexed: false })
}

/// One or two words on each of up to `count_max` lines.
pub const fn word_pairs(name: &'static str, count_max: usize) -> Spec {
    Spec::new(name, Kind::Texts { count_max, max: usize::MAX, words: 2, indexed: false })
}

/// Paths on up to `count_max` lines, shown with an index.
pub const fn paths(name: &'static str, count_max: usize) -> Spec {
    Spec::new(name, Kind::Texts { count_max, max: usize::MAX, words: 1, indexed: true })
}

/// Addresses on up to 250 lines.
pub const fn addresses(name: &'static str) -> Spec {
    texts(name, 250, usize::MAX)
}

/// An address and a port on each of up to `count_max` lines.
pub const fn endpoints(name: &'static str, count_max: usize) -> Spec {
    Spec::new(name, Kind::Endpoints { count_max, tls: false })
}

/// An address, a port and perhaps a TLS name on each of up to `count_max` lines.
pub const fn tls_endpoints(name: &'static str, count_max: usize) -> Spec {
    Spec::new(name, Kind::Endpoints { count_max, tls: true })
}

/// A file or device, perhaps with a shadow, on each of up to 128 lines.
pub const fn backings(name: &'static str) -> Spec {
    Spec::new(name, Kind::Backings { count_max: 128 })
}

/// Log contexts and their levels.
pub const fn log_levels(name: &'static str) -> Spec {
    Spec::new(name, Kind::LogLevels)
}

/// A table of parameters with their values.
pub trait ParamTable: Send + Sync {
    /// The rows, in the order of get-config.
    fn specs(&self) -> &'static [Spec];
    /// The cell of row `index`.
    fn field(&self, index: usize) -> Option<Field<'_>>;
}

/// Every row of `table` with its cell.
pub fn rows(table: &dyn ParamTable) -> impl Iterator<Item = (&'static Spec, Field<'_>)> {
    table.specs().iter().enumerate().filter_map(|(index, spec)| Some((spec, table.field(index)?)))
}

/// The row called `name` with its cell.
pub fn find<'a>(table: &'a dyn ParamTable, name: &str) -> Option<(&'static Spec, Field<'a>)> {
    rows(table).find(|(spec, _)| spec.name == name)
}

/// Declares a struct of parameters and its table. Each row has the form `/// sentence`
/// `field: Cell = default, row_function("name", …).attribute();`.
macro_rules! params {
    (
        $(#[$meta:meta])*
        pub struct $table:ident {
            $( $(#[doc = $doc:literal])+ $field:ident: $cell:ty = $default:expr, $spec:expr; )+
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug)]
        pub struct $table {
            $( $(#[doc = $doc])+ pub $field: $cell, )+
        }

        impl $table {
            /// The rows, in the order of get-config.
            pub const SPECS: &'static [$crate::config::spec::Spec] =
                &[ $( $spec.doc(concat!($($doc),+)), )+ ];
        }

        impl Default for $table {
            fn default() -> Self {
                Self { $( $field: <$cell>::new($default), )+ }
            }
        }

        impl $crate::config::spec::ParamTable for $table {
            fn specs(&self) -> &'static [$crate::config::spec::Spec] {
                Self::SPECS
            }

            fn field(&self, index: usize) -> Option<$crate::config::setting::Field<'_>> {
                use $crate::config::setting::{AsField, Field};
                const CELLS: &[fn(&$table) -> Field<'_>] = &[ $( |table| table.$field.as_field(), )+ ];
                CELLS.get(index).map(|cell| cell(self))
            }
        }
    };
}
pub(crate) use params;
