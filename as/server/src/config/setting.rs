//! The values of parameters: small cells that one thread changes (parser, set-config) while others read.
//!
//! Numbers, switches and choices are atomics read with one relaxed load, cheap enough for every request. Text
//! and lists are behind a lock and meant for start-up and info commands only. No cell knows its name or
//! bounds; those are in its [`Spec`](super::spec::Spec).

use std::fmt::Debug;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed};

use parking_lot::RwLock;

use super::value::{Backing, Endpoint, LogLevelRule};

/// A switch.
#[derive(Debug)]
pub struct Flag(AtomicBool);

impl Flag {
    /// A switch that starts as `value`.
    #[must_use]
    pub const fn new(value: bool) -> Self {
        Self(AtomicBool::new(value))
    }

    /// The current value; one relaxed load.
    #[inline]
    #[must_use]
    pub fn get(&self) -> bool {
        self.0.load(Relaxed)
    }

    /// Replaces the value.
    pub fn set(&self, value: bool) {
        self.0.store(value, Relaxed);
    }
}

/// An unsigned integer that has an atomic form.
pub trait Word: Copy + Debug + Into<u64> + TryFrom<u64> + 'static {
    /// The atomic form.
    type Cell: Debug + Send + Sync;
    /// A new cell.
    fn cell(value: Self) -> Self::Cell;
    /// Relaxed load.
    fn load(cell: &Self::Cell) -> Self;
    /// Relaxed store.
    fn store(cell: &Self::Cell, value: Self);
}

macro_rules! words {
    ($($word:ty => $cell:ty),+) => {$(
        impl Word for $word {
            type Cell = $cell;
            fn cell(value: Self) -> $cell {
                <$cell>::new(value)
            }
            #[inline]
            fn load(cell: &$cell) -> Self {
                cell.load(Relaxed)
            }
            fn store(cell: &$cell, value: Self) {
                cell.store(value, Relaxed);
            }
        }
    )+};
}
words!(u16 => AtomicU16, u32 => AtomicU32, u64 => AtomicU64);

/// A number of at most the width of `T`.
#[derive(Debug)]
pub struct Number<T: Word>(T::Cell);

impl<T: Word> Number<T> {
    /// A number that starts as `value`.
    #[must_use]
    pub fn new(value: T) -> Self {
        Self(T::cell(value))
    }

    /// The current value; one relaxed load.
    #[inline]
    #[must_use]
    pub fn get(&self) -> T {
        T::load(&self.0)
    }

    /// Replaces the value.
    pub fn set(&self, value: T) {
        T::store(&self.0, value);
    }
}

impl<T: Word + Default> Default for Number<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

/// A closed list of named values; see [`choices!`].
pub trait Choices: Copy + Debug + 'static {
    /// The names as the configuration file spells them, in the order of the variants.
    const NAMES: &'static [&'static str];
    /// Position of the variant in [`Self::NAMES`].
    fn index(self) -> u8;
    /// The variant at `index`; an index past the end gives the first variant.
    fn at(index: u8) -> Self;
}

