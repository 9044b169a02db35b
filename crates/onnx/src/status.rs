//! The error codes and texts of the C API.

use std::ffi::CStr;

use servable_model::error::{Code, Result, ServingError};

use crate::api::{Api, Status};

/// The codes of `OrtErrorCode` that have a meaning here.
const FAIL: i32 = 1;
const INVALID_ARGUMENT: i32 = 2;
const NO_SUCH_FILE: i32 = 3;
const NO_MODEL: i32 = 4;
const RUNTIME_EXCEPTION: i32 = 6;
const INVALID_PROTOBUF: i32 = 7;
const NOT_IMPLEMENTED: i32 = 9;
const INVALID_GRAPH: i32 = 10;

/// How the text of an error begins that a kernel reports in a run.
const FAILED_KERNEL: &str = "Non-zero status code returned while running";

/// What failed, which decides on the meaning of some codes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum During {
    /// A load: the model is wrong, or this runtime cannot run it.
    Load,
    /// A run: kernels throw exceptions for inputs that they cannot take.
    Run,
}

impl Api {
    /// Returns the error of a call in a load; see [`Api::check_during`].
    pub(crate) fn check(&self, status: Status) -> Result<()> {
        self.check_during(During::Load, status)
    }

    /// Returns the error of a call, with its text, and frees the status. Places in the source of the runtime are
    /// left out.
    pub(crate) fn check_during(&self, during: During, status: Status) -> Result<()> {
        if status.is_null() {
            return Ok(());
        }
        // SAFETY: the status is an error, and ours. The text ends in a NUL, and lives as long as the status.
        unsafe {
            let code = (self.get_error_code)(status);
            let message = CStr::from_ptr((self.get_error_message)(status)).to_bytes().to_vec();
            (self.release_status)(status);
            let text = without_places(&String::from_utf8_lossy(&message));
            Err(ServingError::new(meaning(code, during, &text), text))
        }
    }
}

/// Where the texts of the runtime name a place in its source: a path, a line, and the signature of a function.
const PLACE: &str = "/onnxruntime_src/";

/// The text without places in the source of the runtime.
fn without_places(text: &str) -> String {
    let (mut kept, mut rest) = (String::new(), text.trim_end());
    while let Some((before, place)) = rest.split_once(PLACE) {
        kept.push_str(before);
        let (mut depth, mut end) = (0, place.len());
        for (index, byte) in place.bytes().enumerate() {
            match byte {
                b'(' => depth += 1,
                b')' if depth == 1 => {
                    end = index + 1;
                    break;
                }
                b')' => depth -= 1,
                _ => {}
            }
        }
        rest = place[end..].trim_start_matches(" const").trim_start();
    }
    kept + rest
}

/// Adds the version of the runtime to the error of a model that is newer than the runtime, or needs other operators.
pub(crate) fn with_version(error: ServingError, version: &str) -> ServingError {
    let text = error.text();
    let text = if let Some((opset, rest)) = text.split_once(" is under development and support for this is limited")
        && let Some((_, opset)) = opset.rsplit_once("Opset ")
        && let Some((_, supported)) = rest.rsplit_once("official support for domain ")
    {
        let supported = supported.trim_end_matches('.').replace(" is till opset", " up to");
        format!("the model has operator set {opset}; ONNX Runtime {version} supports {supported}")
    } else if let Some((_, versions)) = text.split_once("Unsupported model IR version: ") {
        let versions =
            versions.replace(", max supported IR version:", &format!("; ONNX Runtime {version} supports up to"));
        format!("the model has IR version {versions}")
    } else if text.contains("not a registered function/op") || text.contains("No Op registered for") {
        format!("{text}; ONNX Runtime {version} has no such operator, and libraries of custom operators are not loaded")
    } else {
        return error;
    };
    ServingError::new(error.code, text)
}

/// The canonical code of an error.
fn meaning(code: i32, during: During, text: &str) -> Code {
    match (code, during) {
        _ if ["bad_alloc", "Failed to allocate memory", "out of memory"].iter().any(|part| text.contains(part)) => {
            Code::ResourceExhausted
        }
        // The errors of devices are no fault of the client.
        (_, During::Run) if text.contains("CUDA") => Code::Internal,
        (FAIL | RUNTIME_EXCEPTION, During::Run) if text.starts_with(FAILED_KERNEL) => Code::InvalidArgument,
        (INVALID_ARGUMENT | INVALID_GRAPH, _) => Code::InvalidArgument,
        (NO_SUCH_FILE | NO_MODEL, _) => Code::NotFound,
        (INVALID_PROTOBUF, _) => Code::DataLoss,
        (NOT_IMPLEMENTED, _) => Code::Unimplemented,
        (FAIL | RUNTIME_EXCEPTION, During::Load) => Code::FailedPrecondition,
        _ => Code::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_in_the_source_of_the_runtime_are_left_out() {
        let text = "Load model from m failed:/onnxruntime_src/onnxruntime/core/graph/model.cc:256 \
                    onnxruntime::Model::Model(const std::function<void(int)>&, int) Unsupported version: 99\n";
        assert_eq!(without_places(text), "Load model from m failed:Unsupported version: 99");
        assert_eq!(without_places("x /onnxruntime_src/a.h:1 int f() const got 2"), "x got 2");
        assert_eq!(without_places("/onnxruntime_src/cut of"), "");
        assert_eq!(without_places("plain (text)"), "plain (text)");
    }

    #[test]
    fn a_model_that_this_runtime_cannot_run_is_told_the_version() {
        let of = |text: &str| with_version(ServingError::internal(text), "1.32.0").text().into_owned();
        let text = "ONNX Runtime only *guarantees* support for models stamped with official released onnx opset versions. \
                    Opset 999 is under development and support for this is limited. The operator schemas and or other \
                    functionality may change. Current official support for domain ai.onnx is till opset 28.";
        assert_eq!(of(text), "the model has operator set 999; ONNX Runtime 1.32.0 supports ai.onnx up to 28");
        let text = "Load model from m failed:Unsupported model IR version: 999, max supported IR version: 14";
        assert_eq!(of(text), "the model has IR version 999; ONNX Runtime 1.32.0 supports up to 14");
        for text in ["com.acme:Fancy(-1) is not a registered function/op", "Error No Op registered for Nope with"] {
            let wanted = "; ONNX Runtime 1.32.0 has no such operator, and libraries of custom operators are not loaded";
            assert_eq!(of(text), format!("{text}{wanted}"));
        }
        assert_eq!(of("anything else"), "anything else");
    }

    #[test]
    fn an_exception_of_a_kernel_is_the_fault_of_the_inputs_unless_it_names_memory_or_a_device() {
        let of = |text| meaning(RUNTIME_EXCEPTION, During::Run, &format!("{FAILED_KERNEL} Add node. {text}"));
        assert_eq!(of("Attempting to broadcast an axis by a dimension other than 1. 3 by 4"), Code::InvalidArgument);
        assert_eq!(meaning(RUNTIME_EXCEPTION, During::Run, "something else"), Code::Internal);
        assert_eq!(of("std::bad_alloc"), Code::ResourceExhausted);
        assert_eq!(of("CUDA failure 700: an illegal memory access was encountered"), Code::Internal);
        assert_eq!(of("CUDA failure 2: out of memory"), Code::ResourceExhausted);
        assert_eq!(meaning(FAIL, During::Run, "something"), Code::Internal);
        assert_eq!(meaning(FAIL, During::Load, "something"), Code::FailedPrecondition);
        assert_eq!(meaning(77, During::Load, "a code of a later version"), Code::Internal);
    }
}
