//! The runtime of one installed wheel: loads its library, and models through it.

use std::ffi::CString;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use servable_model::error::{Code, Result, ServingError};
use servable_native::OpenError;
use servable_trees::Labels;

use crate::api::Api;
use crate::booster::RawBooster;
use crate::check::check;
use crate::header::{Header, remove_tree_sizes};
use crate::model::Model;

/// The `LightGBM` of an installed wheel. Its library is never unloaded.
pub struct Runtime {
    api: &'static Api,
}

/// The options to load and describe a model.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// How often the model is loaded; see [`Boosters`](crate::Boosters).
    pub copies: usize,
    /// The labels of the classes.
    pub labels: Labels,
}

impl Runtime {
    /// Loads the library.
    ///
    /// # Errors
    ///
    /// An [`OpenError`] that names the file or the function that is missing.
    pub fn open(library: &Path) -> Result<Arc<Self>, OpenError> {
        Ok(Arc::new(Self { api: Api::open(library)? }))
    }

    /// Loads a model from a text file.
    ///
    /// # Errors
    ///
    /// `NOT_FOUND` or `PERMISSION_DENIED` if the file cannot be read, `DATA_LOSS` with the error of the library if it is
    /// no model.
    pub fn load(&self, path: &Path, options: LoadOptions) -> Result<Model> {
        let failed = |code, text: &str| ServingError::new(code, format!("{}: {text}", path.display()));
        let text = fs::read(path).map_err(|error| {
            let code = match error.kind() {
                ErrorKind::NotFound => Code::NotFound,
                ErrorKind::PermissionDenied => Code::PermissionDenied,
                _ => Code::Internal,
            };
            failed(code, &error.to_string())
        })?;
        let no_text = || failed(Code::DataLoss, "got bytes that are no text, want a model that save_model wrote");
        let mut text = String::from_utf8(text).map_err(|_| no_text())?;
        let trees = check(&text).map_err(|error| failed(error.code, &error.text()))?;
        remove_tree_sizes(&mut text);
        let text = CString::new(text).map_err(|_| no_text())?;
        let header = Header::of(text.to_str().map_err(|_| no_text())?);
        self.api.redirect_log();
        let boosters =
            (0..options.copies.max(1)).map(|_| RawBooster::load(self.api, &text, trees)).collect::<Result<_>>();
        boosters.and_then(|boosters| Model::new(boosters, &header, options.labels)).map_err(|error| {
            let format = header.format().map_or_else(String::new, |format| format!(" (a file of format {format})"));
            failed(Code::DataLoss, &format!("{}{format}", error.text()))
        })
    }
}
