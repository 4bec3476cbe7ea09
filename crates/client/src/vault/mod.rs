//! The requests that the htgettoken family makes of a Vault-like server, one method each.
//!
//! Owns paths, bodies and the members that are read from answers. Refuses to know in which order they are made and what a failure
//! leads to. Those of ssh keys are in [`ssh`]; a further endpoint is one more method here.

mod ssh;

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value, json};
use thiserror::Error;

use crate::http::{Call, Client, HttpError, Log, Reply};

pub use ssh::{SshNonce, SshProof};

/// A request that failed, with what it was for.
#[derive(Clone, Debug, Error)]
#[error("{what} {url} failed: {error}")]
pub struct VaultError {
    /// What was attempted, for a sentence that goes on with the URL.
    pub what: &'static str,
    /// Where, without query.
    pub url: String,
    /// Why it failed.
    #[source]
    pub error: HttpError,
}

/// What a login or the creation of a token gives.
#[derive(Clone, Debug)]
pub struct Auth {
    /// The vault token.
    pub client_token: SecretString,
    /// Its life in seconds, if the server says.
    pub lease_duration: Option<u64>,
    /// Names of its policies.
    pub policies: Vec<String>,
    /// `metadata.credkey`.
    pub credkey: Option<String>,
    /// `metadata.oauth2_refresh_token`, which may be empty.
    pub refresh_token: Option<SecretString>,
    /// Whether there was any `metadata`.
    pub has_metadata: bool,
}

/// An answer to a login with a Kerberos ticket.
#[derive(Clone, Debug)]
pub enum Negotiated {
    /// Logged in.
    LoggedIn(Box<Auth>),
    /// Not logged in, for a reason that the server gives; another way may do.
    Declined(String),
}

/// An answer to polling for the end of a login.
#[derive(Clone, Debug)]
pub enum Poll {
    /// The user is not done.
    Pending,
    /// The user is not done, and the server wants to be asked less often.
    SlowDown,
    /// The login succeeded.
    Done(Box<Auth>),
}

/// A server and its endpoints.
#[derive(Debug)]
pub struct Vault {
    client: Client,
}

impl Vault {
    /// Uses `client` for all requests.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// The connection, to set its time limit.
    pub fn client(&mut self) -> &mut Client {
        &mut self.client
    }

