//! Checks of what an issuer signs for us as its client: ID tokens and signed userinfo (OpenID Connect Core 1.0).
//!
//! Knows nothing of access tokens: what those mean to a service is the token crate's `profile`.

use std::sync::Arc;

use gridkeep_token::jws::{JwkSet, Jws, JwsError, hash_half};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value};
use tokio::time::Instant;

use crate::client::Client;
use crate::error::IssuerError;
use crate::form::clean;

/// Clock difference that is tolerated either way, in seconds.
const TOLERANCE: f64 = 60.0;

/// What an ID token must agree with.
pub(crate) struct Expected<'a> {
    pub nonce: Option<&'a str>,
    pub access_token: Option<&'a SecretString>,
    /// Seconds since 1970.
    pub now: i64,
}

/// Verifies an ID token of this client's issuer.
pub(crate) async fn verify(
    client: &Client,
    text: &str,
    expected: &Expected<'_>,
) -> Result<Map<String, Value>, IssuerError> {
    let token = Jws::parse(text).map_err(unverified)?;
    let claims = signed(client, &token, client.deadline()).await?;
    check(
        &claims,
        &client.options().url,
        &client.options().client_id,
        expected,
    )
    .and_then(|()| check_hash(&token, &claims, expected.access_token))
    .map_err(|what| IssuerError::InvalidToken { what })?;
    Ok(claims)
}

/// Verifies a signed userinfo answer: section 5.3.2 asks for `iss` and `aud` where they are present.
pub(crate) async fn verify_userinfo(
    client: &Client,
    text: &str,
    deadline: Instant,
) -> Result<Map<String, Value>, IssuerError> {
    let token = Jws::parse(text).map_err(unverified)?;
    let claims = signed(client, &token, deadline).await?;
    let (url, client_id) = (&client.options().url, &client.options().client_id);
    let issuer = if claims.contains_key("iss") {
        check_issuer(&claims, url)
    } else {
        Ok(())
    };
    let audience = if claims.contains_key("aud") {
        check_audience(&claims, client_id)
    } else {
        Ok(())
    };
    issuer
        .and(audience)
        .map_err(|what| IssuerError::InvalidToken { what })?;
    Ok(claims)
}

/// The claims, once the signature is known to be the issuer's. A key that is not in the copy we have is looked for in a
/// new one; so is one whose signature is wrong, because some issuers keep a key's name when they change the key.
async fn signed(
    client: &Client,
    token: &Jws<'_>,
    deadline: Instant,
) -> Result<Map<String, Value>, IssuerError> {
    let keys = client.keys_by(deadline).await?;
    match token.verify(&keys) {
        Ok(claims) => Ok(claims),
        Err(JwsError::UnknownKid { .. } | JwsError::BadKey { .. } | JwsError::BadSignature) => {
            let newer: Arc<JwkSet> = client.keys_other_than(&keys, deadline).await?;
            token.verify(&newer).map_err(unverified)
        }
        Err(error) => Err(unverified(error)),
    }
}

fn unverified(error: JwsError) -> IssuerError {
    IssuerError::InvalidToken {
        what: clean(&error.to_string()),
    }
}

/// Section 3.1.3.7, after the signature. `Err` is the text.
fn check(
    claims: &Map<String, Value>,
    issuer: &str,
    client_id: &str,
    expected: &Expected<'_>,
) -> Result<(), String> {
    check_issuer(claims, issuer)?;
    check_audience(claims, client_id)?;
    check_subject(claims)?;
    check_times(claims, expected.now)?;
    match expected.nonce {
        Some(nonce) if claims.get("nonce").and_then(Value::as_str) != Some(nonce) => Err(
            "The claim nonce is not the one of this login; the answer belongs to another login."
                .to_owned(),
        ),
        _ => Ok(()),
    }
}

fn check_issuer(claims: &Map<String, Value>, issuer: &str) -> Result<(), String> {
    match claims.get("iss").and_then(Value::as_str) {
        Some(iss) if iss == issuer => Ok(()),
        Some(iss) => Err(format!(
            "The claim iss is {:?}; the configured issuer is {issuer:?}.",
            clean(iss)
        )),
        None => Err("There is no claim iss.".to_owned()),
    }
}

fn check_audience(claims: &Map<String, Value>, client_id: &str) -> Result<(), String> {
    let (count, ours) = match claims.get("aud") {
        Some(Value::String(audience)) => (1, audience == client_id),
        Some(Value::Array(items)) => (
            items.len(),
            items.iter().any(|item| item.as_str() == Some(client_id)),
        ),
        _ => return Err("There is no usable claim aud.".to_owned()),
    };
    if !ours {
        return Err(format!(
            "The claim aud does not name client {client_id:?}; the token was made for another client."
        ));
    }
    match claims.get("azp") {
        Some(party) if party.as_str() == Some(client_id) => Ok(()),
        Some(_) => Err(format!("The claim azp does not name client {client_id:?}.")),
        None if count > 1 => Err("There are several audiences but no claim azp.".to_owned()),
        None => Ok(()),
    }
}

