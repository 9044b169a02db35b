//! Opens the C libraries of installed wheels, and runs their loads on threads of low priority.
//!
//! Nothing is linked: a process without a library starts, and gets an [`OpenError`] that names the missing file or
//! function. Python finds the file in the installed package; a runtime's crate declares the functions that it needs
//! with [`functions!`](crate::functions), and looks them up once.

mod background;

use std::ffi::c_int;
use std::fmt;
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};

use libloading::os::unix::{self, RTLD_GLOBAL, RTLD_LAZY, RTLD_LOCAL};

pub use background::{run_in_background, set_slice};

/// A library that was opened. It is never unloaded, because it has started threads and registered objects that others
/// refer to.
pub struct Library {
    library: ManuallyDrop<unix::Library>,
    path: PathBuf,
}

impl Library {
    /// Opens a library in local scope: libraries that are opened later do not see its symbols.
    ///
    /// Runtimes export protobuf, absl and `BoringSSL`. In global scope, libraries that are opened later would use these
    /// instead of their own, and crash. Opening a library twice is cheap.
    ///
    /// # Errors
    ///
    /// [`OpenError::Library`] with the reason of the dynamic linker.
    ///
    /// # Safety
    ///
    /// Opening runs the initialisers of the library, which must allow that.
    pub unsafe fn open(path: &Path) -> Result<Self, OpenError> {
        // SAFETY: the caller vouches for the initialisers.
        unsafe { Self::open_in_scope(path, RTLD_LOCAL) }
    }

    /// Moves the symbols of a library to the global scope of the process; opens it if necessary.
    ///
    /// # Errors
    ///
    /// [`OpenError::Library`] with the reason of the dynamic linker.
    ///
    /// # Safety
    ///
    /// Opening runs the initialisers of the library, which must allow that. Libraries that are opened later must work
    /// with these symbols.
    pub unsafe fn open_globally(path: &Path) -> Result<Self, OpenError> {
        // SAFETY: the caller vouches for the initialisers.
        unsafe { Self::open_in_scope(path, RTLD_GLOBAL) }
    }

