//! What is known of credentials and tokens, as members of JSON: the same for the API's lists and for the operators' commands.

use gridkeep_keeper::{CredentialDetails, KeeperToken, Seconds, UnixSeconds};
use serde_json::{Map, Value, json};

use crate::time;

fn moment(at: Option<UnixSeconds>) -> Value {
    at.map_or(Value::Null, |at| time::whole(at).into())
}

/// A credential and the login behind it. Times are RFC 3339; one that is not known is null.
pub fn credential(details: &CredentialDetails) -> Map<String, Value> {
    let login = details.grant.as_ref().map(|grant| {
        json!({
            "id": grant.id,
            "subject": grant.subject,
            "made": time::whole(grant.created_at),
            "refreshed": time::whole(grant.refreshed_at),
            "used": time::whole(grant.used_at),
            "names": grant.names,
            "refreshable": grant.refreshable,
            "access_token_until": moment(grant.access_until),
            "ends": moment(grant.ends_at),
            "idle_end": moment(grant.idle_end),
        })
    });
    Map::from_iter([
        ("name".to_owned(), details.name.to_string().into()),
        ("bound".to_owned(), time::whole(details.bound_at).into()),
        ("bound_by".to_owned(), details.bound_by.as_str().into()),
        ("trouble".to_owned(), details.trouble.clone().into()),
        ("login".to_owned(), login.unwrap_or(Value::Null)),
    ])
}

/// A token, without anything that gives power.
pub fn token(token: &KeeperToken, now: UnixSeconds) -> Map<String, Value> {
    let Seconds(ttl) = token.ttl(now);
    Map::from_iter([
        ("accessor".to_owned(), token.accessor.as_str().into()),
        (
            "display_name".to_owned(),
            token.display_name.as_str().into(),
        ),
        ("credkey".to_owned(), token.credkey().into()),
        ("path".to_owned(), token.path.as_str().into()),
        ("policies".to_owned(), token.policies.clone().into()),
        ("created".to_owned(), time::whole(token.created_at).into()),
        ("expires".to_owned(), moment(token.expires_at)),
        ("ttl".to_owned(), ttl.into()),
        ("renewable".to_owned(), token.renewable.into()),
        ("renewed".to_owned(), moment(token.last_renewal)),
        ("period".to_owned(), token.period.0.into()),
        ("num_uses".to_owned(), token.num_uses.into()),
        ("orphan".to_owned(), token.orphan.into()),
        ("bound_cidrs".to_owned(), token.bound_cidrs.clone().into()),
        ("meta".to_owned(), json!(token.meta)),
    ])
}
