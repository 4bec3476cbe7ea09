//! Passing requests to another node while this one is without its store, or has a clock that most of the cluster call wrong.
//!
//! Owns the way between nodes: who is a peer ([`proof`]), connections to peers ([`pool`]), what of a request goes along. Refuses
//! to judge requests: the node that acts checks, audits and answers as if the client had come to it. A request that was passed
//! on is not passed on again. The address of the client goes along and is believed only on a connection whose other end has
//! proven that it holds the store's key. A node that has not reached its store since it started goes by what it knew before ([`away`]).

pub mod away;
mod pool;
mod proof;

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use gridkeep_keeper::{Keeper, Peer};
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Body;
use zeroize::Zeroizing;

use crate::answer::Answer;
use crate::params;
use crate::path;
use crate::route::Route;
use crate::service::{DialectLimits, client_token};
use pool::{Pool, Trouble};
pub use proof::Channel;
use proof::{Proofs, Side};

/// Where a peer proves itself and is proven to.
const GREETING: &str = "/gridkeep/peer";
/// Who passes a request on, and the proof.
const PEER: HeaderName = HeaderName::from_static("x-gridkeep-peer");
/// The address of the client who sent it.
const CLIENT: HeaderName = HeaderName::from_static("x-gridkeep-client");
/// Time in which all peers together have to be found or given up.
const FINDING: Duration = Duration::from_secs(4);
/// Time for a peer's answer; with [`FINDING`] less than clients wait.
const ANSWER: Duration = Duration::from_secs(5);

/// A node's way to its peers.
pub(crate) struct Peers {
    proofs: Proofs,
    pool: Pool,
}

/// What became of a request.
pub(crate) enum Passed<B> {
    /// It is this node's to answer; it came from this address.
    Here(Request<B>, SocketAddr),
    /// Here is the answer.
    Answered(Response<Full<Bytes>>),
    /// It could not be read, or nobody can serve it.
    Refused(Answer),
}

impl Peers {
    pub fn new(keeper: &Keeper) -> Self {
        Self::of(&proof_key(keeper), keeper.node())
    }

    /// Of the node of this name.
    fn of(key: &[u8; 32], node: &str) -> Self {
        Peers {
            proofs: Proofs::new(key, node),
            pool: Pool::default(),
        }
    }

    /// Takes the word of a peer for the client's address, and passes the request on when this node is not to serve it
    /// ([`Keeper::serves`]).
    pub async fn pass<B>(
        &self,
        keeper: &Keeper,
        limits: &DialectLimits,
        mut request: Request<B>,
        from: SocketAddr,
        id: &str,
    ) -> Passed<B>
    where
        B: Body<Data = Bytes>,
    {
        let channel = request.extensions().get::<Channel>().copied();
        let peer =
            channel.and_then(|channel| self.proofs.peer(channel, request.headers().get(PEER)));
        let client = peer
            .as_ref()
            .and_then(|_| request.headers().get(CLIENT)?.to_str().ok()?.parse().ok());
        request.headers_mut().remove(PEER);
        request.headers_mut().remove(CLIENT);
        if let (Some(peer), Some(channel)) = (&peer, channel)
            && request.uri().path() == GREETING
        {
            tracing::debug!(peer, "a node proved itself");
            return Passed::Answered(self.greeted(channel, keeper.serves()));
        }
        if peer.is_some() {
            return Passed::Here(request, client.unwrap_or(from));
        }
        if keeper.serves() || is_local(request.uri().path()) {
            return Passed::Here(request, from);
        }
        if is_about_this_node(request.uri().path()) {
            return Passed::Refused(no_numbers());
        }
        // Only what carries our proof may be large; whether the token is alive the other node says.
        let ours = client_token(request.headers())
            .is_some_and(|secret| keeper.parse_secret(&secret).is_some());
        let limit = if ours { limits.body } else { limits.open_body };
        let limit = Limit {
            bytes: limit,
            time: limits.body_time,
        };
        match self.pass_on(keeper.peers(), limit, request, from, id).await {
            Ok(response) => Passed::Answered(response),
            Err(answer) => Passed::Refused(answer),
        }
    }

