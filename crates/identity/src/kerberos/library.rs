//! Safe calls of the library: what it gives is freed, what it reports becomes an error with the library's own words.
#![expect(
    unsafe_code,
    reason = "every call into a C library; each block says why it keeps to the library's rules"
)]

use std::ffi::{CStr, CString, c_char, c_int};
use std::ptr::{null, null_mut};
use std::sync::OnceLock;

use zeroize::Zeroizing;

use super::prototypes::{
    self as c, Buffer, Handle, KeyValue, KeyValueSet, Oid, OidSet, Prototypes,
};

/// The host has no Kerberos library.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "MIT's Kerberos library could not be loaded ({0}); Kerberos does not work on this host without it: install it (Debian: libgssapi-krb5-2, Red Hat: krb5-libs)"
)]
pub struct NoLibrary(String);

/// Why the library did not do something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    /// The library's own words.
    pub text: String,
    /// Whether a ticket is past its end.
    pub expired: bool,
}

/// Which side a credential is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Initiate,
    Accept,
}

/// The loaded library. Its functions may be called from any thread; each of them works with a context of its own.
pub(super) struct Library {
    c: Prototypes,
}

static LIBRARY: OnceLock<Library> = OnceLock::new();

impl Library {
    /// The library, loaded now if it was not before. A failure is not remembered: it may be installed meanwhile.
    pub fn get() -> Result<&'static Library, NoLibrary> {
        if let Some(library) = LIBRARY.get() {
            return Ok(library);
        }
        // dlopen's text names the file; the words behind it are of the system.
        let c = Prototypes::load().map_err(|error| NoLibrary(error.to_string()))?;
        Ok(LIBRARY.get_or_init(|| Library { c }))
    }

    /// A name from the text of a principal.
    pub fn principal(&self, text: &str) -> Result<Name<'_>, Refusal> {
        let mut name = null_mut();
        let mut minor = 0;
        let mut buffer = Buffer {
            length: text.len(),
            value: text.as_ptr().cast_mut().cast(),
        };
        let mut kind = oid(c::PRINCIPAL_NAME);
        // SAFETY: the buffer and the OID live through the call and are only read; the name is released by `Name`.
        let major = unsafe {
            (self.c.gss_import_name)(
                &raw mut minor,
                &raw mut buffer,
                &raw mut kind,
                &raw mut name,
            )
        };
        self.check(major, minor)?;
        Ok(Name {
            library: self,
            raw: name,
        })
    }

    /// A credential of the mechanism krb5 for `side`, from the places that `store` names.
    pub fn credential(
        &self,
        name: Option<&Name<'_>>,
        side: Side,
        store: &[(&CStr, &CStr)],
    ) -> Result<Credential<'_>, Refusal> {
        let mut elements: Vec<KeyValue> = store
            .iter()
            .map(|(key, value)| KeyValue {
                key: key.as_ptr(),
                value: value.as_ptr(),
            })
            .collect();
        let places = KeyValueSet {
            // Three at most.
            count: u32::try_from(elements.len()).unwrap_or(0),
            elements: elements.as_mut_ptr(),
        };
        let mut mechanism = oid(c::KRB5);
        let mut mechanisms = OidSet {
            count: 1,
            elements: &raw mut mechanism,
        };
        let usage = match side {
            Side::Initiate => c::INITIATE,
            Side::Accept => c::ACCEPT,
        };
        let (mut minor, mut raw) = (0, null_mut());
        // SAFETY: name, texts, set and OID live through the call and are only read; the credential is released by `Credential`. With no
        // places at all the set is still valid: it has none.
        let major = unsafe {
            (self.c.gss_acquire_cred_from)(
                &raw mut minor,
                name.map_or(null_mut(), |name| name.raw),
                c::INDEFINITE,
                &raw mut mechanisms,
                usage,
                &raw const places,
                &raw mut raw,
                null_mut(),
                null_mut(),
            )
        };
        self.check(major, minor)?;
        Ok(Credential { library: self, raw })
    }

    /// Judges the first and only token of a client: its name and the name of the service it has a ticket for.
    pub fn accept(
        &self,
        credential: &Credential<'_>,
        token: &[u8],
    ) -> Result<(String, String), Refusal> {
        let mut context = Context {
            library: self,
            raw: null_mut(),
        };
        let mut client = Name {
            library: self,
            raw: null_mut(),
        };
        let mut answer = self.buffer();
        let mut input = Buffer {
            length: token.len(),
            value: token.as_ptr().cast_mut().cast(),
        };
        let (mut minor, mut flags) = (0, 0);
        // SAFETY: the token lives through the call and is only read; context, name and answer are released by their types. There are no
        // channel bindings and no interest in mechanism, life and delegated credential.
        let major = unsafe {
            (self.c.gss_accept_sec_context)(
                &raw mut minor,
                &raw mut context.raw,
                credential.raw,
                &raw mut input,
                null_mut(),
                &raw mut client.raw,
                null_mut(),
                &raw mut answer.raw,
                &raw mut flags,
                null_mut(),
                null_mut(),
            )
        };
        self.check(major, minor)?;
        if major & c::CONTINUE_NEEDED != 0 {
            return Err(Refusal::new("the client wants more than one round"));
        }
        if flags & c::ANON_FLAG != 0 {
            return Err(Refusal::new("the ticket is anonymous"));
        }
        let (_, service) = context.names()?;
        Ok((client.text()?, service.text()?))
    }

    /// The first token for `service`, and the name of the principal it speaks for.
    pub fn initiate(
        &self,
        credential: &Credential<'_>,
        service: &Name<'_>,
    ) -> Result<(Zeroizing<Vec<u8>>, String), Refusal> {
        let mut context = Context {
            library: self,
            raw: null_mut(),
        };
        let mut token = self.buffer();
        let mut mechanism = oid(c::KRB5);
        let mut minor = 0;
        // SAFETY: credential, name and OID live through the call and are only read; context and token are released by their types.
        // Without the flag for mutual authentication the context is complete after this one step.
        let major = unsafe {
            (self.c.gss_init_sec_context)(
                &raw mut minor,
                credential.raw,
                &raw mut context.raw,
                service.raw,
                &raw mut mechanism,
                c::SEQUENCE_FLAG,
                0,
                null_mut(),
                null_mut(),
                null_mut(),
                &raw mut token.raw,
                null_mut(),
                null_mut(),
            )
        };
        self.check(major, minor)?;
        let (client, _) = context.names()?;
        Ok((Zeroizing::new(token.bytes().to_vec()), client.text()?))
    }

    /// `service/host@REALM` as tickets are asked for, the realm empty where krb5.conf leaves it to the key distribution centre. The
    /// host's name is taken as it is.
    pub fn service(&self, service: &CStr, host: &CStr) -> Result<String, Refusal> {
        let context = Krb5::new(self)?;
        let mut principal = null_mut();
        // SAFETY: the context is live and the texts end with a NUL; the principal is freed below.
        let code = unsafe {
            (self.c.krb5_sname_to_principal)(
                context.raw,
                host.as_ptr(),
                service.as_ptr(),
                c::NAME_TYPE_UNKNOWN,
                &raw mut principal,
            )
        };
        context.check(code)?;
        let mut text = null_mut();
        // SAFETY: both were given by the library; the principal is freed right after, the text once it was copied.
        let code = unsafe {
            let code = (self.c.krb5_unparse_name)(context.raw, principal, &raw mut text);
            (self.c.krb5_free_principal)(context.raw, principal);
            code
        };
        context.check(code)?;
        // SAFETY: on success the text ends with a NUL.
        let copied = unsafe { copied(text) };
        // SAFETY: it is the library's and not used after this.
        unsafe { (self.c.krb5_free_unparsed_name)(context.raw, text) };
        Ok(copied)
    }

    /// A value of the section `libdefaults` of krb5.conf.
    pub fn default_of(&self, key: &CStr) -> Option<String> {
        let context = Krb5::new(self).ok()?;
        let mut profile = null_mut();
        // SAFETY: the context is live; the profile is a copy that is released below.
        if unsafe { (self.c.krb5_get_profile)(context.raw, &raw mut profile) } != 0 {
            return None;
        }
        let mut text = null_mut();
        // SAFETY: the profile is live, the names end with a NUL; what is given is released after it was copied. Without such a key and
        // without a default the text stays null.
        unsafe {
            let code = (self.c.profile_get_string)(
                profile,
                c"libdefaults".as_ptr(),
                key.as_ptr(),
                null(),
                null(),
                &raw mut text,
            );
            let value = (code == 0 && !text.is_null()).then(|| copied(text));
            if !text.is_null() {
                (self.c.profile_release_string)(text);
            }
            (self.c.profile_release)(profile);
            value
        }
    }

    /// Removes a ticket cache with all that is in it.
    pub fn destroy_cache(&self, name: &CStr) -> Result<(), Refusal> {
        let context = Krb5::new(self)?;
        let mut cache = null_mut();
        // SAFETY: the context is live and the name ends with a NUL.
        let code = unsafe { (self.c.krb5_cc_resolve)(context.raw, name.as_ptr(), &raw mut cache) };
        context.check(code)?;
        // SAFETY: the cache was resolved in this context; destroying closes it too.
        let code = unsafe { (self.c.krb5_cc_destroy)(context.raw, cache) };
        context.check(code)
    }

    fn buffer(&self) -> Given<'_> {
        Given {
            library: self,
            raw: Buffer {
                length: 0,
                value: null_mut(),
            },
        }
    }

    fn check(&self, major: u32, minor: u32) -> Result<(), Refusal> {
        if major & c::ERRORS == c::COMPLETE {
            return Ok(());
        }
        let said = [
            self.words(minor, c::MECH_CODE),
            self.words(major, c::GSS_CODE),
        ];
        // What the mechanism says is the reason; where it has none, what GSS calls the kind of failure.
        let text = said
            .into_iter()
            .find(|text| !text.is_empty() && text != "Success")
            .unwrap_or_else(|| format!("status {major:#x}, {minor}"));
        let kind = major & c::ERRORS;
        Err(Refusal {
            expired: matches!(kind, c::CREDENTIALS_EXPIRED | c::CONTEXT_EXPIRED)
                || text.contains("expired"),
            text,
        })
    }

    fn words(&self, code: u32, kind: c_int) -> String {
        if code == 0 {
            return String::new();
        }
        let mut words: Vec<String> = Vec::new();
        let (mut minor, mut more) = (0, 0);
        let mut mechanism = oid(c::KRB5);
        // A status has three parts at most; the bound is against a library that never ends.
        for _ in 0..4 {
            let mut text = self.buffer();
            // SAFETY: the OID lives through the call and is only read; the text is released by its type.
            let major = unsafe {
                (self.c.gss_display_status)(
                    &raw mut minor,
                    code,
                    kind,
                    &raw mut mechanism,
                    &raw mut more,
                    &raw mut text.raw,
                )
            };
            if major & c::ERRORS != 0 {
                break;
            }
            words.push(String::from_utf8_lossy(text.bytes()).trim().to_owned());
            if more == 0 {
                break;
            }
        }
        words.join(": ")
    }
}