/// Declares an enum whose variants have a configuration spelling.
macro_rules! choices {
    ($($(#[$meta:meta])* pub enum $name:ident { $($(#[$vmeta:meta])* $variant:ident = $text:literal),+ $(,)? })+) => {$(
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum $name { $($(#[$vmeta])* $variant),+ }

        impl $crate::config::setting::Choices for $name {
            const NAMES: &'static [&'static str] = &[$($text),+];
            fn index(self) -> u8 {
                self as u8
            }
            fn at(index: u8) -> Self {
                const ALL: &[$name] = &[$($name::$variant),+];
                ALL.get(usize::from(index)).copied().unwrap_or(ALL[0])
            }
        }

        impl $name {
            /// The configuration file's spelling.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }
    )+};
}
pub(crate) use choices;

/// One of a closed list of values.
#[derive(Debug)]
pub struct Choice<E: Choices> {
    index: AtomicU8,
    of: PhantomData<E>,
}

impl<E: Choices> Choice<E> {
    /// A choice that starts as `value`.
    #[must_use]
    pub fn new(value: E) -> Self {
        Self { index: AtomicU8::new(value.index()), of: PhantomData }
    }

    /// The current value; one relaxed load.
    #[inline]
    #[must_use]
    pub fn get(&self) -> E {
        E::at(self.index.load(Relaxed))
    }

    /// Replaces the value.
    pub fn set(&self, value: E) {
        self.index.store(value.index(), Relaxed);
    }
}

/// A word, name or path that may be unset.
#[derive(Debug)]
pub struct Text(RwLock<Option<Arc<str>>>);

impl Text {
    /// A text that starts as `value`.
    #[must_use]
    pub fn new(value: Option<&str>) -> Self {
        Self(RwLock::new(value.map(Arc::from)))
    }

    /// The current value.
    #[must_use]
    pub fn get(&self) -> Option<Arc<str>> {
        self.0.read().clone()
    }

    /// The current value, empty if unset.
    #[must_use]
    pub fn get_or_empty(&self) -> Arc<str> {
        self.get().unwrap_or_default()
    }

    /// Whether a value is set.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.read().is_some()
    }

    /// Replaces the value.
    pub fn set(&self, value: &str) {
        *self.0.write() = Some(Arc::from(value));
    }
}

/// Values of a parameter that may stand on several lines, in the order of the file.
#[derive(Debug)]
pub struct List<T>(RwLock<Vec<T>>);

impl<T: Clone> List<T> {
    /// A list that starts with `items`.
    #[must_use]
    pub fn new(items: impl Into<Vec<T>>) -> Self {
        Self(RwLock::new(items.into()))
    }

    /// A copy of the items.
    #[must_use]
    pub fn get(&self) -> Vec<T> {
        self.0.read().clone()
    }

    /// Number of items.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.read().len()
    }

    /// Whether there is no item.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.read().is_empty()
    }

    pub fn push(&self, item: T) {
        self.0.write().push(item);
    }

    /// Replaces all items.
    pub fn set(&self, items: Vec<T>) {
        *self.0.write() = items;
    }
}

/// A choice without its type, for the table-driven parts.
pub trait AnyChoice {
    /// Position of the current value in the parameter's list of names.
    fn index(&self) -> u8;
    /// Replaces the value by its position in the list of names.
    fn set_index(&self, index: u8);
}

impl<E: Choices> AnyChoice for Choice<E> {
    fn index(&self) -> u8 {
        self.index.load(Relaxed)
    }

    fn set_index(&self, index: u8) {
        self.index.store(index, Relaxed);
    }
}

/// A borrowed cell of any type: what parser, get-config and set-config work on.
#[derive(Clone, Copy)]
pub enum Field<'a> {
    /// A switch.
    Flag(&'a Flag),
    /// A 16-bit number.
    U16(&'a Number<u16>),
    /// A 32-bit number.
    U32(&'a Number<u32>),
    /// A 64-bit number.
    U64(&'a Number<u64>),
    /// One of a closed list.
    Choice(&'a dyn AnyChoice),
    /// A word, name or path.
    Text(&'a Text),
    /// Words, names or paths.
    Texts(&'a List<String>),
    /// Pairs of host and port.
    Endpoints(&'a List<Endpoint>),
    /// Files or devices with their shadows.
    Backings(&'a List<Backing>),
    /// Levels of log contexts.
    Levels(&'a List<LogLevelRule>),
}

/// A cell that can be handled through [`Field`].
pub trait AsField {
    /// The cell as a [`Field`].
    fn as_field(&self) -> Field<'_>;
}

macro_rules! as_field {
    ($($cell:ty => $variant:ident),+ $(,)?) => {$(
        impl AsField for $cell {
            fn as_field(&self) -> Field<'_> {
                Field::$variant(self)
            }
        }
    )+};
}
as_field! {
    Flag => Flag,
    Number<u16> => U16,
    Number<u32> => U32,
    Number<u64> => U64,
    Text => Text,
    List<String> => Texts,
    List<Endpoint> => Endpoints,
    List<Backing> => Backings,
    List<LogLevelRule> => Levels,
}

impl<E: Choices> AsField for Choice<E> {
    fn as_field(&self) -> Field<'_> {
        Field::Choice(self)
    }
}
