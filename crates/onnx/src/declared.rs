//! The inputs and outputs that a session declares.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char};
use std::ptr;

use servable_model::error::{Result, ServingError};
use servable_model::signature::{Signature, TensorSpec};
use servable_model::tensor::{DType, Tensor, shape_text};

use crate::api::{Api, RawAllocator, RawSession, RawTypeInfo, Status};
use crate::model_file::ModelFile;
use crate::value::{Memory, dtype_of, type_and_shape};

/// Values of `ONNXType`.
const TENSOR: i32 = 1;
const SEQUENCE: i32 = 2;
const MAP: i32 = 3;

/// One input or output.
#[derive(Debug)]
pub(crate) struct Declared {
    pub(crate) spec: TensorSpec,
    /// The name for the runtime.
    pub(crate) name: CString,
    pub(crate) form: Form,
}

/// What the runtime has in place of the tensor that clients see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// The same tensor.
    Tensor,
    /// A sequence of maps from class to number, as `ZipMap` makes it of a matrix. Maps are sorted by class.
    Maps {
        /// Whether the classes are numbers, and not texts.
        are_numbers: bool,
    },
}

/// All inputs and outputs, sorted by name.
#[derive(Debug, Default)]
pub(crate) struct Declarations {
    pub(crate) inputs: Vec<Declared>,
    pub(crate) outputs: Vec<Declared>,
    /// The values of inputs that clients may leave out, by name.
    defaults: BTreeMap<String, Tensor>,
}

impl Declarations {
    /// The declarations of a session, and of the file that it was loaded from.
    ///
    /// # Errors
    ///
    /// `UNIMPLEMENTED` for values that clients cannot send or receive.
    ///
    /// # Safety
    ///
    /// The session must be alive.
    pub(crate) unsafe fn of(
        api: &'static Api,
        session: *const RawSession,
        memory: Memory,
        file: &ModelFile,
    ) -> Result<Self> {
        // SAFETY: guaranteed by the caller.
        let (mut inputs, optional, outputs) = unsafe {
            (
                TensorQueries::of_inputs(api).describe_all(session, memory)?,
                TensorQueries::of_optional_inputs(api).describe_all(session, memory)?,
                TensorQueries::of_outputs(api).describe_all(session, memory)?,
            )
        };
        let mut defaults = BTreeMap::new();
        for declared in optional {
            // Weights are not offered as inputs, although old files declare all of them so.
            if let Some(default) = file.defaults.get(&declared.spec.alias)
                && default.dtype() == declared.spec.dtype
            {
                defaults.insert(declared.spec.alias.clone(), default.clone());
                inputs.push(declared);
            }
        }
        for Declared { spec, .. } in &mut inputs {
            if file.without_rank.contains(&spec.alias) {
                spec.shape = None;
            }
        }
        inputs.sort_by(|one, other| one.spec.alias.cmp(&other.spec.alias));
        Ok(Self { inputs, outputs, defaults })
    }

    /// The signature.
    pub(crate) fn signature(&self) -> Signature {
        let specs = |declared: &[Declared]| declared.iter().map(|each| each.spec.clone()).collect();
        Signature {
            inputs: specs(&self.inputs),
            outputs: specs(&self.outputs),
            method_name: "tensorflow/serving/predict".to_owned(),
            defaults: self.defaults.clone(),
            ..Signature::default()
        }
    }
}

/// The functions of a session that describe its inputs, or its outputs.
struct TensorQueries {
    api: &'static Api,
    role: &'static str,
    count: unsafe extern "C" fn(*const RawSession, *mut usize) -> Status,
    name: unsafe extern "C" fn(*const RawSession, usize, *mut RawAllocator, *mut *mut c_char) -> Status,
    type_info: unsafe extern "C" fn(*const RawSession, usize, *mut *mut RawTypeInfo) -> Status,
}

impl TensorQueries {
    fn of_inputs(api: &'static Api) -> Self {
        Self {
            api,
            role: "input",
            count: api.session_get_input_count,
            name: api.session_get_input_name,
            type_info: api.session_get_input_type_info,
        }
    }

