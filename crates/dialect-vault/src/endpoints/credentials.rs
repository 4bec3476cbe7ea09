//! `secret/oauth/creds/*` and `secret/oauth/sts/*`: access tokens of stored credentials, and the credentials themselves.

use gridkeep_keeper::{Failure, NamesWanted, Operation, PutCredential, Want};
use secrecy::SecretString;

use crate::answer::{Answer, Data, TokenData};
use crate::describe;
use crate::failure::Trouble;
use crate::fields::Fields;
use crate::route::CredentialKind;
use crate::service::{Call, Caller, Inner};
use crate::time;

/// Most names in one answer.
const MOST_NAMES: usize = 10_000;

pub(super) async fn answer(
    inner: &Inner,
    kind: CredentialKind,
    name: &str,
    call: &mut Call<'_>,
    caller: &Caller<'_>,
) -> Result<Answer, Trouble> {
    let fields = &mut call.fields;
    match (kind, call.operation) {
        (_, Operation::Read) => read(inner, kind, name, fields, caller).await,
        (_, Operation::Delete) => {
            fields.captured("name");
            // A user whose options narrow the token deletes by the same address, query included.
            fields.ignore(&[
                "minimum_seconds",
                "scopes",
                "audience",
                "audiences",
                "resources",
            ]);
            inner
                .keeper
                .delete(caller.bearer, &inner.keeper.parse_name(name)?)
                .await?;
            Ok(Answer::done())
        }
        (CredentialKind::Base, Operation::Create | Operation::Update) => {
            write(inner, name, fields, caller).await
        }
        (CredentialKind::Base, Operation::List | Operation::Scan) => {
            list(inner, name, fields, caller).await
        }
        _ => Err(Trouble::unsupported()),
    }
}

async fn read(
    inner: &Inner,
    kind: CredentialKind,
    name: &str,
    fields: &mut Fields,
    caller: &Caller<'_>,
) -> Result<Answer, Trouble> {
    fields.captured("name");
    let mut audiences = words(fields.list("audiences")?);
    audiences.extend(words(fields.list("audience")?));
    let want = Want {
        minimum: fields.duration("minimum_seconds")?.unwrap_or_default(),
        scopes: words(fields.list("scopes")?),
        audiences,
        resources: fields.list("resources")?.unwrap_or_default(),
        limits: caller.granted.limits.clone(),
    };
    let name = inner.keeper.parse_name(name)?;
    // A request to narrow is never ignored, whichever path it comes by.
    let exchanged = kind == CredentialKind::Exchanged || want.narrows() || caller.is_limited();
    let token = inner.keeper.read(caller.bearer, &name, &want).await?;
    let data = TokenData {
        access_token: token.token,
        expire_time: token.expires_at.map(time::whole),
        server: (!exchanged).then_some(token.server),
        kind: token.token_type,
    };
    Ok(Answer::envelope(Data::Token(data), None).with_warnings(token.warnings))
}

/// The elements of a list, split at blanks as well: manuals promise both separators, and the order stays.
pub(super) fn words(list: Option<Vec<String>>) -> Vec<String> {
    let list = list.unwrap_or_default();
    list.iter()
        .flat_map(|element| element.split_whitespace())
        .map(str::to_owned)
        .collect()
}

async fn write(
    inner: &Inner,
    name: &str,
    fields: &mut Fields,
    caller: &Caller<'_>,
) -> Result<Answer, Trouble> {
    fields.captured("name");
    let name = inner.keeper.parse_name(name)?;
    let request = PutCredential {
        server: fields.text("server")?.filter(|server| !server.is_empty()),
        grant_type: fields.text("grant_type")?.filter(|kind| !kind.is_empty()),
        refresh_token: fields
            .text("refresh_token")?
            .filter(|token| !token.is_empty())
            .map(SecretString::from),
    };
    if fields.text("code")?.is_some_and(|code| !code.is_empty()) {
        return Err(Trouble::bad(
            "cannot use code with refresh_token grant type",
        ));
    }
    if fields
        .duration("maximum_expiry_seconds")?
        .is_some_and(|most| most.0 > 0)
    {
        return Err(Trouble::bad(
            "maximum_expiry_seconds is not supported by this server: an access token lives as long as its issuer says; leave it out",
        ));
    }
    inner.keeper.put(caller.bearer, &name, request).await?;
    Ok(Answer::done())
}

/// The names below `issuer/` that the caller's policies show it, relative to what was asked.
async fn list(
    inner: &Inner,
    asked: &str,
    fields: &mut Fields,
    caller: &Caller<'_>,
) -> Result<Answer, Trouble> {
    let asked = asked.trim_end_matches('/');
    if asked.is_empty() {
        let keys = inner
            .keeper
            .setup()
            .issuers
            .iter()
            .map(|issuer| format!("{}/", issuer.name))
            .collect();
        return Ok(Answer::keys(keys));
    }
    let (issuer, below) = asked.split_once('/').unwrap_or((asked, ""));
    let after = fields.text("after")?.filter(|after| !after.is_empty());
    let most = fields.integer("limit")?.filter(|limit| *limit > 0);
    let most = most.and_then(|limit| usize::try_from(limit).ok());
    let begin = format!("{asked}/");
    let after = after.map(|after| format!("{begin}{after}"));
    let wanted = NamesWanted {
        issuer,
        below,
        after: after.as_deref(),
        most: most.unwrap_or(MOST_NAMES).min(MOST_NAMES),
    };
    let page = inner
        .keeper
        .list_names(&caller.bearer.token, &wanted)
        .await?;
    let mut info = Vec::with_capacity(page.names.len());
    for name in &page.names {
        let text = name.to_string();
        let Some(key) = text.strip_prefix(&begin) else {
            continue;
        };
        match inner.keeper.credential_details(name).await {
            Ok(details) => info.push((key.to_owned(), describe::credential(&details))),
            // It was deleted meanwhile.
            Err(Failure::NotFound) => {}
            Err(other) => return Err(other.into()),
        }
    }
    let answer = Answer::keys_with_info(info.into_iter());
    Ok(if page.more && most.is_none() {
        answer.with_warnings(vec![format!(
            "there are more than these {MOST_NAMES}; go on with ?after=<the last of them>"
        )])
    } else {
        answer
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_and_blanks_separate_and_order_stays() {
        let list =
            |texts: &[&str]| words(Some(texts.iter().map(|text| (*text).to_owned()).collect()));
        assert_eq!(
            list(&["z a", "storage.read:/x"]),
            ["z", "a", "storage.read:/x"]
        );
        assert_eq!(list(&["", " "]), Vec::<String>::new());
        assert_eq!(words(None), Vec::<String>::new());
    }
}
