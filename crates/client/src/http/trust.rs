//! Which certificates are believed: a bundle, and a grid directory that is read only when the bundle does not suffice.
//!
//! Owns loading and the order of the two. Revocation lists are not looked at, as the original does not.

use std::collections::HashSet;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{CertificateError, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::environment::Environment;

/// Where certificates of authorities lie.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustSources {
    /// A file with many certificates.
    pub bundle: Option<PathBuf>,
    /// A directory with one file per certificate, named by hash.
    pub directory: Option<PathBuf>,
}

impl TrustSources {
    /// The places that `--cafile` and `--capath` name, else those of the machine.
    #[must_use]
    pub fn choose(cafile: Option<&str>, capath: Option<&str>, environment: &Environment) -> Self {
        let file = |path: &str| Some(environment.absolute(Path::new(path)));
        let bundle = match cafile.filter(|path| !path.is_empty()) {
            Some(path) => Some(environment.absolute(&environment.expand_tilde(path))),
            None => environment
                .var("SSL_CERT_FILE")
                .into_iter()
                .chain([
                    "/usr/lib/ssl/cert.pem",
                    "/etc/pki/tls/cert.pem",
                    "/etc/ssl/certs/ca-certificates.crt",
                ])
                .filter_map(file)
                .find(|path| path.is_file()),
        };
        const GRID: &str = "/etc/grid-security/certificates";
        let directory = match capath.filter(|path| !path.is_empty()) {
            Some(path) => Some(environment.absolute(&environment.expand_tilde(path))),
            None => environment.var("X509_CERT_DIR").and_then(file).or_else(|| {
                [
                    Some(GRID),
                    environment.var("SSL_CERT_DIR"),
                    Some("/usr/lib/ssl/certs"),
                    Some("/etc/pki/tls/certs"),
                ]
                .into_iter()
                .flatten()
                .filter_map(file)
                .find(|path| path.is_dir())
                .or_else(|| file(GRID))
            }),
        };
        Self { bundle, directory }
    }

    /// Says what is looked at, for error messages.
    fn describe(&self) -> String {
        match (&self.bundle, &self.directory) {
            (Some(bundle), Some(directory)) => {
                format!("in {} or {}", bundle.display(), directory.display())
            }
            (Some(path), None) | (None, Some(path)) => format!("in {}", path.display()),
            (None, None) => "known here (none is configured)".to_owned(),
        }
    }
}

type Checker = Option<Arc<WebPkiServerVerifier>>;

/// Checks server certificates against the sources.
pub(super) struct Trust {
    sources: TrustSources,
    provider: Arc<CryptoProvider>,
    bundle: OnceLock<Checker>,
    both: OnceLock<Checker>,
    /// What was skipped on the way, until somebody asks.
    notes: Mutex<Vec<String>>,
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Trust").field(&self.sources).finish()
    }
}

impl Trust {
    pub(super) fn new(sources: TrustSources, provider: Arc<CryptoProvider>) -> Self {
        Self {
            sources,
            provider,
            bundle: OnceLock::new(),
            both: OnceLock::new(),
            notes: Mutex::new(Vec::new()),
        }
    }

    /// A bundle that cannot be read makes every request fail, so it is found out before the first one.
    pub(super) fn check(&self) -> Result<(), String> {
        let Some(bundle) = &self.sources.bundle else {
            return Ok(());
        };
        fs::File::open(bundle).map(drop).map_err(|error| {
            format!(
                "cannot read the file of trusted certificate authorities {}: {error}; check --cafile",
                bundle.display()
            )
        })
    }

