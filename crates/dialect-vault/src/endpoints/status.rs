//! What anybody may ask about the server's state. Not audited, as in the original.

use bytes::Bytes;
use http::{Method, StatusCode};
use hyper::body::Body;
use serde_json::{Map, Value, json};

use super::nodes;
use crate::answer::Answer;
use crate::failure::Trouble;
use crate::fields::Fields;
use crate::params::{self, Params};
use crate::route::Status;
use crate::service::Inner;

pub(crate) async fn answer<B>(
    inner: &Inner,
    status: Status,
    method: &Method,
    query: Params,
    body: B,
) -> Result<Answer, Trouble>
where
    B: Body<Data = Bytes>,
{
    let read = method == Method::GET || method == Method::HEAD;
    let write = method == Method::PUT || method == Method::POST;
    match status {
        Status::Health if read => health(inner, query),
        Status::Seal if read => Ok(Answer::bare(StatusCode::OK, seal_status(inner))),
        Status::Leader if read => Ok(Answer::bare(StatusCode::OK, nodes::leader(inner))),
        Status::Init if read => Ok(Answer::bare(
            StatusCode::OK,
            object(json!({"initialized": true})),
        )),
        Status::Init if write => {
            params::receive(
                body,
                inner.options.limits.open_body,
                inner.options.limits.body_time,
            )
            .await?;
            Err(Trouble::bad("Vault is already initialized"))
        }
        Status::Unseal if write => {
            let limits = &inner.options.limits;
            let bytes = params::receive(body, limits.open_body, limits.body_time).await?;
            // The server is open: no key matters, and what cannot be read matters as little.
            let reset = params::body(None, &bytes)
                .ok()
                .map(Fields::new)
                .and_then(|mut fields| fields.boolean("reset").ok().flatten());
            if reset == Some(true) && !inner.options.seal.begun() {
                return Err(Trouble::bad("vault is unsealed"));
            }
            Ok(Answer::bare(StatusCode::OK, seal_status(inner)))
        }
        _ => Err(Trouble::unsupported()),
    }
}

fn health(inner: &Inner, query: Params) -> Result<Answer, Trouble> {
    let mut fields = Fields::new(query);
    let mut active = StatusCode::OK;
    let mut standby = StatusCode::TOO_MANY_REQUESTS;
    let mut sealed_code = StatusCode::SERVICE_UNAVAILABLE;
    for name in ["activecode", "standbycode", "sealedcode", "uninitcode"] {
        match (code(&mut fields, name)?, name) {
            (Some(code), "activecode") => active = code,
            (Some(code), "standbycode") => standby = code,
            (Some(code), "sealedcode") => sealed_code = code,
            _ => {}
        }
    }
    // OpenBao takes the bare word for false, Vault for true; whoever writes it means true.
    let standby_ok = fields.text("standbyok")?.is_some_and(|text| {
        !matches!(text.as_str(), "false" | "0" | "f" | "F" | "FALSE" | "False")
    });
    // Every node that serves is active. One that passes requests on is a standby.
    let serves = inner.keeper.serves();
    let sealed = inner.options.seal.begun();
    let status = if sealed {
        sealed_code
    } else if serves {
        active
    } else if inner.keeper.peers().is_empty() {
        StatusCode::SERVICE_UNAVAILABLE
    } else if standby_ok {
        active
    } else {
        standby
    };
    let cluster = inner.keeper.cluster();
    let object = object(json!({
        "initialized": true,
        "sealed": sealed,
        "standby": !serves && !sealed,
        "replication_performance_mode": "disabled",
        "replication_dr_mode": "disabled",
        "server_time_utc": inner.keeper.now().0,
        "version": inner.options.version,
        "cluster_name": cluster.name,
        "cluster_id": cluster.id,
    }));
    Ok(Answer::bare(status, object))
}

/// A status code somebody wants instead of the usual one. Only those that Python's table of responses knows: the stock clients
/// break on others.
pub(crate) fn code(fields: &mut Fields, name: &str) -> Result<Option<StatusCode>, Trouble> {
    let Some(text) = fields.text(name)? else {
        return Ok(None);
    };
    let wanted: Option<u16> = text.parse().ok();
    let known = wanted
        .and_then(|code| StatusCode::from_u16(code).ok())
        .filter(|code| code.as_u16() >= 200 && code.canonical_reason().is_some());
    known.map(Some).ok_or_else(|| {
        Trouble::bad(format!(
            "{name} must be a standard HTTP status code from 200"
        ))
    })
}

fn seal_status(inner: &Inner) -> Map<String, Value> {
    let cluster = inner.keeper.cluster();
    let mut status = object(json!({
        "initialized": true,
        "sealed": inner.options.seal.begun(),
        "progress": 0,
        "nonce": "",
        "recovery_seal": false,
        "version": inner.options.version,
        "build_date": inner.options.build_date,
        "commit_date": inner.options.build_date,
        "migration": false,
        "cluster_name": cluster.name,
        "cluster_id": cluster.id,
        "storage_type": if inner.keeper.is_shared() { "raft" } else { "file" },
    }));
    inner.options.seal.kind().describe(&mut status);
    status
}

pub(crate) fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}
