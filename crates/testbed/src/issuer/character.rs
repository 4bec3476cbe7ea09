//! Habits of each kind of issuer that are not error texts: paths, issuer identifier, discovery document, defaults.
//! It owns no state and decides no request. A new character is one more arm in each function here and in `problem`.
//!
//! Facts come from the public sources of INDIGO IAM (well-known provider), OA4MP (CILogon's server) and Keycloak.

use serde_json::{Map, Value, json};

use super::options::{AudienceBy, Character, ClientAuth, Options, Rotation, ScopeOrder};

/// Where everything is, as paths on the issuer's host.
#[derive(Clone, Debug)]
pub(crate) struct Paths {
    pub(crate) discovery: Vec<String>,
    pub(crate) authorize: String,
    pub(crate) token: String,
    pub(crate) device: String,
    /// Page where a person types the user code.
    pub(crate) verification: String,
    pub(crate) userinfo: String,
    pub(crate) jwks: String,
    pub(crate) revoke: String,
    pub(crate) introspect: String,
}

impl Paths {
    pub(crate) fn of(character: Character, vo: &str) -> Self {
        let own = |text: &str| text.to_owned();
        match character {
            Character::Wlcg => Self {
                discovery: vec![
                    own("/.well-known/openid-configuration"),
                    own("/.well-known/oauth-authorization-server"),
                ],
                authorize: own("/authorize"),
                token: own("/token"),
                device: own("/device_authorization"),
                verification: own("/device"),
                userinfo: own("/userinfo"),
                jwks: own("/jwks"),
                revoke: own("/revoke"),
                introspect: own("/introspect"),
            },
            Character::Iam => Self {
                discovery: vec![
                    own("/.well-known/openid-configuration"),
                    own("/.well-known/oauth-authorization-server"),
                ],
                authorize: own("/authorize"),
                token: own("/token"),
                device: own("/devicecode"),
                verification: own("/device"),
                userinfo: own("/userinfo"),
                jwks: own("/jwk"),
                revoke: own("/revoke"),
                introspect: own("/introspect"),
            },
            Character::Cilogon => Self {
                discovery: vec![
                    format!("/{vo}/.well-known/openid-configuration"),
                    format!("/.well-known/openid-configuration/{vo}"),
                    format!("/.well-known/oauth-authorization-server/{vo}"),
                ],
                authorize: own("/authorize"),
                token: own("/oauth2/token"),
                device: own("/oauth2/device_authorization"),
                verification: own("/device/"),
                userinfo: own("/oauth2/userinfo"),
                jwks: format!("/oauth2/certs/{vo}"),
                revoke: own("/oauth2/revoke"),
                introspect: own("/oauth2/introspect"),
            },
            Character::Keycloak => {
                let connect = |rest: &str| format!("/realms/{vo}/protocol/openid-connect/{rest}");
                Self {
                    discovery: vec![format!("/realms/{vo}/.well-known/openid-configuration")],
                    authorize: connect("auth"),
                    token: connect("token"),
                    device: connect("auth/device"),
                    verification: format!("/realms/{vo}/device"),
                    userinfo: connect("userinfo"),
                    jwks: connect("certs"),
                    revoke: connect("revoke"),
                    introspect: connect("token/introspect"),
                }
            }
        }
    }
}

/// Issuer identifier, to the character: IAM's ends with a slash, CILogon's and Keycloak's have a path.
pub(crate) fn issuer(character: Character, base: &str, vo: &str) -> String {
    match character {
        Character::Wlcg => base.to_owned(),
        Character::Iam => format!("{base}/"),
        Character::Cilogon => format!("{base}/{vo}"),
        Character::Keycloak => format!("{base}/realms/{vo}"),
    }
}

/// What each does with a used refresh token unless configured otherwise. Keycloak (with "revoke refresh token" off, its
/// default) and CILogon answer every refresh with a new one.
pub(crate) fn rotation(options: &Options) -> Rotation {
    options.rotation.unwrap_or(match options.character {
        Character::Wlcg | Character::Iam => Rotation::None,
        Character::Cilogon => Rotation::Immediate,
        Character::Keycloak => Rotation::Grace,
    })
}

/// JOSE name of the signing algorithm.
pub(crate) fn algorithm(options: &Options) -> &str {
    options
        .algorithm
        .as_deref()
        .unwrap_or(match options.character {
            Character::Wlcg => "ES256",
            _ => "RS256",
        })
}

/// Ways to ask for an audience.
pub(crate) fn audience_by(options: &Options) -> Vec<AudienceBy> {
    options
        .audience_by
        .clone()
        .unwrap_or_else(|| match options.character {
            Character::Wlcg => vec![
                AudienceBy::Audience,
                AudienceBy::Resource,
                AudienceBy::Scope,
            ],
            Character::Iam | Character::Cilogon => vec![AudienceBy::Audience, AudienceBy::Resource],
            Character::Keycloak => vec![AudienceBy::Scope],
        })
}

