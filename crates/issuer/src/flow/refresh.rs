//! Refresh (RFC 6749 section 6). No scope is named: what the grant allows is what the answer gives.

use secrecy::SecretString;

use crate::api::TokenResponse;
use crate::client::Client;
use crate::error::IssuerError;
use crate::form::Form;
use crate::gate::Urgency;
use crate::standing::Asked;

pub(crate) async fn refresh(
    client: &Client,
    refresh_token: &SecretString,
) -> Result<TokenResponse, IssuerError> {
    client
        .ask_tokens(
            Asked::Refresh,
            Form::grant("refresh_token").secret("refresh_token", refresh_token),
            Urgency::Serving,
        )
        .await
        .map_err(in_the_words_of_the_rfc)
}

/// INDIGO IAM refuses a refresh token that is revoked or gone by 401 and `invalid_token` instead of 400 and `invalid_grant`.
fn in_the_words_of_the_rfc(error: IssuerError) -> IssuerError {
    match error {
        IssuerError::Refused {
            status: 401,
            error,
            description,
            uri,
        } if error == "invalid_token" => IssuerError::Refused {
            status: 401,
            error: "invalid_grant".to_owned(),
            description,
            uri,
        },
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, error: &str) -> IssuerError {
        IssuerError::Refused {
            status,
            error: error.to_owned(),
            description: Some("Refresh token for value x was not found".to_owned()),
            uri: None,
        }
    }

    #[test]
    fn an_invalid_token_is_an_invalid_grant() {
        let told = in_the_words_of_the_rfc(refused(401, "invalid_token"));
        assert!(told.is_permanent(), "{told:?}");
        assert!(
            matches!(&told, IssuerError::Refused { status: 401, error, description: Some(_), .. } if error == "invalid_grant"),
            "{told:?}"
        );
        for (status, error) in [(403, "invalid_token"), (401, "temporarily_odd")] {
            let told = in_the_words_of_the_rfc(refused(status, error));
            assert!(!told.is_permanent(), "{told:?}");
        }
    }
}
