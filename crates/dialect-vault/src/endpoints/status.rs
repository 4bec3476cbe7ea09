//! What anybody may ask about the server's state. Not audited, as in the original.

use bytes::Bytes;
use gridkeep_keeper::ClusterIdentity;
use http::{Method, StatusCode};
use hyper::body::Body;
use serde_json::{Map, Value, json};

use super::nodes;
use crate::answer::Answer;
use crate::failure::Trouble;
use crate::fields::Fields;
use crate::params::{self, Params};
use crate::route::Status;
use crate::sealed::SealKind;
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
        Status::Init if read => Ok(initialised(true)),
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
        Status::Join if write => Err(nodes::cannot_join()),
        _ => Err(Trouble::unsupported()),
    }
}

fn health(inner: &Inner, query: Params) -> Result<Answer, Trouble> {
    let health = Health {
        serves: inner.keeper.serves(),
        sealed: inner.options.seal.begun(),
        has_peers: !inner.keeper.peers().is_empty(),
        now: inner.keeper.now().0,
        version: &inner.options.version,
        cluster: &inner.keeper.cluster(),
    };
    health.answer(query)
}

/// What `sys/health` tells of a node that has, or had, its keys.
pub(crate) struct Health<'a> {
    /// Whether it answers itself.
    pub serves: bool,
    pub sealed: bool,
    /// Whether there are nodes to which it can pass requests.
    pub has_peers: bool,
    /// Its wall clock, in seconds of Unix time.
    pub now: i64,
    pub version: &'a str,
    pub cluster: &'a ClusterIdentity,
}

impl Health<'_> {
    pub fn answer(&self, query: Params) -> Result<Answer, Trouble> {
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
        let status = if self.sealed {
            sealed_code
        } else if self.serves {
            active
        } else if !self.has_peers {
            StatusCode::SERVICE_UNAVAILABLE
        } else if standby_ok {
            active
        } else {
            standby
        };
        let object = object(json!({
            "initialized": true,
            "sealed": self.sealed,
            "standby": !self.serves && !self.sealed,
            "replication_performance_mode": "disabled",
            "replication_dr_mode": "disabled",
            "server_time_utc": self.now,
            "version": self.version,
            "cluster_name": self.cluster.name,
            "cluster_id": self.cluster.id,
        }));
        Ok(Answer::bare(status, object))
    }
}

/// A status code somebody wants instead of the usual one: any that says that all is well, as the Go library's 299, and of the others
/// those that have a name, which the stock clients look up.
pub(crate) fn code(fields: &mut Fields, name: &str) -> Result<Option<StatusCode>, Trouble> {
    let Some(text) = fields.text(name)? else {
        return Ok(None);
    };
    let wanted: Option<u16> = text.parse().ok();
    let known = wanted
        .and_then(|code| StatusCode::from_u16(code).ok())
        .filter(|code| {
            code.is_success() || (code.as_u16() >= 300 && code.canonical_reason().is_some())
        });
    known.map(Some).ok_or_else(|| {
        Trouble::bad(format!(
            "{name} must be a standard HTTP status code from 200"
        ))
    })
}

fn seal_status(inner: &Inner) -> Map<String, Value> {
    let words = SealWords {
        sealed: inner.options.seal.begun(),
        version: &inner.options.version,
        build_date: &inner.options.build_date,
        cluster: &inner.keeper.cluster(),
        shared: inner.keeper.is_shared(),
        kind: inner.options.seal.kind(),
    };
    words.object()
}

/// What `sys/seal-status` tells of a node that has, or had, its keys.
pub(crate) struct SealWords<'a> {
    pub sealed: bool,
    pub version: &'a str,
    pub build_date: &'a str,
    pub cluster: &'a ClusterIdentity,
    /// Whether nodes share the store.
    pub shared: bool,
    pub kind: SealKind,
}

impl SealWords<'_> {
    pub fn object(&self) -> Map<String, Value> {
        let mut status = object(json!({
            "initialized": true,
            "sealed": self.sealed,
            "progress": 0,
            "nonce": "",
            "recovery_seal": false,
            "version": self.version,
            "build_date": self.build_date,
            "commit_date": self.build_date,
            "migration": false,
            "cluster_name": self.cluster.name,
            "cluster_id": self.cluster.id,
            "storage_type": storage_type(self.shared),
        }));
        self.kind.describe(&mut status);
        status
    }
}

/// The kind of store, in words that scripts of the original test for.
pub(crate) fn storage_type(shared: bool) -> &'static str {
    if shared { "raft" } else { "file" }
}

/// The answer of `sys/init`.
pub(crate) fn initialised(is: bool) -> Answer {
    Answer::bare(StatusCode::OK, object(json!({"initialized": is})))
}

pub(crate) fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}
