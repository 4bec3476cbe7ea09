//! `auth/token/*`: making, looking up, renewing and revoking tokens.

use std::sync::Arc;

use gridkeep_keeper::{
    BadInput, CreateToken, Failure, KeeperToken, Operation, Refused, Renewed, Seconds,
};
use http::StatusCode;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Map, Value};

use crate::answer::{Answer, Auth};
use crate::describe;
use crate::failure::Trouble;
use crate::fields::Fields;
use crate::route::{TokenRoute, Whose};
use crate::service::{Call, Caller, Inner};
use crate::time;

/// Tokens of one person that are listed at once.
const MOST_OWN: usize = 1000;

pub(super) async fn answer(
    inner: &Inner,
    route: TokenRoute,
    call: &mut Call<'_>,
    caller: &Caller<'_>,
) -> Result<Answer, Trouble> {
    let writes = call.operation == Operation::Update;
    let reads = call.operation == Operation::Read;
    let fields = &mut call.fields;
    match route {
        TokenRoute::Create { orphan } if writes => {
            let way = if orphan { Way::Orphan } else { Way::Plain };
            create(inner, way, fields, caller).await
        }
        TokenRoute::Lookup(whose) if writes || (reads && whose != Whose::ByAccessor) => {
            lookup(inner, whose, fields, caller).await
        }
        TokenRoute::Renew(whose) if writes => renew(inner, whose, fields, caller).await,
        TokenRoute::Revoke(whose) if writes => revoke(inner, whose, fields, caller).await,
        TokenRoute::RevokeOrphan if writes => {
            let secret = given(fields)?.ok_or(BadInput::MissingTokenId)?;
            let id = inner
                .keeper
                .parse_secret(&secret)
                .ok_or(BadInput::RevokeTargetNotFound)?;
            inner.keeper.revoke_orphan(&id).await?;
            Ok(Answer::done())
        }
        TokenRoute::Accessors if call.operation == Operation::List => {
            Ok(Answer::keys(inner.keeper.list_accessors().await?))
        }
        // Dead tokens are swept all the time.
        TokenRoute::Tidy if writes => {
            let text = "Tidy operation successfully started. Any information from the operation will be printed to the server logs.";
            let mut answer = Answer::done().with_warnings(vec![text.to_owned()]);
            answer.status = StatusCode::ACCEPTED;
            Ok(answer)
        }
        _ => Err(Trouble::unsupported()),
    }
}

/// `auth/token/create/<role>`.
pub(super) async fn by_role(
    inner: &Inner,
    role: &str,
    call: &mut Call<'_>,
    caller: &Caller<'_>,
) -> Result<Answer, Trouble> {
    if call.operation != Operation::Update {
        return Err(Trouble::unsupported());
    }
    call.fields.captured("role_name");
    create(inner, Way::Role(role), &mut call.fields, caller).await
}

/// The path by which a token is made.
enum Way<'a> {
    Plain,
    Orphan,
    Role(&'a str),
}

async fn create(
    inner: &Inner,
    way: Way<'_>,
    fields: &mut Fields,
    caller: &Caller<'_>,
) -> Result<Answer, Trouble> {
    let old_ttl = fields.duration("lease")?;
    let request = CreateToken {
        id: fields.text("id")?.filter(|id| !id.is_empty()),
        policies: fields
            .list("policies")?
            .filter(|policies| !policies.is_empty()),
        meta: fields.map("meta")?.unwrap_or_default(),
        no_parent: fields.boolean("no_parent")?.unwrap_or(false),
        orphan_path: matches!(way, Way::Orphan),
        no_default_policy: fields.boolean("no_default_policy")?.unwrap_or(false),
        renewable: fields.boolean("renewable")?.unwrap_or(true),
        ttl: fields.duration("ttl")?.or(old_ttl).filter(|ttl| ttl.0 > 0),
        explicit_max_ttl: fields.duration("explicit_max_ttl")?.unwrap_or_default(),
        period: fields.duration("period")?.unwrap_or_default(),
        num_uses: fields.integer("num_uses")?.unwrap_or(0),
        display_name: fields.text("display_name")?.filter(|name| !name.is_empty()),
        token_type: fields.text("type")?.filter(|kind| !kind.is_empty()),
        bound_cidrs: fields.list("bound_cidrs")?.unwrap_or_default(),
        role: match way {
            Way::Role(role) => Some(role.to_owned()),
            Way::Plain | Way::Orphan => None,
        },
    };
    if fields
        .text("entity_alias")?
        .is_some_and(|alias| !alias.is_empty())
    {
        return Err(Trouble::bad(
            "'entity_alias' is only allowed in combination with a token role that allows it, which no role of this server does",
        ));
    }
    let issued = inner
        .keeper
        .create_token(
            caller.bearer,
            request,
            caller.granted.sudo || caller.granted.root,
        )
        .await?;
    let lease_duration = issued.token.creation_ttl.0;
    Ok(Answer::auth(Auth {
        secret: Some(issued.secret),
        token: issued.token,
        handle: None,
        lease_duration,
    })
    .with_warnings(issued.warnings))
}

