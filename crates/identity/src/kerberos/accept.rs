//! The server's end: whether a token proves a principal of an allowed realm to one of our own services.

use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use zeroize::Zeroizing;

use super::keytab::{self, Entry};
use super::library::{Library, Side, c_text};
use super::{NoLibrary, Principal, parse_name, token};

/// More than any keytab of a host has.
const LARGEST_KEYTAB: u64 = 4 << 20;

/// Why a token was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AcceptError {
    /// The token proves nothing, or nobody who may log in.
    #[error("the Kerberos ticket is not accepted: {0}")]
    Rejected(String),
    /// This host cannot judge tokens; whoever runs it has to do something.
    #[error("Kerberos logins do not work on this server at present: {0}")]
    Unusable(String),
}

impl From<NoLibrary> for AcceptError {
    fn from(error: NoLibrary) -> Self {
        AcceptError::Unusable(error.to_string())
    }
}

/// What a token proves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proven {
    /// Who the client is.
    pub principal: Principal,
    /// SHA-256 of the authenticator. Whoever sees the same a second time sees a replay.
    pub authenticator: [u8; 32],
}

/// Whoever judges the tokens that clients send.
pub trait AcceptTickets: Send + Sync + std::fmt::Debug {
    /// Judges what a client sent after the word `Negotiate`, decoded. May block for the reading of files.
    ///
    /// That a token is sent twice is not noticed here, see [`Proven::authenticator`].
    ///
    /// # Errors
    /// See [`AcceptError`].
    fn accept(&self, bytes: &[u8]) -> Result<Proven, AcceptError>;
}

/// Judges tokens with the keys of a keytab, which is read at every login and so may be replaced at any time.
#[derive(Debug)]
pub struct Acceptor {
    places: Vec<PathBuf>,
    hosts: Vec<String>,
    realms: Vec<String>,
    seen: Mutex<Option<(Stamp, Arc<Facts>)>>,
}

/// By what a changed file is known.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    path: PathBuf,
    device: u64,
    inode: u64,
    length: u64,
    changed: (i64, i64),
}

/// What a keytab says.
#[derive(Debug)]
struct Facts {
    /// The entries for `host` on one of our names.
    ours: Vec<Entry>,
}

impl Acceptor {
    /// Takes the keytab from the first of `places` that is there. Tickets have to be for `host/NAME` with a name of `hosts`, and from one
    /// of `realms`; without any, from a realm that the keytab has a key of such a service in.
    pub fn new(places: Vec<PathBuf>, hosts: Vec<String>, realms: Vec<String>) -> Self {
        Acceptor {
            places,
            hosts,
            realms,
            seen: Mutex::default(),
        }
    }

    /// What [`AcceptTickets::accept`] does.
    fn judge(&self, bytes: &[u8]) -> Result<Proven, AcceptError> {
        let rejected = |what: String| Err(AcceptError::Rejected(what));
        let token = token::read(bytes)
            .map_err(|what| AcceptError::Rejected(format!("the token is malformed, {what}")))?;
        let (path, facts) = self.keytab()?;
        let library = Library::get()?;
        let name = c_text([b"FILE:", path.as_os_str().as_encoded_bytes()].concat())
            .ok_or_else(|| AcceptError::Unusable("the keytab's path holds a NUL".to_owned()))?;
        let store = [(c"keytab", name.as_c_str()), (c"rcache", c"none:")];
        let credential = library
            .credential(None, Side::Accept, &store)
            .map_err(|refusal| {
                AcceptError::Unusable(format!(
                    "the keytab {} cannot be used: {}",
                    path.display(),
                    refusal.text
                ))
            })?;
        let (client, service) = library
            .accept(&credential, token.krb5)
            .map_err(|refusal| AcceptError::Rejected(refusal.text))?;
        if !self.is_ours(&service) {
            return rejected(format!(
                "it is for {service}, but this server is {}",
                self.hosts
                    .iter()
                    .map(|host| format!("host/{host}"))
                    .collect::<Vec<_>>()
                    .join(" or ")
            ));
        }
        let principal = principal(&client).map_err(AcceptError::Rejected)?;
        let allowed = if self.realms.is_empty() {
            facts
                .ours
                .iter()
                .any(|entry| entry.realm == principal.realm)
        } else {
            self.realms.contains(&principal.realm)
        };
        if !allowed {
            return rejected(format!(
                "the realm {} is not allowed to log in here",
                principal.realm
            ));
        }
        Ok(Proven {
            principal,
            authenticator: token.authenticator,
        })
    }

    fn is_ours(&self, service: &str) -> bool {
        parse_name(service)
            .is_some_and(|(components, realm)| Entry { components, realm }.is_host_of(&self.hosts))
    }

