//! Rate limits as operators read and write them. Those of the configuration files are only read here.

use std::time::Duration;

use gridkeep_keeper::{CountedBy, Operation, RateLimit, RateLimitOptions};
use http::StatusCode;
use serde_json::{Map, Value, json};

use super::status::object;
use crate::answer::Answer;
use crate::failure::Trouble;
use crate::fields::Fields;
use crate::route::QuotaRoute;
use crate::service::{Call, Inner};

const LONGEST_NAME: usize = 128;

pub(super) async fn answer(
    inner: &Inner,
    route: QuotaRoute<'_>,
    call: &mut Call<'_>,
) -> Result<Answer, Trouble> {
    match (route, call.operation) {
        (QuotaRoute::All, Operation::List) => {
            let table = inner.keeper.rate_limits();
            let mut names: Vec<String> = table.iter().map(|limit| limit.name.clone()).collect();
            names.sort_unstable();
            Ok(Answer::keys(names))
        }
        (QuotaRoute::Named(name), Operation::Read) => {
            let table = inner.keeper.rate_limits();
            Ok(match table.get(name) {
                Some(limit) => Answer::data(shown(inner, limit)),
                None => Answer::nothing(),
            })
        }
        (QuotaRoute::Named(name), Operation::Create | Operation::Update) => {
            call.fields.captured("name");
            let limit = wanted(inner, name, &mut call.fields)?;
            inner.keeper.put_rate_limit(limit).await?;
            Ok(Answer::done())
        }
        (QuotaRoute::Named(name), Operation::Delete) => {
            inner.keeper.delete_rate_limit(name).await?;
            Ok(Answer::done())
        }
        (QuotaRoute::Options, Operation::Read) => {
            let options = inner.keeper.rate_limits().options.clone();
            Ok(Answer::data(object(json!({
                "rate_limit_exempt_paths": options.exempt_paths,
                "enable_rate_limit_audit_logging": options.audit,
                "enable_rate_limit_response_headers": options.headers,
            }))))
        }
        (QuotaRoute::Options, Operation::Create | Operation::Update) => {
            let before = inner.keeper.rate_limits().options.clone();
            let fields = &mut call.fields;
            let options = RateLimitOptions {
                exempt_paths: fields
                    .list("rate_limit_exempt_paths")?
                    .unwrap_or(before.exempt_paths),
                audit: fields
                    .boolean("enable_rate_limit_audit_logging")?
                    .unwrap_or(before.audit),
                headers: fields
                    .boolean("enable_rate_limit_response_headers")?
                    .unwrap_or(before.headers),
            };
            inner.keeper.put_rate_limit_options(options).await?;
            Ok(Answer::done())
        }
        _ => Err(Trouble::unsupported()),
    }
}

fn shown(inner: &Inner, limit: &RateLimit) -> Map<String, Value> {
    let mount = inner
        .keeper
        .mounts()
        .into_iter()
        .find(|mount| mount.path.trim_end_matches('/') == limit.path);
    object(json!({
        "type": "rate-limit",
        "name": limit.name,
        "path": mount.map_or_else(|| limit.path.clone(), |mount| mount.path),
        "role": "",
        "rate": limit.rate,
        "interval": seconds(limit.interval),
        "block_interval": seconds(limit.block_interval),
        "inheritable": limit.path.is_empty(),
        "per": limit.per.as_str(),
    }))
}

/// Whole seconds as a whole number, as the original shows them; it has no others.
fn seconds(length: Duration) -> Value {
    if length.subsec_nanos() == 0 {
        length.as_secs().into()
    } else {
        length.as_secs_f64().into()
    }
}

fn wanted(inner: &Inner, name: &str, fields: &mut Fields) -> Result<RateLimit, Trouble> {
    let clean = |c: char| !c.is_control() && c != '/';
    if name.is_empty() || name.len() > LONGEST_NAME || !name.chars().all(clean) {
        return Err(Trouble::bad(
            "the name of a rate limit has 1 to 128 bytes, no slash and no control characters",
        ));
    }
    fields.ignore(&["type", "inheritable"]);
    let role = fields.text("role")?.unwrap_or_default();
    if !role.is_empty() {
        return Err(Trouble::bad(
            "rate limits for one role are not supported by this server; limit the path of its login instead",
        ));
    }
    let path = fields.text("path")?.unwrap_or_default();
    let path = path.trim_matches('/').to_owned();
    let below_a_mount = inner.keeper.mounts().iter().any(|mount| {
        let mount = mount.path.trim_end_matches('/');
        path.strip_prefix(mount)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    });
    if !path.is_empty() && !below_a_mount {
        return Err(Trouble::bad(format!("invalid mount path \"{path}\"")));
    }
    // As the files have it: rounded, and at least one.
    let rate = fields
        .text("rate")?
        .and_then(|text| text.trim().parse::<f64>().ok())
        .map(f64::round)
        .filter(|rate| (1.0..=f64::from(u32::MAX)).contains(rate))
        .ok_or_else(|| Trouble::bad("'rate' is invalid"))?;
    let length = |seconds: gridkeep_keeper::Seconds| Duration::from_secs(seconds.0);
    let interval = fields.duration("interval")?.map_or(Duration::ZERO, length);
    let block_interval = fields
        .duration("block_interval")?
        .map_or(Duration::ZERO, length);
    let per = match fields.text("per")?.as_deref() {
        None | Some("") => CountedBy::Address,
        Some(word) => CountedBy::CHOICES
            .into_iter()
            .find(|(choice, _)| *choice == word)
            .map(|(_, per)| per)
            .ok_or_else(|| {
                Trouble::text(StatusCode::BAD_REQUEST, "'per' must be address or user")
            })?,
    };
    Ok(RateLimit {
        name: name.to_owned(),
        path,
        // In range by the test above.
        rate: rate as u64,
        interval: if interval.is_zero() {
            Duration::from_secs(1)
        } else {
            interval
        },
        block_interval,
        per,
    })
}