async fn lookup(
    inner: &Inner,
    whose: Whose,
    fields: &mut Fields,
    caller: &Caller<'_>,
) -> Result<Answer, Trouble> {
    let (token, id) = match whose {
        Whose::Own => {
            fields.ignore(&["token"]);
            (
                Arc::clone(&caller.bearer.token),
                Some(caller.secret.clone()),
            )
        }
        Whose::Given => match given(fields)? {
            Some(secret) => (inner.keeper.lookup(&secret).await?, Some(secret)),
            None => (
                Arc::clone(&caller.bearer.token),
                Some(caller.secret.clone()),
            ),
        },
        Whose::ByAccessor => (
            inner.keeper.lookup_accessor(&accessor(fields)?).await?,
            None,
        ),
    };
    let id = id
        .as_ref()
        .map_or("", |secret| secret.expose_secret().trim());
    Ok(Answer::data(describe(inner, &token, id)))
}

fn describe(inner: &Inner, token: &KeeperToken, id: &str) -> Map<String, Value> {
    let mut data = Map::new();
    let mut put = |name: &str, value: Value| data.insert(name.to_owned(), value);
    put("id", id.into());
    put("accessor", token.accessor.as_str().into());
    put("policies", token.policies.clone().into());
    put("path", token.path.as_str().into());
    put(
        "meta",
        if token.meta.is_empty() {
            Value::Null
        } else {
            token
                .meta
                .iter()
                .map(|(name, value)| (name.clone(), Value::from(value.as_str())))
                .collect::<Map<_, _>>()
                .into()
        },
    );
    put("display_name", token.display_name.as_str().into());
    put("num_uses", token.num_uses.into());
    put("orphan", token.orphan.into());
    put("creation_time", token.created_at.0.into());
    put("creation_ttl", token.creation_ttl.0.into());
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
    put("ttl", token.ttl(inner.keeper.now()).0.into());
    put("explicit_max_ttl", token.explicit_max_ttl.0.into());
    put("entity_id", token.entity.as_deref().unwrap_or("").into());
    put("type", "service".into());
    put("renewable", token.renewable.into());
    if let Some(role) = &token.role {
        put("role", role.as_str().into());
    }
    if token.period > Seconds(0) {
        put("period", token.period.0.into());
    }
    if !token.bound_cidrs.is_empty() {
        put("bound_cidrs", token.bound_cidrs.clone().into());
    }
    if let Some(renewed) = token.last_renewal {
        put("last_renewal", time::whole(renewed).into());
        put("last_renewal_time", renewed.0.into());
    }
    data
}

async fn renew(
    inner: &Inner,
    whose: Whose,
    fields: &mut Fields,
    caller: &Caller<'_>,
) -> Result<Answer, Trouble> {
    let increment = fields
        .duration("increment")?
        .filter(|increment| increment.0 > 0);
    let (id, secret) = match whose {
        Whose::Own => {
            fields.ignore(&["token"]);
            (caller.bearer.token.id, Some(caller.secret.clone()))
        }
        Whose::Given => {
            let secret = given(fields)?.ok_or(BadInput::MissingTokenId)?;
            (
                inner
                    .keeper
                    .parse_secret(&secret)
                    .ok_or(BadInput::TokenNotFound)?,
                Some(secret),
            )
        }
        Whose::ByAccessor => (
            inner.keeper.lookup_accessor(&accessor(fields)?).await?.id,
            None,
        ),
    };
    let Renewed {
        token,
        ttl,
        warnings,
    } = inner.keeper.renew(&id, increment).await?;
    Ok(Answer::auth(Auth {
        secret,
        token,
        handle: None,
        lease_duration: ttl.0,
    })
    .with_warnings(warnings))
}

