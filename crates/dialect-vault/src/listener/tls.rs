//! The server's certificate and key, and their replacement while connections are served.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use aws_lc_rs::digest;
use gridkeep_keeper::UnixSeconds;
use rustls::crypto::{CryptoProvider, aws_lc_rs as provider};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use thiserror::Error;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use zeroize::Zeroizing;

use super::certificate::Validity;

/// Largest PEM file that is read.
const LARGEST: u64 = 1 << 20;

/// Where certificate and key lie, as PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, followed by those that lead to a root.
    pub certificate: PathBuf,
    /// Its private key: PKCS #8, PKCS #1 or SEC1.
    pub key: PathBuf,
}

/// Why certificate and key cannot be used.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{path}: {error}; the server cannot use TLS without it: check the path and its permissions", path = path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// A file does not hold what it should.
    #[error("{path}: {what}; put a PEM file there", path = path.display())]
    Content {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// Key and certificate do not belong together.
    #[error("the key in {key} does not fit the certificate in {certificate} ({what}); replace both files together", key = files.key.display(), certificate = files.certificate.display())]
    Mismatch {
        /// Both files.
        files: TlsFiles,
        /// What the TLS library said.
        what: String,
    },
    /// A new certificate that clients refuse for its times, in place of one that they accept.
    #[error("{certificate} {what}, by this host's clock, so that clients would refuse it; put one that is valid there, with its key", certificate = certificate.display())]
    OutOfTime {
        /// The file.
        certificate: PathBuf,
        /// When it ended, or from when on it is valid.
        what: String,
    },
    /// The TLS library refuses its own defaults.
    #[error("TLS cannot be set up: {0}")]
    Library(rustls::Error),
}

/// One certificate, whatever name the client asks for, and the ability to change it.
pub struct ReloadableTls {
    files: TlsFiles,
    resolver: Arc<Resolver>,
    acceptor: TlsAcceptor,
    /// Hash of files that were found wrong, to complain once about each content.
    refused: Mutex<Option<[u8; 32]>>,
}

#[derive(Debug)]
struct Resolver {
    current: RwLock<Loaded>,
}

#[derive(Debug, Clone)]
struct Loaded {
    key: Arc<CertifiedKey>,
    validity: Validity,
    hash: [u8; 32],
}

impl ResolvesServerCert for Resolver {
    /// The stock clients connect to an address, so the name they ask for means nothing.
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(
            &self
                .current
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .key,
        ))
    }
}

impl std::fmt::Debug for ReloadableTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReloadableTls")
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

