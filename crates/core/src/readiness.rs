//! Whether the server, or one model, would answer a request now: what the health checks of every protocol ask.

use crate::error::Result;
use crate::serving_map::{Model, ServingMap, State, VersionChoice};
use crate::traffic::Anonymous;

/// A configured model that keeps the server from being ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Awaited {
    /// The model's name.
    pub model: Vec<u8>,
    /// Why it does not answer yet.
    pub reason: String,
}

/// The models that the server still waits for, by name; it is ready if there are none.
///
/// A configured model is waited for until its first version is available or all that were found have failed for good:
/// one bad model must not take the good ones out of service. What is not ready about it, [`check_model`] says.
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
/// What the request would get instead; see [`ServingMap::resolve`].
pub fn check_model(serving_map: &ServingMap, name: &[u8], choice: VersionChoice<'_>) -> Result<()> {
    serving_map.find(name, choice, &Anonymous).map(drop)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::error::Code;
    use crate::serving_map::Version;

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
    fn a_model_that_is_not_ready_says_what_its_requests_would_get() {
        let map = ServingMap::default();
        map.publish([(b"m".to_vec(), model(&[State::Loading], Some("it is loading")))]);
        let checked = |name: &[u8], choice| check_model(&map, name, choice).map_err(|error| error.to_string());
        assert_eq!(checked(b"m", VersionChoice::Latest), Err("UNAVAILABLE: it is loading".to_owned()));
        let missing = Err("NOT_FOUND: Servable not found for request: Specific(x, 3)".to_owned());
        assert_eq!(checked(b"x", VersionChoice::Number(3)), missing);
    }
}
