//! Matches a request with a signature: finds the signature, orders the inputs, and selects the outputs.
//!
//! Nothing is decoded or run here, and the texts of the errors are TensorFlow Serving's.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::ApiOptions;
use crate::serving::servable::Servable;
use servable_model::error::{Code, Result, ServingError};
use servable_model::signature::{DEFAULT_SIGNATURE, Signature, TensorSpec};
use servable_model::tensor::Tensor;

/// A request in the order of its signature.
pub(crate) struct Arranged {
    pub(crate) signature: Arc<Signature>,
    /// One tensor for each input of the signature.
    pub(crate) inputs: Vec<Tensor>,
    /// The requested outputs, as positions in the signature.
    pub(crate) outputs: Vec<usize>,
}

/// The name that an empty `signature_name` stands for.
pub fn resolved_signature_name(name: &str) -> &str {
    if name.is_empty() { DEFAULT_SIGNATURE } else { name }
}

/// The signature that a gRPC Predict asks for.
///
/// # Errors
///
/// `FAILED_PRECONDITION` if the model has none of that name.
pub fn predict_signature(servable: &Servable, name: &str) -> Result<Arc<Signature>> {
    servable.signature(name).map(Arc::clone).ok_or_else(|| {
        ServingError::new(Code::FailedPrecondition, format!("Serving signature key \"{name}\" not found."))
    })
}

/// With `check_method_names`, checks that the method name of a signature permits Predict.
///
/// # Errors
///
/// `INTERNAL` if it does not.
pub fn check_predict_method(signature: &Signature, options: ApiOptions) -> Result<()> {
    let methods = ["tensorflow/serving/predict", "tensorflow/serving/classify", "tensorflow/serving/regress"];
    if !options.check_method_names || methods.contains(&signature.method_name.as_str()) {
        return Ok(());
    }
    Err(ServingError::internal(format!(
        "Expected prediction signature method_name to be one of {{{}}}. Was: {}",
        methods.join(", "),
        signature.method_name
    )))
}

/// Orders the inputs of a request as in the signature, with defaults for missing ones (`docs/spec/grpc_api.md` §5,
/// steps 3 to 5).
///
/// `sent` has one value for each alias. `decode` turns the value of the input at a position into a tensor.
///
/// # Errors
///
/// `INVALID_ARGUMENT` if inputs are missing or unknown, and the errors of `decode`.
pub fn arrange_inputs<T>(
    signature: &Signature,
    sent: &[(&str, T)],
    mut decode: impl FnMut(usize, &T) -> Result<Tensor>,
) -> Result<Vec<Tensor>> {
    let (wanted, defaults) = (&signature.inputs, &signature.defaults);
    if sent.len() > wanted.len() || (sent.len() < wanted.len() && defaults.is_empty()) {
        return Err(wrong_number_of_inputs(signature, sent));
    }
    let inputs: Vec<Tensor> = wanted
        .iter()
        .enumerate()
        .map(|(position, spec)| match sent.iter().find(|(alias, _)| *alias == spec.alias) {
            Some((_, value)) => decode(position, value),
            None => defaults.get(&spec.alias).cloned().ok_or_else(|| missing_input(signature, spec, sent)),
        })
        .collect::<Result<_>>()?;
    if sent.iter().any(|(alias, _)| signature.input(alias.as_bytes()).is_none()) {
        let used = sorted(sent.iter().map(|(alias, _)| *alias).filter(|a| signature.input(a.as_bytes()).is_some()));
        return Err(ServingError::invalid_argument(format!(
            "Inputs contains invalid name. Used request inputs: {used}, request input: {}",
            sorted(sent.iter().map(|(alias, _)| *alias)),
        )));
    }
    Ok(inputs)
}

fn wrong_number_of_inputs<T>(signature: &Signature, sent: &[(&str, T)]) -> ServingError {
    let sent: BTreeSet<&str> = sent.iter().map(|(alias, _)| *alias).collect();
    let wanted: BTreeSet<&str> = signature.inputs.iter().map(|spec| spec.alias.as_str()).collect();
    ServingError::invalid_argument(format!(
        "input size does not match signature: {}!={} len({{{}}}) != len({{{}}}). Sent extra: {{{}}}. Missing but \
         required: {{{}}}.",
        sent.len(),
        wanted.len(),
        sorted(sent.iter().copied()),
        sorted(wanted.iter().copied()),
        sorted(sent.difference(&wanted).copied()),
        sorted(wanted.difference(&sent).copied()),
    ))
}

fn missing_input<T>(signature: &Signature, spec: &TensorSpec, sent: &[(&str, T)]) -> ServingError {
    ServingError::invalid_argument(format!(
        "Signature input alias: {}(feed name: {}) not found in request and no default value provided. Inputs expected \
         to be in the request {{{}}}, or default input alias set: {}",
        spec.alias,
        spec.tensor_name,
        sorted(sent.iter().map(|(alias, _)| *alias)),
        sorted(signature.defaults.keys().map(String::as_str)),
    ))
}

