//! How the C API says that something failed.

use std::ffi::CStr;

use servable_model::error::{Code, Result, ServingError};

use crate::api::{Api, RawStatus};

/// A `TF_Status` that is freed when it goes.
pub(crate) struct Status {
    api: &'static Api,
    raw: *mut RawStatus,
}

impl Status {
    /// A status that says OK.
    pub(crate) fn new(api: &'static Api) -> Self {
        // SAFETY: takes nothing; the result is ours.
        Self { api, raw: unsafe { (api.new_status)() } }
    }

    /// For a C function to write to.
    pub(crate) fn as_mut_ptr(&mut self) -> *mut RawStatus {
        self.raw
    }

    /// What the last function wrote: its code, which is a canonical one, and its text, unchanged.
    pub(crate) fn check(&self) -> Result<()> {
        // SAFETY: the status is alive.
        let code = Code::from_number(unsafe { (self.api.get_code)(self.raw) });
        if code == Code::Ok {
            return Ok(());
        }
        // SAFETY: the text ends in a NUL and lives until the status changes, which it does not while it is borrowed.
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
