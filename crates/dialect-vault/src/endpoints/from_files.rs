//! What administrators of the original write by API and what here follows from the configuration files: shown as the original shows it,
//! secrets left out, and not written. A refusal names the key to change.

use gridkeep_keeper::{
    CallbackMode, IssuerSetup, KerberosMount, LoginTerms, Operation, RoleSetup, Seconds,
};
use http::StatusCode;
use serde_json::{Map, Value, json};

use super::status::object;
use crate::answer::Answer;
use crate::failure::Trouble;
use crate::route::{FromFiles, KerberosPart};
use crate::service::{Call, Inner};

/// Why no groups are given to Kerberos logins.
const NO_GROUPS: &str = "Kerberos logins have no groups here, because this server never asks an LDAP server for them; what a login may use follows from issuer and role, and more can be delegated to a person (delegation/<issuer>/<credkey>:<role>)";

pub(super) fn answer(
    inner: &Inner,
    what: FromFiles<'_>,
    call: &mut Call<'_>,
) -> Result<Answer, Trouble> {
    match call.operation {
        Operation::Read => read(inner, what),
        Operation::List => list(inner, what),
        Operation::Scan => Err(Trouble::unsupported()),
        Operation::Create | Operation::Update | Operation::Patch | Operation::Delete => {
            Err(refusal(inner, what))
        }
    }
}

fn refusal(inner: &Inner, what: FromFiles<'_>) -> Trouble {
    let from_files = |what: &str, key: &str| Trouble::from_files(&inner.keeper, what, key);
    match what {
        FromFiles::Issuer(issuer) => from_files(
            &format!("the configuration of issuer \"{issuer}\""),
            &format!("issuers[{issuer}]"),
        ),
        FromFiles::Role {
            issuer,
            role: Some(role),
        } => from_files(
            &format!("role \"{role}\" of issuer \"{issuer}\""),
            &format!("issuers[{issuer}].roles[{role}]"),
        ),
        FromFiles::Kerberos { part, mount } => match part {
            KerberosPart::Config | KerberosPart::Ldap => from_files(
                &format!("the Kerberos login at \"auth/{mount}/\""),
                "kerberos",
            ),
            KerberosPart::Groups(_) => Trouble::text(StatusCode::METHOD_NOT_ALLOWED, NO_GROUPS),
        },
        FromFiles::Server(Some(issuer)) => from_files(
            &format!("server \"{issuer}\""),
            &format!("issuers[{issuer}]"),
        ),
        FromFiles::Credentials => from_files("the mount \"secret/oauth/\"", "issuers"),
        FromFiles::Role { role: None, .. } | FromFiles::Server(None) => Trouble::unsupported(),
    }
}

fn read(inner: &Inner, what: FromFiles<'_>) -> Result<Answer, Trouble> {
    let setup = inner.keeper.setup();
    let shown = match what {
        FromFiles::Issuer(issuer) => setup.issuer(issuer).map(issuer_config),
        FromFiles::Role {
            issuer,
            role: Some(role),
        } => setup
            .issuer(issuer)
            .and_then(|issuer| Some((issuer, issuer.role(role)?)))
            .map(|(issuer, role)| role_of(inner, issuer, role)),
        FromFiles::Server(Some(issuer)) => setup.issuer(issuer).map(server),
        FromFiles::Kerberos { mount, part } => {
            let mount = inner.keeper.kerberos_mount(mount);
            match part {
                KerberosPart::Config => mount.map(|mount| kerberos_config(&mount)),
                KerberosPart::Ldap => mount.map(|mount| ldap_config(&mount)),
                KerberosPart::Groups(Some(_)) => None,
                KerberosPart::Groups(None) => return Err(Trouble::unsupported()),
            }
        }
        FromFiles::Credentials => Some(credentials_config()),
        FromFiles::Role { role: None, .. } | FromFiles::Server(None) => {
            return Err(Trouble::unsupported());
        }
    };
    Ok(shown.map_or_else(Answer::nothing, Answer::data))
}

fn list(inner: &Inner, what: FromFiles<'_>) -> Result<Answer, Trouble> {
    let setup = inner.keeper.setup();
    let mut names: Vec<String> = match what {
        // In lower case, as the original keeps them.
        FromFiles::Role { issuer, role: None } => setup
            .issuer(issuer)
            .map(|issuer| issuer.roles.iter().map(|role| role.name.to_lowercase()))
            .into_iter()
            .flatten()
            .collect(),
        FromFiles::Server(None) => setup
            .issuers
            .iter()
            .map(|issuer| issuer.name.clone())
            .collect(),
        FromFiles::Kerberos {
            part: KerberosPart::Groups(None),
            ..
        } => Vec::new(),
        _ => return Err(Trouble::unsupported()),
    };
    names.sort_unstable();
    Ok(Answer::keys(names))
}