impl Refusal {
    fn new(text: &str) -> Self {
        Refusal {
            text: text.to_owned(),
            expired: false,
        }
    }
}

/// An OID for one call. The bytes are only read, whatever the pointer's type says.
fn oid(bytes: &'static [u8]) -> Oid {
    Oid {
        // The longest has eleven bytes.
        length: u32::try_from(bytes.len()).unwrap_or(0),
        elements: bytes.as_ptr().cast_mut().cast(),
    }
}

/// # Safety
/// `text` must end with a NUL.
unsafe fn copied(text: *const c_char) -> String {
    // SAFETY: the caller's.
    unsafe { CStr::from_ptr(text) }
        .to_string_lossy()
        .into_owned()
}

/// A text for the library; `None` when it holds a NUL.
pub(super) fn c_text(text: impl Into<Vec<u8>>) -> Option<CString> {
    CString::new(text).ok()
}

/// A name of the library's.
pub(super) struct Name<'l> {
    library: &'l Library,
    raw: Handle,
}

impl Name<'_> {
    /// The name as the library writes it.
    fn text(&self) -> Result<String, Refusal> {
        let mut text = self.library.buffer();
        let mut minor = 0;
        // SAFETY: the name is live or null, which the library refuses; the text is released by its type.
        let major = unsafe {
            (self.library.c.gss_display_name)(
                &raw mut minor,
                self.raw,
                &raw mut text.raw,
                null_mut(),
            )
        };
        self.library.check(major, minor)?;
        String::from_utf8(text.bytes().to_vec()).map_err(|_| Refusal::new("a name is not UTF-8"))
    }
}

