//! Readiness of the server and of models, for the health checks of all protocols.
//!
//! The server is *live* if it answers at all. It is *ready* once the models of its first configuration have settled:
//! each has had an available version, or has failed for good. It then stays ready until it drains, even if models are
//! added. An added model must not take the server out of rotation, since it answers for others. A *model* is ready
//! while requests for it find an available version.
//! *model* is ready while requests for it find an available version.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;

use crate::serving::map::{Model, ServingMap, State, VersionChoice};
use crate::serving::traffic::Anonymous;
use servable_model::error::{Code, Result, ServingError};

const SHUTTING_DOWN: &str = "the server is shutting down";

/// A configured model that keeps the server from being ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Awaited {
    /// The model's name.
    pub model: Vec<u8>,
    /// The reason why it is not available yet.
    pub reason: String,
}

/// The models that keep the server from being ready, sorted by name.
///
/// The server waits for a configured model until its first version is available or all found versions have failed for
/// good. One bad model must not take the good ones out of service. [`check_model`] gives the state of a single model.
pub fn awaited(serving_map: &ServingMap) -> Vec<Awaited> {
    let mut awaited: Vec<Awaited> = serving_map
        .models()
        .into_iter()
        .filter(|(_, model)| !has_failed(model))
        .filter_map(|(model, state)| Some(Awaited { model, reason: state.unavailable_reason()?.to_owned() }))
        .collect();
    awaited.sort_unstable_by(|one, other| one.model.cmp(&other.model));
    awaited
}

fn has_failed(model: &Model) -> bool {
    let versions = model.versions();
    !versions.is_empty() && versions.iter().all(|version| version.state == State::End)
}

/// Whether a request for this version of a model would be answered.
///
/// # Errors
///
/// The error that the request would get; see [`ServingMap::resolve`].
pub fn check_model(serving_map: &ServingMap, name: &[u8], choice: VersionChoice<'_>) -> Result<()> {
    serving_map.find(name, choice, &Anonymous).map(drop)
}

/// The part of the readiness that does not follow from the serving map.
#[derive(Default)]
pub struct Readiness {
    has_settled: AtomicBool,
    draining: watch::Sender<bool>,
}

impl Readiness {
    /// Makes the server and all models not ready.
    pub fn begin_to_drain(&self) {
        self.draining.send_replace(true);
    }

    /// Whether the server drains.
    pub fn is_draining(&self) -> bool {
        *self.draining.borrow()
    }

    /// The reason why a server with this map is not ready; `None` if it is.
    pub fn why_not_ready(&self, serving_map: &ServingMap) -> Option<String> {
        if self.is_draining() {
            return Some(SHUTTING_DOWN.to_owned());
        }
        if self.has_settled.load(Ordering::Relaxed) {
            return None;
        }
        let first = awaited(serving_map).into_iter().next();
        if first.is_none() {
            self.has_settled.store(true, Ordering::Relaxed);
        }
        first.map(|awaited| awaited.reason)
    }

    /// Whether requests for a model would find a version; `None` for a model that was never configured.
    pub fn is_model_ready(&self, serving_map: &ServingMap, name: &[u8], choice: VersionChoice<'_>) -> Option<bool> {
        serving_map.model(name)?;
        Some(self.why_model_not_ready(serving_map, name, choice).is_none())
    }

    /// The reason why a model is not ready; `None` if it is.
    pub fn why_model_not_ready(
        &self,
        serving_map: &ServingMap,
        name: &[u8],
        choice: VersionChoice<'_>,
    ) -> Option<ServingError> {
        if self.is_draining() {
            return Some(ServingError::new(Code::Unavailable, SHUTTING_DOWN));
        }
        check_model(serving_map, name, choice).err()
    }

    /// Subscribes to changes that may affect readiness.
    pub(crate) fn changes(&self, serving_map: &ServingMap) -> Changes {
        Changes { published: serving_map.changes(), draining: self.draining.subscribe() }
    }
}

/// Notifies a watcher of changes in readiness.
pub(crate) struct Changes {
    published: watch::Receiver<()>,
    draining: watch::Receiver<bool>,
}

impl Changes {
    /// Waits for the next change.
    pub(crate) async fn next(&mut self) {
        // Both senders live as long as the service, to which every watcher has a reference.
        let _ = tokio::select! {
            changed = self.published.changed() => changed,
            changed = self.draining.changed() => changed,
        };
    }

    /// Waits until the server drains.
    pub(crate) async fn drained(&mut self) {
        let _ = self.draining.wait_for(|draining| *draining).await;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap};

    use bytes::Bytes;

    use super::*;
    use crate::serving::map::Version;
    use crate::serving::servable::Servable;
    use servable_model::executor::{Executor, RunOptions};
    use servable_model::signature::Signature;
    use servable_model::tensor::Tensor;

    fn model(states: &[State], unavailable_reason: Option<&str>) -> Model {
        let version = |(number, &state)| Version {
            number,
            state,
            error_code: Code::Ok,
            error_message: String::new(),
            published: None,
        };
        Model::new((1..).zip(states).map(version).collect(), HashMap::new(), unavailable_reason.map(str::to_owned))
    }