    fn greeted(&self, channel: Channel, serves: bool) -> Response<Full<Bytes>> {
        let proof = self.proofs.prove(channel, Side::Server);
        let text = serde_json::json!({ "peer": proof, "store": serves }).to_string();
        let mut response = Response::new(Full::from(text));
        response.headers_mut().insert(
            http::header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        response
    }

    /// Passes a request that came from `from` to the first of `peers` that can serve it.
    async fn pass_on<B>(
        &self,
        peers: Vec<Peer>,
        limit: Limit,
        request: Request<B>,
        from: SocketAddr,
        id: &str,
    ) -> Result<Response<Full<Bytes>>, Answer>
    where
        B: Body<Data = Bytes>,
    {
        let (parts, body) = request.into_parts();
        let bytes = params::receive(body, limit.bytes, limit.time)
            .await
            .map_err(crate::failure::Trouble::from)?;
        let passed = outgoing(&parts, bytes, from);
        let finding = async {
            for peer in peers {
                match self.pool.connection(&self.proofs, &peer).await {
                    Ok(connection) => return Some((peer, connection)),
                    Err(trouble) => {
                        tracing::info!(request_id = id, peer = peer.name, %trouble, "a request could not be passed to this node");
                    }
                }
            }
            None
        };
        let found = tokio::time::timeout(FINDING, finding).await.ok().flatten();
        let (peer, connection) = found.ok_or_else(nobody)?;
        tracing::debug!(
            request_id = id,
            peer = peer.name,
            "this node does not serve: passed on"
        );
        let answering = self.pool.send(&peer, connection, passed);
        match tokio::time::timeout(ANSWER, answering).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(Trouble::Unsent(_))) => Err(nobody()),
            Ok(Err(trouble)) => Err(no_answer(&peer.name, &trouble.to_string())),
            Err(_) => Err(no_answer(&peer.name, "it took too long")),
        }
    }
}

/// The key by which a node proves to be a node of the store.
fn proof_key(keeper: &Keeper) -> Zeroizing<[u8; 32]> {
    keeper.derive_key("peers")
}

/// What a request's body may be.
#[derive(Clone, Copy)]
struct Limit {
    bytes: usize,
    time: Duration,
}

fn nobody() -> Answer {
    Answer::error(
        StatusCode::SERVICE_UNAVAILABLE,
        "this node does not reach its store, or its clock is not that of the other nodes, and no node that can serve is reached; nothing was done; try again in a moment",
    )
    .retry_after(Some(2))
}

fn no_answer(peer: &str, what: &str) -> Answer {
    Answer::error(
        StatusCode::SERVICE_UNAVAILABLE,
        format!(
            "this node does not reach its store, or its clock is not that of the other nodes, and it passed the request to {peer}, which did not answer ({what}); whether it was done is not known: look, or repeat it"
        ),
    )
    .retry_after(Some(2))
}

/// Another node's numbers would pass for this one's.
fn no_numbers() -> Answer {
    Answer::error(
        StatusCode::SERVICE_UNAVAILABLE,
        "this node does not reach its store, or its clock is not that of the other nodes, so it cannot tell who may read its metrics, and those of another node would mislead; its own are on its address for metrics (gridkeep.telemetry.metrics.listen)",
    )
    .retry_after(Some(2))
}

/// What every node says of itself.
fn is_local(path: &str) -> bool {
    let Some(raw) = path.strip_prefix("/v1/") else {
        return true;
    };
    leads_to(raw, |route| matches!(route, Route::Status(_))).unwrap_or(true)
}

/// What no other node can say for this one, and it only where it has its store.
fn is_about_this_node(path: &str) -> bool {
    path.strip_prefix("/v1/")
        .and_then(|raw| leads_to(raw, |route| matches!(route, Route::Metrics)))
        .unwrap_or(false)
}

/// Whether the route of a path is one of these; `None` if it cannot be decoded.
fn leads_to(raw: &str, these: impl Fn(&Route<'_>) -> bool) -> Option<bool> {
    let decoded = path::decode(raw).ok()?;
    let trimmed = decoded.strip_suffix('/').unwrap_or(&decoded);
    Some(these(&Route::of(trimmed)))
}

/// The request as a peer gets it: what belongs to the client's connection stays behind.
fn outgoing(parts: &http::request::Parts, body: Bytes, from: SocketAddr) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::new(body));
    request.method_mut().clone_from(&parts.method);
    *request.uri_mut() = parts
        .uri
        .path_and_query()
        .map_or_else(http::Uri::default, |path| path.clone().into());
    let mut headers: HeaderMap = parts.headers.clone();
    for name in [CONNECTION, TRANSFER_ENCODING, CONTENT_LENGTH] {
        headers.remove(name);
    }
    for name in [
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "upgrade",
        "expect",
        // The client's address has been found out; it goes along in our own header.
        "x-forwarded-for",
        "forwarded",
    ] {
        headers.remove(name);
    }
    headers
        .entry(HOST)
        .or_insert(HeaderValue::from_static("gridkeep"));
    if let Ok(value) = HeaderValue::try_from(from.to_string()) {
        headers.insert(CLIENT, value);
    }
    *request.headers_mut() = headers;
    request
}

#[cfg(test)]
mod tests;