    /// The URL of a path below `/v1/`; the host is the one the user named, because callers compare it.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("{}{}", self.client.server(), target(path))
    }

    async fn call(
        &mut self,
        what: &'static str,
        path: &str,
        call: Call<'_>,
        log: &mut dyn Log,
    ) -> Result<Reply, VaultError> {
        let sent = self.client.send(&call, log).await.and_then(Reply::success);
        sent.map_err(|error| self.error(what, path, error))
    }

    fn error(&self, what: &'static str, path: &str, error: HttpError) -> VaultError {
        VaultError {
            what,
            url: self.url(path),
            error,
        }
    }

    /// How long a vault token still lives, seconds.
    ///
    /// # Errors
    /// The request failed or the answer has no `data.ttl`.
    pub async fn lookup_self(
        &mut self,
        token: &SecretString,
        log: &mut dyn Log,
    ) -> Result<u64, VaultError> {
        const PATH: &str = "auth/token/lookup-self";
        const WHAT: &str = "looking up the vault token at";
        let reply = self
            .call(WHAT, PATH, Call::get(target(PATH), Some(token)), log)
            .await?;
        json(&reply)
            .and_then(|body| {
                number(&body["data"]["ttl"])
                    .ok_or_else(|| HttpError::Malformed("it has no data.ttl".to_owned()))
            })
            .map_err(|error| self.error(WHAT, PATH, error))
    }

    /// Makes a child of `token` that lives `ttl` seconds, with these policies or all of the parent's. Repeating this costs at
    /// worst a token that nobody knows.
    ///
    /// # Errors
    /// The request failed or the answer has no token.
    pub async fn create(
        &mut self,
        token: &SecretString,
        ttl: u64,
        policies: Option<&[String]>,
        log: &mut dyn Log,
    ) -> Result<Auth, VaultError> {
        const PATH: &str = "auth/token/create";
        const WHAT: &str = "creating a vault token at";
        // The server does not know days, and expects text in both members.
        let mut body = json!({"ttl": format!("{ttl}s"), "renewable": "false"});
        if let Some(policies) = policies {
            body["policies"] = json!(policies);
        }
        let call = Call::post(target(PATH), Some(token), &body).repeatable();
        let reply = self.call(WHAT, PATH, call, log).await?;
        json(&reply)
            .and_then(|body| auth(&body))
            .map_err(|error| self.error(WHAT, PATH, error))
    }

    /// Logs in with the proof of a Kerberos ticket, which is good for one attempt.
    ///
    /// # Errors
    /// The request failed or the answer is not JSON.
    pub async fn negotiate(
        &mut self,
        kerb_path: &str,
        proof: &SecretString,
        log: &mut dyn Log,
    ) -> Result<Negotiated, VaultError> {
        const WHAT: &str = "negotiating kerberos at";
        let path = format!("{kerb_path}/login");
        let call = Call {
            method: http::Method::POST,
            negotiate: Some(proof),
            repeatable: false,
            ..Call::get(target(&path), None)
        };
        let reply = self.call(WHAT, &path, call, log).await?;
        json(&reply)
            .and_then(|body| {
                if !body["auth"].is_null() {
                    return auth(&body).map(|auth| Negotiated::LoggedIn(Box::new(auth)));
                }
                let reasons = ["warnings", "errors"].into_iter();
                let said: Vec<&str> = reasons
                    .filter_map(|member| body[member].as_array())
                    .flatten()
                    .filter_map(|text| text.as_str().map(str::trim))
                    .collect();
                Ok(Negotiated::Declined(if said.is_empty() {
                    "the server gives no reason".to_owned()
                } else {
                    said.join("; ")
                }))
            })
            .map_err(|error| self.error(WHAT, &path, error))
    }

    /// Reads a bearer token that lives at least `minimum_seconds`; `path` with `/sts/` in it allows `scopes` and `audiences`.
    ///
    /// # Errors
    /// The request failed, the answer is not JSON, or it has no `data.access_token`.
    pub async fn read_bearer(
        &mut self,
        path: &str,
        query: &BearerQuery<'_>,
        token: &SecretString,
        log: &mut dyn Log,
    ) -> Result<SecretString, VaultError> {
        const WHAT: &str = "reading the bearer token at";
        let call = Call::get(format!("{}?{}", target(path), query.encoded()), Some(token));
        let reply = self.call(WHAT, path, call, log).await?;
        json(&reply)
            .and_then(|body| {
                body["data"]["access_token"]
                    .as_str()
                    .filter(|token| !token.is_empty())
                    .map(SecretString::from)
                    .ok_or_else(|| HttpError::Malformed("it has no data.access_token".to_owned()))
            })
            .map_err(|error| self.error(WHAT, path, error))
    }

    /// Hands a refresh token, or the handle that stands for one, to the server. Never repeated: a refresh token may work once.
    ///
    /// # Errors
    /// The request failed.
    pub async fn store_refresh(
        &mut self,
        path: &str,
        issuer: &str,
        refresh_token: &SecretString,
        token: &SecretString,
        log: &mut dyn Log,
    ) -> Result<(), VaultError> {
        let body = json!({"server": issuer, "refresh_token": refresh_token.expose_secret()});
        let call = Call::post(target(path), Some(token), &body);
        self.call("storing the refresh token at", path, call, log)
            .await?;
        Ok(())
    }

    /// Deletes what is stored at `path`.
    ///
    /// # Errors
    /// The request failed.
    pub async fn delete(
        &mut self,
        path: &str,
        token: &SecretString,
        log: &mut dyn Log,
    ) -> Result<(), VaultError> {
        let call = Call {
            method: http::Method::DELETE,
            ..Call::get(target(path), Some(token))
        };
        self.call("deleting the credential at", path, call, log)
            .await?;
        Ok(())
    }

    /// Ends the life of a vault token and its children.
    ///
    /// # Errors
    /// The request failed.
    pub async fn revoke_self(
        &mut self,
        token: &SecretString,
        log: &mut dyn Log,
    ) -> Result<(), VaultError> {
        const PATH: &str = "auth/token/revoke-self";
        let body = json!({});
        let call = Call::post(target(PATH), Some(token), &body).repeatable();
        self.call("revoking the vault token at", PATH, call, log)
            .await?;
        Ok(())
    }

    /// Starts a login in a browser; answers the `data` member of the reply.
    ///
    /// # Errors
    /// The request failed, or there is no `data`.
    pub async fn auth_url(
        &mut self,
        oidc_path: &str,
        role: &str,
        client_nonce: &str,
        redirect_uri: &str,
        log: &mut dyn Log,
    ) -> Result<Map<String, Value>, VaultError> {
        const WHAT: &str = "starting the login at";
        let path = format!("{oidc_path}/auth_url");
        let body =
            json!({"role": role, "client_nonce": client_nonce, "redirect_uri": redirect_uri});
        let call = Call::post(target(&path), None, &body).repeatable();
        let reply = self.call(WHAT, &path, call, log).await?;
        json(&reply)
            // Taking by index would panic on an answer that is a list.
            .and_then(|mut body| match body.get_mut("data").map(Value::take) {
                Some(Value::Object(data)) => Ok(data),
                _ => Err(HttpError::Malformed("it has no data".to_owned())),
            })
            .map_err(|error| self.error(WHAT, &path, error))
    }

    /// Asks whether a login is done. Not repeated by itself, because the answer that says so comes once.
    ///
    /// # Errors
    /// The request failed, or the login did.
    pub async fn poll(
        &mut self,
        oidc_path: &str,
        fields: &Value,
        log: &mut dyn Log,
    ) -> Result<Poll, VaultError> {
        self.finish(&format!("{oidc_path}/poll"), fields, None, log)
            .await
    }

    /// The same for servers of 2020, which give no state and answer when the login is done.
    ///
    /// # Errors
    /// The request failed, or the login did.
    pub async fn device_wait(
        &mut self,
        oidc_path: &str,
        fields: &Value,
        patience: Duration,
        log: &mut dyn Log,
    ) -> Result<Poll, VaultError> {
        self.finish(
            &format!("{oidc_path}/device_wait"),
            fields,
            Some(patience),
            log,
        )
        .await
    }

    /// What a list of the server says of each of its keys.
    ///
    /// # Errors
    /// The request failed, or the answer has no such facts.
    pub async fn key_info(
        &mut self,
        path: &str,
        token: &SecretString,
        log: &mut dyn Log,
    ) -> Result<Map<String, Value>, VaultError> {
        const WHAT: &str = "reading the list at";
        let (place, query) = path.split_once('?').unwrap_or((path, "list=false"));
        let call = Call::get(format!("{}?{query}", target(place)), Some(token));
        let reply = self.call(WHAT, place, call, log).await?;
        json(&reply)
            .and_then(
                |mut body| match body.pointer_mut("/data/key_info").map(Value::take) {
                    Some(Value::Object(keys)) => Ok(keys),
                    _ => Err(HttpError::Malformed("it has no data.key_info".to_owned())),
                },
            )
            .map_err(|error| self.error(WHAT, place, error))
    }

    async fn finish(
        &mut self,
        path: &str,
        fields: &Value,
        patience: Option<Duration>,
        log: &mut dyn Log,
    ) -> Result<Poll, VaultError> {
        const WHAT: &str = "waiting for the login at";
        let call = Call {
            patience,
            ..Call::post(target(path), None, fields)
        };
        let reply = match self.client.send(&call, log).await {
            Ok(reply) => reply,
            Err(error) => return Err(self.error(WHAT, path, error)),
        };
        if reply.status == 400 {
            let body = json(&reply).unwrap_or_default();
            match body["errors"][0].as_str() {
                Some("authorization_pending") => return Ok(Poll::Pending),
                Some("slow_down") => return Ok(Poll::SlowDown),
                _ => {}
            }
        }
        reply
            .success()
            .and_then(|reply| json(&reply))
            .and_then(|body| auth(&body))
            .map(|auth| Poll::Done(Box::new(auth)))
            .map_err(|error| self.error(WHAT, path, error))
    }
}

