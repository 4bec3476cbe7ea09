//! What a server answers that has no keys: how it is doing, and how to give it its keys. Everything else is 503 `Vault is sealed`.
//!
//! Owns the requests and answers of `sys/init`, `sys/unseal` and their like. Refuses to know what a key opens: whoever serves this says
//! so by [`Unsealing`]. Nothing of it is audited, as in the original: the audit log needs the keys.

use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use gridkeep_keeper::Shares;
use gridkeep_keeper::clock::{Clock as _, SystemClock};
use http::header::CONTENT_TYPE;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use crate::answer::Answer;
use crate::endpoints::nodes::cannot_join;
use crate::endpoints::status::{code, initialised, object, storage_type};
use crate::failure::Trouble;
use crate::fields::Fields;
use crate::listener::HttpService;
use crate::params::{self, Params};
use crate::path;
use crate::route::{Route, Status};
use crate::service::{DialectLimits, caught, end_connection, request_id};

/// How a server is sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SealKind {
    /// The server finds its root key by itself.
    #[default]
    Auto,
    /// Nobody holds the root key; `threshold` of `count` shares make it.
    Shamir {
        /// How many it takes.
        threshold: u8,
        /// How many there are.
        count: u8,
    },
}

impl SealKind {
    /// Members of `sys/seal-status` that say so.
    pub(crate) fn describe(self, out: &mut Map<String, Value>) {
        let (kind, threshold, count) = match self {
            SealKind::Auto => ("auto", 1, 1),
            SealKind::Shamir { threshold, count } => ("shamir", threshold, count),
        };
        out.insert("type".to_owned(), kind.into());
        out.insert("t".to_owned(), threshold.into());
        out.insert("n".to_owned(), count.into());
    }
}

/// How far unsealing is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealStatus {
    /// Whether there is something to unseal.
    pub initialised: bool,
    /// Whether the keys are still missing.
    pub sealed: bool,
    /// How it is sealed.
    pub kind: SealKind,
    /// Whether its store is one that nodes share.
    pub shared: bool,
    /// Shares given so far.
    pub progress: usize,
    /// Identifies the attempt; empty when none is under way.
    pub nonce: String,
}

/// What initialising gives, once.
pub struct Initialised {
    /// The shares.
    pub shares: Vec<Zeroizing<Vec<u8>>>,
    /// A token to begin with.
    pub root_token: SecretString,
}

/// Why it is not unsealed or initialised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SealTrouble {
    /// The request is wrong.
    Bad(String),
    /// It may work later.
    Later(String),
}

/// What can be done with a server that has no keys.
#[async_trait]
pub trait Unsealing: Send + Sync + 'static {
    /// How far it is.
    async fn status(&self) -> SealStatus;

    /// Makes the store and the shares of its root key. It stays sealed.
    async fn initialise(&self, count: u8, threshold: u8) -> Result<Initialised, SealTrouble>;

    /// Takes a share.
    async fn unseal(&self, share: Zeroizing<Vec<u8>>) -> Result<(), SealTrouble>;

    /// Forgets the shares given so far.
    fn reset(&self);
}

/// The API of a sealed server. Cheap to clone.
#[derive(Clone)]
pub struct SealedService {
    seal: Arc<dyn Unsealing>,
    version: String,
    build_date: String,
    limits: DialectLimits,
}

impl std::fmt::Debug for SealedService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SealedService")
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

impl HttpService for SealedService {
    async fn call(&self, request: Request<Incoming>, peer: SocketAddr) -> Response<Full<Bytes>> {
        self.handle(request, peer).await
    }
}

impl SealedService {
    /// The API of what `seal` can do; version and date are told by `sys/health` and others.
    pub fn new(
        seal: Arc<dyn Unsealing>,
        version: &str,
        build_date: &str,
        limits: DialectLimits,
    ) -> Self {
        SealedService {
            seal,
            version: version.to_owned(),
            build_date: build_date.to_owned(),
            limits,
        }
    }

