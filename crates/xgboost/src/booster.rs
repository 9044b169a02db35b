//! An owned booster, and conversions of what the C functions return.

use std::ffi::{CStr, CString, c_char, c_int};
use std::ptr;

use serde_json::Value;
use servable_model::error::{Code, Result, ServingError};
use servable_model::tensor::DType;
use servable_trees::{Categories, Rows};

use crate::api::{Api, CategoryApi, Handle};

/// An owned `BoosterHandle`.
///
/// Predictions of trees are thread-safe in the library once a first prediction has configured the booster, and none of
/// its parameters changes. The methods that change it take `&mut self`.
pub(crate) struct RawBooster {
    api: &'static Api,
    handle: Handle,
}

// SAFETY: a booster may be used from any thread; see above for concurrent use.
unsafe impl Send for RawBooster {}
// SAFETY: likewise.
unsafe impl Sync for RawBooster {}

/// The shape and the elements of a prediction. They belong to the library, and last until the next call on this thread.
pub(crate) struct Prediction<'a> {
    pub(crate) shape: &'a [u64],
    pub(crate) values: &'a [f32],
}

impl RawBooster {
    pub(crate) fn new(api: &'static Api) -> Result<Self> {
        let mut handle = ptr::null_mut();
        // SAFETY: there are no matrices; the handle becomes ours.
        check(api, unsafe { (api.create)(ptr::null(), 0, &raw mut handle) })?;
        Ok(Self { api, handle })
    }

    /// Reads a model, in JSON or UBJSON by the suffix of the path.
    pub(crate) fn load_model(&mut self, path: &CStr) -> Result<()> {
        // SAFETY: the path ends in a NUL.
        check(self.api, unsafe { (self.api.load_model)(self.handle, path.as_ptr()) })
    }

    pub(crate) fn set_param(&mut self, name: &CStr, value: &CStr) -> Result<()> {
        // SAFETY: both end in a NUL.
        check(self.api, unsafe { (self.api.set_param)(self.handle, name.as_ptr(), value.as_ptr()) })
    }

    /// The configuration of the model.
    pub(crate) fn config(&self) -> Result<Value> {
        let (mut len, mut text) = (0, ptr::null());
        // SAFETY: the results are written, and the text lasts until the next call on this thread.
        let text = unsafe {
            check(self.api, (self.api.save_json_config)(self.handle, &raw mut len, &raw mut text))?;
            slice(text.cast::<u8>(), len as usize)
        };
        serde_json::from_slice(text).map_err(|error| {
            ServingError::internal(format!("the library describes the model in invalid JSON: {error}"))
        })
    }

    pub(crate) fn num_feature(&self) -> Result<usize> {
        let mut count = 0;
        // SAFETY: the result is written.
        check(self.api, unsafe { (self.api.num_feature)(self.handle, &raw mut count) })?;
        Ok(count as usize)
    }

    /// The names of the features; empty if the model carries none.
    pub(crate) fn feature_names(&self) -> Result<Vec<String>> {
        let (mut len, mut texts) = (0, ptr::null());
        // SAFETY: the results are written. The array and its strings last until the next call on this thread.
        unsafe {
            let field = c"feature_name".as_ptr();
            check(self.api, (self.api.feature_info)(self.handle, field, &raw mut len, &raw mut texts))?;
            Ok(slice(texts, len as usize).iter().map(|&text| text_of(text)).collect())
        }
    }

    /// An attribute of the model.
    pub(crate) fn attribute(&self, name: &CStr) -> Result<Option<String>> {
        let (mut text, mut found) = (ptr::null(), 0);
        // SAFETY: the name ends in a NUL; the results are written, and the text lasts until the next call on this thread.
        unsafe {
            check(self.api, (self.api.attribute)(self.handle, name.as_ptr(), &raw mut text, &raw mut found))?;
            Ok((found != 0 && !text.is_null()).then(|| text_of(text)))
        }
    }

    /// The categories of each feature; empty if the model has none.
    pub(crate) fn categories(&self, api: &CategoryApi) -> Result<Vec<Option<Categories>>> {
        let (mut handle, mut text) = (ptr::null_mut(), ptr::null());
        // SAFETY: the handle becomes ours. It owns the text, and the memory that the text describes.
        unsafe {
            check(self.api, (api.export)(self.handle, ptr::null(), &raw mut handle, &raw mut text))?;
            let found = if text.is_null() { Ok(Vec::new()) } else { categories_of(CStr::from_ptr(text)) };
            // Without categories, there is no handle.
            if !handle.is_null() {
                check(self.api, (api.free)(handle))?;
            }
            found
        }
    }