    unsafe fn open_in_scope(path: &Path, scope: c_int) -> Result<Self, OpenError> {
        // SAFETY: the caller vouches for the initialisers.
        let library = unsafe { unix::Library::open(Some(path), RTLD_LAZY | scope) }.map_err(|error| {
            let reason = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
            // The dynamic linker usually begins with the path itself.
            let reason = reason.strip_prefix(&format!("{}: ", path.display())).unwrap_or(&reason).to_owned();
            OpenError::Library { path: path.to_owned(), reason }
        })?;
        Ok(Self { library: ManuallyDrop::new(library), path: path.to_owned() })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Looks up a function in the library and its dependencies.
    ///
    /// # Errors
    ///
    /// [`OpenError::Symbol`] if there is none of this name.
    ///
    /// # Safety
    ///
    /// `F` must be the type of a pointer to that function. The name must be followed by one NUL.
    pub unsafe fn function<F: Copy>(&self, name: &'static str) -> Result<F, OpenError> {
        // SAFETY: the caller vouches for the type.
        let symbol = unsafe { self.library.get::<F>(name.as_bytes()) };
        symbol
            .map(|symbol| *symbol)
            .map_err(|_| OpenError::Symbol { library: self.path.clone(), name: name.trim_end_matches('\0') })
    }
}

/// Declares the opaque objects of a C API, to which there are only pointers.
///
/// ```
/// servable_native::opaque! {
///     /// An object of the C library.
///     RawObject
/// }
/// let none: *mut RawObject = std::ptr::null_mut();
/// ```
#[macro_export]
macro_rules! opaque {
    ($($(#[$doc:meta])* $name:ident)*) => {$(
        $(#[$doc])*
        #[repr(C)]
        pub(crate) struct $name {
            _opaque: [u8; 0],
        }
    )*};
}

/// Defines the table of C functions of a runtime, and its look-up, from one list.
///
/// Each field of the struct is named after its symbol:
///
/// ```
/// # use std::ffi::{c_char, c_int};
/// servable_native::functions! {
///     /// The functions of the C library.
///     struct Api {
///         length = "strlen" (*const c_char) -> usize;
///         absolute = "abs" (c_int) -> c_int;
///     }
/// }
/// ```
///
/// The struct gets a constructor `unsafe fn look_up(library: &Library) -> Result<Self, OpenError>`. It is sound if the
/// symbols of the library have these types.
#[macro_export]
macro_rules! functions {
    (
        $(#[$doc:meta])*
        struct $api:ident {
            $($field:ident = $symbol:literal ($($argument:ty),* $(,)?) $(-> $result:ty)?;)*
        }
    ) => {
        $(#[$doc])*
        pub(crate) struct $api {
            $(pub(crate) $field: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*
        }

        impl $api {
            /// Looks every function up.
            ///
            /// # Safety
            ///
            /// The functions of the library must have the declared types.
            pub(crate) unsafe fn look_up(library: &$crate::Library) -> Result<Self, $crate::OpenError> {
                Ok(Self {$(
                    // SAFETY: the caller vouches for the type; the name ends in a NUL.
                    $field: unsafe { library.function(concat!($symbol, "\0"))? },
                )*})
            }
        }
    };
}

/// Why a runtime cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// A library is missing or cannot be opened.
    Library {
        /// The file.
        path: PathBuf,
        /// The reason of the dynamic linker.
        reason: String,
    },
    /// A library lacks a function: it has another version, or is another library.
    Symbol {
        /// The file that was searched, together with its dependencies.
        library: PathBuf,
        /// The function.
        name: &'static str,
    },
    /// A library has another version than the code needs.
    Version {
        /// The file.
        library: PathBuf,
        /// Its version.
        found: String,
        /// The versions that fit, in words.
        wanted: String,
    },
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Library { path, reason } => write!(f, "cannot load {}: {reason}", path.display()),
            Self::Symbol { library, name } => write!(f, "{} does not export {name}", library.display()),
            Self::Version { library, found, wanted } => {
                write!(f, "{} has version {found}, want {wanted}", library.display())
            }
        }
    }
}

impl std::error::Error for OpenError {}

#[cfg(test)]
mod tests {
    use std::ffi::{c_char, c_int};

    use super::*;

    functions! {
        /// Functions of the C library.
        struct Api {
            length = "strlen" (*const c_char) -> usize;
            absolute = "abs" (c_int) -> c_int;
        }
    }

    #[cfg(target_os = "linux")]
    const C_LIBRARY: &str = "libc.so.6";
    #[cfg(not(target_os = "linux"))]
    const C_LIBRARY: &str = "libc.dylib";

    #[test]
    fn functions_of_an_opened_library_can_be_called() {
        // SAFETY: this process uses the library already.
        let library = unsafe { Library::open(Path::new(C_LIBRARY)) }.unwrap();
        // SAFETY: the declarations are those of the C standard.
        let api = unsafe { Api::look_up(&library) }.unwrap();
        // SAFETY: a string that ends in a NUL.
        assert_eq!(unsafe { (api.length)(c"four".as_ptr()) }, 4);
        // SAFETY: takes no pointers.
        assert_eq!(unsafe { (api.absolute)(-3) }, 3);
    }

    #[test]
    fn a_missing_function_is_named() {
        // SAFETY: this process uses the library already.
        let library = unsafe { Library::open(Path::new(C_LIBRARY)) }.unwrap();
        // SAFETY: there is no such function.
        let found = unsafe { library.function::<unsafe extern "C" fn()>("servable_has_no_such_function\0") };
        let error = found.err().unwrap();
        assert_eq!(error.to_string(), format!("{C_LIBRARY} does not export servable_has_no_such_function"));
    }

    #[test]
    fn a_missing_library_is_named_once() {
        // SAFETY: nothing is opened.
        let error = unsafe { Library::open(Path::new("/nowhere/libnothing.so")) }.err().unwrap();
        let text = error.to_string();
        assert!(text.starts_with("cannot load /nowhere/libnothing.so: "), "{text}");
        assert_eq!(text.matches("/nowhere").count(), 1, "{text}");
    }
}
