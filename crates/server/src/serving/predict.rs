//! The steps of a Predict for all protocols: resolve the version, run the signature, and copy the request for the
//! shadow.
//!
//! The protocol decodes the request and calls [`Target::resolve`]. It arranges the inputs, calls [`Target::predict`],
//! encodes the answer, and calls [`Answer::compare_with_shadow`].

use std::sync::Arc;

use super::arrange::Arranged;
use super::meter::RequestMeter;
use super::run;
use crate::metrics::Api;
use crate::serving::map::{Resolved, ServingMap, VersionChoice};
use crate::serving::traffic::{Caller, shadow};
use servable_model::call::Call;
use servable_model::error::Result;
use servable_model::signature::Signature;
use servable_model::tensor::Tensor;

/// The version that a request is for.
pub(crate) struct Target<'a> {
    serving_map: &'a ServingMap,
    model: &'a [u8],
    choice: VersionChoice<'a>,
    caller: &'a (dyn Caller + Sync),
    meter: &'a mut RequestMeter,
}

impl<'a> Target<'a> {
    /// Creates the target of the request of `caller`. `meter` counts the request.
    pub(crate) fn new(
        serving_map: &'a ServingMap,
        model: &'a [u8],
        choice: VersionChoice<'a>,
        caller: &'a (dyn Caller + Sync),
        meter: &'a mut RequestMeter,
    ) -> Self {
        Self { serving_map, model, choice, caller, meter }
    }

    /// Resolves the version at the first call, and returns the same one later. A split must draw only once for a
    /// request.
    ///
    /// # Errors
    ///
    /// Those of [`ServingMap::resolve`].
    pub(crate) fn resolve(&mut self) -> Result<&mut Resolved> {
        self.meter.claim(|| self.serving_map.resolve(self.model, self.choice, self.caller))
    }

    /// Runs the signature of this name.
    ///
    /// # Errors
    ///
    /// Those of [`run()`].
    pub(crate) async fn predict(&mut self, signature_name: &str, arranged: Arranged, call: Call) -> Result<Answer> {
        let Resolved { version, handle, shadow } = self.resolve()?;
        let Arranged { signature, mut inputs, outputs } = arranged;
        let copy = shadow.take().map(|shadow| shadow.copy(signature_name, &signature, &mut inputs));
        let tensors = run(handle, Api::Predict, &signature, inputs, &outputs, call).await?;
        Ok(Answer { version: *version, signature, outputs, tensors, copy })
    }
}

/// The outputs of a run.
pub(crate) struct Answer {
    /// The version that answered.
    pub(crate) version: i64,
    signature: Arc<Signature>,
    outputs: Vec<usize>,
    tensors: Vec<Tensor>,
    copy: Option<shadow::Copy>,
}

impl Answer {
    /// The outputs with their aliases, in the requested order.
    pub(crate) fn outputs(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.outputs.iter().map(|&position| self.signature.outputs[position].alias.as_str()).zip(&self.tensors)
    }

    /// The size of the outputs.
    pub(crate) fn size_in_bytes(&self) -> usize {
        self.tensors.iter().map(Tensor::size_in_bytes).sum()
    }

    /// Sends the copy to the shadow, if there is one, to compare the answers. Does not wait.
    pub(crate) fn compare_with_shadow(self) {
        let Self { signature, outputs, tensors, copy, .. } = self;
        if let Some(copy) = copy {
            copy.compare_with(outputs.iter().map(|&output| signature.outputs[output].alias.as_str()).zip(tensors));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap};

    use bytes::Bytes;

    use super::*;
    use crate::metrics::{Entry, Metrics};
    use crate::serving::map::{Model, State, Version};
    use crate::serving::servable::Servable;
    use crate::serving::traffic::Anonymous;
    use servable_model::error::Code;
    use servable_model::executor::{Executor, RunOptions};

    struct Nothing;

    impl Executor for Nothing {
        fn run(&self, _: &Signature, _: Vec<Tensor>, _: &[usize], _: &RunOptions) -> Result<Vec<Tensor>> {
            Ok(Vec::new())
        }
    }

    fn publish(map: &ServingMap, metrics: &Metrics, number: i64) {
        let servable = Servable::new(BTreeMap::new(), Bytes::new(), Box::new(Nothing));
        let version = Version {
            number,
            state: State::Available,
            error_code: Code::Ok,
            error_message: String::new(),
            published: Some(servable.publish(metrics.served(b"m"))),
        };
        map.publish([(b"m".to_vec(), Model::new(vec![version], HashMap::new(), None))]);
    }

    #[tokio::test]
    async fn a_request_keeps_the_version_that_it_was_resolved_to_and_is_counted_there() {
        let (map, metrics) = (ServingMap::default(), Metrics::default());
        publish(&map, &metrics, 1);
        let mut meter = RequestMeter::start(Entry::GrpcPredict);
        let mut target = Target::new(&map, b"m", VersionChoice::Latest, &Anonymous, &mut meter);
        let handle = Arc::clone(&target.resolve().expect("it is available").handle);
        publish(&map, &metrics, 2);
        let arranged = Arranged { signature: Arc::default(), inputs: Vec::new(), outputs: Vec::new() };
        let answer = target.predict("serving_default", arranged, Call::default()).await.expect("it runs");
        assert_eq!(answer.version, 1);
        meter.finish(&metrics, b"m", Code::InvalidArgument);
        let counts: Vec<_> = handle.metrics().counts().filter(|(_, count)| *count > 0).collect();
        assert_eq!(counts, [(Code::InvalidArgument, 1)]);
    }
}
