//! Errors of files: where, what was found, and what was wanted.

use std::fmt::Display;
use std::path::Path;

use servable_model::error::{Code, ServingError};

/// A file that is read.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a>(pub(crate) &'a Path);

impl Place<'_> {
    /// The file as a whole is damaged.
    pub(crate) fn wrong(self, problem: impl Display) -> ServingError {
        ServingError::new(Code::DataLoss, format!("{}: {problem}", self.0.display()))
    }

    /// A line is damaged; lines count from 1.
    pub(crate) fn wrong_line(self, line: usize, problem: impl Display) -> ServingError {
        ServingError::new(Code::DataLoss, format!("{}:{line}: {problem}", self.0.display()))
    }

    /// The system refuses access.
    pub(crate) fn system(self, error: &std::io::Error) -> ServingError {
        let code = match error.kind() {
            std::io::ErrorKind::NotFound => Code::NotFound,
            std::io::ErrorKind::PermissionDenied => Code::PermissionDenied,
            _ => Code::Unavailable,
        };
        ServingError::new(code, format!("{}: {error}", self.0.display()))
    }
}

/// A quoted part of a file or request, cut short.
pub(crate) fn shown(text: &[u8]) -> String {
    let cut = &text[..text.len().min(100)];
    format!("\"{}\"", cut.escape_ascii())
}
