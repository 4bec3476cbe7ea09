//! The body of a request to an issuer: parameters, which of them are secret, and how to keep those out of any text.

use std::fmt;

use bytes::Bytes;
use secrecy::{ExposeSecret, SecretString};
use url::form_urlencoded;
use zeroize::Zeroizing;

/// Issuers put whole stack traces into descriptions.
const MAX_TEXT: usize = 400;
/// Longer runs of token characters than this do not appear in sentences.
const MAX_RUN: usize = 31;

/// An `application/x-www-form-urlencoded` body.
#[derive(Default)]
pub(crate) struct Form {
    fields: Vec<(&'static str, Field)>,
    /// Secrets sent elsewhere in the request.
    others: Vec<SecretString>,
}

enum Field {
    Plain(String),
    Secret(SecretString),
}

impl Form {
    pub(crate) fn grant(grant_type: &str) -> Self {
        Self::default().plain("grant_type", grant_type)
    }

    pub(crate) fn plain(mut self, name: &'static str, value: &str) -> Self {
        self.fields.push((name, Field::Plain(value.to_owned())));
        self
    }

    pub(crate) fn secret(mut self, name: &'static str, value: &SecretString) -> Self {
        self.fields.push((name, Field::Secret(value.clone())));
        self
    }

    /// The client's identifier, once however often it is added.
    pub(crate) fn client_id(self, id: &str) -> Self {
        if self.fields.iter().any(|(name, _)| *name == "client_id") {
            self
        } else {
            self.plain("client_id", id)
        }
    }

    /// Scopes as one parameter, in the order given; none when there are none.
    pub(crate) fn scopes(self, scopes: &[String]) -> Self {
        if scopes.is_empty() {
            self
        } else {
            self.plain("scope", &scopes.join(" "))
        }
    }

    /// Notes a secret that travels in a header, for [`Form::clean`].
    pub(crate) fn also_secret(mut self, value: SecretString) -> Self {
        self.others.push(value);
        self
    }

    /// The encoded body, wiped from memory when the last reader drops it.
    pub(crate) fn encode(&self) -> Bytes {
        let expected = self
            .fields
            .iter()
            .map(|(name, field)| name.len() + 3 * field.text().len() + 2)
            .sum();
        // Room for the worst case, so that growing leaves no copies behind.
        let mut text = form_urlencoded::Serializer::new(String::with_capacity(expected));
        for (name, field) in &self.fields {
            text.append_pair(name, field.text());
        }
        Bytes::from_owner(Zeroizing::new(text.finish()))
    }

    /// Text from outside made fit for errors and logs: without the secrets of this request, without anything that looks
    /// like a token, without control characters, not too long.
    pub(crate) fn clean(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in self.secrets().filter(|secret| secret.len() > 3) {
            let encoded: String = form_urlencoded::byte_serialize(secret.as_bytes()).collect();
            for spelling in [secret, &encoded] {
                if text.contains(spelling) {
                    text = text.replace(spelling, "[removed]");
                }
            }
        }
        clean(&text)
    }

    fn secrets(&self) -> impl Iterator<Item = &str> {
        let fields = self.fields.iter().filter_map(|(_, field)| match field {
            Field::Secret(value) => Some(value.expose_secret()),
            Field::Plain(_) => None,
        });
        fields.chain(self.others.iter().map(ExposeSecret::expose_secret))
    }
}

impl Field {
    fn text(&self) -> &str {
        match self {
            Self::Plain(text) => text,
            Self::Secret(text) => text.expose_secret(),
        }
    }
}

impl fmt::Debug for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.fields.iter().map(|(name, _)| name))
            .finish()
    }
}

/// Text from outside made fit for errors and logs where no particular secret was sent; see [`Form::clean`].
pub(crate) fn clean(text: &str) -> String {
    let token_character = |c: char| c.is_ascii_alphanumeric() || "-_.~+=%".contains(c);
    let mut out = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let end = rest.find(|c| !token_character(c)).unwrap_or(rest.len());
        if end == 0 {
            out.push(if first.is_control() { ' ' } else { first });
            rest = &rest[first.len_utf8()..];
            continue;
        }
        let run = &rest[..end];
        out.push_str(if run.len() > MAX_RUN || run.starts_with("eyJ") {
            "[removed]"
        } else {
            run
        });
        rest = &rest[end..];
        if out.len() > MAX_TEXT {
            break;
        }
    }
    if out.len() > MAX_TEXT {
        let cut = (0..=MAX_TEXT)
            .rev()
            .find(|&at| out.is_char_boundary(at))
            .unwrap_or(0);
        out.truncate(cut);
        out.push_str(" …");
    }
    out.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn encodes_in_order_and_repeats() {
        let form = Form::grant("refresh_token")
            .secret("refresh_token", &"a b&c=d/é".into())
            .plain("audience", "https://x")
            .plain("audience", "y");
        assert_eq!(
            &form.encode()[..],
            b"grant_type=refresh_token&refresh_token=a+b%26c%3Dd%2F%C3%A9&audience=https%3A%2F%2Fx&audience=y"
        );
        assert!(!format!("{form:?}").contains("a b"));
    }

    #[test]
    fn cleans_what_issuers_echo() {
        let form = Form::grant("refresh_token")
            .secret("refresh_token", &"short-one".into())
            .also_secret("s3cr".into());
        assert_eq!(
            form.clean("Invalid refresh token: short-one"),
            "Invalid refresh token: [removed]"
        );
        assert_eq!(
            form.clean("client x:s3cr\r\nunknown"),
            "client x:[removed]  unknown"
        );
        assert_eq!(
            form.clean("Invalid refresh token: eyJhbGci.e30."),
            "Invalid refresh token: [removed]"
        );
        let scopes = "Scope storage.read:/vo/prod not allowed for https://vo.example.org/";
        assert_eq!(form.clean(scopes), scopes);
        assert!(form.clean(&"word ".repeat(1000)).len() < MAX_TEXT + 10);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn never_lets_a_secret_through(before in ".{0,40}", secret in "[A-Za-z0-9._~+/-]{8,80}", after in ".{0,40}") {
            let form = Form::default().secret("code", &secret.as_str().into());
            let cleaned = form.clean(&format!("{before} {secret} {after}"));
            prop_assert!(!cleaned.contains(&secret), "{cleaned}");
        }
    }
}