impl ReloadableTls {
    /// Reads both files. Blocks on the file system.
    ///
    /// # Errors
    /// When a file cannot be read or used, or they do not belong together.
    pub fn load(files: TlsFiles) -> Result<Arc<Self>, TlsError> {
        let crypto = Arc::new(provider::default_provider());
        let source = Source::read(&files)?;
        let resolver = Arc::new(Resolver {
            current: RwLock::new(source.load(&files, &crypto)?),
        });
        let mut config = rustls::ServerConfig::builder_with_provider(crypto)
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(TlsError::Library)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&resolver) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.ticketer = provider::Ticketer::new().map_err(TlsError::Library)?;
        // Clients of the grid rarely come back on a resumed session, and each stored one costs memory.
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        config.send_tls13_tickets = 1;
        Ok(Arc::new(ReloadableTls {
            files,
            resolver,
            acceptor: TlsAcceptor::from(Arc::new(config)),
            refused: Mutex::default(),
        }))
    }

    /// Reads both files again and puts them into force if they changed and fit; says whether they did. On error the old ones stay.
    /// Blocks on the file system.
    ///
    /// # Errors
    /// As [`ReloadableTls::load`]; when the new certificate has ended or is not valid yet, and the old one is.
    pub fn reload(&self) -> Result<bool, TlsError> {
        self.reload_at(UnixSeconds::system())
    }

    pub(super) fn reload_at(&self, now: UnixSeconds) -> Result<bool, TlsError> {
        let source = Source::read(&self.files)?;
        let old = self.loaded();
        if source.hash == old.hash {
            return Ok(false);
        }
        let loaded = source.load(&self.files, &provider::default_provider())?;
        if let Some(what) = loaded.validity.objection(now)
            && old.validity.objection(now).is_none()
        {
            return Err(TlsError::OutOfTime {
                certificate: self.files.certificate.clone(),
                what,
            });
        }
        *self
            .resolver
            .current
            .write()
            .unwrap_or_else(PoisonError::into_inner) = loaded;
        Ok(true)
    }

    /// Looks at the files every so often and reloads them, until `shutdown` becomes true.
    pub async fn watch(self: Arc<Self>, every: Duration, mut shutdown: watch::Receiver<bool>) {
        loop {
            tokio::select! {
                _ = shutdown.wait_for(|stop| *stop) => return,
                () = tokio::time::sleep(every) => {}
            }
            self.read_anew().await;
        }
    }

    /// Reloads in a thread that may wait for the disk, and tells the log, once per content of the files. What cannot be used leaves the
    /// old pair in use.
    pub async fn read_anew(self: &Arc<Self>) {
        let this = Arc::clone(self);
        // A panic in there has been reported by itself.
        let _ = tokio::task::spawn_blocking(move || this.reload_and_report()).await;
    }

    pub(super) fn reload_and_report(&self) {
        match self.reload() {
            Ok(true) => {
                tracing::info!(certificate = %self.files.certificate.display(), ends = self.not_after().map(tracing::field::display), "new certificate in use")
            }
            Ok(false) => {}
            Err(error) => {
                let hash = Source::read(&self.files)
                    .map(|source| source.hash)
                    .unwrap_or_default();
                let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
                if refused.replace(hash) != Some(hash) {
                    tracing::error!(%error, "the new certificate is not used; the old one stays");
                }
            }
        }
    }

    /// When the certificate in use ends.
    pub fn not_after(&self) -> Option<UnixSeconds> {
        self.loaded().validity.ends
    }

    /// From when until when it is valid.
    pub fn validity(&self) -> Validity {
        self.loaded().validity
    }

    /// Whole days until it ends, negative when it has ended.
    pub fn days_left(&self, now: UnixSeconds) -> Option<i64> {
        self.loaded().validity.days_left(now)
    }

    /// What does the handshakes.
    pub fn acceptor(&self) -> TlsAcceptor {
        self.acceptor.clone()
    }

    fn loaded(&self) -> Loaded {
        self.resolver
            .current
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

struct Source {
    certificate: Vec<u8>,
    key: Zeroizing<Vec<u8>>,
    hash: [u8; 32],
}

impl Source {
    fn read(files: &TlsFiles) -> Result<Source, TlsError> {
        let certificate = read(&files.certificate)?;
        let key = Zeroizing::new(read(&files.key)?);
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(&certificate);
        context.update(&[0]);
        context.update(&key);
        let mut hash = [0; 32];
        hash.copy_from_slice(context.finish().as_ref());
        Ok(Source {
            certificate,
            key,
            hash,
        })
    }

    fn load(&self, files: &TlsFiles, crypto: &CryptoProvider) -> Result<Loaded, TlsError> {
        let content = |path: &Path, what: String| TlsError::Content {
            path: path.to_owned(),
            what,
        };
        let chain = CertificateDer::pem_slice_iter(&self.certificate)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| content(&files.certificate, error.to_string()))?;
        let Some(first) = chain.first() else {
            return Err(content(
                &files.certificate,
                "it holds no certificate".to_owned(),
            ));
        };
        let validity = Validity::of(first);
        // The parser's own text may quote lines of the file, so it is not repeated.
        let key = PrivateKeyDer::from_pem_slice(&self.key)
            .map_err(|_| content(&files.key, "it holds no private key in PEM form".to_owned()))?;
        let key =
            CertifiedKey::from_der(chain, key, crypto).map_err(|error| TlsError::Mismatch {
                files: files.clone(),
                what: error.to_string(),
            })?;
        Ok(Loaded {
            key: Arc::new(key),
            validity,
            hash: self.hash,
        })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    use std::io::Read as _;
    let problem = |error| TlsError::Read {
        path: path.to_owned(),
        error,
    };
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .map_err(problem)?
        .take(LARGEST)
        .read_to_end(&mut bytes)
        .map_err(problem)?;
    Ok(bytes)
}