    /// Answers one request.
    pub async fn handle<B>(&self, request: Request<B>, _peer: SocketAddr) -> Response<Full<Bytes>>
    where
        B: Body<Data = Bytes>,
    {
        let id = request_id();
        let framed = request.headers().contains_key(header::TRANSFER_ENCODING);
        // After either of these somebody else answers on this port.
        let last = request.method() != Method::GET
            && matches!(request.uri().path(), "/v1/sys/init" | "/v1/sys/unseal");
        let answering = async {
            self.answer(request)
                .await
                .unwrap_or_else(Answer::from)
                .into_response(&id)
        };
        let mut response = caught(&id, answering).await;
        if framed || last {
            end_connection(&mut response);
        }
        response
    }

    async fn answer<B>(&self, request: Request<B>) -> Result<Answer, Trouble>
    where
        B: Body<Data = Bytes>,
    {
        let (parts, body) = request.into_parts();
        let Some(raw) = parts.uri.path().strip_prefix("/v1/") else {
            return Err(sealed());
        };
        let decoded = path::decode(raw)?;
        let route = Route::of(decoded.strip_suffix('/').unwrap_or(&decoded));
        let Route::Status(status) = route else {
            return Err(sealed());
        };
        let query = parts
            .uri
            .query()
            .map_or_else(|| Ok(Params::new()), params::query)?;
        let read = parts.method == Method::GET || parts.method == Method::HEAD;
        let write = parts.method == Method::PUT || parts.method == Method::POST;
        match status {
            Status::Health if read => self.health(query).await,
            Status::Seal if read => Ok(self.seal_status().await),
            Status::Init if read => Ok(initialised(self.seal.status().await.initialised)),
            Status::Init if write => {
                let fields = self.receive(&parts.headers, query, body).await?;
                self.initialise(fields).await
            }
            Status::Unseal if write => {
                let fields = self.receive(&parts.headers, query, body).await?;
                self.unseal(fields).await
            }
            Status::Join if write => Err(cannot_join()),
            // Who leads is known to nobody who is sealed.
            _ => Err(sealed()),
        }
    }

    async fn receive<B>(
        &self,
        headers: &http::HeaderMap,
        mut query: Params,
        body: B,
    ) -> Result<Fields, Trouble>
    where
        B: Body<Data = Bytes>,
    {
        let bytes = Zeroizing::new(
            params::receive(body, self.limits.open_body, self.limits.body_time)
                .await?
                .to_vec(),
        );
        let kind = headers
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok());
        let mut sent = params::body(kind, &bytes)?;
        query.append(&mut sent);
        Ok(Fields::new(query))
    }

    async fn health(&self, query: Params) -> Result<Answer, Trouble> {
        let mut fields = Fields::new(query);
        let sealed = code(&mut fields, "sealedcode")?.unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
        let none = code(&mut fields, "uninitcode")?.unwrap_or(StatusCode::NOT_IMPLEMENTED);
        let initialised = self.seal.status().await.initialised;
        let object = object(json!({
            "initialized": initialised,
            "sealed": true,
            "standby": true,
            "replication_performance_mode": "unknown",
            "replication_dr_mode": "unknown",
            "server_time_utc": SystemClock.wall().as_secs(),
            "version": self.version,
        }));
        Ok(Answer::bare(
            if initialised { sealed } else { none },
            object,
        ))
    }

    async fn seal_status(&self) -> Answer {
        let status = self.seal.status().await;
        let mut answer = object(json!({
            "initialized": status.initialised,
            "sealed": status.sealed,
            "progress": status.progress,
            "nonce": status.nonce,
            "recovery_seal": false,
            "version": self.version,
            "build_date": self.build_date,
            "commit_date": self.build_date,
            "migration": false,
            "storage_type": storage_type(status.shared),
        }));
        status.kind.describe(&mut answer);
        Answer::bare(StatusCode::OK, answer)
    }

    async fn initialise(&self, mut fields: Fields) -> Result<Answer, Trouble> {
        if self.seal.status().await.initialised {
            return Err(Trouble::bad("Vault is already initialized"));
        }
        if fields
            .text("root_token_pgp_key")?
            .is_some_and(|key| !key.is_empty())
        {
            return Err(Trouble::bad("root_token_pgp_key is not supported"));
        }
        let Shares { count, threshold } = split_wanted(&mut fields)?;
        if threshold > count {
            return Err(Trouble::bad(
                "invalid seal configuration: threshold cannot be larger than shares",
            ));
        }
        if threshold == 1 && count > 1 {
            return Err(Trouble::bad(
                "invalid seal configuration: threshold must be greater than one for multiple shares",
            ));
        }
        let made = self
            .seal
            .initialise(count, threshold)
            .await
            .map_err(trouble)?;
        let mut answer = object(json!({"root_token": made.root_token.expose_secret()}));
        encoded(&made.shares, &mut answer);
        Ok(Answer::bare(StatusCode::OK, answer))
    }

    async fn unseal(&self, mut fields: Fields) -> Result<Answer, Trouble> {
        if fields.boolean("reset")? == Some(true) {
            self.seal.reset();
            return Ok(self.seal_status().await);
        }
        let Some(key) = fields.text("key")?.filter(|key| !key.is_empty()) else {
            return Err(Trouble::bad(
                "'key' must be specified in request body as JSON, or 'reset' set to true",
            ));
        };
        let share = decode_share(&Zeroizing::new(key))
            .ok_or_else(|| Trouble::bad("'key' must be a valid hex or base64 string"))?;
        self.seal.unseal(share).await.map_err(trouble)?;
        Ok(self.seal_status().await)
    }
}

