//! The OpenSSL that Python's `_ssl` module has loaded, by the names of its functions.
//!
//! Nothing is linked: the functions are looked up in the module's own libraries, so they are the ones that made the
//! sessions. A library that lacks one of them is refused as a whole.

use std::ffi::{CStr, CString, c_char, c_int, c_long, c_ulong, c_void};
use std::sync::OnceLock;

use super::pipe;

/// `SSL`. Of this and the others only addresses are known here.
pub enum Ssl {}
/// `SSL_CTX`.
pub enum SslCtx {}
/// `BIO`.
pub enum Bio {}
/// `BIO_METHOD`.
pub enum BioMethod {}

pub const SSL_ERROR_WANT_READ: c_int = 2;
pub const BIO_CTRL_FLUSH: c_int = 11;
/// `BIO_FLAGS_READ | BIO_FLAGS_SHOULD_RETRY`: a read found nothing yet.
pub const READ_LATER: c_int = 0x01 | 0x08;
/// `BIO_FLAGS_RWS | BIO_FLAGS_SHOULD_RETRY`: all that says why an operation did nothing.
pub const RETRY_FLAGS: c_int = 0x07 | 0x08;
/// `BIO_TYPE_SOURCE_SINK`: the kind of a BIO at the end of a chain.
const SOURCE_SINK: c_int = 0x0400;

/// Declares the table of functions and how it is filled: a field for each, named as in the library.
macro_rules! functions {
    ($($name:ident: fn($($arg:ty),*) $(-> $ret:ty)?;)*) => {
        /// The functions of one library, and the kind of BIO made with them.
        #[allow(non_snake_case, reason = "OpenSSL's names")]
        #[derive(Clone, Copy)]
        pub struct OpenSsl {
            $(pub(super) $name: unsafe extern "C" fn($($arg),*) $(-> $ret)?,)*
            pub(super) method: *mut BioMethod,
        }

        impl OpenSsl {
            fn find(library: *mut c_void) -> Result<Self, String> {
                $(
                    #[allow(non_snake_case, reason = "OpenSSL's names")]
                    // SAFETY: a handle that `dlopen` gave, and a C string.
                    let $name = unsafe { libc::dlsym(library, concat!(stringify!($name), "\0").as_ptr().cast()) };
                    if $name.is_null() {
                        return Err(format!("the OpenSSL of the ssl module shows no {}", stringify!($name)));
                    }
                )*
                Ok(Self {
                    // SAFETY: the type is that of OpenSSL's documentation, unchanged since 1.1.1.
                    $($name: unsafe { std::mem::transmute::<*mut c_void, unsafe extern "C" fn($($arg),*) $(-> $ret)?>($name) },)*
                    method: std::ptr::null_mut(),
                })
            }
        }
    };
}

functions! {
    OpenSSL_version_num: fn() -> c_ulong;
    OpenSSL_version: fn(c_int) -> *const c_char;
    ERR_peek_error: fn() -> c_ulong;
    ERR_clear_error: fn();
    SSL_read_ex: fn(*mut Ssl, *mut c_void, usize, *mut usize) -> c_int;
    SSL_write_ex: fn(*mut Ssl, *const c_void, usize, *mut usize) -> c_int;
    SSL_get_error: fn(*const Ssl, c_int) -> c_int;
    SSL_pending: fn(*const Ssl) -> c_int;
    SSL_has_pending: fn(*const Ssl) -> c_int;
    SSL_get_rbio: fn(*const Ssl) -> *mut Bio;
    SSL_get_wbio: fn(*const Ssl) -> *mut Bio;
    SSL_set0_rbio: fn(*mut Ssl, *mut Bio);
    SSL_set0_wbio: fn(*mut Ssl, *mut Bio);
    SSL_get_SSL_CTX: fn(*const Ssl) -> *mut SslCtx;
    BIO_new: fn(*const BioMethod) -> *mut Bio;
    BIO_free: fn(*mut Bio) -> c_int;
    BIO_up_ref: fn(*mut Bio) -> c_int;
    BIO_set_data: fn(*mut Bio, *mut c_void);
    BIO_get_data: fn(*mut Bio) -> *mut c_void;
    BIO_set_init: fn(*mut Bio, c_int);
    BIO_set_flags: fn(*mut Bio, c_int);
    BIO_clear_flags: fn(*mut Bio, c_int);
    BIO_get_new_index: fn() -> c_int;
    BIO_meth_new: fn(c_int, *const c_char) -> *mut BioMethod;
    BIO_meth_set_read: fn(*mut BioMethod, unsafe extern "C" fn(*mut Bio, *mut c_char, c_int) -> c_int) -> c_int;
    BIO_meth_set_write: fn(*mut BioMethod, unsafe extern "C" fn(*mut Bio, *const c_char, c_int) -> c_int) -> c_int;
    BIO_meth_set_ctrl: fn(*mut BioMethod, unsafe extern "C" fn(*mut Bio, c_int, c_long, *mut c_void) -> c_long) -> c_int;
    BIO_meth_set_destroy: fn(*mut BioMethod, unsafe extern "C" fn(*mut Bio) -> c_int) -> c_int;
}

