//! The endpoints, one file per family. Each takes the fields it knows, asks the keeper, and shapes the answer.
//!
//! A new endpoint is one variant in [`crate::route`] and one function in the file of its family; a new family is one file here.

mod capabilities;
mod credentials;
mod delegations;
mod from_files;
pub(crate) mod help;
mod host;
mod kerberos;
mod keys;
mod leases;
mod metrics;
mod mounts;
pub(crate) mod nodes;
mod oidc;
mod policies;
mod quotas;
mod rekey;
mod ssh;
pub(crate) mod status;
mod token_roles;
mod tokens;

use http::StatusCode;

use crate::answer::Answer;
use crate::failure::Trouble;
use crate::route::{LoginRoute, Route};
use crate::service::{Call, Caller, Inner};

/// An endpoint that needs no token.
pub(crate) async fn open(
    inner: &Inner,
    route: Route<'_>,
    call: &mut Call<'_>,
) -> Result<Answer, Trouble> {
    match route {
        Route::Login(LoginRoute::AuthUrl { issuer }) => oidc::auth_url(inner, issuer, call).await,
        Route::Login(LoginRoute::Callback { issuer }) => oidc::callback(inner, issuer, call).await,
        Route::Login(LoginRoute::Poll { issuer }) => oidc::poll(inner, issuer, call).await,
        Route::Login(LoginRoute::Jwt { issuer }) => oidc::jwt(inner, issuer, call),
        Route::Login(LoginRoute::SshNonce) => ssh::nonce(inner, call).await,
        Route::Login(LoginRoute::SshLogin) => ssh::login(inner, call).await,
        Route::Login(LoginRoute::Kerberos { mount }) => kerberos::login(inner, mount, call).await,
        Route::UiMounts => mounts::visible(call),
        // Every other route is guarded.
        _ => Err(missing(call.path)),
    }
}

/// An endpoint that needs a token, which was proven and is allowed here.
pub(crate) async fn guarded(
    inner: &Inner,
    route: Route<'_>,
    call: &mut Call<'_>,
    caller: &Caller<'_>,
) -> Result<Answer, Trouble> {
    match route {
        Route::Credential { kind, name } => {
            credentials::answer(inner, kind, name, call, caller).await
        }
        Route::Delegation { lasting, name } => {
            delegations::answer(inner, lasting, name, call, caller).await
        }
        Route::Token(route) => tokens::answer(inner, route, call, caller).await,
        Route::TokenOfRole(role) => tokens::by_role(inner, role, call, caller).await,
        Route::TokenRole(role) => token_roles::answer(inner, role, call).await,
        Route::Lease(route) => leases::answer(inner, route, call).await,
        Route::Audit(path) => host::audit(inner, path, call),
        Route::AuditHash(device) => host::audit_hash(inner, device, call),
        Route::Plugins(rest) => host::plugins(inner, rest, call),
        Route::HostInfo => host::host_info(inner, call),
        Route::HaStatus => nodes::all(inner, call),
        Route::Raft(route) => nodes::raft(inner, route, call),
        Route::StepDown => nodes::step_down(call),
        Route::Remount => Err(mounts::cannot_be_moved()),
        Route::UiMount(path) => host::mount_of(inner, path, call, &caller.bearer.token),
        Route::Policy { legacy, name } => policies::answer(inner, legacy, name, call).await,
        Route::Mounts { class, path } => mounts::answer(inner, class, path, call),
        Route::FromFiles(what) => from_files::answer(inner, what, call),
        Route::Quota(route) => quotas::answer(inner, route, call).await,
        Route::OwnToken(accessor) => tokens::own(inner, accessor, call, caller).await,
        Route::Ssh(route) => ssh::answer(inner, route, call, caller).await,
        Route::Keys(route) => keys::answer(inner, route, call, caller).await,
        Route::Capabilities(whose) => capabilities::answer(inner, whose, call, caller).await,
        Route::Unknown if inner.is_mounted(call.path) => Err(Trouble::unsupported_path()),
        Route::Metrics => metrics::answer(inner, call),
        Route::Status(_) | Route::Login(_) | Route::UiMounts | Route::Unknown => {
            Err(missing(call.path))
        }
    }
}

fn missing(path: &str) -> Trouble {
    Trouble::text(
        StatusCode::NOT_FOUND,
        format!("no handler for route \"{path}\". route entry not found."),
    )
}