/// What is asked of a bearer token.
#[derive(Clone, Copy, Debug)]
pub struct BearerQuery<'a> {
    /// Seconds that it must still live.
    pub minimum_seconds: u64,
    /// Fewer scopes, as the user wrote them.
    pub scopes: Option<&'a str>,
    /// Audiences, separated by commas or blanks.
    pub audience: Option<&'a str>,
}

impl BearerQuery<'_> {
    /// Form-encoded, in the order of the original. The option is `audience`, the parameter `audiences`.
    fn encoded(&self) -> String {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        query.append_pair("minimum_seconds", &self.minimum_seconds.to_string());
        if let Some(scopes) = self.scopes {
            query.append_pair("scopes", scopes);
        }
        if let Some(audience) = self.audience {
            // The original server splits at commas only, and would ask the issuer for one audience with a blank in it.
            let audiences: Vec<&str> = audience
                .split([',', ' '])
                .filter(|one| !one.is_empty())
                .collect();
            query.append_pair("audiences", &audiences.join(","));
        }
        query.finish()
    }
}

/// The request target of a path below `/v1/`: characters that no URL may have are encoded, `%xx` stays, and so do `/`, `@` and
/// `:`, since a credkey with slashes means further segments.
#[must_use]
pub fn target(path: &str) -> String {
    let mut target = String::from("/v1/");
    let bytes = path.trim_start_matches('/').as_bytes();
    for (index, &byte) in bytes.iter().enumerate() {
        let hex = |offset: usize| bytes.get(index + offset).is_some_and(u8::is_ascii_hexdigit);
        match byte {
            b'%' if hex(1) && hex(2) => target.push('%'),
            b if b.is_ascii_alphanumeric() || b"/@:-._~!$&'()*+,;=".contains(&b) => {
                target.push(b as char)
            }
            b => target.push_str(&format!("%{b:02X}")),
        }
    }
    target
}

