//! Policies, under their present paths and under the old ones.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gridkeep_keeper::{BadInput, Failure, Operation, PolicyWrite};
use http::StatusCode;
use serde_json::Map;

use crate::answer::Answer;
use crate::failure::Trouble;
use crate::service::{Call, Inner};
use crate::time;

/// How often a change is merged anew into what somebody else wrote meanwhile.
const MERGES: usize = 10;

pub(super) async fn answer(
    inner: &Inner,
    legacy: bool,
    name: Option<&str>,
    call: &mut Call<'_>,
) -> Result<Answer, Trouble> {
    let Some(given) = name.filter(|name| !name.is_empty()) else {
        let listing =
            call.operation == Operation::List || (legacy && call.operation == Operation::Read);
        return if listing {
            list(inner, legacy).await
        } else {
            Err(Trouble::unsupported())
        };
    };
    call.fields.captured("name");
    let name = given.to_lowercase();
    let answer = match call.operation {
        Operation::Read => read(inner, legacy, &name).await?,
        Operation::Create | Operation::Update | Operation::Patch => {
            write(inner, legacy, &name, call).await?
        }
        Operation::Delete => {
            inner.keeper.delete_policy(&name).await?;
            Answer::done()
        }
        Operation::List | Operation::Scan => return Err(Trouble::unsupported()),
    };
    let folded = name != given && call.operation != Operation::Read;
    Ok(if folded {
        answer.with_warnings(vec![format!("policy name was converted to {name}")])
    } else {
        answer
    })
}

async fn list(inner: &Inner, legacy: bool) -> Result<Answer, Trouble> {
    let names = inner.keeper.policies().await?;
    if !legacy {
        return Ok(Answer::keys(names));
    }
    let mut data = Map::new();
    data.insert("keys".to_owned(), names.clone().into());
    data.insert("policies".to_owned(), names.into());
    Ok(Answer::repeated(data))
}

async fn read(inner: &Inner, legacy: bool, name: &str) -> Result<Answer, Trouble> {
    let policy = inner.keeper.policy(name).await?;
    let mut data = Map::new();
    data.insert("name".to_owned(), policy.name.into());
    if legacy {
        data.insert("rules".to_owned(), policy.text.into());
        return Ok(Answer::repeated(data));
    }
    data.insert("policy".to_owned(), policy.text.into());
    data.insert("version".to_owned(), policy.version.into());
    data.insert("cas_required".to_owned(), policy.cas_required.into());
    data.insert(
        "allow_slashes_in_identity_templates".to_owned(),
        policy.allow_slashes.into(),
    );
    data.insert(
        "allow_wildcards_in_identity_templates".to_owned(),
        policy.allow_wildcards.into(),
    );
    if let Some(moment) = policy.expires_at {
        data.insert("expiration".to_owned(), time::whole(moment).into());
    }
    if let Some(moment) = policy.modified {
        data.insert("modified".to_owned(), time::whole(moment).into());
    }
    Ok(Answer::data(data))
}

async fn write(
    inner: &Inner,
    legacy: bool,
    name: &str,
    call: &mut Call<'_>,
) -> Result<Answer, Trouble> {
    let fields = &mut call.fields;
    let mut text = fields.text("policy")?;
    if legacy && text.is_none() {
        text = fields.text("rules")?;
    }
    let text = text.filter(|text| !text.is_empty()).map(plain);
    let slashes = fields.boolean("allow_slashes_in_identity_templates")?;
    let wildcards = fields.boolean("allow_wildcards_in_identity_templates")?;
    let until = match (fields.text("expiration")?, fields.duration("ttl")?) {
        (Some(text), _) if !text.is_empty() && text != "0" => {
            let moment = time::parse(&text)
                .ok_or_else(|| Trouble::bad("expiration is not a time as in RFC 3339"))?;
            Some(moment)
        }
        (_, Some(ttl)) if ttl.0 > 0 => Some(inner.keeper.after(ttl)),
        _ => None,
    };
    if until.is_some_and(|end| end <= inner.keeper.now()) {
        return Err(Trouble::bad("expiration lies in the past"));
    }
    let cas = fields.integer("cas")?;
    let cas_required = fields.boolean("cas_required")?;
    for _ in 0..MERGES {
        let old = if call.operation == Operation::Patch {
            match inner.keeper.policy(name).await {
                Ok(policy) => Some(policy),
                Err(Failure::NotFound) => return Ok(Answer::nothing()),
                Err(other) => return Err(other.into()),
            }
        } else {
            None
        };
        let old = old.as_ref();
        let text = text.clone().or_else(|| old.map(|old| old.text.clone()));
        let Some(text) = text else {
            return Err(Trouble::bad("'policy' parameter not supplied or empty"));
        };
        // What was merged counts over what it was merged with, and over nothing that came meanwhile.
        let read = old
            .filter(|old| !old.cas_required)
            .and_then(|old| i64::try_from(old.version).ok());
        let write = PolicyWrite {
            text,
            allow_slashes: slashes.unwrap_or(old.is_some_and(|old| old.allow_slashes)),
            allow_wildcards: wildcards.unwrap_or(old.is_some_and(|old| old.allow_wildcards)),
            cas: cas.or(read),
            cas_required,
            expires_at: until.or(old.and_then(|old| old.expires_at)),
        };
        match inner.keeper.put_policy(name, &write).await {
            Ok(()) => return Ok(Answer::done()),
            Err(Failure::BadInput(BadInput::CasMismatch)) if cas.is_none() => {}
            Err(other) => return Err(other.into()),
        }
    }
    Err(Trouble::text(
        StatusCode::SERVICE_UNAVAILABLE,
        "the policy is being changed by somebody else as well; nothing was changed, try again in a moment",
    ))
}

/// The text of a policy that may have come in base64.
fn plain(text: String) -> String {
    let decoded = STANDARD
        .decode(text.trim())
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok());
    decoded.unwrap_or(text)
}