// SAFETY: functions of a library that is never unloaded, and a description that is never written to again.
unsafe impl Send for OpenSsl {}
// SAFETY: as above.
unsafe impl Sync for OpenSsl {}

/// The library of this process: there is one `_ssl` module, and callbacks have nobody else to ask.
static LIBRARY: OnceLock<Result<OpenSsl, String>> = OnceLock::new();

impl OpenSsl {
    /// The library of the module at `path`, which must be loaded already. Later calls answer what the first one found.
    ///
    /// # Errors
    /// A sentence that says why it cannot be used.
    pub fn get(path: &str) -> Result<&'static Self, &'static str> {
        LIBRARY.get_or_init(|| Self::of_module(path)).as_ref().map_err(String::as_str)
    }

    /// The library, once it was found.
    pub fn known() -> Option<&'static Self> {
        LIBRARY.get()?.as_ref().ok()
    }

    /// Finds the functions in the module's libraries, and refuses versions that are not known here.
    fn of_module(path: &str) -> Result<Self, String> {
        let path = CString::new(path).map_err(|_| String::from("the path of the ssl module has a zero byte"))?;
        // SAFETY: a C string; with NOLOAD nothing is loaded that is not there already.
        let library = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOLOAD | libc::RTLD_NOW) };
        if library.is_null() {
            return Err(String::from("the ssl module is part of the interpreter, which keeps its OpenSSL to itself"));
        }
        // The handle is kept: the functions must stay where they are.
        let mut found = Self::find(library)?;
        // SAFETY: takes nothing.
        let version = unsafe { (found.OpenSSL_version_num)() };
        if !(0x1010_1000..0x4000_0000).contains(&version) {
            return Err(format!("OpenSSL {version:#x} is unknown here"));
        }
        found.method = found.describe_bio()?;
        Ok(found)
    }

    /// The library's version in words, as `ssl.OPENSSL_VERSION` has it.
    pub fn version(&self) -> String {
        // SAFETY: 0 asks for the version, a constant C string.
        unsafe { CStr::from_ptr((self.OpenSSL_version)(0)) }.to_string_lossy().into_owned()
    }

    /// The library's version as a number.
    pub fn version_number(&self) -> c_ulong {
        // SAFETY: takes nothing.
        unsafe { (self.OpenSSL_version_num)() }
    }

    /// Describes the BIO of [`pipe`] to the library, once for all sessions.
    fn describe_bio(&self) -> Result<*mut BioMethod, String> {
        // SAFETY: the functions have the signatures that the library calls them with, and `method` is new.
        unsafe {
            let kind = (self.BIO_get_new_index)();
            let method = (self.BIO_meth_new)(kind | SOURCE_SINK, c"zloop".as_ptr());
            let made = !method.is_null()
                && (self.BIO_meth_set_read)(method, pipe::read) == 1
                && (self.BIO_meth_set_write)(method, pipe::write) == 1
                && (self.BIO_meth_set_ctrl)(method, pipe::control) == 1
                && (self.BIO_meth_set_destroy)(method, pipe::destroy) == 1;
            if made { Ok(method) } else { Err(String::from("OpenSSL makes no BIO of another kind")) }
        }
    }
}