    /// The keytab as it is now.
    fn keytab(&self) -> Result<(&Path, Arc<Facts>), AcceptError> {
        let unusable = |what: String| AcceptError::Unusable(what);
        let Some(path) = self.places.iter().find(|place| place.exists()) else {
            let places: Vec<String> = self
                .places
                .iter()
                .map(|place| place.display().to_string())
                .collect();
            return Err(unusable(format!(
                "there is no keytab {}",
                places.join(" or ")
            )));
        };
        let cannot = |error: std::io::Error| {
            unusable(format!(
                "the keytab {} cannot be read: {error}; let the user of this service read it",
                path.display()
            ))
        };
        let file = std::fs::File::open(path).map_err(cannot)?;
        let meta = file.metadata().map_err(cannot)?;
        let stamp = Stamp {
            path: path.clone(),
            device: meta.dev(),
            inode: meta.ino(),
            length: meta.len(),
            changed: (meta.mtime(), meta.mtime_nsec()),
        };
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, facts)) = seen.as_ref()
            && *known == stamp
        {
            return Ok((path, facts.clone()));
        }
        let mut bytes = Zeroizing::new(Vec::new());
        file.take(LARGEST_KEYTAB)
            .read_to_end(&mut bytes)
            .map_err(cannot)?;
        let entries = keytab::entries(&bytes).ok_or_else(|| {
            unusable(format!(
                "{} is not a keytab, or is being written at this moment",
                path.display()
            ))
        })?;
        let ours: Vec<Entry> = entries
            .into_iter()
            .filter(|entry| entry.is_host_of(&self.hosts))
            .collect();
        if ours.is_empty() {
            return Err(unusable(format!(
                "the keytab {} has no key for host/{}",
                path.display(),
                self.hosts.join(" or host/")
            )));
        }
        let facts = Arc::new(Facts { ours });
        *seen = Some((stamp, facts.clone()));
        Ok((path, facts))
    }
}

impl AcceptTickets for Acceptor {
    fn accept(&self, bytes: &[u8]) -> Result<Proven, AcceptError> {
        self.judge(bytes)
    }
}

/// A client's name, if every part of it may stand in a path: names that differ must stay different there.
fn principal(text: &str) -> Result<Principal, String> {
    let (components, realm) =
        parse_name(text).ok_or_else(|| format!("the client's name {text} cannot be read"))?;
    let odd = |c: char| {
        c.is_control()
            || c.is_whitespace()
            || matches!(
                c,
                '/' | '@' | ':' | '*' | '+' | '"' | '\\' | '{' | '}' | '%' | '?' | '#'
            )
    };
    let usable = |part: &String| {
        !part.is_empty() && !matches!(part.as_str(), "." | "..") && !part.contains(odd)
    };
    let name = components.join("/");
    if !components.iter().all(usable) || name.len() > 255 {
        return Err(format!(
            "the client's name {text} holds what cannot stand in the name of a credential"
        ));
    }
    if components.first().is_some_and(|part| part == "WELLKNOWN") {
        return Err(format!("{text} is nobody in particular"));
    }
    Ok(Principal { name, realm })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_whose_names_could_be_taken_for_others() {
        let of = |text: &str| principal(text).map(|principal| principal.to_string());
        assert_eq!(of("alice@LAB").unwrap(), "alice@LAB");
        assert_eq!(
            of("dunepro/cron/a.example@LAB").unwrap(),
            "dunepro/cron/a.example@LAB"
        );
        for bad in [
            r"dunepro\/cron@LAB",
            r"alice\@lab.example@LAB",
            "alice/@LAB",
            "/alice@LAB",
            "alice/../bob@LAB",
            "./alice@LAB",
            "alice:default@LAB",
            "alice*@LAB",
            "+@LAB",
            "al%2fice@LAB",
            r"al\nice@LAB",
            "al ice@LAB",
            "WELLKNOWN/ANONYMOUS@LAB",
            "alice",
            "@LAB",
        ] {
            assert!(of(bad).is_err(), "{bad}");
        }
        assert!(of(&format!("{}@LAB", "a".repeat(256))).is_err());
    }

    #[test]
    fn a_keytab_that_cannot_serve_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("krb5.keytab");
        let acceptor = Acceptor::new(vec![path.clone()], vec!["a.example".into()], Vec::new());
        let said = || acceptor.keytab().unwrap_err().to_string();
        assert!(said().contains("there is no keytab"), "{}", said());
        std::fs::write(&path, b"text").unwrap();
        assert!(said().contains("is not a keytab"), "{}", said());
        std::fs::write(&path, b"\x05\x02").unwrap();
        assert!(said().contains("no key for host/a.example"), "{}", said());
        assert!(said().contains(&path.display().to_string()));
    }

    #[test]
    fn a_malformed_token_reaches_no_library() {
        let acceptor = Acceptor::new(Vec::new(), Vec::new(), Vec::new());
        assert!(matches!(
            acceptor.accept(b"NTLMSSP\0"),
            Err(AcceptError::Rejected(_))
        ));
    }
}