/// Order in which scopes come back: IAM keeps them in a hash set, OA4MP in a tree set.
pub(crate) fn scope_order(options: &Options) -> ScopeOrder {
    options.scope_order.unwrap_or(match options.character {
        Character::Wlcg | Character::Keycloak => ScopeOrder::Requested,
        Character::Iam => ScopeOrder::Reversed,
        Character::Cilogon => ScopeOrder::Sorted,
    })
}

/// The discovery document.
pub(crate) fn discovery(
    options: &Options,
    base: &str,
    paths: &Paths,
    algorithms: &[String],
) -> Value {
    let at = |path: &str| format!("{base}{path}");
    let iss = issuer(options.character, base, &options.vo);
    let mut doc = Map::new();
    let mut put = |name: &str, value: Value| {
        doc.insert(name.to_owned(), value);
    };
    put("issuer", json!(iss));
    put("authorization_endpoint", json!(at(&paths.authorize)));
    put("token_endpoint", json!(at(&paths.token)));
    put("userinfo_endpoint", json!(at(&paths.userinfo)));
    put("jwks_uri", json!(at(&paths.jwks)));
    put("introspection_endpoint", json!(at(&paths.introspect)));
    put("revocation_endpoint", json!(at(&paths.revoke)));
    put("device_authorization_endpoint", json!(at(&paths.device)));
    let grants = |more: &[&str]| {
        let mut all = vec!["authorization_code", "refresh_token", "client_credentials"];
        all.extend_from_slice(more);
        all.extend([
            "urn:ietf:params:oauth:grant-type:token-exchange",
            "urn:ietf:params:oauth:grant-type:device_code",
        ]);
        json!(all)
    };
    match options.character {
        Character::Wlcg => {
            put("response_types_supported", json!(["code"]));
            put("response_modes_supported", json!(["query"]));
            put("grant_types_supported", grants(&[]));
            put("subject_types_supported", json!(["public"]));
            put("id_token_signing_alg_values_supported", json!(algorithms));
            put("code_challenge_methods_supported", json!(["S256"]));
            put(
                "authorization_response_iss_parameter_supported",
                json!(true),
            );
            put(
                "scopes_supported",
                json!([
                    "openid",
                    "offline_access",
                    "profile",
                    "email",
                    "wlcg",
                    "wlcg.groups",
                    "wlcg.capabilityset",
                    "storage.read:/",
                    "storage.create:/",
                    "storage.modify:/",
                    "storage.stage:/",
                    "storage.poll:/",
                    "compute.read",
                    "compute.modify",
                    "compute.create",
                    "compute.cancel",
                    "host.auth"
                ]),
            );
        }
        Character::Iam => {
            let signing = [
                "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "ES256", "ES384", "ES512",
                "PS256", "PS384", "PS512",
            ];
            let mut id_token = signing.to_vec();
            id_token.push("none");
            put(
                "registration_endpoint",
                json!(at("/iam/api/client-registration")),
            );
            put("op_policy_uri", json!(at("/about")));
            put("op_tos_uri", json!(at("/about")));
            put("scim_endpoint", json!(at("/scim")));
            put("response_types_supported", json!(["code", "token"]));
            put("grant_types_supported", grants(&["implicit", "password"]));
            put("subject_types_supported", json!(["public", "pairwise"]));
            put("id_token_signing_alg_values_supported", json!(id_token));
            put("userinfo_signing_alg_values_supported", json!(signing));
            put(
                "request_object_signing_alg_values_supported",
                json!(signing),
            );
            put(
                "token_endpoint_auth_signing_alg_values_supported",
                json!(signing),
            );
            put("claim_types_supported", json!(["normal"]));
            put(
                "claims_supported",
                json!([
                    "sub",
                    "name",
                    "preferred_username",
                    "given_name",
                    "family_name",
                    "email",
                    "email_verified",
                    "organisation_name",
                    "groups",
                    "wlcg.groups",
                    "external_authn"
                ]),
            );
            put("claims_parameter_supported", json!(true));
            put("request_parameter_supported", json!(true));
            put("request_uri_parameter_supported", json!(false));
            put("require_request_uri_registration", json!(false));
            put("code_challenge_methods_supported", json!(["plain", "S256"]));
            put(
                "scopes_supported",
                json!([
                    "openid",
                    "profile",
                    "email",
                    "address",
                    "phone",
                    "offline_access",
                    "eduperson_scoped_affiliation",
                    "wlcg",
                    "wlcg.groups",
                    "storage.read:/",
                    "storage.create:/",
                    "storage.modify:/",
                    "storage.stage:/",
                    "compute.read",
                    "compute.modify",
                    "compute.create",
                    "compute.cancel"
                ]),
            );
        }
        Character::Cilogon => {
            put("registration_endpoint", json!(at("/oauth2/oidc-cm")));
            put(
                "revocation_endpoint_auth_methods_supported",
                json!(["client_secret_basic"]),
            );
            put("response_types_supported", json!(["code", "id_token"]));
            put(
                "response_modes_supported",
                json!(["query", "fragment", "form_post"]),
            );
            put(
                "grant_types_supported",
                grants(&["web", "urn:edu:uiuc:ncsa:oauth:grant-type:token-info"]),
            );
            put("subject_types_supported", json!(["public"]));
            put(
                "id_token_signing_alg_values_supported",
                json!(["RS256", "RS384", "RS512"]),
            );
            put("code_challenge_methods_supported", json!(["plain", "S256"]));
            put("request_parameter_supported", json!(false));
            put("request_uri_parameter_supported", json!(false));
            put(
                "scopes_supported",
                json!([
                    "openid",
                    "email",
                    "profile",
                    "org.cilogon.userinfo",
                    "wlcg.capabilityset",
                    "offline_access"
                ]),
            );
            put(
                "claims_supported",
                json!([
                    "aud",
                    "auth_time",
                    "email",
                    "eppn",
                    "eptid",
                    "exp",
                    "iat",
                    "iss",
                    "name",
                    "nonce",
                    "sub",
                    "wlcg.credkey"
                ]),
            );
        }
        Character::Keycloak => {
            let signing = [
                "PS384", "RS384", "EdDSA", "ES384", "HS256", "HS512", "ES256", "RS256", "HS384",
                "ES512", "PS256", "PS512", "RS512",
            ];
            put(
                "end_session_endpoint",
                json!(at(&paths.token.replace("/token", "/logout"))),
            );
            put("frontchannel_logout_supported", json!(true));
            put(
                "grant_types_supported",
                grants(&["implicit", "password", "urn:openid:params:grant-type:ciba"]),
            );
            put("acr_values_supported", json!(["0", "1"]));
            put(
                "response_types_supported",
                json!([
                    "code",
                    "none",
                    "id_token",
                    "token",
                    "id_token token",
                    "code id_token",
                    "code token",
                    "code id_token token"
                ]),
            );
            put(
                "response_modes_supported",
                json!([
                    "query",
                    "fragment",
                    "form_post",
                    "query.jwt",
                    "fragment.jwt",
                    "form_post.jwt",
                    "jwt"
                ]),
            );
            put("subject_types_supported", json!(["public", "pairwise"]));
            put("id_token_signing_alg_values_supported", json!(signing));
            put(
                "token_endpoint_auth_signing_alg_values_supported",
                json!(signing),
            );
            put(
                "revocation_endpoint_auth_methods_supported",
                json!([
                    "private_key_jwt",
                    "client_secret_basic",
                    "client_secret_post",
                    "tls_client_auth",
                    "client_secret_jwt"
                ]),
            );
            put(
                "claims_supported",
                json!([
                    "iss",
                    "sub",
                    "aud",
                    "exp",
                    "iat",
                    "auth_time",
                    "name",
                    "given_name",
                    "family_name",
                    "preferred_username",
                    "email",
                    "acr",
                    "azp",
                    "nonce"
                ]),
            );
            put("claim_types_supported", json!(["normal"]));
            put("claims_parameter_supported", json!(true));
            put(
                "scopes_supported",
                json!([
                    "openid",
                    "address",
                    "phone",
                    "roles",
                    "offline_access",
                    "email",
                    "profile",
                    "acr",
                    "web-origins"
                ]),
            );
            put("request_parameter_supported", json!(true));
            put("request_uri_parameter_supported", json!(true));
            put("require_request_uri_registration", json!(true));
            put("code_challenge_methods_supported", json!(["plain", "S256"]));
            put("tls_client_certificate_bound_access_tokens", json!(true));
            put(
                "authorization_response_iss_parameter_supported",
                json!(true),
            );
        }
    }
    put(
        "token_endpoint_auth_methods_supported",
        auth_methods(options),
    );
    for (name, value) in &options.discovery {
        if value.is_null() {
            doc.remove(name);
        } else {
            doc.insert(name.clone(), value.clone());
        }
    }
    Value::Object(doc)
}

fn auth_methods(options: &Options) -> Value {
    if let Some(methods) = &options.auth_methods {
        return methods.iter().map(|m| m.name()).collect();
    }
    let own = match options.character {
        Character::Wlcg => vec![
            ClientAuth::ClientSecretBasic.name(),
            ClientAuth::ClientSecretPost.name(),
            ClientAuth::PrivateKeyJwt.name(),
            ClientAuth::None.name(),
        ],
        Character::Iam => vec![
            "client_secret_basic",
            "client_secret_post",
            "client_secret_jwt",
            "private_key_jwt",
            "none",
        ],
        Character::Cilogon => vec![
            "client_secret_post",
            "client_secret_basic",
            "private_key_jwt",
        ],
        Character::Keycloak => {
            vec![
                "private_key_jwt",
                "client_secret_basic",
                "client_secret_post",
                "tls_client_auth",
                "client_secret_jwt",
            ]
        }
    };
    json!(own)
}