fn issuer_config(issuer: &IssuerSetup) -> Map<String, Value> {
    object(json!({
        "bound_issuer": "",
        "default_role": "default",
        "jwks_ca_pem": "",
        "jwks_url": "",
        "jwt_supported_algs": [],
        "jwt_validation_pubkeys": [],
        "namespace_in_state": true,
        "oidc_client_id": issuer.client_id,
        "oidc_discovery_ca_pem": "",
        "oidc_discovery_url": issuer.url,
        "oidc_response_mode": "",
        "oidc_response_types": [],
        "override_allowed_server_names": [],
        "provider_config": {},
        "skip_jwks_validation": false,
    }))
}

fn role_of(inner: &Inner, issuer: &IssuerSetup, role: &RoleSetup) -> Map<String, Value> {
    let setup = inner.keeper.setup();
    let claim = role.credclaim.as_ref().unwrap_or(&issuer.credclaim);
    let terms = &role.terms;
    let bound: Map<String, Value> = terms
        .bound_claims
        .iter()
        .map(|bound| (bound.claim.as_str().to_owned(), bound.values.clone().into()))
        .collect();
    let callback_mode = match issuer.callback_mode {
        CallbackMode::Device => "device",
        CallbackMode::Direct | CallbackMode::NoConfirm => "direct",
    };
    let mut shown = object(json!({
        "allowed_redirect_uris": setup.callback_urls(&issuer.name).collect::<Vec<_>>(),
        "bound_audiences": null,
        "bound_claims": if bound.is_empty() { Value::Null } else { bound.into() },
        "bound_claims_type": "string",
        "bound_subject": "",
        "callback_mode": callback_mode,
        "claim_mappings": { claim.as_str(): "credkey" },
        "clock_skew_leeway": 0,
        "expiration_leeway": 0,
        "groups_claim": "",
        "max_age": 0,
        "not_before_leeway": 0,
        "oauth2_metadata": ["refresh_token"],
        "oidc_disable_confirmation": issuer.callback_mode == CallbackMode::NoConfirm,
        "oidc_scopes": role.scopes,
        "poll_interval": 3,
        "role_type": "oidc",
        "user_claim": claim,
        "user_claim_json_pointer": issuer.credclaim_pointer,
        "verbose_oidc_logging": false,
    }));
    shown.append(&mut token_fields(
        terms,
        &inner.keeper.login_policies(&issuer.name, &role.name),
    ));
    shown
}

/// What the tokens of a login get.
fn token_fields(terms: &LoginTerms, policies: &[String]) -> Map<String, Value> {
    let seconds = |length: Option<Seconds>| length.unwrap_or(Seconds(0)).0;
    let networks: Vec<String> = terms.bound_cidrs.iter().map(ToString::to_string).collect();
    object(json!({
        "token_bound_cidrs": networks,
        "token_explicit_max_ttl": 0,
        "token_max_ttl": seconds(terms.max_ttl),
        "token_no_default_policy": true,
        "token_num_uses": 0,
        "token_period": seconds(terms.period),
        "token_policies": policies,
        "token_ttl": seconds(terms.ttl),
        "token_type": "default",
    }))
}

/// The keytab is never shown.
fn kerberos_config(mount: &KerberosMount) -> Map<String, Value> {
    object(json!({
        "add_group_aliases": false,
        "decode_pac": true,
        "remove_instance_name": false,
        "service_account": mount.service_account,
    }))
}

/// LDAP is never asked, so nothing is said of it; the original keeps the fields of the tokens here.
fn ldap_config(mount: &KerberosMount) -> Map<String, Value> {
    let mut shown =
        object(json!({"groupattr": "", "groupdn": "", "url": "", "userattr": "", "userdn": ""}));
    shown.append(&mut token_fields(&mount.terms, &mount.policies));
    shown
}

fn server(issuer: &IssuerSetup) -> Map<String, Value> {
    object(json!({
        "auth_url_params": null,
        "client_id": issuer.client_id,
        "provider": "oidc",
        "provider_options": { "issuer_url": issuer.url },
        "provider_version": 1,
    }))
}

/// What an installation of htvault-config shows here. Nothing of it can be set: refreshing and forgetting are this server's own.
fn credentials_config() -> Map<String, Value> {
    object(json!({
        "default_server": "legacy",
        "tune_provider_timeout_expiry_leeway_factor": 1.5,
        "tune_provider_timeout_seconds": 30,
        "tune_reap_check_interval_seconds": 300,
        "tune_reap_dry_run": false,
        "tune_reap_non_refreshable_seconds": 86400,
        "tune_reap_revoked_seconds": 3600,
        "tune_reap_server_deleted_seconds": 86400,
        "tune_reap_transient_error_attempts": 10,
        "tune_reap_transient_error_seconds": 86400,
        "tune_refresh_check_interval_seconds": 0,
        "tune_refresh_expiry_delta_factor": 1.2,
    }))
}