impl Drop for Name<'_> {
    fn drop(&mut self) {
        let mut minor = 0;
        // SAFETY: the name is ours alone; null is allowed.
        unsafe { (self.library.c.gss_release_name)(&raw mut minor, &raw mut self.raw) };
    }
}

/// A credential of the library's.
pub(super) struct Credential<'l> {
    library: &'l Library,
    raw: Handle,
}

impl Drop for Credential<'_> {
    fn drop(&mut self) {
        let mut minor = 0;
        // SAFETY: the credential is ours alone; null is allowed.
        unsafe { (self.library.c.gss_release_cred)(&raw mut minor, &raw mut self.raw) };
    }
}

struct Context<'l> {
    library: &'l Library,
    raw: Handle,
}

impl<'l> Context<'l> {
    /// The names of both ends: client and service.
    fn names(&self) -> Result<(Name<'l>, Name<'l>), Refusal> {
        let mut names = (
            Name {
                library: self.library,
                raw: null_mut(),
            },
            Name {
                library: self.library,
                raw: null_mut(),
            },
        );
        let mut minor = 0;
        // SAFETY: the context is live; the names are released by their type; nothing else is asked for.
        let major = unsafe {
            (self.library.c.gss_inquire_context)(
                &raw mut minor,
                self.raw,
                &raw mut names.0.raw,
                &raw mut names.1.raw,
                null_mut(),
                null_mut(),
                null_mut(),
                null_mut(),
                null_mut(),
            )
        };
        self.library.check(major, minor)?;
        Ok(names)
    }
}

