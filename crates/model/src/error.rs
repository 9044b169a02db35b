//! Canonical status codes, the one error type of the request path, and the table from code to HTTP status.

use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

/// A canonical status code, with the numbers of `google.rpc.Code`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i32)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub enum Code {
    Ok = 0,
    Cancelled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Aborted = 10,
    OutOfRange = 11,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    DataLoss = 15,
    Unauthenticated = 16,
}

impl Code {
    /// The number of codes.
    pub const COUNT: usize = 17;

    /// The code with this number. Numbers outside the table give [`Code::Unknown`].
    pub fn from_number(number: i32) -> Self {
        match number {
            0 => Self::Ok,
            1 => Self::Cancelled,
            3 => Self::InvalidArgument,
            4 => Self::DeadlineExceeded,
            5 => Self::NotFound,
            6 => Self::AlreadyExists,
            7 => Self::PermissionDenied,
            8 => Self::ResourceExhausted,
            9 => Self::FailedPrecondition,
            10 => Self::Aborted,
            11 => Self::OutOfRange,
            12 => Self::Unimplemented,
            13 => Self::Internal,
            14 => Self::Unavailable,
            15 => Self::DataLoss,
            16 => Self::Unauthenticated,
            _ => Self::Unknown,
        }
    }

    /// The name in status messages, metrics and JSON, such as `INVALID_ARGUMENT`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Cancelled => "CANCELLED",
            Self::Unknown => "UNKNOWN",
            Self::InvalidArgument => "INVALID_ARGUMENT",
            Self::DeadlineExceeded => "DEADLINE_EXCEEDED",
            Self::NotFound => "NOT_FOUND",
            Self::AlreadyExists => "ALREADY_EXISTS",
            Self::PermissionDenied => "PERMISSION_DENIED",
            Self::ResourceExhausted => "RESOURCE_EXHAUSTED",
            Self::FailedPrecondition => "FAILED_PRECONDITION",
            Self::Aborted => "ABORTED",
            Self::OutOfRange => "OUT_OF_RANGE",
            Self::Unimplemented => "UNIMPLEMENTED",
            Self::Internal => "INTERNAL",
            Self::Unavailable => "UNAVAILABLE",
            Self::DataLoss => "DATA_LOSS",
            Self::Unauthenticated => "UNAUTHENTICATED",
        }
    }

    /// The HTTP status and its reason phrase (`docs/spec/rest_api.md` §5).
    pub fn http_status(self) -> (u16, &'static str) {
        match self {
            Self::Ok => (200, "OK"),
            Self::InvalidArgument | Self::FailedPrecondition | Self::OutOfRange => (400, "Bad Request"),
            Self::Unauthenticated => (401, "Unauthorized"),
            Self::PermissionDenied => (403, "Forbidden"),
            Self::NotFound => (404, "Not Found"),
            Self::AlreadyExists | Self::Aborted => (409, "Conflict"),
            Self::ResourceExhausted => (429, "Client Error"),
            Self::Cancelled => (499, "Client Error"),
            Self::Unknown | Self::Internal | Self::DataLoss => (500, "Internal Server Error"),
            Self::Unimplemented => (501, "Not Implemented"),
            Self::Unavailable => (503, "Service Unavailable"),
            Self::DeadlineExceeded => (504, "Gateway Time-out"),
        }
    }
}

/// The error of a request: a code for programs, and a text for people.
///
/// The text is bytes, not a `String`. It may quote model names and JSON strings from a request, which are not always
/// UTF-8. REST writes them back unchanged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServingError {
    /// The canonical code.
    pub code: Code,
    /// The text, usually but not always UTF-8.
    pub message: Vec<u8>,
    /// The number of seconds after which the same request may succeed, if known.
    pub retry_after_seconds: Option<NonZeroU32>,
}

impl ServingError {
    /// An error with any code.
    pub fn new(code: Code, message: impl Into<Vec<u8>>) -> Self {
        Self { code, message: message.into(), retry_after_seconds: None }
    }

    /// The same error, with the time after which to retry. It is rounded up to whole seconds.
    #[must_use]
    pub fn retry_after(self, time: Duration) -> Self {
        let seconds = u32::try_from(time.as_millis().div_ceil(1000)).unwrap_or(u32::MAX).max(1);
        Self { retry_after_seconds: NonZeroU32::new(seconds), ..self }
    }

    /// The request is invalid, regardless of the state of the server.
    pub fn invalid_argument(message: impl Into<Vec<u8>>) -> Self {
        Self::new(Code::InvalidArgument, message)
    }

    /// The requested object does not exist, or not any more, or not yet.
    pub fn not_found(message: impl Into<Vec<u8>>) -> Self {
        Self::new(Code::NotFound, message)
    }

    /// TensorFlow Serving or the protocol has the requested feature, and this server does not.
    pub fn unimplemented(message: impl Into<Vec<u8>>) -> Self {
        Self::new(Code::Unimplemented, message)
    }

    /// A defect of the server or of a model's runtime.
    pub fn internal(message: impl Into<Vec<u8>>) -> Self {
        Self::new(Code::Internal, message)
    }

    /// The message as text; bytes that are not UTF-8 become replacement characters.
    pub fn text(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.message)
    }
}

/// Smaller allocations are not probed: a probe costs about a system call.
const LARGE: usize = 1 << 20;

/// Probes whether this number of bytes can be allocated. Rust aborts the process when an allocation fails.
///
/// The memory is freed at once, so another request may take it, and the process is then aborted all the same. That is
/// rare, because all large allocations are probed.
///
/// # Errors
///
/// `RESOURCE_EXHAUSTED` if the allocation fails.
pub fn expect_memory(bytes: usize) -> Result<()> {
    if bytes <= LARGE || Vec::<u8>::new().try_reserve_exact(bytes).is_ok() { Ok(()) } else { Err(no_memory(bytes)) }
}

/// The error for a failed allocation.
pub fn no_memory(bytes: usize) -> ServingError {
    ServingError::new(Code::ResourceExhausted, format!("the server has no memory for {bytes} bytes"))
}

impl fmt::Display for ServingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.name(), self.text())
    }
}

impl std::error::Error for ServingError {}

/// The result type of the request path.
pub type Result<T, E = ServingError> = std::result::Result<T, E>;
