//! The table of the serving map: an immutable hash map in parts, so that a change copies one part only.
//!
//! This matters to servers of thousands of models, which publish thousands of times during the start.

use std::collections::HashMap;
use std::sync::Arc;

use super::Model;

const PARTS: usize = 256;

type Part = HashMap<Vec<u8>, Arc<Model>>;

/// Models by name.
#[derive(Clone)]
pub(super) struct Models {
    parts: Box<[Arc<Part>]>,
}

impl Default for Models {
    fn default() -> Self {
        // All slots share one empty part at first.
        Self { parts: vec![Arc::default(); PARTS].into() }
    }
}

impl Models {
    /// The model of this name.
    pub(super) fn get(&self, name: &[u8]) -> Option<&Arc<Model>> {
        self.parts[part_of(name)].get(name)
    }

    /// Adds or replaces a model. Clones of the table do not change.
    pub(super) fn insert(&mut self, name: Vec<u8>, model: Arc<Model>) {
        Arc::make_mut(&mut self.parts[part_of(&name)]).insert(name, model);
    }

    /// All models, in no particular order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Vec<u8>, &Arc<Model>)> {
        self.parts.iter().flat_map(|part| part.iter())
    }
}

/// The part for a name, by FNV-1a. The operator chooses the names, so that collisions are no attack.
fn part_of(name: &[u8]) -> usize {
    let hash = name.iter().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    (hash ^ hash >> 16) as usize % PARTS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model() -> Arc<Model> {
        Arc::new(Model::new(Vec::new(), HashMap::new(), None))
    }

    #[test]
    fn a_change_copies_one_part_and_clones_do_not_see_it() {
        let mut models = Models::default();
        for number in 0..2000 {
            models.insert(format!("m{number}").into(), model());
        }
        let before = models.clone();
        models.insert(b"new".to_vec(), model());
        assert!(models.get(b"new").is_some());
        assert!(before.get(b"new").is_none());
        assert_eq!((models.iter().count(), before.iter().count()), (2001, 2000));
        let copied = models.parts.iter().zip(&before.parts).filter(|(new, old)| !Arc::ptr_eq(new, old)).count();
        assert_eq!(copied, 1);
        let largest = before.parts.iter().map(|part| part.len()).max();
        assert!(largest < Some(40), "names are spread: {largest:?}");
    }
}
