//! Secondary indexes: from values in bins to the records that have them.
//!
//! ```text
//! definition   what an index is for, and its key in system metadata
//! registry     the indexes of each namespace: made, renamed, dropped
//! index        one index: its trees (`index/entry_tree.rs`) and figures
//! observer     changes entries as commits change records
//! loaded       filling indexes while a start loads the records
//! populate     filling an index from existing records; gathered: the entries of many of them;
//!              memory_watch: the memory that is left for that
//! cardinality  estimates of different keys and records
//! unread       records that could not be read when indexes were filled
//! sweep        removal of entries that damaged records have left behind
//! ```
//! An index is exact: its entries always match the existing records. It is only in memory. A start fills all indexes
//! again before clients are served, from the records that it reads anyway. The exception are records that cannot be
//! read then: each index counts those that it may lack, until they can be read or are replaced.

mod cardinality;
mod definition;
mod gathered;
mod index;
mod loaded;
mod memory_watch;
mod observer;
mod of_namespace;
mod populate;
mod registry;
mod sweep;
#[cfg(test)]
mod tests;
mod unread;

pub(crate) use definition::{
    CONTEXT_TEXT_SIZE, ContextTextError, Definition, DefinitionError, INDEX_NAME_SIZE_MAX, can_be,
    context_of_text,
};
pub(crate) use index::SecondaryIndex;
pub(crate) use of_namespace::NamespaceIndexes;
pub(crate) use populate::{populate_all, run_builder};
pub(crate) use registry::{INDEX_COUNT_MAX, SecondaryIndexes};
pub(crate) use sweep::run_sweep;
