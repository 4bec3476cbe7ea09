//! The functions and structures of MIT's libraries that are called, as their headers (gssapi.h, gssapi_ext.h, gssapi_krb5.h, krb5.h,
//! profile.h) declare them, and where they are found at run time. The one place that knows them; nothing of it is needed to build.
#![expect(
    unsafe_code,
    reason = "finding the functions of a C library by name is a statement about their prototypes"
)]

use std::ffi::{c_char, c_int, c_void};

use libloading::Library;

/// `gss_buffer_desc`.
#[repr(C)]
#[derive(Debug)]
pub struct Buffer {
    pub length: usize,
    pub value: *mut c_void,
}

/// `gss_OID_desc`.
#[repr(C)]
#[derive(Debug)]
pub struct Oid {
    pub length: u32,
    pub elements: *mut c_void,
}

/// `gss_OID_set_desc`.
#[repr(C)]
#[derive(Debug)]
pub struct OidSet {
    pub count: usize,
    pub elements: *mut Oid,
}

/// `gss_key_value_element_desc`.
#[repr(C)]
#[derive(Debug)]
pub struct KeyValue {
    pub key: *const c_char,
    pub value: *const c_char,
}

/// `gss_key_value_set_desc`.
#[repr(C)]
#[derive(Debug)]
pub struct KeyValueSet {
    pub count: u32,
    pub elements: *mut KeyValue,
}

/// `gss_name_t`, `gss_cred_id_t`, `gss_ctx_id_t`, `krb5_context`, `krb5_principal`, `krb5_ccache`, `profile_t`.
pub type Handle = *mut c_void;

/// `GSS_C_BOTH` is 0.
pub const INITIATE: c_int = 1;
/// `GSS_C_ACCEPT`
pub const ACCEPT: c_int = 2;
/// `GSS_C_INDEFINITE`
pub const INDEFINITE: u32 = u32::MAX;
/// `GSS_S_COMPLETE`
pub const COMPLETE: u32 = 0;
/// `GSS_S_CONTINUE_NEEDED`, an informatory bit.
pub const CONTINUE_NEEDED: u32 = 1;
/// Calling and routine errors, the upper half of a status.
pub const ERRORS: u32 = 0xffff_0000;
/// `GSS_S_CREDENTIALS_EXPIRED`
pub const CREDENTIALS_EXPIRED: u32 = 11 << 16;
/// `GSS_S_CONTEXT_EXPIRED`
pub const CONTEXT_EXPIRED: u32 = 12 << 16;
/// `GSS_C_SEQUENCE_FLAG`
pub const SEQUENCE_FLAG: u32 = 8;
/// `GSS_C_ANON_FLAG`
pub const ANON_FLAG: u32 = 64;
/// `GSS_C_GSS_CODE`
pub const GSS_CODE: c_int = 1;
/// `GSS_C_MECH_CODE`
pub const MECH_CODE: c_int = 2;
/// `KRB5_NT_UNKNOWN`: krb5_sname_to_principal(3) then takes the host's name as it is, without asking the DNS.
pub const NAME_TYPE_UNKNOWN: i32 = 0;
/// The mechanism krb5, 1.2.840.113554.1.2.2.
pub const KRB5: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x12, 0x01, 0x02, 0x02];
/// `GSS_KRB5_NT_PRINCIPAL_NAME`, 1.2.840.113554.1.2.2.1.
pub const PRINCIPAL_NAME: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x12, 0x01, 0x02, 0x02, 0x01];

macro_rules! prototypes {
    ($($library:literal: { $($function:ident($($argument:ty),*) -> $returned:ty;)* })*) => {
        /// The functions, ready to be called.
        pub struct Prototypes {
            $($(pub $function: unsafe extern "C" fn($($argument),*) -> $returned,)*)*
            /// The functions are valid as long as these are loaded.
            _libraries: Vec<Library>,
        }

        impl Prototypes {
            /// Loads the libraries and finds every function.
            pub fn load() -> Result<Prototypes, libloading::Error> {
                let mut libraries = Vec::new();
                $(
                    // SAFETY: MIT's libraries run no initialiser that has demands on the process.
                    let library = unsafe { Library::new($library) }?;
                    // SAFETY: these are the prototypes of the headers, unchanged since 1.11, the first version with the
                    // extensions for credential stores.
                    $(let $function = *unsafe {
                        library.get::<unsafe extern "C" fn($($argument),*) -> $returned>(stringify!($function).as_bytes())
                    }?;)*
                    libraries.push(library);
                )*
                Ok(Prototypes { $($($function,)*)* _libraries: libraries })
            }
        }
    };
}

prototypes! {
    "libgssapi_krb5.so.2": {
        gss_acquire_cred_from(*mut u32, Handle, u32, *mut OidSet, c_int, *const KeyValueSet, *mut Handle, *mut *mut OidSet, *mut u32) -> u32;
        gss_release_cred(*mut u32, *mut Handle) -> u32;
        gss_import_name(*mut u32, *mut Buffer, *mut Oid, *mut Handle) -> u32;
        gss_display_name(*mut u32, Handle, *mut Buffer, *mut *mut Oid) -> u32;
        gss_release_name(*mut u32, *mut Handle) -> u32;
        gss_release_buffer(*mut u32, *mut Buffer) -> u32;
        gss_accept_sec_context(*mut u32, *mut Handle, Handle, *mut Buffer, Handle, *mut Handle, *mut *mut Oid, *mut Buffer, *mut u32, *mut u32, *mut Handle) -> u32;
        gss_init_sec_context(*mut u32, Handle, *mut Handle, Handle, *mut Oid, u32, u32, Handle, *mut Buffer, *mut *mut Oid, *mut Buffer, *mut u32, *mut u32) -> u32;
        gss_inquire_context(*mut u32, Handle, *mut Handle, *mut Handle, *mut u32, *mut *mut Oid, *mut u32, *mut c_int, *mut c_int) -> u32;
        gss_delete_sec_context(*mut u32, *mut Handle, *mut Buffer) -> u32;
        gss_display_status(*mut u32, u32, c_int, *mut Oid, *mut u32, *mut Buffer) -> u32;
    }
    "libkrb5.so.3": {
        krb5_init_context(*mut Handle) -> i32;
        krb5_free_context(Handle) -> ();
        krb5_sname_to_principal(Handle, *const c_char, *const c_char, i32, *mut Handle) -> i32;
        krb5_unparse_name(Handle, Handle, *mut *mut c_char) -> i32;
        krb5_free_unparsed_name(Handle, *mut c_char) -> ();
        krb5_free_principal(Handle, Handle) -> ();
        krb5_cc_resolve(Handle, *const c_char, *mut Handle) -> i32;
        krb5_cc_destroy(Handle, Handle) -> i32;
        krb5_get_error_message(Handle, i32) -> *const c_char;
        krb5_free_error_message(Handle, *const c_char) -> ();
        krb5_get_profile(Handle, *mut Handle) -> i32;
        profile_get_string(Handle, *const c_char, *const c_char, *const c_char, *const c_char, *mut *mut c_char) -> i32;
        profile_release_string(*mut c_char) -> ();
        profile_release(Handle) -> ();
    }
}