/// The outputs that a request names, as positions in the signature; all outputs if it names none.
///
/// # Errors
///
/// `INVALID_ARGUMENT` if a name is unknown or given twice.
pub fn select_outputs<'a>(signature: &Signature, filter: impl IntoIterator<Item = &'a str>) -> Result<Vec<usize>> {
    let mut selected = Vec::new();
    for alias in filter {
        let Some(position) = signature.output(alias.as_bytes()) else {
            return Err(ServingError::invalid_argument(format!(
                "output tensor alias not found in signature: {alias} Outputs expected to be in the set {{{}}}.",
                sorted(signature.outputs.iter().map(|spec| spec.alias.as_str())),
            )));
        };
        if selected.contains(&position) {
            return Err(ServingError::invalid_argument(format!("duplicate output tensor alias: {alias}")));
        }
        selected.push(position);
    }
    Ok(if selected.is_empty() { (0..signature.outputs.len()).collect() } else { selected })
}

fn sorted<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let mut names: Vec<&str> = names.collect();
    names.sort_unstable();
    names.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use servable_model::tensor::{DType, Elements};

    fn spec(alias: &str) -> TensorSpec {
        TensorSpec { alias: alias.to_owned(), tensor_name: format!("{alias}:0"), dtype: DType::STRING, shape: None }
    }

    fn signature(inputs: &[&str], outputs: &[&str], defaults: &[&str]) -> Signature {
        Signature {
            inputs: inputs.iter().map(|alias| spec(alias)).collect(),
            outputs: outputs.iter().map(|alias| spec(alias)).collect(),
            defaults: defaults.iter().map(|alias| ((*alias).to_owned(), scalar(&format!("default {alias}")))).collect(),
            ..Signature::default()
        }
    }

    fn scalar(text: &str) -> Tensor {
        Tensor::from_strings(Vec::new(), [text].into_iter().collect())
    }

    fn text(tensor: &Tensor) -> String {
        let Elements::Strings(strings) = tensor.elements() else { panic!("strings were put in") };
        String::from_utf8_lossy(strings.get(0)).into_owned()
    }

    fn arranged(signature: &Signature, sent: &[&str]) -> Result<Vec<String>, String> {
        let sent: Vec<(&str, String)> = sent.iter().map(|alias| (*alias, format!("sent {alias}"))).collect();
        arrange_inputs(signature, &sent, |_, value| Ok(scalar(value)))
            .map(|tensors| tensors.iter().map(text).collect())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn inputs_are_ordered_by_the_signature_with_defaults_for_missing_ones() {
        let plain = signature(&["a", "b"], &[], &[]);
        let with_default = signature(&["a", "b"], &[], &["b"]);
        let owned = |texts: [&str; 2]| Ok(texts.map(str::to_owned).to_vec());
        assert_eq!(arranged(&plain, &["b", "a"]), owned(["sent a", "sent b"]));
        assert_eq!(arranged(&with_default, &["a"]), owned(["sent a", "default b"]));
        for (signature, sent, expected) in [
            (
                &plain,
                &["a"][..],
                "input size does not match signature: 1!=2 len({a}) != len({a,b}). Sent extra: {}. Missing but \
                 required: {b}.",
            ),
            (
                &with_default,
                &["a", "b", "c"],
                "input size does not match signature: 3!=2 len({a,b,c}) != len({a,b}). Sent extra: {c}. Missing but \
                 required: {}.",
            ),
            (
                &with_default,
                &["b"],
                "Signature input alias: a(feed name: a:0) not found in request and no default value provided. Inputs \
                 expected to be in the request {b}, or default input alias set: b",
            ),
            (&with_default, &["a", "c"], "Inputs contains invalid name. Used request inputs: a, request input: a,c"),
        ] {
            assert_eq!(arranged(signature, sent), Err(format!("INVALID_ARGUMENT: {expected}")));
        }
    }

    #[test]
    fn outputs_are_those_named_in_that_order_or_all() {
        let signature = signature(&[], &["x", "y", "z"], &[]);
        let selected = |names: &[&str]| select_outputs(&signature, names.iter().copied()).map_err(|e| e.to_string());
        assert_eq!(selected(&[]), Ok(vec![0, 1, 2]));
        assert_eq!(selected(&["z", "x"]), Ok(vec![2, 0]));
        assert_eq!(selected(&["z", "z"]), Err("INVALID_ARGUMENT: duplicate output tensor alias: z".to_owned()));
        let unknown = "INVALID_ARGUMENT: output tensor alias not found in signature: q Outputs expected to be in the \
                       set {x,y,z}.";
        assert_eq!(selected(&["q"]), Err(unknown.to_owned()));
    }
}