/// How a root key is to be split, by the words of `sys/init` and `sys/rekey/init`.
pub(crate) fn split_wanted(fields: &mut Fields) -> Result<Shares, Trouble> {
    for name in ["pgp_keys", "recovery_pgp_keys"] {
        if fields.list(name)?.is_some_and(|keys| !keys.is_empty()) {
            return Err(Trouble::bad(format!(
                "{name} is not supported: the shares are given in clear, encrypt them yourself"
            )));
        }
    }
    let mut number = |name: &str| -> Result<u8, Trouble> {
        let number = fields.integer(name)?.unwrap_or(0);
        u8::try_from(number)
            .ok()
            .filter(|number| *number > 0)
            .ok_or_else(|| Trouble::bad(format!("{name} must be a number from 1 to 255")))
    };
    Ok(Shares {
        count: number("secret_shares")?,
        threshold: number("secret_threshold")?,
    })
}

/// Shares in both of the forms that answers give them in.
pub(crate) fn encoded(shares: &[Zeroizing<Vec<u8>>], answer: &mut Map<String, Value>) {
    let hex = |share: &Zeroizing<Vec<u8>>| -> Value {
        let digits = share.iter().map(|byte| format!("{byte:02x}"));
        digits.collect::<String>().into()
    };
    let base64 = |share: &Zeroizing<Vec<u8>>| Value::from(STANDARD.encode(&**share));
    answer.insert("keys".to_owned(), shares.iter().map(hex).collect());
    answer.insert(
        "keys_base64".to_owned(),
        shares.iter().map(base64).collect(),
    );
}

/// A share as people and programs give it: hexadecimal digits, else base64.
#[must_use]
pub fn decode_share(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let text = text.trim();
    let hex = || -> Option<Vec<u8>> {
        if !text.len().is_multiple_of(2) || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        (0..text.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok())
            .collect()
    };
    hex()
        .or_else(|| STANDARD.decode(text).ok())
        .filter(|share| !share.is_empty())
        .map(Zeroizing::new)
}

/// The answer to everything that needs keys.
pub(crate) fn sealed() -> Trouble {
    Trouble::text(StatusCode::SERVICE_UNAVAILABLE, "Vault is sealed")
}

fn trouble(trouble: SealTrouble) -> Trouble {
    match trouble {
        SealTrouble::Bad(text) => Trouble::bad(text),
        SealTrouble::Later(text) => Trouble::text(StatusCode::SERVICE_UNAVAILABLE, text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_hexadecimal_or_base64() {
        let share = [0xab; 33];
        let hex: String = share.iter().map(|byte| format!("{byte:02x}")).collect();
        for text in [
            &hex,
            &hex.to_uppercase(),
            &STANDARD.encode(share),
            &format!(" {hex}\n"),
        ] {
            assert_eq!(**decode_share(text).unwrap(), share, "{text}");
        }
        for text in ["", "xyz", "+1", "abc", "ä", "_-__"] {
            assert!(decode_share(text).is_none(), "{text}");
        }
    }
}