    pub(super) fn take_notes(&self) -> Vec<String> {
        std::mem::take(&mut *self.notes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn note(&self, note: String) {
        self.notes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(note);
    }

    /// Why a certificate was refused, for a user.
    pub(super) fn explain(&self, error: &rustls::Error) -> String {
        match error {
            rustls::Error::InvalidCertificate(reason) => match reason {
                CertificateError::UnknownIssuer => format!(
                    "the server's certificate is not signed by an authority {}; see --cafile and --capath",
                    self.sources.describe()
                ),
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                    "the server's certificate has expired".to_owned()
                }
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                    "the server's certificate is not valid yet; is the clock of this machine right?"
                        .to_owned()
                }
                CertificateError::NotValidForName
                | CertificateError::NotValidForNameContext { .. } => {
                    format!(
                        "the server's certificate is for another name ({reason}); see --vaultcertname"
                    )
                }
                other => format!("the server's certificate is refused: {other}"),
            },
            other => format!("TLS failed: {other}"),
        }
    }

    fn checker(&self, roots: RootCertStore) -> Checker {
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&self.provider))
            .build()
            .ok()
    }

    fn add_bundle(&self, roots: &mut RootCertStore) {
        let Some(path) = &self.sources.bundle else {
            return;
        };
        match fs::read(path) {
            Ok(pem) => {
                for certificate in CertificateDer::pem_slice_iter(&pem) {
                    let added = certificate.map(|certificate| roots.add(certificate));
                    if !matches!(added, Ok(Ok(()))) {
                        self.note(format!("skipped a certificate of {}", path.display()));
                    }
                }
            }
            Err(error) => self.note(format!("skipped {}: {error}", path.display())),
        }
    }

    /// The hashed names `*.0` to `*.9`, or `*.pem` where there are none; each certificate once, whatever does not parse left out.
    fn add_directory(&self, roots: &mut RootCertStore) {
        let Some(directory) = &self.sources.directory else {
            return;
        };
        let Ok(entries) = fs::read_dir(directory) else {
            self.note(format!("there is no directory {}", directory.display()));
            return;
        };
        let mut hashed = Vec::new();
        let mut plain = Vec::new();
        for path in entries.flatten().map(|entry| entry.path()) {
            match path.extension().and_then(|end| end.to_str()) {
                Some(end) if end.len() == 1 && end.as_bytes()[0].is_ascii_digit() => {
                    hashed.push(path)
                }
                Some("pem") => plain.push(path),
                _ => {}
            }
        }
        let mut seen = HashSet::new();
        for path in if hashed.is_empty() { plain } else { hashed } {
            let Ok(pem) = fs::read(&path) else {
                self.note(format!("skipped {}: cannot be read", path.display()));
                continue;
            };
            for certificate in CertificateDer::pem_slice_iter(&pem) {
                match certificate {
                    Ok(certificate) if !seen.insert(certificate.to_vec()) => {}
                    Ok(certificate) => {
                        if let Err(error) = roots.add(certificate) {
                            self.note(format!("skipped {}: {error}", path.display()));
                        }
                    }
                    Err(error) => self.note(format!("skipped {}: {error:?}", path.display())),
                }
            }
        }
    }

    fn bundle(&self) -> &Checker {
        self.bundle.get_or_init(|| {
            let mut roots = RootCertStore::empty();
            self.add_bundle(&mut roots);
            self.checker(roots)
        })
    }

    fn both(&self) -> &Checker {
        self.both.get_or_init(|| {
            let mut roots = RootCertStore::empty();
            self.add_bundle(&mut roots);
            self.add_directory(&mut roots);
            self.note(format!("read certificates {}", self.sources.describe()));
            self.checker(roots)
        })
    }
}

impl ServerCertVerifier for Trust {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let check = |checker: &Checker| match checker {
            Some(checker) => checker.verify_server_cert(
                end_entity,
                intermediates,
                server_name,
                ocsp_response,
                now,
            ),
            None => Err(rustls::Error::InvalidCertificate(
                CertificateError::UnknownIssuer,
            )),
        };
        match check(self.bundle()) {
            Ok(verified) => Ok(verified),
            Err(rustls::Error::InvalidCertificate(
                reason @ (CertificateError::NotValidForName
                | CertificateError::NotValidForNameContext { .. }),
            )) => Err(rustls::Error::InvalidCertificate(reason)),
            // A bundle may hold an older key of an authority that the directory holds anew: then the first failure is a bad signature.
            Err(first) => check(self.both()).map_err(|second| match first {
                rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => second,
                first => first,
            }),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
