//! Claims of access and id tokens in each character's form, and refresh token texts. It is told who and what; it checks nothing.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use gridkeep_token::jws::{self, KeyError};
use gridkeep_token::profile::{SCITOKENS_ANY_AUDIENCE, WLCG_ANY_AUDIENCE};
use serde_json::{Map, Value, json};

use super::options::{Character, TokenProfile, User};
use super::scopes::Resolved;
use super::state::{App, Grant, random_text};

/// A signed access token and what the issuer remembers of it.
pub(crate) struct Minted {
    pub(crate) token: String,
    pub(crate) jti: String,
    pub(crate) expires: i64,
    pub(crate) lifetime: i64,
}

/// An access token for `grant`.
pub(crate) fn access_token(
    app: &App,
    grant: &Grant,
    user: Option<&User>,
    resolved: &Resolved,
    audiences: &[String],
) -> Result<Minted, KeyError> {
    let now = app.clock.now();
    let lifetime = app.settings().access_token_seconds;
    let character = app.options.character;
    let jti = match character {
        Character::Cilogon => format!(
            "{}/oauth2/{}?type=accessToken&ts={}&version=v2.0",
            app.base,
            random_text(12),
            app.clock.now_ms()
        ),
        _ => random_text(16),
    };
    let mut claims = Map::new();
    let mut put = |name: &str, value: Value| {
        claims.insert(name.to_owned(), value);
    };
    put("iss", json!(app.issuer));
    put(
        "sub",
        json!(user.map_or_else(|| grant.client.clone(), User::subject)),
    );
    let scitokens = app.options.profile == TokenProfile::Scitokens;
    let any = if scitokens {
        SCITOKENS_ANY_AUDIENCE
    } else {
        WLCG_ANY_AUDIENCE
    };
    put("aud", audience(audiences, any));
    put("exp", json!(now + lifetime));
    put("iat", json!(now));
    put("jti", json!(jti));
    if scitokens {
        put("ver", json!("scitoken:2.0"));
    } else {
        put("wlcg.ver", json!("1.0"));
    }
    match character {
        Character::Wlcg => {
            put("nbf", json!(now - 60));
            put("client_id", json!(grant.client));
        }
        Character::Iam => {
            put("nbf", json!(now));
            put("client_id", json!(grant.client));
        }
        Character::Cilogon => put("nbf", json!(now - 5)),
        Character::Keycloak => {
            put("typ", json!("Bearer"));
            put("azp", json!(grant.client));
            put("sid", json!(grant.sid));
            put("acr", json!("1"));
            put("auth_time", json!(grant.auth_time));
            if let Some(user) = user {
                put("preferred_username", json!(user.name));
            }
        }
    }
    if scitokens {
        // `scope` is required there, even when it grants nothing.
        put("scope", json!(scitokens_scopes(&resolved.claim).join(" ")));
    } else if !resolved.claim.is_empty() {
        put("scope", json!(resolved.claim.join(" ")));
    }
    if let Some(groups) = resolved.groups.as_ref().filter(|g| !g.is_empty()) {
        put("wlcg.groups", json!(groups));
    }
    let token = app.keys().sign(true, &Value::Object(claims))?;
    Ok(Minted {
        token,
        jti,
        expires: now + lifetime,
        lifetime,
    })
}

/// Scopes of a WLCG token in the words of SciTokens; each once.
fn scitokens_scopes(scopes: &[String]) -> Vec<String> {
    let mut result: Vec<String> = Vec::new();
    for scope in scopes {
        let (name, path) = scope
            .split_once(':')
            .map_or((scope.as_str(), None), |(n, p)| (n, Some(p)));
        let word = match (name, path) {
            ("storage.read", Some(path)) => format!("read:{path}"),
            ("storage.create" | "storage.modify", Some(path)) => format!("write:{path}"),
            _ => scope.clone(),
        };
        if !result.contains(&word) {
            result.push(word);
        }
    }
    result
}

