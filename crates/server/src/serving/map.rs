//! The serving map: the published lookup table from models, versions and labels to servables.
//!
//! The map is immutable and replaced whole, so a request reads it without a lock and sees one consistent state. The
//! APIs call a served thing a *model*; from here on inwards it is a *servable*.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use self::models::Models;
use crate::serving::servable::Published;
use crate::serving::traffic::shadow::{self, Statistics};
use crate::serving::traffic::split::Split;
use crate::serving::traffic::{Caller, Traffic};
use servable_model::error::{Code, Result, ServingError};

mod models;
pub(crate) mod names;

/// A reference of a request to a version, which stays loaded until the handle is dropped.
pub type Handle = Arc<Published>;

/// The result of resolving a request.
pub struct Resolved {
    /// The number of the version that answers.
    pub version: i64,
    /// A handle of that version.
    pub handle: Handle,
    /// The right to run a copy of the request on the shadow version.
    pub shadow: Option<shadow::Claim>,
}

/// Which version of a model a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VersionChoice<'a> {
    /// No choice: the split of the model selects a version, or else the highest available one is used.
    Latest,
    /// This version.
    Number(i64),
    /// The version that the split of this label selects, or else the one to which the label is attached.
    Label(&'a [u8]),
}

/// The state of a version, with the numbers of `ModelVersionStatus.State`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum State {
    /// Unknown: never published.
    Unknown = 0,
    /// Managed, but not loading yet.
    Start = 10,
    /// Being loaded.
    Loading = 20,
    /// Serving requests.
    Available = 30,
    /// No longer routed to, or being unloaded.
    Unloading = 40,
    /// Unloaded, or failed.
    End = 50,
}

impl State {
    /// The name in status answers and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unknown => "UNKNOWN",
            Self::Start => "START",
            Self::Loading => "LOADING",
            Self::Available => "AVAILABLE",
            Self::Unloading => "UNLOADING",
            Self::End => "END",
        }
    }

    /// The state with this number.
    pub fn from_number(number: i32) -> Option<Self> {
        Some(match number {
            0 => Self::Unknown,
            10 => Self::Start,
            20 => Self::Loading,
            30 => Self::Available,
            40 => Self::Unloading,
            50 => Self::End,
            _ => return None,
        })
    }
}

/// The public state of one version.
#[derive(Clone)]
pub struct Version {
    /// The version number.
    pub number: i64,
    /// Its state.
    pub state: State,
    /// The code of its failure, or OK.
    pub error_code: Code,
    /// The text of its failure.
    pub error_message: String,
    /// The handle, present while requests may be routed to the version.
    pub published: Option<Handle>,
}

/// The public state of one model.
pub struct Model {
    versions: Vec<Version>,
    labels: HashMap<Vec<u8>, i64>,
    unavailable_reason: Option<String>,
    traffic: Option<Box<Traffic>>,
}

impl Model {
    /// A model with these versions, in any order.
    ///
    /// `unavailable_reason` is set until a configured model has its first available version.
    pub fn new(mut versions: Vec<Version>, labels: HashMap<Vec<u8>, i64>, unavailable_reason: Option<String>) -> Self {
        versions.sort_by_key(|version| std::cmp::Reverse(version.number));
        Self { versions, labels, unavailable_reason, traffic: None }
    }

    /// Sets the splits and the shadow.
    #[must_use]
    pub fn with_traffic(mut self, traffic: Option<Box<Traffic>>) -> Self {
        self.traffic = traffic;
        self
    }

    /// All known versions, highest first.
    pub fn versions(&self) -> &[Version] {
        &self.versions
    }

    /// The reason of `UNAVAILABLE` for its requests, until a configured model has its first available version.
    pub fn unavailable_reason(&self) -> Option<&str> {
        self.unavailable_reason.as_deref()
    }

    /// All labels that requests may name, sorted.
    pub fn labels(&self) -> impl Iterator<Item = &[u8]> {
        let split = self.traffic.iter().flat_map(|traffic| traffic.labels());
        let attached = self.labels.keys().map(Vec::as_slice);
        split.chain(attached).collect::<BTreeSet<_>>().into_iter()
    }

