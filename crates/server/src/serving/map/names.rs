//! The names of models, for pages and errors that list them.

use std::sync::Arc;

use super::{Model, ServingMap, State, Version};
use servable_model::error::Code;

/// The maximum number of names in a shortened list.
const MAX_NAMES: usize = 20;

/// The maximum length of a name there, in characters.
const MAX_NAME: usize = 100;

impl ServingMap {
    /// The configured models, sorted by name. Removed models are excluded.
    pub(crate) fn configured(&self) -> Vec<(Vec<u8>, Arc<Model>)> {
        let has_ended = |version: &Version| version.state == State::End && version.error_code == Code::Ok;
        let mut models = self.models();
        models.retain(|(_, model)| model.unavailable_reason().is_some() || !model.versions().iter().all(has_ended));
        models.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        models
    }

    /// The first names, each shortened, and the number of further ones.
    pub(crate) fn first_names(&self) -> (Vec<String>, usize) {
        let models = self.configured();
        let names = models.iter().take(MAX_NAMES).map(|(name, _)| shortened(&String::from_utf8_lossy(name), MAX_NAME));
        (names.collect(), models.len().saturating_sub(MAX_NAMES))
    }

    /// The same as text.
    pub(crate) fn some_names(&self) -> String {
        match self.first_names() {
            (names, 0) if names.is_empty() => "none".to_owned(),
            (names, 0) => names.join(", "),
            (names, others) => format!("{} and {others} more", names.join(", ")),
        }
    }
}

/// The text, truncated to `most` characters.
pub(crate) fn shortened(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}
