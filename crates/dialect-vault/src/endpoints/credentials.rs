//! `secret/oauth/creds/*` and `secret/oauth/sts/*`: access tokens of stored credentials, and the credentials themselves.

use gridkeep_keeper::{Operation, PutCredential, Want};
use secrecy::SecretString;

use crate::answer::{Answer, Data, TokenData};
use crate::failure::Trouble;
use crate::fields::Fields;
use crate::route::CredentialKind;
use crate::service::{Call, Caller, Inner};
use crate::time;

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
            list(inner, name, caller).await
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
    inner.keeper.put(caller.bearer, &name, request).await?;
    Ok(Answer::done())
}

/// The names below `issuer/` that the caller's policies show it, relative to what was asked.
async fn list(inner: &Inner, asked: &str, caller: &Caller<'_>) -> Result<Answer, Trouble> {
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
    let issuer = asked.split('/').next().unwrap_or(asked);
    let below = format!("{asked}/");
    let visible = |name: &gridkeep_keeper::CredentialName| {
        let text = name.to_string();
        text.starts_with(&below) && {
            let capabilities = inner
                .keeper
                .capabilities(&caller.bearer.token, &format!("secret/oauth/creds/{text}"));
            capabilities
                .iter()
                .any(|word| matches!(word.as_str(), "list" | "root"))
        }
    };
    let found = inner.keeper.list_credentials(issuer, visible).await?;
    let mut keys: Vec<String> = found
        .iter()
        .filter_map(|summary| {
            summary
                .name
                .to_string()
                .strip_prefix(&below)
                .map(str::to_owned)
        })
        .collect();
    keys.sort_unstable();
    Ok(Answer::keys(keys))
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
