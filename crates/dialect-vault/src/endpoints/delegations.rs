//! `delegation/<issuer>/<credkey>:<role>` and `robot/<issuer>/<credkey>:<role>`: giving others the use of a credential, seeing what
//! was given, renewing it, withdrawing it. No part of the original.
//!
//! Both are one thing under two permissions: what is given below `robot/` has no end unless one is asked for.

use gridkeep_keeper::{
    CredentialName, Delegate, Delegated, Delegation, Holder, Operation, Renewed, Seconds, UseLimits,
};
use serde_json::{Map, Value, json};

use super::status::object;
use crate::answer::{Answer, Auth, Data};
use crate::failure::Trouble;
use crate::fields::Fields;
use crate::service::{Call, Caller, Inner};
use crate::time;

pub(super) async fn answer(
    inner: &Inner,
    lasting: bool,
    name: &str,
    call: &mut Call<'_>,
    caller: &Caller<'_>,
) -> Result<Answer, Trouble> {
    let name = inner.keeper.parse_name(name)?;
    let fields = &mut call.fields;
    match call.operation {
        Operation::Read => {
            let found = inner.keeper.delegations(&name).await?;
            if found.is_empty() {
                return Ok(Answer::nothing());
            }
            let found: Vec<Value> = found.iter().map(describe).collect();
            Ok(Answer::data(object(json!({ "delegations": found }))))
        }
        Operation::Create | Operation::Update => match id(fields)? {
            Some(id) => renew(inner, &name, &id).await,
            None => give(inner, lasting, &name, fields, caller).await,
        },
        Operation::Delete => {
            let id = id(fields)?.ok_or_else(|| {
                Trouble::bad("missing id: say which delegation is withdrawn (?id=…); a read of this path shows them")
            })?;
            inner
                .keeper
                .withdraw_delegation(caller.bearer, &name, &id)
                .await?;
            Ok(Answer::done())
        }
        _ => Err(Trouble::unsupported()),
    }
}

fn id(fields: &mut Fields) -> Result<Option<String>, Trouble> {
    Ok(fields.text("id")?.filter(|id| !id.is_empty()))
}

async fn give(
    inner: &Inner,
    lasting: bool,
    name: &CredentialName,
    fields: &mut Fields,
    caller: &Caller<'_>,
) -> Result<Answer, Trouble> {
    let mut bound_cidrs = fields.list("bound_cidrs")?.unwrap_or_default();
    bound_cidrs.extend(fields.list("token_bound_cidrs")?.unwrap_or_default());
    let mut audiences = super::credentials::words(fields.list("audiences")?);
    audiences.extend(super::credentials::words(fields.list("audience")?));
    let request = Delegate {
        to: fields.text("to")?.filter(|to| !to.is_empty()),
        limits: UseLimits {
            scopes: super::credentials::words(fields.list("scopes")?),
            audiences,
        },
        bound_cidrs,
        ttl: fields.duration("ttl")?.filter(|ttl| ttl.0 > 0),
        period: fields.duration("period")?.unwrap_or_default(),
        note: fields.text("display_name")?.unwrap_or_default(),
        lasting,
    };
    let Delegated {
        delegation,
        issued,
        warnings,
    } = inner.keeper.delegate(caller.bearer, name, request).await?;
    let auth = issued.map(|issued| {
        Box::new(Auth {
            lease_duration: issued.token.creation_ttl.0,
            secret: Some(issued.secret),
            token: issued.token,
            handle: None,
        })
    });
    let data = Data::Object(object(describe(&delegation)));
    Ok(Answer::envelope(data, auth).with_warnings(warnings))
}

async fn renew(inner: &Inner, name: &CredentialName, id: &str) -> Result<Answer, Trouble> {
    let Renewed {
        token,
        ttl,
        warnings,
    } = inner.keeper.renew_delegated(name, id).await?;
    // Without its secret: who cares for a robot need not know it.
    Ok(Answer::auth(Auth {
        secret: None,
        token,
        handle: None,
        lease_duration: ttl.0,
    })
    .with_warnings(warnings))
}

fn describe(delegation: &Delegation) -> Value {
    let mut shown = Map::new();
    let mut put = |name: &str, value: Value| shown.insert(name.to_owned(), value);
    put("id", delegation.id.as_str().into());
    match &delegation.holder {
        Holder::Principal { mount, alias, .. } => put("to", format!("{mount}/{alias}").into()),
        Holder::Token { accessor, .. } => put("accessor", accessor.as_str().into()),
    };
    put("scopes", delegation.limits.scopes.clone().into());
    put("audiences", delegation.limits.audiences.clone().into());
    put("bound_cidrs", delegation.bound_cidrs.clone().into());
    put("made_by", delegation.made_by.as_str().into());
    put("issue_time", time::whole(delegation.made_at).into());
    put(
        "expire_time",
        delegation
            .ends_at
            .map_or(Value::Null, |end| time::whole(end).into()),
    );
    if delegation.period > Seconds(0) {
        put("period", delegation.period.0.into());
    }
    if !delegation.note.is_empty() {
        put("display_name", delegation.note.as_str().into());
    }
    Value::Object(shown)
}
