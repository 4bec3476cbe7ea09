//! Token exchange (RFC 8693), from an access token to a narrower access token.

use crate::api::{ExchangeRequest, TokenResponse};
use crate::client::Client;
use crate::error::IssuerError;
use crate::form::Form;
use crate::gate::Urgency;
use crate::standing::Asked;

const GRANT: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";

pub(crate) async fn exchange(
    client: &Client,
    request: &ExchangeRequest,
) -> Result<TokenResponse, IssuerError> {
    let mut form = Form::grant(GRANT)
        .secret("subject_token", &request.subject_token)
        .plain("subject_token_type", ACCESS_TOKEN)
        .plain("requested_token_type", ACCESS_TOKEN)
        .scopes(&request.scopes);
    for audience in &request.audiences {
        form = form.plain("audience", audience);
    }
    for resource in &request.resources {
        form = form.plain("resource", resource);
    }
    client
        .ask_tokens(Asked::Exchange, form, Urgency::Serving)
        .await
}