fn check_subject(claims: &Map<String, Value>) -> Result<(), String> {
    match claims.get("sub").and_then(Value::as_str) {
        Some(sub) if !sub.is_empty() && sub.len() <= 255 => Ok(()),
        _ => Err("There is no usable claim sub.".to_owned()),
    }
}

fn check_times(claims: &Map<String, Value>, now: i64) -> Result<(), String> {
    #[expect(
        clippy::cast_precision_loss,
        reason = "seconds since 1970 fit 53 bits for 285 million years"
    )]
    let now = now as f64;
    let time = |name: &str| match claims.get(name) {
        None => Ok(None),
        Some(value) => value
            .as_f64()
            .map(Some)
            .ok_or_else(|| format!("The claim {name} is not a number.")),
    };
    let expires = time("exp")?.ok_or("There is no claim exp.")?;
    if now >= expires + TOLERANCE {
        return Err(format!("The token expired {:.0} s ago.", now - expires));
    }
    let issued = time("iat")?.ok_or("There is no claim iat.")?;
    for (name, begin) in [("iat", Some(issued)), ("nbf", time("nbf")?)] {
        if let Some(begin) = begin.filter(|begin| *begin > now + TOLERANCE) {
            return Err(format!(
                "The claim {name} lies {:.0} s in the future; compare the clocks of this machine and of the issuer.",
                begin - now
            ));
        }
    }
    Ok(())
}

/// Section 3.1.3.8.
fn check_hash(
    token: &Jws<'_>,
    claims: &Map<String, Value>,
    access_token: Option<&SecretString>,
) -> Result<(), String> {
    let (Some(hash), Some(access_token)) = (claims.get("at_hash"), access_token) else {
        return Ok(());
    };
    let computed = hash_half(token.header().alg, access_token.expose_secret().as_bytes());
    if hash.as_str() == Some(&computed) {
        return Ok(());
    }
    Err("The claim at_hash does not belong to the access token that came with it.".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const ISSUER: &str = "https://issuer.example.org/";
    const NOW: i64 = 1_800_000_000;

    /// Good claims with one changed; `null` takes it away.
    fn with(name: &str, value: Value) -> Map<String, Value> {
        let mut claims = json!({
            "iss": ISSUER, "sub": "anna", "aud": "client", "nonce": "n", "iat": NOW - 10, "exp": NOW + 600,
        });
        claims[name] = value;
        let mut claims = claims.as_object().unwrap().clone();
        claims.retain(|_, value| !value.is_null());
        claims
    }

    fn checked(claims: &Map<String, Value>) -> Result<(), String> {
        check(
            claims,
            ISSUER,
            "client",
            &Expected {
                nonce: Some("n"),
                access_token: None,
                now: NOW,
            },
        )
    }

    #[test]
    fn each_claim_counts() {
        for (name, good) in [
            ("other", json!(1)),
            ("aud", json!(["client"])),
            ("azp", json!("client")),
            ("exp", json!(NOW - 59)),
            ("exp", json!(NOW as f64 + 0.5)),
            ("iat", json!(NOW + 60)),
            ("nbf", json!(NOW + 60)),
        ] {
            checked(&with(name, good.clone()))
                .unwrap_or_else(|what| panic!("{name} {good}: {what}"));
        }
        for (name, bad) in [
            ("iss", json!("https://issuer.example.org")),
            ("iss", json!(null)),
            ("iss", json!(["https://issuer.example.org/"])),
            ("aud", json!("other")),
            ("aud", json!(["client", "other"])),
            ("aud", json!([])),
            ("aud", json!(null)),
            ("azp", json!("other")),
            ("azp", json!(7)),
            ("sub", json!("")),
            ("sub", json!(7)),
            ("sub", json!("x".repeat(256))),
            ("sub", json!(null)),
            ("exp", json!(NOW - 60)),
            ("exp", json!("1800000600")),
            ("exp", json!(null)),
            ("iat", json!(NOW + 61)),
            ("iat", json!(null)),
            ("nbf", json!(NOW + 61)),
            ("nbf", json!("soon")),
            ("nonce", json!("m")),
            ("nonce", json!(null)),
        ] {
            let what = checked(&with(name, bad.clone())).expect_err(&format!("{name} {bad}"));
            assert!(
                what.contains(name) || what.contains("expired") || what.contains("azp"),
                "{name} {bad}: {what}"
            );
        }
        let mut several = with("aud", json!(["other", "client"]));
        several.insert("azp".into(), json!("client"));
        checked(&several).unwrap();
    }

    #[test]
    fn without_a_nonce_of_ours_none_is_asked_for() {
        let expected = Expected {
            nonce: None,
            access_token: None,
            now: NOW,
        };
        check(&with("nonce", json!(null)), ISSUER, "client", &expected).unwrap();
        check(&with("nonce", json!("x")), ISSUER, "client", &expected).unwrap();
    }
}