    /// Whether requests without version and label are split between versions.
    pub fn is_split(&self) -> bool {
        self.split(VersionChoice::Latest).is_some()
    }

    /// The statistics of its shadow, if it has one.
    pub fn shadow_statistics(&self) -> Option<Statistics> {
        self.shadow().map(shadow::Shadow::statistics)
    }

    fn shadow(&self) -> Option<&shadow::Shadow> {
        self.traffic.as_ref()?.shadow.as_ref()
    }

    fn continue_from(&mut self, before: &Self) {
        if let Some(shadow) = self.traffic.as_mut().and_then(|traffic| traffic.shadow.as_mut())
            && let Some(before) = before.shadow()
        {
            shadow.continue_from(before);
        }
    }

    fn split(&self, choice: VersionChoice<'_>) -> Option<&Split> {
        let traffic = self.traffic.as_ref()?;
        match choice {
            VersionChoice::Latest => traffic.split(b""),
            VersionChoice::Number(_) | VersionChoice::Label(b"") => None,
            VersionChoice::Label(label) => traffic.split(label),
        }
    }

    fn claim(&self, number: i64) -> Option<(i64, Handle)> {
        self.version(number).and_then(claim)
    }

    fn version(&self, number: i64) -> Option<&Version> {
        let position = self.versions.binary_search_by(|version| number.cmp(&version.number)).ok()?;
        Some(&self.versions[position])
    }
}

/// The serving map. There is one per server; [`ServingMap::publish`] replaces its content.
#[derive(Default)]
pub struct ServingMap {
    models: ArcSwap<Models>,
    /// Serialises publishers. Readers do not lock it.
    publishing: Mutex<()>,
    /// Notifies of each publish.
    changes: watch::Sender<()>,
}

impl ServingMap {
    /// Replaces the state of the given models atomically, and keeps the other models. It takes microseconds, and waits
    /// only for other publishers.
    pub fn publish(&self, models: impl IntoIterator<Item = (Vec<u8>, Model)>) {
        let turn = self.publishing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = Models::clone(&self.models.load());
        for (name, mut model) in models {
            if let Some(before) = next.get(&name) {
                model.continue_from(before);
            }
            next.insert(name, Arc::new(model));
        }
        let before = self.models.swap(Arc::new(next));
        drop(turn);
        drop(before); // dropping models may run code of others, so not under the lock
        self.changes.send_replace(());
    }

    /// Removes all models, so that each version becomes idle when its last request ends.
    pub fn clear(&self) {
        let _turn = self.publishing.lock().unwrap_or_else(PoisonError::into_inner);
        self.models.store(Arc::default());
        self.changes.send_replace(());
    }

    /// Subscribes to publishes.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// Resolves the version for a request (`docs/spec/grpc_api.md` §3). `caller` is only read if the model has a sticky
    /// split.
    ///
    /// # Errors
    ///
    /// `INVALID_ARGUMENT` without a name or for an unknown label. `NOT_FOUND` for a version that is not available.
    /// `UNAVAILABLE` for a configured model that has had no available version yet.
    pub fn resolve(&self, name: &[u8], choice: VersionChoice<'_>, caller: &dyn Caller) -> Result<Resolved> {
        let models = self.models.load();
        let model = models.get(name);
        let (version, handle) = find(model, name, choice, caller)?;
        let shadow = match (choice, model.and_then(|model| model.shadow().map(|shadow| (model, shadow)))) {
            (VersionChoice::Number(_), _) | (_, None) => None,
            (_, Some((model, shadow))) => shadow.claim(version, |number| model.claim(number).map(|(_, handle)| handle)),
        };
        Ok(Resolved { version, handle, shadow })
    }

