//! The status codes and error texts of the C API.

use std::ffi::CStr;

use servable_model::error::{Code, Result, ServingError};

use crate::api::{Api, RawStatus};

/// An owned `TF_Status`.
pub(crate) struct Status {
    api: &'static Api,
    raw: *mut RawStatus,
}

impl Status {
    /// A status with the code OK.
    pub(crate) fn new(api: &'static Api) -> Self {
        // SAFETY: takes nothing; the result is ours.
        Self { api, raw: unsafe { (api.new_status)() } }
    }

    /// The pointer for a C function that writes the status.
    pub(crate) fn as_mut_ptr(&mut self) -> *mut RawStatus {
        self.raw
    }

    /// Returns the error that the last function wrote: its canonical code, and its text unchanged.
    pub(crate) fn check(&self) -> Result<()> {
        // SAFETY: the status is alive.
        let code = Code::from_number(unsafe { (self.api.get_code)(self.raw) });
        if code == Code::Ok {
            return Ok(());
        }
        // SAFETY: the text ends in a NUL, and lives until the status changes, which is borrowed here.
        let message = unsafe { CStr::from_ptr((self.api.message)(self.raw)) };
        Err(ServingError::new(code, message.to_bytes()))
    }
}

impl Drop for Status {
    fn drop(&mut self) {
        // SAFETY: ours, and not used after.
        unsafe { (self.api.delete_status)(self.raw) }
    }
}
