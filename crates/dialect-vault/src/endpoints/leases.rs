//! `sys/leases/*`. The only leases are those of tokens, as the original has them for logins.

use gridkeep_keeper::{Operation, Seconds};
use http::StatusCode;
use serde_json::{Map, Value};

use crate::answer::Answer;
use crate::failure::Trouble;
use crate::fields::Fields;
use crate::route::LeaseRoute;
use crate::service::{Call, Inner};
use crate::time;

pub(super) async fn answer(
    inner: &Inner,
    route: LeaseRoute<'_>,
    call: &mut Call<'_>,
) -> Result<Answer, Trouble> {
    let writes = call.operation == Operation::Update;
    let lists = call.operation == Operation::List;
    let fields = &mut call.fields;
    match route {
        LeaseRoute::Lookup if writes => lookup(inner, fields).await,
        LeaseRoute::Lookup if lists => Ok(Answer::keys(inner.keeper.leases_below("").await?)),
        LeaseRoute::LookupBelow(prefix) if lists => {
            Ok(Answer::keys(inner.keeper.leases_below(prefix).await?))
        }
        LeaseRoute::Renew(lease) if writes => {
            fields.ignore(&["increment"]);
            inner.keeper.lease(&given(lease, fields)?).await?;
            // As in the original, where a login is renewed by its token.
            Err(Trouble::bad(
                "lease does not correspond to a secret; renew the token itself (auth/token/renew)",
            ))
        }
        LeaseRoute::Revoke(lease) if writes => {
            fields.ignore(&["sync"]);
            inner.keeper.revoke_lease(&given(lease, fields)?).await?;
            Ok(Answer::done())
        }
        LeaseRoute::RevokePrefix(prefix) if writes => {
            fields.ignore(&["sync"]);
            fields.captured("prefix");
            let count = inner.keeper.revoke_prefix(prefix).await?;
            tracing::info!(
                prefix,
                count,
                "tokens were revoked by the path they came from"
            );
            Ok(Answer::done())
        }
        // Dead tokens are swept all the time.
        LeaseRoute::Tidy if writes => {
            let text = "Tidy operation successfully started. Any information from the operation will be printed to the server logs.";
            let mut answer = Answer::done().with_warnings(vec![text.to_owned()]);
            answer.status = StatusCode::ACCEPTED;
            Ok(answer)
        }
        _ => Err(Trouble::unsupported()),
    }
}

fn given(lease: Option<&str>, fields: &mut Fields) -> Result<String, Trouble> {
    let sent = fields.text("lease_id")?;
    let url = fields.text("url_lease_id")?;
    lease
        .map(str::to_owned)
        .or(sent)
        .or(url)
        .filter(|lease| !lease.is_empty())
        .ok_or_else(|| Trouble::bad("lease_id must be specified"))
}

async fn lookup(inner: &Inner, fields: &mut Fields) -> Result<Answer, Trouble> {
    let lease = given(None, fields)?;
    let token = inner.keeper.lease(&lease).await?;
    let mut data = Map::new();
    let mut put = |name: &str, value: Value| data.insert(name.to_owned(), value);
    put("id", lease.into());
    put(
        "issue_time",
        time::exact(token.created_at, token.created_nanos).into(),
    );
    put(
        "expire_time",
        token.expires_at.map_or(Value::Null, |end| {
            time::exact(end, token.created_nanos).into()
        }),
    );
    put(
        "last_renewal",
        token
            .last_renewal
            .map_or(Value::Null, |moment| time::whole(moment).into()),
    );
    put("renewable", token.renewable.into());
    let Seconds(left) = token.ttl(inner.keeper.now());
    put("ttl", left.into());
    Ok(Answer::data(data))
}
