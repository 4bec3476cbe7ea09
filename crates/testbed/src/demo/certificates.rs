//! The throw-away authority and the server's certificate under it. The authority's key is never written.

use std::path::PathBuf;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, date_time_ymd,
};

use super::failure::Failure;
use super::place::Place;

/// What was written for the server; the authority's certificate is `ca.pem`.
pub(super) struct Certificates {
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
}

/// Makes both and writes what the server and its clients need.
pub(super) fn make(place: &Place) -> Result<Certificates, Failure> {
    let mut ca = CertificateParams::default();
    ca.distinguished_name = name("gridkeep demo throw-away CA");
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    // The keys end with the demo, so the dates only need to hold on any clock.
    (ca.not_before, ca.not_after) = (date_time_ymd(2000, 1, 1), date_time_ymd(2049, 1, 1));
    let ca_key = KeyPair::generate()?;
    let authority = ca.self_signed(&ca_key)?;

    let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
    let mut leaf = CertificateParams::new(names)?;
    leaf.distinguished_name = name("gridkeep demo server");
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    leaf.use_authority_key_identifier_extension = true;
    (leaf.not_before, leaf.not_after) = (ca.not_before, ca.not_after);
    let leaf_key = KeyPair::generate()?;
    let certificate = leaf.signed_by(&leaf_key, &Issuer::from_params(&ca, &ca_key))?;
    place.write("ca.pem", &authority.pem())?;
    Ok(Certificates {
        certificate: place.write("etc/hostcert.pem", &certificate.pem())?,
        key: place.write("etc/hostkey.pem", &leaf_key.serialize_pem())?,
    })
}

fn name(common: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common);
    name
}
