//! One Predict, whatever its protocol: from the version that it names to the outputs of the run, with a copy of it for the
//! shadow.
//!
//! A protocol decodes, arranges the inputs of the version that [`Target::resolve`] finds, encodes what
//! [`Target::predict`] answers, and calls [`Answer::compare_with_shadow`].

use std::sync::Arc;

use super::arrange::Arranged;
use super::meter::RequestMeter;
use super::run;
use crate::call::Call;
use crate::error::Result;
use crate::metrics::Api;
use crate::serving::map::{Resolved, ServingMap, VersionChoice};
use crate::serving::traffic::{Caller, shadow};
use crate::signature::Signature;
use crate::tensor::Tensor;

/// The version that a request is for.
pub(crate) struct Target<'a> {
    serving_map: &'a ServingMap,
    model: &'a [u8],
    choice: VersionChoice<'a>,
    caller: &'a (dyn Caller + Sync),
    meter: &'a mut RequestMeter,
}

impl<'a> Target<'a> {
    /// The version that `choice` means for `caller`, whose request `meter` counts.
    pub(crate) fn new(
        serving_map: &'a ServingMap,
        model: &'a [u8],
        choice: VersionChoice<'a>,
        caller: &'a (dyn Caller + Sync),
        meter: &'a mut RequestMeter,
    ) -> Self {
        Self { serving_map, model, choice, caller, meter }
    }

    /// Claims the version, at the first call: a split draws once for a request, and a shadow is claimed once.
    ///
    /// # Errors
    ///
    /// Those of [`ServingMap::resolve`].
    pub(crate) fn resolve(&mut self) -> Result<&mut Resolved> {
        self.meter.claim(|| self.serving_map.resolve(self.model, self.choice, self.caller))
    }

    /// Runs a signature of the version, which has this name.
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
    /// The outputs by their aliases, in the order in which they were asked for.
    pub(crate) fn outputs(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.outputs.iter().map(|&position| self.signature.outputs[position].alias.as_str()).zip(&self.tensors)
    }

    /// How many bytes the outputs have.
    pub(crate) fn size_in_bytes(&self) -> usize {
        self.tensors.iter().map(Tensor::size_in_bytes).sum()
    }

    /// Runs the copy on the shadow, if there is one, and compares the answers. Does not wait for that.
    pub(crate) fn compare_with_shadow(self) {
        let Self { signature, outputs, tensors, copy, .. } = self;
        if let Some(copy) = copy {
            copy.compare_with(outputs.iter().map(|&output| signature.outputs[output].alias.as_str()).zip(tensors));
        }
    }
}
