//! Which certificate authorities are trusted for an issuer: those of the system and those configured for it.
//!
//! Bundles are read as they are when a client is made; nothing is compiled in, so that an operator's own trust store is
//! the only one.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::error::ConfigError;

/// Where distributions keep the bundle of the system, most specific first. `SSL_CERT_FILE` goes before all of them.
const BUNDLES: [&str; 5] = [
    "/etc/pki/tls/cert.pem",
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// TLS towards one issuer: 1.2 or 1.3, host name checked, system CAs and `ca_pem` trusted. `needs_roots` is false for
/// an issuer that is not spoken to over TLS.
/// Public under the name `trust`, so that other addresses of the same operator are trusted in the same way.
///
/// # Errors
/// [`ConfigError::Ca`] for a `ca_pem` that cannot be used, [`ConfigError::NoRoots`] when there is nothing to trust.
pub fn tls(url: &str, ca_pem: &[Vec<u8>], needs_roots: bool) -> Result<ClientConfig, ConfigError> {
    let mut roots = RootCertStore::empty();
    if let Some(bundle) = system_bundle() {
        // Bundles hold certificates that no library can use; those are left out, as everywhere.
        roots.add_parsable_certificates(certificates(&bundle).filter_map(Result::ok));
    }
    for pem in ca_pem {
        add_configured(&mut roots, pem).map_err(|why| ConfigError::Ca {
            url: url.to_owned(),
            why,
        })?;
    }
    if needs_roots && roots.is_empty() {
        return Err(ConfigError::NoRoots {
            url: url.to_owned(),
        });
    }
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| ConfigError::Http {
            url: url.to_owned(),
            why: error.to_string(),
        })?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}

/// Configured certificates must all be usable: a typing error there would otherwise show as "unknown issuer" later.
fn add_configured(roots: &mut RootCertStore, pem: &[u8]) -> Result<(), String> {
    let before = roots.len();
    for certificate in certificates(pem) {
        let certificate =
            certificate.map_err(|error| format!("the PEM text is damaged ({error})"))?;
        roots
            .add(certificate)
            .map_err(|error| format!("a certificate is not a usable CA ({error})"))?;
    }
    if roots.len() == before {
        Err("there is no certificate in it".to_owned())
    } else {
        Ok(())
    }
}

fn certificates(
    pem: &[u8],
) -> impl Iterator<Item = Result<CertificateDer<'static>, rustls_pki_types::pem::Error>> + '_ {
    CertificateDer::pem_slice_iter(pem).map(|item| item.map(CertificateDer::into_owned))
}

fn system_bundle() -> Option<Vec<u8>> {
    let named = env::var_os("SSL_CERT_FILE")
        .filter(|path| !path.is_empty())
        .map(PathBuf::from);
    named
        .as_deref()
        .into_iter()
        .chain(BUNDLES.iter().map(Path::new))
        .find_map(|path| fs::read(path).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const URL: &str = "https://issuer.example.org";

    #[test]
    fn a_configured_ca_is_added_and_rubbish_is_named() {
        let ca = rcgen::generate_simple_self_signed(["issuer.example.org".to_owned()]).unwrap();
        tls(URL, &[ca.cert.pem().into_bytes()], true).unwrap();
        for (pem, word) in [
            (&b""[..], "no certificate"),
            (
                b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
                "usable CA",
            ),
            (
                b"-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n",
                "damaged",
            ),
        ] {
            let error = tls(URL, &[pem.to_vec()], true).unwrap_err().to_string();
            assert!(error.contains(word) && error.contains(URL), "{error}");
        }
    }
}
