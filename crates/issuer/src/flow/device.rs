//! Device authorization grant (RFC 8628).

use secrecy::SecretString;

use crate::answer;
use crate::api::{DevicePoll, DeviceStart};
use crate::client::Client;
use crate::discovery::required;
use crate::error::IssuerError;
use crate::form::Form;
use crate::gate::Urgency;
use crate::standing::Asked;
use crate::transport::Reply;

use super::with_openid;

const GRANT: &str = "urn:ietf:params:oauth:grant-type:device_code";

pub(crate) async fn start(client: &Client, scopes: &[String]) -> Result<DeviceStart, IssuerError> {
    let deadline = client.deadline();
    let metadata = client.metadata_by(deadline).await?;
    let endpoint = required(
        &metadata.device_authorization_endpoint,
        "device_authorization_endpoint",
    )?;
    let read = |reply: &Reply, form: &Form, now| {
        answer::judge(reply, form, now).and_then(|object| answer::device(&reply.host, object))
    };
    // Some issuers look for the client id in the body even when the client authenticates in a header.
    let form = Form::default()
        .client_id(&client.options().client_id)
        .scopes(&with_openid(scopes));
    let outcome = client
        .post(&metadata, endpoint, form, Urgency::Spare, deadline, read)
        .await;
    client.note(Asked::Device, &outcome);
    outcome
}

pub(crate) async fn poll(
    client: &Client,
    device_code: &SecretString,
) -> Result<DevicePoll, IssuerError> {
    match client
        .ask_tokens(
            Asked::Poll,
            Form::grant(GRANT).secret("device_code", device_code),
            Urgency::Spare,
        )
        .await
    {
        Ok(tokens) => Ok(DevicePoll::Done(tokens)),
        Err(IssuerError::Refused { error, .. }) if error == "authorization_pending" => {
            Ok(DevicePoll::Pending)
        }
        Err(IssuerError::Refused { error, .. }) if error == "slow_down" => Ok(DevicePoll::SlowDown),
        Err(error) => Err(error),
    }
}
