//! `?help=1`: one paragraph about a path, for `path-help` of the command line.

use http::StatusCode;
use serde_json::json;

use super::status::object;
use crate::answer::Answer;
use crate::failure::Trouble;
use crate::route::{CredentialKind, KeysRoute, LoginRoute, MountClass, Route, TokenRoute, Whose};

/// The help on a route. It is the same whoever asks and tells nothing about what is stored.
pub(crate) fn answer(route: Route<'_>, path: &str) -> Result<Answer, Trouble> {
    let text = text(route).ok_or_else(|| super::missing(path))?;
    Ok(Answer::bare(
        StatusCode::OK,
        object(json!({"help": text, "see_also": [], "openapi": null})),
    ))
}

fn text(route: Route<'_>) -> Option<&'static str> {
    Some(match route {
        Route::Status(_) => {
            "State of the server: whether it is initialised, sealed and in service. Open to everybody."
        }
        Route::Login(LoginRoute::Kerberos { .. }) => "Login with a Kerberos ticket.",
        Route::Login(LoginRoute::Jwt { .. }) => "Login with a JWT, which no role allows.",
        Route::Login(LoginRoute::SshNonce) => {
            "A text for an ssh-agent to sign, good for 30 seconds. With role, issuer and fingerprints it says which key would be accepted."
        }
        Route::Login(LoginRoute::SshLogin) => {
            "Login with an ssh key: POST with role (the credkey), public_key, signature, nonce, and metadata naming issuer and group."
        }
        Route::OwnToken(_) => {
            "One's own live tokens: LIST shows them, GET and DELETE with an accessor show and revoke one."
        }
        Route::Ssh(_) => {
            "The keys of ssh logins: role/<credkey> (public_keys, issuers) for operators, keys/<issuer>/<credkey> for one's own: GET, POST with fingerprint and ttl to let one end, DELETE with fingerprint."
        }
        Route::Login(_) => {
            "Login at a token issuer: POST oidc/auth_url (role, client_nonce, redirect_uri) begins it, POST oidc/poll (state, client_nonce) asks for its outcome, and browsers return to oidc/callback."
        }
        Route::UiMounts | Route::UiMount(_) => {
            "Which mount a path belongs to, for tools that ask before they read."
        }
        Route::Token(TokenRoute::Create { .. }) | Route::TokenOfRole(_) => {
            "Makes a token: POST with policies, ttl, explicit_max_ttl, period, num_uses, renewable, meta, display_name, bound_cidrs, no_parent, no_default_policy. A child of the caller's token unless said otherwise; it dies with its parent."
        }
        Route::Token(TokenRoute::Lookup(_)) => "Looks a token up.",
        Route::Token(TokenRoute::Renew(_)) => {
            "Gives a renewable token more life: POST with increment."
        }
        Route::Token(TokenRoute::Revoke(Whose::Own)) => {
            "Revokes the caller's token and all its descendants."
        }
        Route::Token(TokenRoute::Revoke(_)) => "Revokes a token and all its descendants.",
        Route::Token(TokenRoute::RevokeOrphan) => {
            "Revokes a token alone; its children live on as orphans."
        }
        Route::Token(TokenRoute::Accessors) => "Lists the accessors of all tokens.",
        Route::Token(TokenRoute::Tidy) => {
            "Does nothing that is not done all the time: dead tokens are swept by themselves."
        }
        Route::TokenRole(_) => {
            "Token roles: what others may make tokens of (auth/token/create/<role>) without sudo. allowed_policies, disallowed_policies and both as patterns, orphan, renewable, path_suffix, token_period, token_explicit_max_ttl, token_bound_cidrs, token_no_default_policy, token_num_uses."
        }
        Route::Credential {
            kind: CredentialKind::Base,
            ..
        } => {
            "Credentials, named <issuer>/<credkey>:<role>. GET gives an access token with at least minimum_seconds to live, narrowed when scopes or audience are given; POST stores a refresh token (server, refresh_token); DELETE removes it; LIST shows one's own names."
        }
        Route::Credential {
            kind: CredentialKind::Exchanged,
            ..
        } => {
            "Narrowed access tokens of a credential: GET with scopes, audiences, resources, minimum_seconds."
        }
        Route::Delegation { lasting: false, .. } => {
            "The use of a credential given to others: POST with to (a principal, as <login mount>/<name>; left out, a token is made), scopes, audiences, bound_cidrs, ttl, display_name; GET shows what was given, DELETE with id withdraws it. Ends after 28 days at most."
        }
        Route::Delegation { .. } => {
            "Tokens of robots, for those whom gridkeep.robots names: POST with period, scopes, audiences, bound_cidrs, ttl, display_name makes one, with id renews it; GET shows them, DELETE with id withdraws one."
        }
        Route::Policy { .. } => {
            "Policies: what tokens may do. LIST, GET, POST (policy as text or base64), DELETE."
        }
        Route::Mounts {
            class: MountClass::Auth,
            ..
        } => "Ways to log in. They follow from the configuration files and are only read here.",
        Route::Mounts { .. } => {
            "What answers below which path. Mounts follow from the configuration files and are only read here."
        }
        Route::Capabilities(_) => {
            "What a token may do on paths: POST with paths, and token or accessor."
        }
        Route::Lease(_) => {
            "Leases, which are those of tokens. revoke-prefix/auth/oidc-<issuer> ends all logins of an issuer."
        }
        Route::Audit(_) | Route::AuditHash(_) => {
            "The audit log, which the configuration files name, and how a text looks in it."
        }
        Route::Plugins(_) => "What is built in. There are no plugins.",
        Route::FromFiles(_) => {
            "What the configuration files say of issuers and their roles, secrets left out. Read only: change the files and reload."
        }
        Route::Quota(_) => {
            "Rate limits: POST rate-limit/<name> with path, rate, interval, block_interval and per (address or user); config with rate_limit_exempt_paths, enable_rate_limit_response_headers, enable_rate_limit_audit_logging. Those of the configuration files are read only."
        }
        Route::Keys(KeysRoute::Rekey(_)) => {
            "Other shares of another root key: PUT rekey/init with secret_shares, secret_threshold and require_verification, PUT rekey/update with key and nonce for each present share, PUT rekey/verify for each new one; DELETE ends it."
        }
        Route::Keys(_) => {
            "The keys of the store: POST seal drops them, POST rotate adds a data key, GET key-status tells which is in use."
        }
        Route::HostInfo => "A few facts about the machine.",
        Route::Metrics => {
            "What the server counts: GET as JSON, with format=prometheus in the text format of Prometheus."
        }
        Route::HaStatus => "The nodes of the cluster.",
        Route::Raft(_) => {
            "The nodes of the cluster, in the words of the original: GET storage/raft/configuration. Nodes come and go by being started and stopped, and etcd makes the copies."
        }
        Route::StepDown => {
            "Does nothing: nodes are equal, and none leads that another would wait for."
        }
        Route::Remount => "Mounts follow from the configuration files and are not moved here.",
        Route::Unknown => return None,
    })
}