    /// Finds the version that a request would get, without a copy for the shadow.
    ///
    /// # Errors
    ///
    /// As [`ServingMap::resolve`].
    pub fn find(&self, name: &[u8], choice: VersionChoice<'_>, caller: &dyn Caller) -> Result<(i64, Handle)> {
        find(self.models.load().get(name), name, choice, caller)
    }

    /// All models with their state, in no particular order.
    pub fn models(&self) -> Vec<(Vec<u8>, Arc<Model>)> {
        self.models.load().iter().map(|(name, model)| (name.clone(), Arc::clone(model))).collect()
    }

    /// The statistics of all shadows, by the names of their models.
    pub fn shadow_statistics(&self) -> Vec<(Vec<u8>, Statistics)> {
        let models = self.models.load();
        let with_shadow = models.iter().filter_map(|(name, model)| Some((name.clone(), model.shadow_statistics()?)));
        with_shadow.collect()
    }

    /// The state of a model, `None` if it was never published.
    pub fn model(&self, name: &[u8]) -> Option<Arc<Model>> {
        self.models.load().get(name).cloned()
    }

    /// The versions in the answer to `GetModelStatus`: the requested one, or all, highest first
    /// (`docs/spec/grpc_api.md` §11). Labels are ignored.
    ///
    /// # Errors
    ///
    /// `NOT_FOUND` if there is none.
    pub fn status(&self, name: &[u8], number: Option<i64>) -> Result<Vec<Version>> {
        let model = self.model(name);
        let versions = match (&model, number) {
            (None, _) => Vec::new(),
            (Some(model), None) => model.versions.clone(),
            (Some(model), Some(number)) => model.version(number).cloned().into_iter().collect(),
        };
        if versions.is_empty() {
            let sought = number.map_or("any versions".to_owned(), |number| format!("version {number}"));
            return Err(ServingError::not_found(quote(&format!("Could not find {sought} of model "), name, "")));
        }
        Ok(versions)
    }
}

fn find(
    model: Option<&Arc<Model>>,
    name: &[u8],
    choice: VersionChoice<'_>,
    caller: &dyn Caller,
) -> Result<(i64, Handle)> {
    if name.is_empty() {
        return Err(ServingError::invalid_argument("ModelSpec has no name specified."));
    }
    let split = model.and_then(|model| model.split(choice));
    let number = match choice {
        VersionChoice::Number(number) => Some(number),
        VersionChoice::Label(label) if split.is_none() => {
            let number = model.and_then(|model| model.labels.get(label));
            Some(*number.ok_or_else(|| unknown_label(label))?)
        }
        VersionChoice::Latest | VersionChoice::Label(_) => None,
    };
    let found = model.and_then(|model| match (split, number) {
        (Some(split), _) => split.choose(caller, |number| model.claim(number)),
        (None, None) => model.versions.iter().find_map(claim),
        (None, Some(number)) => model.claim(number),
    });
    found.ok_or_else(|| not_available(model, name, number))
}

fn claim(version: &Version) -> Option<(i64, Handle)> {
    version.published.as_ref().map(|published| (version.number, Arc::clone(published)))
}

fn unknown_label(label: &[u8]) -> ServingError {
    ServingError::invalid_argument(quote("Unrecognized servable version label: ", label, ""))
}

fn not_available(model: Option<&Arc<Model>>, name: &[u8], number: Option<i64>) -> ServingError {
    if let Some(reason) = model.and_then(|model| model.unavailable_reason.as_ref()) {
        return ServingError::new(Code::Unavailable, reason.as_str());
    }
    ServingError::not_found(match number {
        None => quote("Servable not found for request: Latest(", name, ")"),
        Some(number) => quote("Servable not found for request: Specific(", name, &format!(", {number})")),
    })
}

