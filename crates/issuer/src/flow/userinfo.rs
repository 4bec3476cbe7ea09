//! Userinfo endpoint (OpenID Connect Core 1.0, 5.3), plain or signed.

use secrecy::SecretString;
use serde_json::{Map, Value};

use crate::client::Client;
use crate::discovery::required;
use crate::error::IssuerError;
use crate::form::Form;
use crate::transport::Reply;
use crate::{answer, id_token};

enum Answer {
    Plain(Map<String, Value>),
    Signed(String),
}

pub(crate) async fn read(
    client: &Client,
    access_token: &SecretString,
) -> Result<Map<String, Value>, IssuerError> {
    let deadline = client.deadline();
    let metadata = client.metadata_by(deadline).await?;
    let endpoint = required(&metadata.userinfo_endpoint, "userinfo_endpoint")?;
    let answer = client
        .get_with_token(endpoint, access_token, deadline, understand)
        .await?;
    match answer {
        Answer::Plain(claims) => Ok(claims),
        Answer::Signed(jwt) => id_token::verify_userinfo(client, &jwt, deadline).await,
    }
}

fn understand(reply: &Reply, form: &Form, now: i64) -> Result<Answer, IssuerError> {
    if reply.status.is_success() && reply.is("application/jwt") {
        let text = std::str::from_utf8(&reply.body).map_err(|_| {
            answer::garbage(format!(
                "{} answered with something that is not a JWT",
                reply.host
            ))
        })?;
        return Ok(Answer::Signed(text.trim().to_owned()));
    }
    if reply.status.is_client_error()
        && let Some(refused) = answer::challenge(reply, form)
    {
        return Err(refused);
    }
    answer::judge(reply, form, now).map(Answer::Plain)
}