    fn of_optional_inputs(api: &'static Api) -> Self {
        Self {
            api,
            role: "input",
            count: api.session_get_overridable_initializer_count,
            name: api.session_get_overridable_initializer_name,
            type_info: api.session_get_overridable_initializer_type_info,
        }
    }

    fn of_outputs(api: &'static Api) -> Self {
        Self {
            api,
            role: "output",
            count: api.session_get_output_count,
            name: api.session_get_output_name,
            type_info: api.session_get_output_type_info,
        }
    }

    /// Describes all inputs or outputs, sorted by name.
    ///
    /// # Safety
    ///
    /// The session must be alive.
    unsafe fn describe_all(&self, session: *const RawSession, memory: Memory) -> Result<Vec<Declared>> {
        let mut count = 0;
        // SAFETY: guaranteed by the caller.
        self.api.check(unsafe { (self.count)(session, &raw mut count) })?;
        // SAFETY: as above, and the indices are below the count.
        let each = (0..count).map(|index| unsafe { self.describe(session, index, memory) });
        let mut all = each.collect::<Result<Vec<_>>>()?;
        all.sort_by(|one, other| one.spec.alias.cmp(&other.spec.alias));
        Ok(all)
    }

    /// # Safety
    ///
    /// The session must be alive, and have this index.
    unsafe fn describe(&self, session: *const RawSession, index: usize, memory: Memory) -> Result<Declared> {
        let (api, mut text, mut info) = (self.api, ptr::null_mut(), ptr::null_mut());
        // SAFETY: guaranteed by the caller. The name is ours, ends in a NUL, and is freed once it is copied.
        let name = unsafe {
            api.check((self.name)(session, index, memory.allocator, &raw mut text))?;
            let name = CStr::from_ptr(text).to_owned();
            api.check((api.allocator_free)(memory.allocator, text.cast()))?;
            name
        };
        let alias = name.to_string_lossy().into_owned();
        // SAFETY: guaranteed by the caller. The description is ours.
        let type_info = unsafe {
            api.check((self.type_info)(session, index, &raw mut info))?;
            TypeInfo(api, info)
        };
        let refused = |reason: String| ServingError::unimplemented(format!("{} \"{alias}\": {reason}", self.role));
        let (form, dtype, shape) = type_info.form()?.map_err(refused)?;
        let spec = TensorSpec { tensor_name: alias.clone(), alias, dtype, shape };
        Ok(Declared { spec, name, form })
    }
}

