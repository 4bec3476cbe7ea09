//! Splitting the root key anew, in the original's steps. Unlike there a token is needed, as its newest versions want it: else anybody
//! could end an attempt.

use gridkeep_keeper::{Operation, RekeyAttempt, RekeyRefused, Shares};
use http::StatusCode;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::status::object;
use crate::answer::Answer;
use crate::failure::Trouble;
use crate::fields::Fields;
use crate::route::RekeyRoute;
use crate::sealed::{decode_share, encoded, split_wanted};
use crate::service::{Call, Caller, Inner};

pub(super) async fn answer(
    inner: &Inner,
    route: RekeyRoute,
    call: &mut Call<'_>,
    caller: &Caller<'_>,
) -> Result<Answer, Trouble> {
    let by = &inner.keeper.name_of_user(&caller.bearer.token).await?;
    let write = matches!(call.operation, Operation::Create | Operation::Update);
    match (route, call.operation) {
        (RekeyRoute::Init, Operation::Read) => status(inner).await,
        (RekeyRoute::Init, _) if write => {
            begin(inner, &mut call.fields).await?;
            status(inner).await
        }
        (RekeyRoute::Init, Operation::Delete) => {
            inner.keeper.cancel_rekey().await?;
            Ok(Answer::done())
        }
        (RekeyRoute::Update, _) if write => {
            let (nonce, share) = given(&mut call.fields)?;
            let Some(new) = inner.keeper.give_share(&nonce, share, by).await? else {
                return status(inner).await;
            };
            if new.verification.is_none() {
                inner.options.seal.split_anew(new.split);
            }
            let mut answer = object(json!({
                "nonce": new.nonce,
                "complete": true,
                "pgp_fingerprints": Value::Null,
                "backup": false,
                "verification_required": new.verification.is_some(),
            }));
            if let Some(nonce) = new.verification {
                answer.insert("verification_nonce".to_owned(), nonce.into());
            }
            encoded(&new.shares, &mut answer);
            Ok(Answer::bare(StatusCode::OK, answer))
        }
        (RekeyRoute::Verify, Operation::Read) => verification(inner).await,
        (RekeyRoute::Verify, Operation::Delete) => {
            inner.keeper.restart_verification().await?;
            verification(inner).await
        }
        (RekeyRoute::Verify, _) if write => {
            let (nonce, share) = given(&mut call.fields)?;
            let Some(split) = inner.keeper.give_share_back(&nonce, share, by).await? else {
                return verification(inner).await;
            };
            inner.options.seal.split_anew(split);
            let answer = object(json!({"nonce": nonce, "complete": true}));
            Ok(Answer::bare(StatusCode::OK, answer))
        }
        _ => Err(Trouble::unsupported()),
    }
}

async fn begin(inner: &Inner, fields: &mut Fields) -> Result<(), Trouble> {
    if fields.boolean("backup")? == Some(true) {
        return Err(Trouble::bad(
            "backup is not supported: no share is kept by the server",
        ));
    }
    let wanted = split_wanted(fields)?;
    let verify = fields.boolean("require_verification")?.unwrap_or(false);
    Ok(inner.keeper.begin_rekey(wanted, verify).await?)
}

fn given(fields: &mut Fields) -> Result<(String, Zeroizing<Vec<u8>>), Trouble> {
    let Some(key) = fields.text("key")?.filter(|key| !key.is_empty()) else {
        return Err(Trouble::bad(
            "'key' must be specified in request body as JSON",
        ));
    };
    let share = decode_share(&Zeroizing::new(key))
        .ok_or_else(|| Trouble::bad("'key' must be a valid hex or base64 string"))?;
    Ok((fields.text("nonce")?.unwrap_or_default(), share))
}

async fn status(inner: &Inner) -> Result<Answer, Trouble> {
    let status = inner.keeper.rekey_status().await?;
    let started = status.attempt.is_some();
    let attempt = status.attempt.unwrap_or_else(none);
    let mut answer = object(json!({
        "nonce": attempt.nonce,
        "started": started,
        "t": attempt.wanted.threshold,
        "n": attempt.wanted.count,
        "progress": attempt.progress,
        "required": status.required,
        "pgp_fingerprints": Value::Null,
        "backup": false,
        "verification_required": attempt.verify,
    }));
    if let Some((nonce, _)) = attempt.verification {
        answer.insert("verification_nonce".to_owned(), nonce.into());
    }
    Ok(Answer::bare(StatusCode::OK, answer))
}

async fn verification(inner: &Inner) -> Result<Answer, Trouble> {
    let status = inner.keeper.rekey_status().await?;
    let attempt = status.attempt.unwrap_or_else(none);
    let Some((nonce, progress)) = attempt.verification else {
        return Err(Trouble::bad(RekeyRefused::NothingToVerify.to_string()));
    };
    Ok(Answer::bare(
        StatusCode::OK,
        object(json!({
            "nonce": nonce,
            "started": true,
            "t": attempt.wanted.threshold,
            "n": attempt.wanted.count,
            "progress": progress,
        })),
    ))
}

/// What is told of an attempt that there is not.
fn none() -> RekeyAttempt {
    RekeyAttempt {
        nonce: String::new(),
        wanted: Shares {
            count: 0,
            threshold: 0,
        },
        progress: 0,
        verify: false,
        verification: None,
    }
}
