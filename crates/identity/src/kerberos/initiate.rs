//! The user's end: a token that proves who one is to the service `host` of a server.
//!
//! The server's name is looked up forwards only. The library would also ask for the name of its address, which is another one for a
//! service of several nodes, and can be told not to only by files; so it is given a name that it does not touch any more.

use std::ffi::CString;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use zeroize::Zeroizing;

use super::library::{Library, Name, Refusal, Side, c_text};
use super::{NoLibrary, parse_name};

/// As whom and to whom.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Initiate {
    /// The server's host name.
    pub host: String,
    /// Which principal to be: of the caches in the collection, or of the keytab. Otherwise the library chooses.
    pub principal: Option<String>,
    /// Keys to get tickets with, instead of a ticket that is there already. Nothing of it is written to disk.
    pub keytab: Option<PathBuf>,
}

/// A token, ready to be sent.
#[derive(Debug)]
pub struct Initiated {
    /// What goes after the word `Negotiate`, encoded. Worth a login as long as nobody has used it.
    pub token: Zeroizing<Vec<u8>>,
    /// The components of the principal it proves, joined by `/`.
    pub name: String,
    /// Its realm.
    pub realm: String,
    /// The service it is for.
    pub service: String,
}

/// Why there is no token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InitiateError {
    /// The library is not there.
    #[error(transparent)]
    NoLibrary(#[from] NoLibrary),
    /// There is no ticket, and none could be got.
    #[error("no Kerberos ticket to use: {0}")]
    NoCredential(String),
    /// The ticket is past its end.
    #[error("the Kerberos ticket is expired ({0}); get a new one (kinit)")]
    Expired(String),
    /// No ticket for the service could be got.
    #[error("no Kerberos ticket for {service}: {what}")]
    NoServiceTicket {
        /// The service.
        service: String,
        /// Why.
        what: String,
    },
}

/// Makes a token. Blocks until a key distribution centre has answered, or none has for as long as krb5.conf says.
///
/// # Errors
/// See [`InitiateError`].
pub fn initiate(wanted: &Initiate) -> Result<Initiated, InitiateError> {
    let library = Library::get()?;
    let no_credential = |refusal: Refusal| match refusal.expired {
        true => InitiateError::Expired(refusal.text),
        false => InitiateError::NoCredential(refusal.text),
    };
    let nul = || InitiateError::NoCredential("a name holds a NUL".to_owned());
    let client = wanted
        .principal
        .as_deref()
        .map(|text| library.principal(text))
        .transpose()
        .map_err(no_credential)?;
    let keys = wanted
        .keytab
        .as_ref()
        .map(|path| {
            let file = c_text([b"FILE:", path.as_os_str().as_encoded_bytes()].concat());
            Some((file?, Cache::new(library)?))
        })
        .map(|keys| keys.ok_or_else(nul))
        .transpose()?;
    let store = keys.as_ref().map(|(file, cache)| {
        [
            (c"client_keytab", file.as_c_str()),
            (c"ccache", cache.name.as_c_str()),
        ]
    });
    let credential = library
        .credential(
            client.as_ref(),
            Side::Initiate,
            store.as_ref().map_or(&[], |store| store.as_slice()),
        )
        .map_err(no_credential)?;
    let mut last = None;
    for host in spellings(library, &wanted.host) {
        let host = c_text(host).ok_or_else(nul)?;
        let refused = |service: &str, refusal: Refusal| match refusal.expired {
            true => InitiateError::Expired(refusal.text),
            false => InitiateError::NoServiceTicket {
                service: service.to_owned(),
                what: refusal.text,
            },
        };
        let service = library
            .service(c"host", &host)
            .map_err(|refusal| refused(&wanted.host, refusal))?;
        let made = library
            .principal(&service)
            .and_then(|target: Name<'_>| library.initiate(&credential, &target));
        match made {
            Ok((token, client)) => {
                let (components, realm) = parse_name(&client)
                    .ok_or_else(|| InitiateError::NoCredential(format!("{client} is no name")))?;
                return Ok(Initiated {
                    token,
                    name: components.join("/"),
                    realm,
                    service,
                });
            }
            Err(refusal) => last = Some(refused(&service, refusal)),
        }
    }
    Err(last.unwrap_or_else(|| InitiateError::NoCredential("the server has no name".to_owned())))
}

/// The names under which the server may be known to the key distribution centre, in the order in which they are tried.
fn spellings(library: &Library, host: &str) -> Vec<String> {
    let literal = host.trim_end_matches('.').to_lowercase();
    let setting = library.default_of(c"dns_canonicalize_hostname");
    let off = setting.as_deref().is_some_and(|value| {
        matches!(
            value.to_ascii_lowercase().as_str(),
            "false" | "no" | "n" | "f" | "nil" | "0" | "off"
        )
    });
    if off || literal.parse::<std::net::IpAddr>().is_ok() {
        return vec![literal];
    }
    let canonical = canonical(&literal).unwrap_or_else(|| literal.clone());
    let mut spellings = if setting.as_deref() == Some("fallback") {
        vec![literal, canonical]
    } else {
        // An alias in the DNS is followed, as the original does, but a key may well be in the alias' own name.
        vec![canonical, literal]
    };
    spellings.dedup();
    spellings
}

/// The name that the DNS has for a host, without looking at its address.
fn canonical(host: &str) -> Option<String> {
    let name = super::library::canonical_name(&CString::new(host).ok()?)?;
    let name = name.trim_end_matches('.').to_lowercase();
    (!name.is_empty()).then_some(name)
}

/// A ticket cache in memory, for one call.
struct Cache {
    library: &'static Library,
    name: CString,
}

impl Cache {
    fn new(library: &'static Library) -> Option<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("MEMORY:gridkeep-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        Some(Cache {
            library,
            name: c_text(name)?,
        })
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        // It may never have been made, and it ends with the process.
        let _ = self.library.destroy_cache(&self.name);
    }
}
