//! Tables of embeddings, served as they are: ids or keys to vectors, bags of vectors, nearest rows.
//!
//! [`open()`] reads the header of a table and maps its file, or reads a text into memory. Look-ups copy rows out of the
//! mapping. A file that is cut short while it is served ends in an error of the request, never in a signal: see
//! `docs/decisions/mapped-tables.md`.
//!
//! - `bag`: weighted sums of rows.
//! - `executor`: requests to results.
//! - `guard`: the handler of SIGBUS for mapped tables.
//! - `keys`: the index of keys.
//! - `mapping`: mapped files; with `guard` and the call of the matrix product the only unsafe code.
//! - `nearest`: exact search.
//! - `numbers`: the number formats of tables.
//! - `npy`, `safetensors`, `text`, `word2vec`: file formats. They take bytes, and trust none.
//! - `layout`, `place`: where rows are in a file; errors with a place.
//! - `open`, `options`: opening files, and how.
//! - `product`: products of vectors and rows.
//! - `signatures`: what clients see.
//! - `table`: the rows of an open table.

#![deny(unsafe_code)]

mod bag;
mod executor;
mod guard;
mod keys;
mod layout;
mod mapping;
mod nearest;
mod npy;
mod numbers;
mod open;
mod options;
mod place;
mod product;
mod safetensors;
mod signatures;
mod table;
mod text;
mod word2vec;

pub use executor::Embeddings;
pub use open::{Loaded, open};
pub use options::{CheckFinite, Combiner, Metric, Options, Preload, Unknown};
