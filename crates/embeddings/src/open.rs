//! Opens the files of a table.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use servable_model::error::{Result, ServingError};
use servable_model::signature::Signature;

use crate::executor::Embeddings;
use crate::keys::Keys;
use crate::layout::Layout;
use crate::mapping::Mapping;
use crate::npy;
use crate::numbers::Kind;
use crate::options::{CheckFinite, Options};
use crate::place::Place;
use crate::safetensors;
use crate::signatures::signatures;
use crate::table::{Store, Table};
use crate::text;
use crate::word2vec;

/// An open table.
pub struct Loaded {
    /// Runs requests.
    pub executor: Embeddings,
    /// What clients see, by name.
    pub signatures: BTreeMap<String, Signature>,
}

/// Opens a table. The suffix of the file tells its format: `.npy`, `.safetensors`, `.tsv`, `.txt`, `.vec` or `.bin`.
///
/// Arrays are mapped. Texts and the binary format of `word2vec` are read into memory, with their keys.
///
/// # Arguments
///
/// - `path`: The file.
/// - `keys`: A file with the keys of an array, one a line.
/// - `options`: See [`Options`].
///
/// # Errors
///
/// `NOT_FOUND` if a file is missing. `DATA_LOSS` with the place and the problem if one is damaged. `INVALID_ARGUMENT` if
/// an option does not fit the table.
pub fn open(path: &Path, keys: Option<&Path>, options: &Options) -> Result<Loaded> {
    let place = Place(path);
    let file = File::open(path).map_err(|error| place.system(&error))?;
    let size = file.metadata().map_err(|error| place.system(&error))?.len();
    let may_be_infinite = options.check_finite == CheckFinite::Never;
    let suffix = path.extension().and_then(|suffix| suffix.to_str()).unwrap_or_default();
    let separator = if suffix == "tsv" { b'\t' } else { b' ' };
    let read = match suffix {
        "npy" | "safetensors" => {
            let layout =
                if suffix == "npy" { npy_layout(&file, place)? } else { tensor_layout(&file, options, place)? };
            let keys = keys.map(|path| read_keys(path).map(|keys| (keys, path.to_owned()))).transpose()?;
            let store = Store::Mapped(mapped(file, size, &layout, options, place)?);
            let table = Table::new(path.to_owned(), store, layout, keys, options.unknown)?;
            if options.check_finite == CheckFinite::Always {
                table.expect_finite()?;
            }
            return Ok(loaded(table, options));
        }
        _ if keys.is_some() => {
            let text = "got a file with keys beside a table that has keys, want it beside .npy or .safetensors";
            return Err(ServingError::invalid_argument(format!("{}: {text}", path.display())));
        }
        "bin" => word2vec::read(BufReader::new(file), size, may_be_infinite, place)?,
        "tsv" | "txt" | "vec" => text::read(BufReader::new(file), separator, may_be_infinite, place)?,
        _ => {
            let wanted = "want .npy, .safetensors, .tsv, .txt, .vec or .bin";
            return Err(ServingError::invalid_argument(format!("{}: got no known suffix, {wanted}", path.display())));
        }
    };
    let layout = Layout { kind: Kind::Float32, rows: read.keys.len(), width: read.width, start: 0, scales: None };
    let store = Store::Owned(read.bytes);
    let keys = Some((read.keys, PathBuf::from(path)));
    Ok(loaded(Table::new(path.to_owned(), store, layout, keys, options.unknown)?, options))
}

fn loaded(table: Table, options: &Options) -> Loaded {
    let executor = Embeddings::new(table, options.clone());
    Loaded { signatures: signatures(executor.table(), executor.neighbours()), executor }
}

fn read_keys(path: &Path) -> Result<Keys> {
    let place = Place(path);
    let file = File::open(path).map_err(|error| place.system(&error))?;
    Keys::read(BufReader::new(file), place)
}

fn npy_layout(file: &File, place: Place<'_>) -> Result<Layout> {
    let mut head = Vec::new();
    file.take(npy::HEAD as u64).read_to_end(&mut head).map_err(|error| place.system(&error))?;
    npy::read_layout(&head, place)
}

fn tensor_layout(file: &File, options: &Options, place: Place<'_>) -> Result<Layout> {
    let cut = |found: usize, wanted: &str| place.wrong(format!("got {found} bytes, want {wanted}"));
    let mut head = Vec::new();
    file.take(8).read_to_end(&mut head).map_err(|error| place.system(&error))?;
    let first = head.first_chunk().ok_or_else(|| cut(head.len(), "8 with the size of the header"))?;
    let size = safetensors::header_size(*first, place)?;
    head.clear();
    file.take(size as u64).read_to_end(&mut head).map_err(|error| place.system(&error))?;
    if head.len() < size {
        return Err(cut(head.len() + 8, &format!("a header of {size}")));
    }
    safetensors::read_layout(&head, &options.tensor, &options.scales, place)
}

fn mapped(file: File, size: u64, layout: &Layout, options: &Options, place: Place<'_>) -> Result<Mapping> {
    let end = layout.end(place)?;
    if size < end as u64 {
        let wanted = format!("want {end} for {} rows of {} numbers", layout.rows, layout.width);
        return Err(place.wrong(format!("got {size} bytes, {wanted}; the file is cut short")));
    }
    Mapping::open(file, end, options.preload).map_err(|error| place.system(&error))
}
