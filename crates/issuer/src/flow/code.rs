//! Authorization code grant with PKCE (RFC 6749 section 4.1, RFC 7636).

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::{ExposeSecret, SecretString};
use url::Url;

use crate::api::{AuthorizationRequest, TokenResponse};
use crate::client::Client;
use crate::discovery::required;
use crate::error::IssuerError;
use crate::form::Form;
use crate::gate::Urgency;
use crate::standing::Asked;

use super::with_openid;

/// Parameters that the login itself sets.
const RESERVED: [&str; 11] = [
    "response_type",
    "client_id",
    "client_secret",
    "redirect_uri",
    "scope",
    "state",
    "nonce",
    "code_challenge",
    "code_challenge_method",
    "request",
    "request_uri",
];

/// Whether an operator may not set this parameter.
pub(crate) fn is_reserved(name: &str) -> bool {
    RESERVED.contains(&name)
}

pub(crate) async fn authorization_url(
    client: &Client,
    request: &AuthorizationRequest,
) -> Result<String, IssuerError> {
    let metadata = client.metadata_by(client.deadline()).await?;
    let endpoint = required(&metadata.authorization_endpoint, "authorization_endpoint")?;
    let mut url = Url::parse(endpoint).map_err(|_| IssuerError::Unsupported {
        what: "its authorization endpoint is not a URL".to_owned(),
    })?;
    // A query of the endpoint's own is kept (RFC 6749 section 3.1).
    url.query_pairs_mut()
        .append_pair("response_type", "code")
        .append_pair("client_id", &client.options().client_id)
        .append_pair("redirect_uri", &request.redirect_uri)
        .append_pair("scope", &with_openid(&request.scopes).join(" "))
        .append_pair("state", &request.state)
        .append_pair("nonce", &request.nonce)
        .append_pair("code_challenge", &challenge(&request.code_verifier))
        .append_pair("code_challenge_method", "S256")
        .extend_pairs(&client.options().authorization_params);
    Ok(url.into())
}

pub(crate) async fn redeem(
    client: &Client,
    code: &SecretString,
    redirect_uri: &str,
    code_verifier: &SecretString,
) -> Result<TokenResponse, IssuerError> {
    let form = Form::grant("authorization_code")
        .secret("code", code)
        .plain("redirect_uri", redirect_uri)
        .secret("code_verifier", code_verifier);
    // Whoever has started a login can bring any code.
    client.ask_tokens(Asked::Code, form, Urgency::Spare).await
}

/// RFC 7636 section 4.2, method `S256`.
fn challenge(verifier: &SecretString) -> String {
    URL_SAFE_NO_PAD.encode(digest::digest(
        &digest::SHA256,
        verifier.expose_secret().as_bytes(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_challenge_of_rfc_7636_appendix_b() {
        let verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk".into();
        assert_eq!(
            challenge(&verifier),
            "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
        );
    }
}