impl Drop for Context<'_> {
    fn drop(&mut self) {
        let mut minor = 0;
        // SAFETY: the context is ours alone; null is allowed, and so is wanting no token for the other end.
        unsafe {
            (self.library.c.gss_delete_sec_context)(&raw mut minor, &raw mut self.raw, null_mut())
        };
    }
}

/// Bytes that the library gave.
struct Given<'l> {
    library: &'l Library,
    raw: Buffer,
}

impl Given<'_> {
    fn bytes(&self) -> &[u8] {
        if self.raw.value.is_null() {
            return &[];
        }
        // SAFETY: the library says that so many bytes are there; they live until the buffer is released, which takes `self`.
        unsafe { std::slice::from_raw_parts(self.raw.value.cast(), self.raw.length) }
    }
}

impl Drop for Given<'_> {
    fn drop(&mut self) {
        let mut minor = 0;
        // SAFETY: the buffer was filled by the library or is empty.
        unsafe { (self.library.c.gss_release_buffer)(&raw mut minor, &raw mut self.raw) };
    }
}

/// A context of libkrb5, used by one thread.
struct Krb5<'l> {
    library: &'l Library,
    raw: Handle,
}

impl<'l> Krb5<'l> {
    fn new(library: &'l Library) -> Result<Self, Refusal> {
        let mut raw = null_mut();
        // SAFETY: the context is freed when this is dropped.
        let code = unsafe { (library.c.krb5_init_context)(&raw mut raw) };
        let context = Krb5 { library, raw };
        context.check(code)?;
        Ok(context)
    }

    fn check(&self, code: i32) -> Result<(), Refusal> {
        if code == 0 {
            return Ok(());
        }
        // SAFETY: a null context is allowed here; the message ends with a NUL and is freed after it was copied.
        let text = unsafe {
            let message = (self.library.c.krb5_get_error_message)(self.raw, code);
            let text = copied(message);
            (self.library.c.krb5_free_error_message)(self.raw, message);
            text
        };
        Err(Refusal::new(&text))
    }
}

impl Drop for Krb5<'_> {
    fn drop(&mut self) {
        if !self.raw.is_null() {
            // SAFETY: the context is ours alone.
            unsafe { (self.library.c.krb5_free_context)(self.raw) };
        }
    }
}

/// What getaddrinfo(3) gives as canonical name of a host: the one that aliases lead to. Asks no address for its name.
pub(super) fn canonical_name(host: &CStr) -> Option<String> {
    // SAFETY: addrinfo is plain integers and pointers, for which zero is valid.
    let mut hints: libc::addrinfo = unsafe { std::mem::zeroed() };
    hints.ai_flags = libc::AI_CANONNAME | libc::AI_ADDRCONFIG;
    hints.ai_socktype = libc::SOCK_STREAM;
    let mut found = null_mut();
    // SAFETY: the name ends with a NUL and the hints live through the call; the list is freed below.
    let code =
        unsafe { libc::getaddrinfo(host.as_ptr(), null(), &raw const hints, &raw mut found) };
    if code != 0 || found.is_null() {
        return None;
    }
    // SAFETY: the call succeeded, so there is a first entry, whose name is null or ends with a NUL.
    unsafe {
        let name = (*found).ai_canonname;
        let name = (!name.is_null()).then(|| copied(name));
        libc::freeaddrinfo(found);
        name
    }
}
