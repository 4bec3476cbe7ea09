//! The requests about ssh keys: logging in with them, registering, removing and ending them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use secrecy::SecretString;

use super::{Auth, Vault, VaultError, auth, json, target};
use crate::http::{Call, HttpError, Log};

/// A text for an ssh-agent to sign.
#[derive(Clone, Debug)]
pub struct SshNonce {
    /// The text.
    pub text: String,
    /// The signatures that the server takes as a whole; only ours says so.
    pub formats: Vec<String>,
    /// Which of the keys asked about would be accepted: an empty text for none; `None` from servers that do not say.
    pub fingerprint: Option<String>,
}

impl SshNonce {
    /// Whether the server knows more than the protocol of the original.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        !self.formats.is_empty()
    }
}

/// What logs somebody in with an ssh key.
#[derive(Clone, Copy, Debug)]
pub struct SshProof<'a> {
    /// Who.
    pub credkey: &'a str,
    /// `type base64 comment`.
    pub public_key: &'a str,
    /// Its signature, as a whole where `format` is given.
    pub signature: &'a [u8],
    /// The name of the signature's algorithm.
    pub format: Option<&'a str>,
    /// The text it is over.
    pub nonce: &'a str,
    /// For which issuer.
    pub issuer: &'a str,
    /// For which of its roles.
    pub role: &'a str,
}

impl Vault {
    /// Asks for a text to sign, and which of the keys with these fingerprints would be accepted.
    ///
    /// # Errors
    /// The request failed, or there is no nonce.
    pub async fn ssh_nonce(
        &mut self,
        ssh_path: &str,
        credkey: &str,
        issuer: &str,
        fingerprints: &[String],
        log: &mut dyn Log,
    ) -> Result<SshNonce, VaultError> {
        const WHAT: &str = "getting a nonce for the ssh-agent at";
        let path = format!("{ssh_path}/nonce");
        // Servers that do not know these parameters take no notice of them.
        let query = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("role", credkey)
            .append_pair("issuer", issuer)
            .append_pair("fingerprints", &fingerprints.join(","))
            .finish();
        let call = Call::get(format!("{}?{query}", target(&path)), None);
        let reply = self.call(WHAT, &path, call, log).await?;
        json(&reply)
            .and_then(|body| {
                let data = &body["data"];
                let text = data["nonce"]
                    .as_str()
                    .filter(|nonce| !nonce.is_empty())
                    .ok_or_else(|| HttpError::Malformed("it has no data.nonce".to_owned()))?;
                let formats = data["signature_formats"].as_array().into_iter().flatten();
                Ok(SshNonce {
                    text: text.to_owned(),
                    formats: formats
                        .filter_map(|name| name.as_str().map(str::to_owned))
                        .collect(),
                    fingerprint: data["fingerprint"].as_str().map(str::to_owned),
                })
            })
            .map_err(|error| self.error(WHAT, &path, error))
    }

    /// Logs in with a signature.
    ///
    /// # Errors
    /// The request failed, or the answer has no token.
    pub async fn ssh_login(
        &mut self,
        ssh_path: &str,
        proof: &SshProof<'_>,
        log: &mut dyn Log,
    ) -> Result<Auth, VaultError> {
        const WHAT: &str = "logging in with the ssh-agent at";
        let path = format!("{ssh_path}/login");
        let mut body = json!({
            "role": proof.credkey,
            "public_key": proof.public_key,
            "signature": STANDARD.encode(proof.signature),
            "nonce": STANDARD.encode(proof.nonce),
            "metadata": {"issuer": proof.issuer, "group": proof.role},
        });
        if let Some(format) = proof.format {
            body["signature_format"] = format.into();
        }
        let call = Call::post(target(&path), None, &body);
        let reply = self.call(WHAT, &path, call, log).await?;
        json(&reply)
            .and_then(|body| auth(&body))
            .map_err(|error| self.error(WHAT, &path, error))
    }

    /// Registers public keys for `credkey`.
    ///
    /// # Errors
    /// The request failed.
    pub async fn ssh_register(
        &mut self,
        ssh_path: &str,
        credkey: &str,
        keys: &[String],
        token: &SecretString,
        log: &mut dyn Log,
    ) -> Result<(), VaultError> {
        let path = format!("{ssh_path}/role/{credkey}");
        let body = json!({"public_keys": keys});
        let call = Call::post(target(&path), Some(token), &body).repeatable();
        self.call("registering the ssh keys at", &path, call, log)
            .await?;
        Ok(())
    }

    /// Removes one's own ssh key with `fingerprint`.
    ///
    /// # Errors
    /// The request failed.
    pub async fn ssh_remove(
        &mut self,
        path: &str,
        fingerprint: &str,
        token: &SecretString,
        log: &mut dyn Log,
    ) -> Result<(), VaultError> {
        let query = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("fingerprint", fingerprint)
            .finish();
        let call = Call {
            method: http::Method::DELETE,
            ..Call::get(format!("{}?{query}", target(path)), Some(token))
        };
        self.call("removing the ssh key at", path, call, log)
            .await?;
        Ok(())
    }

    /// Lets one's own ssh key with `fingerprint` end after `seconds`.
    ///
    /// # Errors
    /// The request failed.
    pub async fn ssh_expire(
        &mut self,
        path: &str,
        fingerprint: &str,
        seconds: u64,
        token: &SecretString,
        log: &mut dyn Log,
    ) -> Result<(), VaultError> {
        let body = json!({"fingerprint": fingerprint, "ttl": seconds});
        let call = Call::post(target(path), Some(token), &body).repeatable();
        self.call("setting the end of the ssh key at", path, call, log)
            .await?;
        Ok(())
    }
}
