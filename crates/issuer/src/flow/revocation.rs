//! Token revocation (RFC 7009).

use secrecy::SecretString;

use crate::answer;
use crate::api::TokenHint;
use crate::client::Client;
use crate::discovery::required;
use crate::error::IssuerError;
use crate::form::Form;
use crate::gate::Urgency;

pub(crate) async fn revoke(
    client: &Client,
    token: &SecretString,
    hint: TokenHint,
) -> Result<(), IssuerError> {
    let deadline = client.deadline();
    let metadata = client.metadata_by(deadline).await?;
    let endpoint = required(&metadata.revocation_endpoint, "revocation_endpoint")?;
    let hint = match hint {
        TokenHint::AccessToken => "access_token",
        TokenHint::RefreshToken => "refresh_token",
    };
    let form = Form::default()
        .secret("token", token)
        .plain("token_type_hint", hint);
    client
        .post(
            &metadata,
            endpoint,
            form,
            Urgency::Spare,
            deadline,
            answer::check,
        )
        .await
}