async fn revoke(
    inner: &Inner,
    whose: Whose,
    fields: &mut Fields,
    caller: &Caller<'_>,
) -> Result<Answer, Trouble> {
    let id = match whose {
        Whose::Own => {
            fields.ignore(&["token"]);
            caller.bearer.token.id
        }
        Whose::Given => {
            let secret = given(fields)?.ok_or(BadInput::MissingTokenId)?;
            match inner.keeper.parse_secret(&secret) {
                Some(id) => id,
                // Not ours: revoked already, as far as anybody here is concerned.
                None => return Ok(Answer::done()),
            }
        }
        Whose::ByAccessor => inner.keeper.lookup_accessor(&accessor(fields)?).await?.id,
    };
    match inner.keeper.revoke(&id).await {
        Ok(())
        | Err(
            Failure::NotFound | Failure::Refused(Refused::TokenRevoked | Refused::TokenExpired),
        ) => Ok(Answer::done()),
        Err(other) => Err(other.into()),
    }
}

/// The live tokens of whoever asks: see [`Keeper::kin`](gridkeep_keeper::Keeper::kin).
pub(super) async fn own(
    inner: &Inner,
    accessor: Option<&str>,
    call: &mut Call<'_>,
    caller: &Caller<'_>,
) -> Result<Answer, Trouble> {
    let keeper = &inner.keeper;
    let Some(accessor) = accessor.filter(|accessor| !accessor.is_empty()) else {
        if call.operation != Operation::List {
            return Err(Trouble::unsupported());
        }
        let after = call.fields.text("after")?.filter(|after| !after.is_empty());
        let limit = call.fields.integer("limit")?.filter(|limit| *limit > 0);
        let most = limit.and_then(|limit| usize::try_from(limit).ok());
        let most = most.unwrap_or(MOST_OWN).min(MOST_OWN);
        let now = keeper.now();
        let listed = keeper
            .tokens_of(caller.bearer, after.as_deref(), most)
            .await?;
        let answer = Answer::keys_with_info(
            listed
                .found
                .iter()
                .map(|token| (token.accessor.clone(), describe::token(token, now))),
        );
        let count = listed.found.len();
        return Ok(if !listed.more || (limit.is_some() && count == most) {
            answer
        } else if count == most {
            answer.with_warnings(vec![format!(
                "there are more than these {count}; go on with ?after=<the last of them>"
            )])
        } else {
            answer.with_warnings(vec![
                "there are too many tokens to look at all of them; the operators of this server can (gridkeep operator tokens)".to_owned(),
            ])
        });
    };
    let kin = keeper.kin(caller.bearer).await?;
    // Somebody else's is as good as none.
    let token = match keeper.lookup_accessor(accessor).await {
        Ok(token) if kin.includes(&token) => token,
        Ok(_) | Err(Failure::BadInput(BadInput::InvalidAccessor)) => {
            return Ok(Answer::nothing());
        }
        Err(other) => return Err(other.into()),
    };
    match call.operation {
        Operation::Read => Ok(Answer::data(describe::token(&token, keeper.now()))),
        Operation::Delete => {
            keeper.revoke(&token.id).await?;
            Ok(Answer::done())
        }
        _ => Err(Trouble::unsupported()),
    }
}

fn given(fields: &mut Fields) -> Result<Option<SecretString>, Trouble> {
    Ok(fields
        .text("token")?
        .filter(|text| !text.trim().is_empty())
        .map(SecretString::from))
}

fn accessor(fields: &mut Fields) -> Result<String, Trouble> {
    Ok(fields
        .text("accessor")?
        .filter(|text| !text.is_empty())
        .ok_or(BadInput::MissingAccessor)?)
}
