//! The inference shared by REST and gRPC, between decoding and encoding.

use std::cell::Cell;
use std::sync::Arc;

use crate::service::Service;
use crate::serving::meter::RequestMeter;
use crate::serving::predict::{Answer, Target};
use crate::serving::servable::Servable;
use crate::serving::traffic::Caller;
use crate::serving::{self, Arranged};
use servable_codec::open_inference::datatype;
use servable_model::call::Call;
use servable_model::error::{Code, Result, ServingError};
use servable_model::signature::{DEFAULT_SIGNATURE, Signature, TensorSpec};
use servable_model::tensor::{Tensor, shape_text};

/// A decoded request.
pub(super) struct Request<'a> {
    pub(super) model: &'a [u8],
    pub(super) version: &'a [u8],
    /// The parameter `signature_name`.
    pub(super) signature_name: Option<&'a str>,
    pub(super) inputs: Vec<(String, Tensor)>,
    /// The requested outputs; all if empty.
    pub(super) outputs: Vec<&'a str>,
    pub(super) call: Call,
}

/// Runs a model once. Before the run, `check` gets the spec of each requested output and its position in the request.
pub(super) async fn infer(
    service: &Service,
    caller: &(dyn Caller + Sync),
    request: Request<'_>,
    meter: &mut RequestMeter,
    check: impl Fn(usize, &TensorSpec) -> Result<()>,
) -> Result<Answer> {
    let mut target = Target::new(&service.serving_map, request.model, super::choice(request.version), caller, meter);
    let resolved = target.resolve().map_err(|error| super::naming_models(service, request.model, error))?;
    let version = resolved.version;
    let (name, signature) = signature(&resolved.handle, request.signature_name)?;
    serving::check_predict_method(&signature, service.options)?;
    let fault = |kind: &str, alias: &str, text: String| {
        let model = String::from_utf8_lossy(request.model);
        ServingError::invalid_argument(format!("{kind} {alias:?} of {model}/{version}: {text}"))
    };
    let inputs = arrange(&signature, request.inputs, |alias, text| fault("input", alias, text))?;
    let outputs = serving::select_outputs(&signature, request.outputs.iter().copied())?;
    for (index, &position) in outputs.iter().enumerate() {
        let spec = &signature.outputs[position];
        if datatype(spec.dtype.base()).is_none() {
            let text = format!("the protocol has no datatype for {}; ask for other outputs", spec.dtype);
            return Err(fault("output", &spec.alias, text));
        }
        check(index, spec)?;
    }
    target.predict(&name, Arranged { signature, inputs, outputs }, request.call).await
}

/// The signature for a request: the one it names, else `serving_default`, else the only one of the model.
pub(super) fn signature(servable: &Servable, name: Option<&str>) -> Result<(String, Arc<Signature>)> {
    let name = name.filter(|name| !name.is_empty());
    if let Some(signature) = servable.signature(name.unwrap_or(DEFAULT_SIGNATURE)) {
        return Ok((name.unwrap_or(DEFAULT_SIGNATURE).to_owned(), Arc::clone(signature)));
    }
    let mut all = servable.signatures();
    if let (None, Some((only, signature)), None) = (name, all.next(), all.next()) {
        return Ok((only.to_owned(), Arc::clone(signature)));
    }
    let names: Vec<&str> = servable.signatures().map(|(name, _)| name).collect();
    let text = match name {
        Some(name) => format!("there is no signature {name:?}"),
        None => format!("there is no signature {DEFAULT_SIGNATURE:?}, and the parameter signature_name is not set"),
    };
    Err(ServingError::new(Code::FailedPrecondition, format!("{text}; there are: {}", names.join(", "))))
}

/// Checks the inputs against the signature, and puts them into its order.
fn arrange(
    signature: &Signature,
    inputs: Vec<(String, Tensor)>,
    fault: impl Fn(&str, String) -> ServingError,
) -> Result<Vec<Tensor>> {
    let mut sent: Vec<(&str, Cell<Option<Tensor>>)> = Vec::with_capacity(inputs.len());
    let (names, tensors): (Vec<String>, Vec<Tensor>) = inputs.into_iter().unzip();
    for (name, tensor) in names.iter().zip(tensors) {
        if let Some(position) = signature.input(name.as_bytes()) {
            let spec = &signature.inputs[position];
            check_input(spec, &tensor).map_err(|text| fault(name, text))?;
            if sent.iter().any(|(other, _)| other == name) {
                return Err(fault(name, "it is there twice".to_owned()));
            }
        }
        sent.push((name, Cell::new(Some(tensor))));
    }
    serving::arrange_inputs(signature, &sent, |position, tensor| {
        // Each input is taken once, because names are unique in the signature and in the request.
        tensor.take().ok_or_else(|| fault(&signature.inputs[position].alias, "it is needed twice".to_owned()))
    })
}

fn check_input(spec: &TensorSpec, tensor: &Tensor) -> Result<(), String> {
    let wanted = spec.dtype.base();
    if tensor.dtype() != wanted {
        let name = |dtype| datatype(dtype).map_or_else(|| dtype.name(), str::to_owned);
        return Err(format!("got {}, want {}", name(tensor.dtype()), name(wanted)));
    }
    let Some(shape) = &spec.shape else { return Ok(()) };
    let fits = shape.len() == tensor.shape().len()
        && shape.iter().zip(tensor.shape()).all(|(&wanted, &size)| wanted < 0 || wanted == size);
    if fits { Ok(()) } else { Err(format!("got shape {}, want {}", shape_text(tensor.shape()), shape_text(shape))) }
}