/// A message that quotes bytes of a client unchanged.
fn quote(before: &str, quoted: &[u8], after: &str) -> Vec<u8> {
    [before.as_bytes(), quoted, after.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::serving::servable::Servable;
    use crate::serving::traffic::Anonymous;
    use crate::serving::traffic::shadow::Shadow;
    use crate::serving::traffic::split::Weighted;
    use servable_model::executor::{Executor, RunOptions};
    use servable_model::signature::Signature;
    use servable_model::tensor::Tensor;

    struct Nothing;

    impl Executor for Nothing {
        fn run(&self, _: &Signature, _: Vec<Tensor>, _: &[usize], _: &RunOptions) -> Result<Vec<Tensor>> {
            Ok(Vec::new())
        }
    }

    fn version(number: i64, state: State) -> Version {
        let servable = Servable::new(BTreeMap::new(), bytes::Bytes::new(), Box::new(Nothing));
        let published = (state == State::Available).then(|| servable.publish(Arc::default()));
        Version { number, state, error_code: Code::Ok, error_message: String::new(), published }
    }

    fn map_of(model: Model) -> ServingMap {
        let map = ServingMap::default();
        map.publish([(b"m".to_vec(), model)]);
        map
    }

    fn resolved(map: &ServingMap, name: &str, choice: VersionChoice<'_>) -> Result<i64, String> {
        map.resolve(name.as_bytes(), choice, &Anonymous)
            .map(|resolved| resolved.version)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_version_is_found_by_number_by_label_or_as_the_highest_available() {
        let versions = vec![version(2, State::Available), version(1, State::Available), version(3, State::Loading)];
        let labels = HashMap::from([(b"stable".to_vec(), 1), (b"next".to_vec(), 3)]);
        let map = map_of(Model::new(versions, labels, None));
        let not_found = |what: &str| Err(format!("NOT_FOUND: Servable not found for request: {what}"));
        let unknown = |label: &str| Err(format!("INVALID_ARGUMENT: Unrecognized servable version label: {label}"));
        for (choice, expected) in [
            (VersionChoice::Latest, Ok(2)),
            (VersionChoice::Number(1), Ok(1)),
            (VersionChoice::Number(3), not_found("Specific(m, 3)")),
            (VersionChoice::Number(-7), not_found("Specific(m, -7)")),
            (VersionChoice::Label(b"stable"), Ok(1)),
            (VersionChoice::Label(b"next"), not_found("Specific(m, 3)")),
            (VersionChoice::Label(b"other"), unknown("other")),
        ] {
            assert_eq!(resolved(&map, "m", choice), expected, "{choice:?}");
        }
        assert_eq!(resolved(&map, "x", VersionChoice::Latest), not_found("Latest(x)"));
        assert_eq!(resolved(&map, "x", VersionChoice::Label(b"stable")), unknown("stable"));
        let nameless = Err("INVALID_ARGUMENT: ModelSpec has no name specified.".to_owned());
        assert_eq!(resolved(&map, "", VersionChoice::Label(b"stable")), nameless);
    }

    #[test]
    fn a_model_that_never_had_a_version_is_unavailable_and_says_why() {
        let reason = Some("m is loading its first version".to_owned());
        let map = map_of(Model::new(vec![version(1, State::Loading)], HashMap::new(), reason));
        let expected = Err("UNAVAILABLE: m is loading its first version".to_owned());
        assert_eq!(resolved(&map, "m", VersionChoice::Latest), expected);
        assert_eq!(resolved(&map, "m", VersionChoice::Number(1)), expected);
    }

    #[test]
    fn status_lists_the_highest_first() {
        let versions = vec![version(2, State::End), version(10, State::Available), version(1, State::Start)];
        let map = map_of(Model::new(versions, HashMap::new(), None));
        let numbers = |number| -> Result<Vec<i64>, String> {
            let versions = map.status(b"m", number).map_err(|error| error.to_string())?;
            Ok(versions.iter().map(|version| version.number).collect())
        };
        assert_eq!(numbers(None), Ok(vec![10, 2, 1]));
        assert_eq!(numbers(Some(2)), Ok(vec![2]));
        assert_eq!(numbers(Some(9)), Err("NOT_FOUND: Could not find version 9 of model m".to_owned()));
        let unknown = map.status(b"x", None).err().expect("there is no such model");
        assert_eq!(unknown.to_string(), "NOT_FOUND: Could not find any versions of model x");
    }

    #[test]
    fn a_publish_leaves_other_models_alone_and_frees_what_it_replaces() {
        let map = map_of(Model::new(vec![version(1, State::Available)], HashMap::new(), None));
        let held = map.resolve(b"m", VersionChoice::Latest, &Anonymous).expect("it was published").handle;
        map.publish([(b"n".to_vec(), Model::new(vec![version(5, State::Available)], HashMap::new(), None))]);
        assert_eq!(resolved(&map, "m", VersionChoice::Latest), Ok(1));
        map.publish([(b"m".to_vec(), Model::new(vec![version(2, State::Available)], HashMap::new(), None))]);
        assert_eq!(resolved(&map, "m", VersionChoice::Latest), Ok(2));
        assert_eq!(Arc::strong_count(&held), 1, "only this request holds the old version");
        map.clear();
        assert!(map.model(b"n").is_none());
    }

    fn split(label: &str, weights: &[(i64, u32)]) -> Split {
        let versions = weights.iter().map(|&(version, weight)| Weighted { version, weight }).collect();
        Split::new(b"m", label.as_bytes().to_vec(), versions, None)
    }

    #[test]
    fn splits_decide_for_requests_that_name_no_version() {
        let versions = vec![version(1, State::Available), version(2, State::Available), version(3, State::Loading)];
        let labels = HashMap::from([(b"stable".to_vec(), 1), (b"canary".to_vec(), 2)]);
        let splits = vec![split("", &[(1, 1), (3, 99)]), split("canary", &[(1, 5)]), split("gone", &[(3, 1), (9, 1)])];
        let map = map_of(Model::new(versions, labels, None).with_traffic(Traffic::new(splits, None)));
        let unknown = Err("INVALID_ARGUMENT: Unrecognized servable version label: ".to_owned());
        let not_found = Err("NOT_FOUND: Servable not found for request: Latest(m)".to_owned());
        for (choice, expected) in [
            (VersionChoice::Latest, Ok(1)),
            (VersionChoice::Number(2), Ok(2)),
            (VersionChoice::Label(b"stable"), Ok(1)),
            (VersionChoice::Label(b"canary"), Ok(1)),
            (VersionChoice::Label(b"gone"), not_found),
            (VersionChoice::Label(b""), unknown),
        ] {
            assert_eq!(resolved(&map, "m", choice), expected, "{choice:?}");
        }
    }

    #[test]
    fn a_shadow_is_claimed_for_requests_that_another_version_answers_without_being_named() {
        let model = |shadow: Shadow| {
            let versions = vec![version(1, State::Available), version(2, State::Available)];
            let labels = HashMap::from([(b"old".to_vec(), 1)]);
            Model::new(versions, labels, None).with_traffic(Traffic::new(Vec::new(), Some(shadow)))
        };
        let is_claimed = |map: &ServingMap, choice| {
            map.resolve(b"m", choice, &Anonymous).expect("both are available").shadow.is_some()
        };
        let map = map_of(model(Shadow::new(1, 1.0)));
        assert!(is_claimed(&map, VersionChoice::Latest));
        assert!(!is_claimed(&map, VersionChoice::Number(2)));
        assert!(!is_claimed(&map, VersionChoice::Label(b"old")), "it answers itself");
        map.publish([(b"m".to_vec(), model(Shadow::new(7, 1.0)))]);
        assert!(!is_claimed(&map, VersionChoice::Latest));
        assert_eq!(map.shadow_statistics()[0].1.unavailable, 1);
        map.publish([(b"m".to_vec(), model(Shadow::new(7, 0.0)))]);
        assert!(!is_claimed(&map, VersionChoice::Latest));
        assert_eq!(map.shadow_statistics()[0].1.unavailable, 1, "it counts on, and nothing is copied");
        map.publish([(b"m".to_vec(), model(Shadow::new(8, 0.0)))]);
        assert_eq!(map.shadow_statistics()[0].1.unavailable, 0, "another version begins anew");
    }
}