    #[test]
    fn the_server_waits_for_models_that_may_still_have_their_first_version() {
        let map = ServingMap::default();
        assert_eq!(awaited(&map), []);
        map.publish([
            (b"served".to_vec(), model(&[State::Available, State::Loading], None)),
            (b"failed".to_vec(), model(&[State::End, State::End], Some("it is broken"))),
            (b"removed".to_vec(), model(&[State::End], None)),
        ]);
        assert_eq!(awaited(&map), []);
        map.publish([
            (b"retried".to_vec(), model(&[State::Loading, State::End], Some("it is loading"))),
            (b"empty".to_vec(), model(&[], Some("no version was found"))),
        ]);
        let awaited = awaited(&map);
        let texts: Vec<_> = awaited.iter().map(|one| (one.model.as_slice(), one.reason.as_str())).collect();
        assert_eq!(texts, [(&b"empty"[..], "no version was found"), (b"retried", "it is loading")]);
    }

    #[test]
    fn a_model_that_is_not_ready_reports_the_error_of_its_requests() {
        let map = ServingMap::default();
        map.publish([(b"m".to_vec(), model(&[State::Loading], Some("it is loading")))]);
        let checked = |name: &[u8], choice| check_model(&map, name, choice).map_err(|error| error.to_string());
        assert_eq!(checked(b"m", VersionChoice::Latest), Err("UNAVAILABLE: it is loading".to_owned()));
        let missing = Err("NOT_FOUND: Servable not found for request: Specific(x, 3)".to_owned());
        assert_eq!(checked(b"x", VersionChoice::Number(3)), missing);
    }

    struct Nothing;

    impl Executor for Nothing {
        fn run(&self, _: &Signature, _: Vec<Tensor>, _: &[usize], _: &RunOptions) -> Result<Vec<Tensor>> {
            Ok(Vec::new())
        }
    }

    fn publish(map: &ServingMap, name: &str, states: &[State], reason: Option<&str>) {
        let servable = Servable::new(BTreeMap::new(), Bytes::new(), Box::new(Nothing));
        let version = |(number, state): (i64, &State)| Version {
            number,
            state: *state,
            error_code: Code::Ok,
            error_message: String::new(),
            published: (*state == State::Available).then(|| servable.publish(std::sync::Arc::default())),
        };
        let versions = (1..).zip(states).map(version).collect();
        let labels = HashMap::from([(b"stable".to_vec(), 1)]);
        let model = Model::new(versions, labels, reason.map(str::to_owned));
        map.publish([(name.as_bytes().to_vec(), model)]);
    }

    #[test]
    fn a_server_is_ready_once_every_model_has_settled_and_until_it_drains() {
        let (readiness, map) = (Readiness::default(), ServingMap::default());
        publish(&map, "a", &[], Some("a has no version"));
        publish(&map, "b", &[State::Loading], Some("b is loading"));
        assert_eq!(readiness.why_not_ready(&map).as_deref(), Some("a has no version"));
        publish(&map, "a", &[State::End, State::Available], None);
        assert_eq!(readiness.why_not_ready(&map).as_deref(), Some("b is loading"));
        publish(&map, "b", &[State::End], Some("b failed"));
        assert_eq!(readiness.why_not_ready(&map), None, "it failed for good, and the other one serves");
        publish(&map, "c", &[], Some("c was added"));
        assert_eq!(readiness.why_not_ready(&map), None, "what is added later takes nothing away");
        readiness.begin_to_drain();
        assert_eq!(readiness.why_not_ready(&map).as_deref(), Some("the server is shutting down"));
    }

    #[test]
    fn a_server_without_models_is_ready() {
        assert_eq!(Readiness::default().why_not_ready(&ServingMap::default()), None);
    }

    #[test]
    fn a_model_is_ready_while_a_request_would_find_a_version() {
        let (readiness, map) = (Readiness::default(), ServingMap::default());
        let is_ready = |choice| readiness.is_model_ready(&map, b"m", choice);
        assert_eq!(is_ready(VersionChoice::Latest), None);
        publish(&map, "m", &[State::Loading], Some("it is loading"));
        assert_eq!(is_ready(VersionChoice::Latest), Some(false));
        publish(&map, "m", &[State::Available, State::Loading], None);
        assert_eq!(is_ready(VersionChoice::Latest), Some(true));
        assert_eq!(is_ready(VersionChoice::Number(2)), Some(false));
        assert_eq!(is_ready(VersionChoice::Label(b"stable")), Some(true));
        assert_eq!(is_ready(VersionChoice::Label(b"canary")), Some(false));
        readiness.begin_to_drain();
        assert_eq!(is_ready(VersionChoice::Latest), Some(false));
    }

    #[tokio::test]
    async fn watchers_are_notified_by_a_publish_and_by_the_drain() {
        let (readiness, map) = (Readiness::default(), ServingMap::default());
        let mut changes = readiness.changes(&map);
        publish(&map, "m", &[], None);
        changes.next().await;
        readiness.begin_to_drain();
        changes.next().await;
        changes.drained().await;
    }
}
