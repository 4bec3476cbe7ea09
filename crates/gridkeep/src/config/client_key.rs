//! The key by which a client proves itself to an issuer (`private_key`): what a file of it has to hold.

use gridkeep_token::jws::{Algorithm, SigningKey};

/// The key in `pem`, with the algorithm its type is used with.
///
/// # Errors
/// When it holds no key that can sign; the text says why and what to put there.
pub fn parse(client_id: &str, pem: &str) -> anyhow::Result<SigningKey> {
    let mut last = None;
    for algorithm in [
        Algorithm::Es256,
        Algorithm::Es384,
        Algorithm::Es512,
        Algorithm::EdDsa,
        Algorithm::Rs256,
    ] {
        match SigningKey::from_pkcs8_pem(algorithm, client_id, pem) {
            Ok(key) => return Ok(key),
            Err(error) => last = Some(error),
        }
    }
    let reason = last.map(|error| error.to_string()).unwrap_or_default();
    anyhow::bail!(
        "private_key holds no key that can sign ({reason}); put a PKCS #8 PEM with an EC, Ed25519 or RSA key there"
    )
}
