//! Refresh (RFC 6749 section 6). No scope is named: what the grant allows is what the answer gives.

use secrecy::SecretString;

use crate::api::TokenResponse;
use crate::client::Client;
use crate::error::IssuerError;
use crate::form::Form;

pub(crate) async fn refresh(
    client: &Client,
    refresh_token: &SecretString,
) -> Result<TokenResponse, IssuerError> {
    client
        .ask_tokens(Form::grant("refresh_token").secret("refresh_token", refresh_token))
        .await
}
