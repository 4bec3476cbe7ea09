//! The endpoints, one file per family. Each takes the fields it knows, asks the keeper, and shapes the answer.
//!
//! A new endpoint is one variant in [`crate::route`] and one function in the file of its family; a new family is one file here.

mod capabilities;
mod credentials;
mod kerberos;
mod mounts;
mod oidc;
mod policies;
pub(crate) mod status;
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
        Route::Login(LoginRoute::Kerberos) => kerberos::login(call),
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
        Route::Token(route) => tokens::answer(inner, route, call, caller).await,
        Route::Policy { legacy, name } => policies::answer(inner, legacy, name, call).await,
        Route::Mounts { class, path } => mounts::answer(inner, class, path, call),
        Route::Capabilities(whose) => capabilities::answer(inner, whose, call, caller).await,
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