fn json(reply: &Reply) -> Result<Value, HttpError> {
    serde_json::from_slice(&reply.body).map_err(|_| HttpError::NotJson)
}

/// Integers come as numbers or as text.
fn number(value: &Value) -> Option<u64> {
    match value {
        Value::Number(number) => number.as_u64().or_else(|| number.as_i64().map(|_| 0)),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

fn auth(body: &Value) -> Result<Auth, HttpError> {
    let auth = &body["auth"];
    let metadata = &auth["metadata"];
    let client_token = auth["client_token"]
        .as_str()
        .filter(|token| !token.is_empty())
        .ok_or_else(|| HttpError::Malformed("it has no auth.client_token".to_owned()))?;
    Ok(Auth {
        client_token: SecretString::from(client_token),
        lease_duration: number(&auth["lease_duration"]),
        policies: auth["policies"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|policy| policy.as_str().map(str::to_owned))
            .collect(),
        credkey: metadata["credkey"].as_str().map(str::to_owned),
        refresh_token: metadata["oauth2_refresh_token"]
            .as_str()
            .map(SecretString::from),
        has_metadata: metadata.is_object(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        for (path, expected) in [
            (
                "secret/oauth/creds/dune/alice@x.org:default",
                "/v1/secret/oauth/creds/dune/alice@x.org:default",
            ),
            ("a/b c%20d%zz", "/v1/a/b%20c%20d%25zz"),
            ("/é?#", "/v1/%C3%A9%3F%23"),
        ] {
            assert_eq!(target(path), expected);
        }
    }

    #[test]
    fn queries() {
        let query = |scopes, audience| {
            BearerQuery {
                minimum_seconds: 60,
                scopes,
                audience,
            }
            .encoded()
        };
        assert_eq!(query(None, None), "minimum_seconds=60");
        assert_eq!(
            query(
                Some("storage.read:/a,compute.read b"),
                Some("https://x.org, y")
            ),
            "minimum_seconds=60&scopes=storage.read%3A%2Fa%2Ccompute.read+b&audiences=https%3A%2F%2Fx.org%2Cy"
        );
    }

    #[test]
    fn answers_of_all_ages() {
        let reply = auth(
            &json!({"auth": {"client_token": "t", "lease_duration": "5", "policies": ["a", 1]}}),
        )
        .unwrap();
        assert_eq!(reply.lease_duration, Some(5));
        assert_eq!(reply.policies, ["a"]);
        assert!(!reply.has_metadata);
        assert!(auth(&json!({"auth": null, "warnings": ["x"]})).is_err());
        assert!(auth(&json!({"auth": {"client_token": ""}})).is_err());
        assert!(!format!("{reply:?}").contains("\"t\""));
        assert_eq!(number(&json!(-1)), Some(0));
    }
}
