//! The devices of a session: processors and GPUs, with the memory that the runtime may use of each.

use std::ffi::{CStr, c_char, c_int};

use servable_model::error::{Result, ServingError};

use crate::api::{Api, RawDeviceList, RawSession};
use crate::status::Status;

/// A device of the runtime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// The name, such as `/job:localhost/replica:0/task:0/device:GPU:0`.
    pub name: String,
    /// The type, such as `CPU` or `GPU`.
    pub kind: String,
    /// The maximum memory that the runtime may use of it, in bytes; `None` if unknown.
    pub memory_limit_bytes: Option<u64>,
}

/// The devices of a session. All sessions of a process have the same GPUs.
///
/// # Errors
///
/// The error of the runtime.
///
/// # Safety
///
/// The session must be alive and open.
pub(crate) unsafe fn list(api: &'static Api, session: *mut RawSession) -> Result<Vec<Device>> {
    let mut status = Status::new(api);
    // SAFETY: the caller vouches for the session. The list is ours.
    let raw = unsafe { (api.session_list_devices)(session, status.as_mut_ptr()) };
    status.check()?;
    if raw.is_null() {
        return Err(ServingError::internal("the runtime returned no list of devices"));
    }
    let devices = List { api, raw };
    // SAFETY: the list is alive.
    let count = unsafe { (api.device_list_count)(devices.raw) };
    (0..count).map(|index| devices.get(index)).collect()
}

/// An owned `TF_DeviceList`.
struct List {
    api: &'static Api,
    raw: *mut RawDeviceList,
}

impl List {
    fn get(&self, index: c_int) -> Result<Device> {
        let mut status = Status::new(self.api);
        // SAFETY: the list is alive and has this index; its texts live as long as the list.
        unsafe {
            let name = text((self.api.device_list_name)(self.raw, index, status.as_mut_ptr()));
            let kind = text((self.api.device_list_type)(self.raw, index, status.as_mut_ptr()));
            let bytes = (self.api.device_list_memory_bytes)(self.raw, index, status.as_mut_ptr());
            status.check()?;
            Ok(Device { name, kind, memory_limit_bytes: u64::try_from(bytes).ok().filter(|bytes| *bytes > 0) })
        }
    }
}

impl Drop for List {
    fn drop(&mut self) {
        // SAFETY: ours, and not used after.
        unsafe { (self.api.delete_device_list)(self.raw) }
    }
}

/// A copy of a text of the runtime; empty for null.
///
/// # Safety
///
/// The text must end in a NUL.
unsafe fn text(raw: *const c_char) -> String {
    if raw.is_null() {
        return String::new();
    }
    // SAFETY: the caller vouches for the text.
    unsafe { CStr::from_ptr(raw) }.to_string_lossy().into_owned()
}