fn audience(audiences: &[String], any: &str) -> Value {
    match audiences {
        [] => json!(any),
        [one] => json!(one),
        many => json!(many),
    }
}

/// An id_token that goes with `access_token`.
pub(crate) fn id_token(
    app: &App,
    grant: &Grant,
    user: &User,
    resolved: &Resolved,
    access_token: &str,
) -> Result<String, KeyError> {
    let now = app.clock.now();
    let keys = app.keys();
    let mut claims = person(app, user, &grant.scopes);
    let mut put = |name: &str, value: Value| {
        claims.insert(name.to_owned(), value);
    };
    put("iss", json!(app.issuer));
    put("aud", json!(grant.client));
    put("exp", json!(now + app.options.id_token_seconds));
    put("iat", json!(now));
    put("jti", json!(random_text(16)));
    put("auth_time", json!(grant.auth_time));
    put(
        "at_hash",
        json!(jws::hash_half(keys.algorithm(), access_token.as_bytes())),
    );
    put("wlcg.ver", json!("1.0"));
    if let Some(nonce) = &grant.nonce {
        put("nonce", json!(nonce));
    }
    if let Some(groups) = resolved.groups.as_ref().filter(|g| !g.is_empty()) {
        put("wlcg.groups", json!(groups));
    }
    if app.options.character == Character::Keycloak {
        put("azp", json!(grant.client));
        put("sid", json!(grant.sid));
        put("typ", json!("ID"));
    }
    keys.sign(false, &Value::Object(claims))
}

/// Claims about a person, as in userinfo and id_token: `sub`, what is configured, and what the scopes ask for.
pub(crate) fn person(app: &App, user: &User, scopes: &[String]) -> Map<String, Value> {
    let asked = |name: &str| {
        scopes.iter().any(|s| s == name) || app.options.character == Character::Keycloak
    };
    let mut claims = Map::new();
    for (name, value) in &user.claims {
        let scope = match name.as_str() {
            "email" | "email_verified" => "email",
            "name" | "given_name" | "family_name" | "preferred_username" => "profile",
            _ => "",
        };
        if scope.is_empty() || asked(scope) {
            claims.insert(name.clone(), value.clone());
        }
    }
    if asked("profile") {
        claims
            .entry("preferred_username")
            .or_insert_with(|| json!(user.name));
    }
    for (scope, more) in &user.claims_when {
        if scopes.contains(scope) {
            claims.extend(more.clone());
        }
    }
    claims.insert("sub".to_owned(), json!(user.subject()));
    claims
}

/// Text of a new refresh token in the character's form: IAM's is an unsigned JWT, Keycloak's a long one with a MAC,
/// CILogon's base32-like, ours short. All are opaque to clients.
pub(crate) fn refresh_text(app: &App, grant: &Grant, expires: i64) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    match app.options.character {
        Character::Wlcg => format!("rt.{}", random_text(32)),
        Character::Iam => format!(
            "{}.{}.",
            part(&json!({"alg": "none"})),
            part(&json!({"jti": random_text(24), "exp": expires}))
        ),
        Character::Cilogon => format!(
            "NB2HI4DTHIXS6{}",
            random_text(48)
                .replace(['-', '_'], "A")
                .to_ascii_uppercase()
        ),
        Character::Keycloak => {
            let offline = grant.scopes.iter().any(|s| s == "offline_access");
            let header = json!({"alg": "HS512", "typ": "JWT", "kid": "1f0d2c6e-5a0b-4c0e-9d65-0d3c5a3f8e11"});
            let claims = json!({
                "exp": expires, "iat": app.clock.now(), "jti": random_text(16), "iss": app.issuer, "aud": app.issuer,
                "typ": if offline { "Offline" } else { "Refresh" }, "azp": grant.client, "sid": grant.sid,
                "scope": grant.scopes.join(" "),
            });
            format!("{}.{}.{}", part(&header), part(&claims), random_text(64))
        }
    }
}