/// An owned `OrtTypeInfo`.
struct TypeInfo(&'static Api, *mut RawTypeInfo);

/// The form, dtype and shape of a tensor as clients see it, or why they cannot see it.
type ClientType = Result<(Form, DType, Option<Vec<i64>>), String>;

/// The dtype and the shape of a tensor, or why clients cannot see it.
type ClientTensor = Result<(DType, Option<Vec<i64>>), String>;

impl TypeInfo {
    fn form(&self) -> Result<ClientType> {
        let api = self.0;
        Ok(match self.kind()? {
            TENSOR => self.tensor()?.map(|(dtype, shape)| (Form::Tensor, dtype, shape)),
            SEQUENCE => {
                let (mut sequence, mut element) = (ptr::null(), ptr::null_mut());
                // SAFETY: the description is alive. The first result belongs to it, the second is ours.
                let element = unsafe {
                    api.check((api.cast_type_info_to_sequence_type_info)(self.1, &raw mut sequence))?;
                    api.check((api.get_sequence_element_type)(sequence, &raw mut element))?;
                    TypeInfo(api, element)
                };
                if element.kind()? == MAP {
                    element.map_of_classes()?
                } else {
                    Err("a sequence cannot be returned; export the model with tensors as outputs".to_owned())
                }
            }
            MAP => Err("a map cannot be returned; export the model with tensors as outputs".to_owned()),
            _ => Err("only tensors are supported; export the model without optional and sparse values".to_owned()),
        })
    }

    /// The matrix that stands for a sequence of such maps.
    fn map_of_classes(&self) -> Result<ClientType> {
        let (api, mut map, mut value) = (self.0, ptr::null(), ptr::null_mut());
        let mut key = 0;
        // SAFETY: the description is alive. The first result belongs to it, the last is ours.
        let value = unsafe {
            api.check((api.cast_type_info_to_map_type_info)(self.1, &raw mut map))?;
            api.check((api.get_map_key_type)(map, &raw mut key))?;
            api.check((api.get_map_value_type)(map, &raw mut value))?;
            TypeInfo(api, value)
        };
        let dtype = if value.kind()? == TENSOR { value.tensor()?.map(|(dtype, _)| dtype) } else { Err(String::new()) };
        Ok(match (dtype_of(key), dtype) {
            (Ok(key @ (DType::INT64 | DType::STRING)), Ok(dtype @ (DType::FLOAT | DType::DOUBLE))) => {
                Ok((Form::Maps { are_numbers: key == DType::INT64 }, dtype, Some(vec![-1, -1])))
            }
            _ => Err("only maps from class to probability are supported; export the model with options={'zipmap': \
                      False}"
                .to_owned()),
        })
    }

    fn tensor(&self) -> Result<ClientTensor> {
        let (api, mut tensor) = (self.0, ptr::null());
        // SAFETY: the description is alive. The result belongs to it.
        let (element_type, shape) = unsafe {
            api.check((api.cast_type_info_to_tensor_info)(self.1, &raw mut tensor))?;
            type_and_shape(api, tensor)?
        };
        let refused = |name| format!("tensors of {name} are not supported");
        Ok(dtype_of(element_type).map(|dtype| (dtype, Some(shape))).map_err(refused))
    }

    /// A value of `ONNXType`.
    fn kind(&self) -> Result<i32> {
        let mut kind = 0;
        // SAFETY: the description is alive.
        self.0.check(unsafe { (self.0.get_onnx_type_from_type_info)(self.1, &raw mut kind) })?;
        Ok(kind)
    }
}

impl Drop for TypeInfo {
    fn drop(&mut self) {
        // SAFETY: ours, and not used after.
        unsafe { (self.0.release_type_info)(self.1) }
    }
}

impl Declared {
    /// Checks an input.
    ///
    /// # Errors
    ///
    /// `INVALID_ARGUMENT` that says what was found and what was wanted.
    pub(crate) fn check(&self, tensor: &Tensor) -> Result<()> {
        let TensorSpec { alias, dtype, shape, .. } = &self.spec;
        let fits = |shape: &Vec<i64>| {
            let found = tensor.shape();
            shape.len() == found.len() && shape.iter().zip(found).all(|(&want, &found)| want < 0 || want == found)
        };
        if tensor.dtype() != *dtype {
            let text = format!("input \"{alias}\": got dtype {}, want {dtype}", tensor.dtype());
            return Err(ServingError::invalid_argument(text));
        }
        match shape {
            Some(shape) if !fits(shape) => {
                let (found, wanted) = (shape_text(tensor.shape()), shape_text(shape).replace("-1", "?"));
                Err(ServingError::invalid_argument(format!("input \"{alias}\": got shape {found}, want {wanted}")))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use servable_model::tensor::Strings;

    use super::*;

    #[test]
    fn an_input_has_to_have_the_declared_dtype_and_sizes() {
        let spec = |shape| TensorSpec { alias: "x".into(), tensor_name: "x".into(), dtype: DType::STRING, shape };
        let declared = |shape| Declared { spec: spec(shape), name: c"x".into(), form: Form::Tensor };
        let tensor = Tensor::from_strings(vec![1, 2], Strings::from_iter(["a", "b"]));
        let error = |shape| declared(shape).check(&tensor).err().map(|error| error.text().into_owned());
        assert_eq!(error(None), None);
        assert_eq!(error(Some(vec![-1, 2])), None);
        assert_eq!(error(Some(vec![-1, 3])).unwrap(), "input \"x\": got shape [1,2], want [?,3]");
        assert_eq!(error(Some(vec![-1])).unwrap(), "input \"x\": got shape [1,2], want [?]");
        let mut other = declared(None);
        other.spec.dtype = DType::FLOAT;
        assert_eq!(other.check(&tensor).unwrap_err().text(), "input \"x\": got dtype string, want float");
    }
}
