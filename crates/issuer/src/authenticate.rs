//! How the client proves who it is: one arm per way of [`ClientAuth`].

use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use reqwest::header::HeaderValue;
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use url::form_urlencoded;
use zeroize::Zeroizing;

use crate::discovery::Metadata;
use crate::error::IssuerError;
use crate::form::Form;
use crate::options::ClientAuth;

/// How long a client assertion is valid, in seconds.
const ASSERTION_LIFE: i64 = 120;
const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// A form with the client's proof in it, or in the header that goes with it.
pub(crate) struct Authenticated {
    pub form: Form,
    pub authorization: Option<HeaderValue>,
}

/// Adds the client's proof to a form. `now` in seconds since 1970.
pub(crate) fn authenticate(
    form: Form,
    auth: &ClientAuth,
    client_id: &str,
    metadata: &Metadata,
    now: i64,
) -> Result<Authenticated, IssuerError> {
    match auth {
        ClientAuth::Public => Ok(in_form(form.client_id(client_id))),
        ClientAuth::Post { secret } => Ok(post(form, client_id, secret)),
        ClientAuth::Basic { secret } => basic(form, client_id, secret),
        ClientAuth::Auto { secret } => {
            let advertised = &metadata.token_endpoint_auth_methods_supported;
            if advertised
                .iter()
                .any(|method| method == "client_secret_post")
            {
                Ok(post(form, client_id, secret))
            } else {
                basic(form, client_id, secret)
            }
        }
        ClientAuth::PrivateKeyJwt { key } => {
            // RFC 7523 section 3: the token endpoint names the authorization server, for its other endpoints too.
            let audience = metadata
                .token_endpoint
                .as_deref()
                .unwrap_or(&metadata.issuer);
            let claims = json!({
                "iss": client_id,
                "sub": client_id,
                "aud": audience,
                "jti": unique()?,
                "iat": now,
                "exp": now + ASSERTION_LIFE,
            });
            let assertion = key.sign(Some("JWT"), &claims).map_err(|error| {
                IssuerError::unsent(format!(
                    "the client could not sign its proof of identity: {error}"
                ))
            })?;
            let form = form
                .client_id(client_id)
                .plain("client_assertion_type", ASSERTION_TYPE)
                .secret("client_assertion", &SecretString::from(assertion));
            Ok(in_form(form))
        }
    }
}

fn in_form(form: Form) -> Authenticated {
    Authenticated {
        form,
        authorization: None,
    }
}

fn post(form: Form, client_id: &str, secret: &SecretString) -> Authenticated {
    in_form(form.client_id(client_id).secret("client_secret", secret))
}

/// RFC 6749 section 2.3.1: both halves are form-encoded before they become a user name and a password.
fn basic(form: Form, client_id: &str, secret: &SecretString) -> Result<Authenticated, IssuerError> {
    let encode = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let password = Zeroizing::new(encode(secret.expose_secret()));
    let pair = Zeroizing::new(format!("{}:{}", encode(client_id), *password));
    let encoded = Zeroizing::new(STANDARD.encode(pair.as_bytes()));
    let mut header = HeaderValue::try_from(format!("Basic {}", *encoded)).map_err(|_| {
        IssuerError::unsent("the client's proof of identity does not fit into a header")
    })?;
    header.set_sensitive(true);
    let form = form
        .also_secret(secret.clone())
        .also_secret(SecretString::from(encoded.as_str()));
    Ok(Authenticated {
        form,
        authorization: Some(header),
    })
}

/// An identifier nobody has used before.
fn unique() -> Result<String, IssuerError> {
    let mut bytes = [0_u8; 16];
    rand::fill(&mut bytes)
        .map_err(|_| IssuerError::unsent("this machine gives no random numbers"))?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret() -> SecretString {
        "p/w +ü".into()
    }

    fn body(auth: &ClientAuth, methods: &[&str]) -> (String, Option<String>) {
        let metadata = Metadata {
            token_endpoint_auth_methods_supported: methods
                .iter()
                .map(|&method| method.to_owned())
                .collect(),
            ..Metadata::default()
        };
        let done = authenticate(Form::default(), auth, "cli:ent", &metadata, 0).unwrap();
        let body = String::from_utf8(done.form.encode().to_vec()).unwrap();
        (
            body,
            done.authorization
                .map(|header| header.to_str().unwrap().to_owned()),
        )
    }

    #[test]
    fn secrets_go_where_the_issuer_wants_them() {
        let posted = (
            "client_id=cli%3Aent&client_secret=p%2Fw+%2B%C3%BC".to_owned(),
            None,
        );
        let header = format!("Basic {}", STANDARD.encode("cli%3Aent:p%2Fw+%2B%C3%BC"));
        let basic = (String::new(), Some(header));
        assert_eq!(body(&ClientAuth::Post { secret: secret() }, &[]), posted);
        assert_eq!(
            body(
                &ClientAuth::Basic { secret: secret() },
                &["client_secret_post"]
            ),
            basic
        );
        let auto = ClientAuth::Auto { secret: secret() };
        assert_eq!(
            body(&auto, &["client_secret_basic", "client_secret_post"]),
            posted
        );
        assert_eq!(body(&auto, &[]), basic);
        assert_eq!(
            body(&ClientAuth::Public, &[]),
            ("client_id=cli%3Aent".to_owned(), None)
        );
    }
}
