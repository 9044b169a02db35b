//! The runtime of one installed wheel: loads its library, and models through it.

use std::ffi::CString;
use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use servable_model::error::{Code, Result, ServingError};
use servable_native::OpenError;
use servable_trees::Labels;

use crate::api::{Api, CategoryApi};
use crate::booster::RawBooster;
use crate::check::check;
use crate::model::Model;

/// The end of a file that is searched for the version of the library that wrote it.
const TAIL_BYTES: i64 = 256;

/// The `XGBoost` of an installed wheel. Its library is never unloaded.
pub struct Runtime {
    api: &'static Api,
    categories: Option<CategoryApi>,
}

/// The options to load and describe a model.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Whether all rounds of a training that stopped early predict, and not only those up to the best one.
    pub all_rounds: bool,
    /// The labels of the classes.
    pub labels: Labels,
}

type Version = (u32, u32, u32);

/// The first version that has the values of leaves with several results in a field of their own.
const WITH_LEAF_WEIGHTS: Version = (3, 2, 0);

impl Runtime {
    /// Loads the library.
    ///
    /// # Errors
    ///
    /// An [`OpenError`] that names the file or the function that is missing.
    pub fn open(library: &Path) -> Result<Arc<Self>, OpenError> {
        let (api, categories) = Api::open(library)?;
        Ok(Arc::new(Self { api, categories }))
    }

    /// The version of the library, such as `3.2.0`.
    pub fn version(&self) -> String {
        text_of(self.numbers())
    }

    fn numbers(&self) -> Version {
        let (mut major, mut minor, mut patch) = (0, 0, 0);
        // SAFETY: the numbers are written.
        unsafe { (self.api.version)(&raw mut major, &raw mut minor, &raw mut patch) };
        (major.unsigned_abs(), minor.unsigned_abs(), patch.unsigned_abs())
    }

    /// Loads a model from a file in JSON or UBJSON, with the suffix `.json` or `.ubj`.
    ///
    /// # Errors
    ///
    /// `NOT_FOUND` or `PERMISSION_DENIED` if the file cannot be opened, `DATA_LOSS` with the error of the library if it
    /// is no model, `INVALID_ARGUMENT` if the labels do not fit.
    pub fn load(&self, path: &Path, options: LoadOptions) -> Result<Model> {
        let mut file = File::open(path).map_err(|error| {
            let code = match error.kind() {
                ErrorKind::NotFound => Code::NotFound,
                ErrorKind::PermissionDenied => Code::PermissionDenied,
                _ => Code::Internal,
            };
            ServingError::new(code, format!("{}: {error}", path.display()))
        })?;
        let c_path = CString::new(path.as_os_str().as_bytes())
            .map_err(|_| ServingError::invalid_argument("a path has a NUL byte in it"))?;
        let model = self.check(&mut file, path).and_then(|()| {
            let mut booster = RawBooster::new(self.api)?;
            booster.load_model(&c_path)?;
            Model::new(booster, self.categories.as_ref(), options.all_rounds, options.labels)
        });
        model.map_err(|error| {
            let code = if error.code == Code::Internal { Code::DataLoss } else { error.code };
            let text = format!("{}: {}", path.display(), error.text());
            ServingError::new(
                code,
                match written_by(&mut file).filter(|&written| written != self.numbers()) {
                    Some(other) => {
                        format!("{text}; XGBoost {} wrote it, and {} is installed", text_of(other), self.version())
                    }
                    None => text,
                },
            )
        })
    }
}

impl Runtime {
    /// Checks a file before the library reads it.
    fn check(&self, file: &mut File, path: &Path) -> Result<()> {
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(|error| ServingError::internal(error.to_string()))?;
        let is_json = path.extension().is_some_and(|suffix| suffix == "json");
        check(&bytes, is_json, self.numbers() >= WITH_LEAF_WEIGHTS)
    }
}

fn text_of((major, minor, patch): Version) -> String {
    format!("{major}.{minor}.{patch}")
}

/// The version of the library that wrote a file, which is its last field.
fn written_by(file: &mut File) -> Option<Version> {
    let len = i64::try_from(file.metadata().ok()?.len()).ok()?;
    file.seek(SeekFrom::End(-len.min(TAIL_BYTES))).ok()?;
    let mut tail = Vec::new();
    file.take(TAIL_BYTES as u64).read_to_end(&mut tail).ok()?;
    version_in(&tail)
}

/// The three numbers behind the last `version`: decimal in JSON, and bytes that follow an `i` in UBJSON.
fn version_in(tail: &[u8]) -> Option<Version> {
    const KEY: &[u8] = b"version";
    let start = tail.windows(KEY.len()).rposition(|window| window == KEY)? + KEY.len();
    let rest = &tail[start..];
    let numbers: Vec<u32> = if let Some(rest) = rest.strip_prefix(b"[#L") {
        let items = rest.get(8..14)?.as_chunks::<2>().0;
        items.iter().filter(|item| item[0] == b'i').map(|item| u32::from(item[1])).collect()
    } else {
        let text = std::str::from_utf8(rest).ok()?;
        let list = text.split_once('[')?.1.split_once(']')?.0;
        list.split(',').map(|number| number.trim().parse()).collect::<Result<_, _>>().ok()?
    };
    match numbers[..] {
        [major, minor, patch] => Some((major, minor, patch)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_the_writer_is_found_in_both_formats() {
        let binary = b"\x01\x31}}L\0\0\0\0\0\0\0\x07version[#L\0\0\0\0\0\0\0\x03i\x03i\x02i\x01}";
        assert_eq!(version_in(binary), Some((3, 2, 1)));
        assert_eq!(version_in(b"{\"version\": [0,9,0]}}, \"version\": [1, 6, 2]}"), Some((1, 6, 2)));
        for other in
            [&b"no such field"[..], b"version", b"version[#L\0\0", b"\"version\":[3]}", b"\"version\":[a,b,c]}"]
        {
            assert_eq!(version_in(other), None);
        }
    }
}
