//! The throw-away certificate authority and the issuer's certificate under it. Keys live in memory only.

use std::net::IpAddr;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, date_time_ymd,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::StartError;

/// What a TLS listener needs, and what its clients must trust.
pub(crate) struct Identity {
    pub(crate) ca_pem: String,
    pub(crate) config: Arc<rustls::ServerConfig>,
}

impl Identity {
    /// A fresh authority and a certificate for `host` and the loopback names.
    pub(crate) fn generate(host: &str) -> Result<Self, StartError> {
        let mut ca = CertificateParams::default();
        ca.distinguished_name = name("gridkeep test issuer CA");
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        (ca.not_before, ca.not_after) = (date_time_ymd(2000, 1, 1), date_time_ymd(2049, 1, 1));
        let ca_key = KeyPair::generate()?;
        let ca_pem = ca.self_signed(&ca_key)?.pem();

        let mut names = vec![
            "localhost".to_owned(),
            "127.0.0.1".to_owned(),
            "::1".to_owned(),
        ];
        let bare = host.trim_matches(['[', ']']);
        if !names.iter().any(|n| n == bare)
            && bare
                .parse::<IpAddr>()
                .map_or(true, |ip| !ip.is_unspecified())
        {
            names.push(bare.to_owned());
        }
        let mut leaf = CertificateParams::new(names)?;
        leaf.distinguished_name = name("gridkeep test issuer");
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        leaf.use_authority_key_identifier_extension = true;
        (leaf.not_before, leaf.not_after) = (ca.not_before, ca.not_after);
        let leaf_key = KeyPair::generate()?;
        let certificate = leaf.signed_by(&leaf_key, &Issuer::from_params(&ca, &ca_key))?;

        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(leaf_key.serialize_der()));
        let mut config = rustls::ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self {
            ca_pem,
            config: Arc::new(config),
        })
    }
}

fn name(common: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common);
    name
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// TLS client settings that trust exactly the given authorities (PEM, one or more certificates each).
///
/// # Errors
/// When a text is no certificate, or the provider lacks the protocol versions.
pub fn client_config(authorities: &[&str]) -> Result<rustls::ClientConfig, StartError> {
    let mut roots = rustls::RootCertStore::empty();
    for pem in authorities {
        for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            roots.add(certificate.map_err(|e| StartError::Pem(e.to_string()))?)?;
        }
    }
    Ok(rustls::ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth())
}