    /// Predicts rows in place. The kind and the range of iterations are in `config`.
    pub(crate) fn predict(&self, rows: Rows<'_>, config: &CStr) -> Result<Prediction<'_>> {
        let values = array_interface(rows);
        let (mut shape, mut dimensions, mut results) = (ptr::null(), 0, ptr::null());
        // SAFETY: the texts end in a NUL, and describe memory that is alive; there is no matrix with more information.
        unsafe {
            let code = (self.api.predict_from_dense)(
                self.handle,
                values.as_ptr(),
                config.as_ptr(),
                ptr::null_mut(),
                &raw mut shape,
                &raw mut dimensions,
                &raw mut results,
            );
            check(self.api, code)?;
            Ok(prediction(shape, dimensions, results))
        }
    }

    /// Predicts rows that are copied into a matrix of the library: for kinds and boosters that cannot do it in place.
    pub(crate) fn predict_copied(&self, rows: Rows<'_>, config: &CStr) -> Result<Prediction<'_>> {
        let values = array_interface(rows);
        let (mut shape, mut dimensions, mut results) = (ptr::null(), 0, ptr::null());
        let mut matrix = RawMatrix { api: self.api, handle: ptr::null_mut() };
        let options = c"{\"missing\":NaN,\"nthread\":1}";
        // SAFETY: the texts end in a NUL, and describe memory that is alive. The matrix becomes ours; the results do not
        // refer to it.
        unsafe {
            check(self.api, (self.api.matrix_from_dense)(values.as_ptr(), options.as_ptr(), &raw mut matrix.handle))?;
            let code = (self.api.predict_from_matrix)(
                self.handle,
                matrix.handle,
                config.as_ptr(),
                &raw mut shape,
                &raw mut dimensions,
                &raw mut results,
            );
            check(self.api, code)?;
            Ok(prediction(shape, dimensions, results))
        }
    }
}

impl Drop for RawBooster {
    fn drop(&mut self) {
        // SAFETY: ours, and not used after.
        unsafe { (self.api.free)(self.handle) };
    }
}

/// An owned `DMatrixHandle`; null if there is none.
struct RawMatrix {
    api: &'static Api,
    handle: Handle,
}

impl Drop for RawMatrix {
    fn drop(&mut self) {
        if !self.handle.is_null() {
            // SAFETY: ours, and not used after.
            unsafe { (self.api.free_matrix)(self.handle) };
        }
    }
}

/// The array interface of rows, as `NumPy` defines it.
fn array_interface(rows: Rows<'_>) -> CString {
    let type_string = if rows.dtype() == DType::DOUBLE { "<f8" } else { "<f4" };
    let (address, len, columns) = (rows.bytes().as_ptr().addr(), rows.len(), rows.columns());
    let text =
        format!(r#"{{"data":[{address},true],"shape":[{len},{columns}],"typestr":"{type_string}","version":3}}"#);
    CString::new(text).expect("the text has no NUL")
}

/// # Safety
///
/// The arguments must be what a prediction has returned, and the result must not outlive the next call on this thread.
unsafe fn prediction<'a>(shape: *const u64, dimensions: u64, results: *const f32) -> Prediction<'a> {
    // SAFETY: the shape has that many sizes, whose product is the number of results.
    unsafe {
        let shape = slice(shape, dimensions as usize);
        Prediction { shape, values: slice(results, shape.iter().product::<u64>() as usize) }
    }
}

/// # Safety
///
/// The memory must have that many elements, and must be alive and unchanged while it is borrowed.
unsafe fn slice<'a, T>(data: *const T, len: usize) -> &'a [T] {
    // SAFETY: guaranteed by the caller.
    if data.is_null() || len == 0 { &[] } else { unsafe { std::slice::from_raw_parts(data, len) } }
}

/// # Safety
///
/// The text must end in a NUL.
unsafe fn text_of(text: *const c_char) -> String {
    // SAFETY: guaranteed by the caller.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

fn check(api: &Api, code: c_int) -> Result<()> {
    if code == 0 {
        return Ok(());
    }
    // SAFETY: the text ends in a NUL, and lasts until the next call on this thread.
    let text = unsafe { text_of((api.last_error)()) };
    let text = without_trace(&text);
    let is_input = text.contains("Input data contains `inf`");
    Err(ServingError::new(if is_input { Code::InvalidArgument } else { Code::Internal }, text))
}

/// A message of the library without the time, the place in its source, and the addresses of its functions.
fn without_trace(text: &str) -> &str {
    let text = text.split("\nStack trace:").next().unwrap_or_default().trim();
    let text = text.strip_prefix('[').and_then(|rest| rest.split_once("] ")).map_or(text, |(_, rest)| rest);
    match text.split_once(": ") {
        Some((place, rest)) if is_place(place) => rest.trim(),
        _ => text,
    }
}

/// Whether a text is the path and the line of a source.
fn is_place(text: &str) -> bool {
    let line = text.rsplit_once(':').map_or("", |(_, line)| line);
    text.starts_with('/') && !line.is_empty() && line.bytes().all(|byte| byte.is_ascii_digit())
}

/// The categories that the library describes by array interfaces: one for each feature, or null.
///
/// # Safety
///
/// The memory of the arrays must be alive.
unsafe fn categories_of(text: &CStr) -> Result<Vec<Option<Categories>>> {
    let unknown = || ServingError::internal(format!("the library describes categories by {}", text.to_string_lossy()));
    let features: Vec<Value> = serde_json::from_slice(text.to_bytes()).map_err(|_| unknown())?;
    let categories = |feature: &Value| {
        if feature.is_null() {
            return Some(None);
        }
        let Some((offsets, values)) = feature.get("offsets").zip(feature.get("values")) else {
            // SAFETY: guaranteed by the caller.
            let numbers = unsafe { Array::of(feature)?.integers()? };
            return Some(Some(Categories::of_numbers(numbers.into_iter().map(|number| number as f64))));
        };
        // SAFETY: guaranteed by the caller.
        let (offsets, bytes) = unsafe { (Array::of(offsets)?.integers()?, Array::of(values)?.bytes()?) };
        let offsets: Vec<usize> = offsets.into_iter().map(usize::try_from).collect::<Result<_, _>>().ok()?;
        let strings = offsets.windows(2).map(|range| bytes.get(range[0]..range[1])).collect::<Option<Vec<_>>>()?;
        Some(Some(Categories::of_strings(strings)))
    };
    features.iter().map(categories).collect::<Option<_>>().ok_or_else(unknown)
}

/// The array interface of a vector.
struct Array {
    address: usize,
    len: usize,
    type_string: String,
}

impl Array {
    fn of(interface: &Value) -> Option<Self> {
        let address = usize::try_from(interface.get("data")?.get(0)?.as_u64()?).ok()?;
        let len = usize::try_from(interface.get("shape")?.get(0)?.as_u64()?).ok()?;
        Some(Self { address, len, type_string: interface.get("typestr")?.as_str()?.to_owned() })
    }

    /// # Safety
    ///
    /// The memory must be alive while it is borrowed.
    unsafe fn elements<'a, T>(&self) -> &'a [T] {
        // SAFETY: guaranteed by the caller.
        unsafe { slice(ptr::with_exposed_provenance::<T>(self.address), self.len) }
    }

    /// # Safety
    ///
    /// As [`Self::elements`].
    unsafe fn bytes<'a>(&self) -> Option<&'a [u8]> {
        // SAFETY: guaranteed by the caller.
        matches!(self.type_string.as_str(), "<i1" | "|i1" | "<u1" | "|u1").then(|| unsafe { self.elements() })
    }

    /// # Safety
    ///
    /// As [`Self::elements`].
    unsafe fn integers(&self) -> Option<Vec<i64>> {
        macro_rules! widened {
            ($number:ty) => {{
                // SAFETY: guaranteed by the caller; the type is that of the type string.
                let elements = unsafe { self.elements::<$number>() };
                elements.iter().map(|&each| i64::from(each)).collect()
            }};
        }
        Some(match self.type_string.trim_start_matches(['<', '|']) {
            "i1" => widened!(i8),
            "u1" => widened!(u8),
            "i2" => widened!(i16),
            "u2" => widened!(u16),
            "i4" => widened!(i32),
            "u4" => widened!(u32),
            "i8" => widened!(i64),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_lose_their_trace_and_keep_their_text() {
        for (text, expected) in [
            ("[16:09:44] /workspace/src/data/columnar.h:134: No such: x\nStack trace:\n  [bt] (0) lib", "No such: x"),
            ("[16:09:44] /workspace/include/xgboost/gbm.h:158: x: y", "x: y"),
            ("[16:09:44] Check failed: a == b", "Check failed: a == b"),
            ("Invalid file: /home/src/x", "Invalid file: /home/src/x"),
            ("", ""),
        ] {
            assert_eq!(without_trace(text), expected);
        }
    }

    #[test]
    fn categories_that_are_described_in_another_way_are_refused() {
        for text in [c"{}", c"[1]", c"[{\"data\":[0,true],\"shape\":[1],\"typestr\":\"<f8\"}]"] {
            // SAFETY: no memory is read.
            let error = unsafe { categories_of(text) }.expect_err("it is not what the library writes");
            assert_eq!(error.code, Code::Internal);
        }
    }
}
