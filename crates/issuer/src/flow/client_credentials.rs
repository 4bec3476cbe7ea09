//! Client credentials grant (RFC 6749 section 4.4).

use crate::api::TokenResponse;
use crate::client::Client;
use crate::error::IssuerError;
use crate::form::Form;
use crate::gate::Urgency;
use crate::standing::Asked;

pub(crate) async fn obtain(
    client: &Client,
    scopes: &[String],
) -> Result<TokenResponse, IssuerError> {
    client
        .ask_tokens(
            Asked::ClientCredentials,
            Form::grant("client_credentials").scopes(scopes),
            Urgency::Serving,
        )
        .await
}
