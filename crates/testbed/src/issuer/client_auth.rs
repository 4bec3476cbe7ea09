//! Who is the client? HTTP Basic, form secret, signed assertion (RFC 7523) or public: each proof once, compared in constant time.
//! It establishes the client; what that client may do is for the endpoints.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use axum::http::{HeaderMap, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gridkeep_token::jws::{JwkSet, Jws};
use percent_encoding::percent_decode_str;
use secrecy::ExposeSecret as _;
use serde_json::Value;

use super::form::Form;
use super::options::{Client, ClientAuth};
use super::problem::Problem;
use super::state::App;

const ASSERTION: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// Finds and proves the client of a request.
pub(crate) fn authenticate<'a>(
    app: &'a App,
    headers: &HeaderMap,
    form: &Form,
) -> Result<&'a Client, Problem> {
    let basic = basic_credentials(headers);
    let posted = form.get("client_secret");
    if basic.is_some() && (posted.is_some() || form.get("client_assertion").is_some()) {
        return Err(Problem::ClientAuthTwice);
    }
    if let Some((id, secret)) = basic {
        if form.get("client_id").is_some_and(|other| other != id) {
            return Err(Problem::ClientAuthTwice);
        }
        return by_secret(app, &id, &secret, ClientAuth::ClientSecretBasic);
    }
    if form.get("client_assertion").is_some() {
        return by_assertion(app, form);
    }
    let id = form.get("client_id").ok_or(Problem::ClientMissing)?;
    if let Some(secret) = posted {
        return by_secret(app, id, secret, ClientAuth::ClientSecretPost);
    }
    let client = app.client(id).ok_or(Problem::ClientUnknown)?;
    if client.auth_methods().contains(&ClientAuth::None) {
        Ok(client)
    } else {
        Err(Problem::ClientSecretWrong)
    }
}

fn by_secret<'a>(
    app: &'a App,
    id: &str,
    secret: &str,
    method: ClientAuth,
) -> Result<&'a Client, Problem> {
    let client = app.client(id).ok_or(Problem::ClientUnknown)?;
    let changed = app.world().secrets.get(id).cloned();
    let expected = changed
        .or_else(|| client.secret.clone())
        .ok_or(Problem::ClientSecretWrong)?;
    let equal =
        verify_slices_are_equal(expected.expose_secret().as_bytes(), secret.as_bytes()).is_ok();
    if equal && client.auth_methods().contains(&method) {
        Ok(client)
    } else {
        Err(Problem::ClientSecretWrong)
    }
}

/// User and password of HTTP Basic, each form-encoded within (RFC 6749 2.3.1).
fn basic_credentials(headers: &HeaderMap) -> Option<(String, String)> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, encoded) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let text = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (id, secret) = text.split_once(':')?;
    let decode = |part: &str| {
        percent_decode_str(&part.replace('+', " "))
            .decode_utf8()
            .ok()
            .map(|t| t.into_owned())
    };
    Some((decode(id)?, decode(secret)?))
}

fn by_assertion<'a>(app: &'a App, form: &Form) -> Result<&'a Client, Problem> {
    let wrong = |why: &str| Problem::ClientAssertion(why.to_owned());
    if form.get("client_assertion_type") != Some(ASSERTION) {
        return Err(wrong("client_assertion_type is not jwt-bearer"));
    }
    let assertion = Jws::parse(form.get("client_assertion").unwrap_or(""))
        .map_err(|e| wrong(&e.to_string()))?;
    let id = assertion
        .unverified_claims()
        .get("sub")
        .and_then(Value::as_str)
        .ok_or_else(|| wrong("no sub"))?
        .to_owned();
    if form.get("client_id").is_some_and(|other| other != id) {
        return Err(wrong("sub is not client_id"));
    }
    let client = app.client(&id).ok_or(Problem::ClientUnknown)?;
    let keys = client
        .jwks
        .as_ref()
        .ok_or_else(|| wrong("this client has no keys"))?;
    let keys = JwkSet::from_value(keys).map_err(|e| wrong(&e.to_string()))?;
    let claims = assertion.verify(&keys).map_err(|e| wrong(&e.to_string()))?;
    if claims.get("iss").and_then(Value::as_str) != Some(id.as_str()) {
        return Err(wrong("iss is not the client"));
    }
    let token_url = format!("{}{}", app.base, app.paths.token);
    let ours = |aud: &Value| {
        aud.as_str()
            .is_some_and(|a| a == app.issuer || a == token_url)
    };
    let for_us = match claims.get("aud") {
        Some(Value::Array(list)) => list.iter().any(ours),
        Some(one) => ours(one),
        None => false,
    };
    if !for_us {
        return Err(wrong("aud is neither the issuer nor its token endpoint"));
    }
    if claims
        .get("exp")
        .and_then(Value::as_i64)
        .is_none_or(|exp| exp <= app.clock.now())
    {
        return Err(wrong("expired or without exp"));
    }
    let jti = claims
        .get("jti")
        .and_then(Value::as_str)
        .ok_or_else(|| wrong("no jti"))?;
    if !app.world().assertions.insert(format!("{id} {jti}")) {
        return Err(wrong("jti was used before"));
    }
    if client.auth_methods().contains(&ClientAuth::PrivateKeyJwt) {
        Ok(client)
    } else {
        Err(Problem::ClientSecretWrong)
    }
}
