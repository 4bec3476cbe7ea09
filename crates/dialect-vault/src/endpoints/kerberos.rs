//! Login with a Kerberos ticket (section 8 of the Vault API specification).
//!
//! Any status but 200 ends a stock client that holds a ticket, even if it could log in by other means. So a ticket that is not accepted, and
//! a mount that does not exist, is answered with a success that holds no login and says why.

use base64::Engine as _;
use gridkeep_keeper::{Operation, TicketLogin};
use http::header::AUTHORIZATION;
use http::{HeaderMap, StatusCode};

use crate::answer::{Answer, Auth};
use crate::failure::Trouble;
use crate::service::{Call, Inner};

/// What a client without a ticket is told to bring.
const CHALLENGE: &str = "Negotiate";

pub(super) async fn login(
    inner: &Inner,
    mount: &str,
    call: &mut Call<'_>,
) -> Result<Answer, Trouble> {
    if !matches!(call.operation, Operation::Read | Operation::Update) {
        return Err(Trouble::unsupported());
    }
    // The field is for tools that cannot set the header.
    let field = call.fields.text("authorization")?;
    let known = inner.keeper.has_ticket_login(mount);
    let token = match negotiate(call.headers, field.as_deref()) {
        Some(token) => token,
        None if known => {
            let answer = Answer::error(StatusCode::UNAUTHORIZED, "authentication required");
            return Ok(answer.challenge(CHALLENGE));
        }
        None => Vec::new(),
    };
    let from = Some(call.peer.ip());
    match inner.keeper.ticket_login(mount, token, from).await? {
        TicketLogin::LoggedIn(issued) => {
            let lease_duration = issued.token.creation_ttl.0;
            Ok(Answer::auth(Auth {
                secret: Some(issued.secret),
                token: issued.token,
                handle: None,
                lease_duration,
            })
            .with_warnings(issued.warnings))
        }
        TicketLogin::NotAccepted(why) => Ok(Answer::done().with_warnings(vec![why])),
    }
}

/// The token of `Negotiate` in the header, else in the field.
fn negotiate(headers: &HeaderMap, field: Option<&str>) -> Option<Vec<u8>> {
    let headers = headers
        .get_all(AUTHORIZATION)
        .iter()
        .filter_map(|value| value.to_str().ok());
    headers.chain(field).find_map(|text| {
        let (scheme, token) = text.trim().split_once(' ')?;
        if !scheme.eq_ignore_ascii_case(CHALLENGE) {
            return None;
        }
        let token = base64::engine::general_purpose::STANDARD
            .decode(token.trim())
            .ok()?;
        (!token.is_empty()).then_some(token)
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn the_token_of_header_or_field() {
        let found = |header: &str, field: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, HeaderValue::from_str(header).unwrap());
            negotiate(&headers, field)
        };
        assert_eq!(found("Negotiate YWI=", None).unwrap(), b"ab");
        assert_eq!(found("negotiate  YWI= ", None).unwrap(), b"ab");
        assert_eq!(found("Bearer x", Some("Negotiate YWI=")).unwrap(), b"ab");
        for none in ["Negotiate", "Negotiate ", "Negotiate %%%", "Basic YWI=", ""] {
            assert_eq!(found(none, None), None, "{none}");
        }
    }
}
