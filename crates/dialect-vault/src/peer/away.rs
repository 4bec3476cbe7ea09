//! What a node that has not reached its store since it started can do: pass requests to the nodes that it knew when it last had the
//! store, and say how it is doing.
//!
//! Owns what has to be remembered for that ([`Acquaintances`]), as it is sealed and kept by the caller, and the answers of such a node
//! ([`AwayService`]). Nothing is audited here: the node that acts does it.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use gridkeep_keeper::clock::{Clock as _, SystemClock};
use gridkeep_keeper::cluster::NodeState;
use gridkeep_keeper::{ClusterIdentity, Keeper, Network, Peer};
use http::header::TRANSFER_ENCODING;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::{Limit, Peers, is_about_this_node, is_local, no_numbers, proof_key};
use crate::answer::Answer;
use crate::endpoints::status::{Health, SealWords, initialised};
use crate::failure::Trouble;
use crate::listener::{HttpService, TrustedProxies};
use crate::params::{self, Params};
use crate::path;
use crate::route::{Route, Status};
use crate::sealed::SealKind;
use crate::service::{DialectLimits, caught, end_connection, request_id};

/// What a node remembers of the others for a start without its store. It holds the key by which nodes prove to be nodes.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub struct Acquaintances {
    key: [u8; 32],
    cluster: String,
    cluster_id: String,
    /// Name and address of each, those that are live first.
    peers: Vec<(String, String)>,
    /// Front servers whose word for a client's address is believed.
    proxies: Vec<String>,
}

impl std::fmt::Debug for Acquaintances {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Acquaintances")
            .field("peers", &self.peers)
            .field("proxies", &self.proxies)
            .finish_non_exhaustive()
    }
}

impl Acquaintances {
    /// What `keeper` knows at the moment; requests may come by way of `proxies`.
    #[must_use]
    pub fn of(keeper: &Keeper, proxies: &[Network]) -> Self {
        let identity = keeper.cluster();
        let mut nodes = keeper.cluster_status().nodes;
        nodes.retain(|node| !node.here);
        // Who is stopped now may be up by then.
        nodes.sort_by_key(|node| node.state != NodeState::Live);
        let peers = nodes.into_iter().map(|node| (node.name, node.address));
        Acquaintances {
            key: *proof_key(keeper),
            cluster: identity.name,
            cluster_id: identity.id,
            peers: peers.collect(),
            proxies: proxies.iter().map(ToString::to_string).collect(),
        }
    }

    /// As it is to be sealed.
    ///
    /// # Errors
    /// None that can be met: what it holds can be written.
    pub fn to_bytes(&self) -> Result<Zeroizing<Vec<u8>>, serde_json::Error> {
        serde_json::to_vec(self).map(Zeroizing::new)
    }

    /// From [`Acquaintances::to_bytes`]; `None` if it is not that.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }

    /// The names of the other nodes.
    #[must_use]
    pub fn names(&self) -> Vec<&str> {
        self.peers.iter().map(|(name, _)| name.as_str()).collect()
    }
}

/// The API of a node that has not reached its store since it started. Cheap to clone.
#[derive(Clone)]
pub struct AwayService {
    inner: Arc<Inner>,
}

struct Inner {
    peers: Peers,
    known: Vec<Peer>,
    cluster: ClusterIdentity,
    proxies: TrustedProxies,
    limits: DialectLimits,
    version: String,
    build_date: String,
}

impl std::fmt::Debug for AwayService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AwayService")
            .field("known", &self.inner.known)
            .finish_non_exhaustive()
    }
}

impl HttpService for AwayService {
    async fn call(&self, request: Request<Incoming>, peer: SocketAddr) -> Response<Full<Bytes>> {
        self.handle(request, peer).await
    }
}

impl AwayService {
    /// For the node of this name; version and date are told by `sys/health` and others.
    #[must_use]
    pub fn new(
        node: &str,
        known: &Acquaintances,
        version: &str,
        build_date: &str,
        limits: DialectLimits,
    ) -> Self {
        let proxies = TrustedProxies::default();
        // What cannot be read is not trusted; it was written from what could.
        proxies.set(known.proxies.iter().flat_map(|text| text.parse()).collect());
        let peers = known.peers.iter().map(|(name, address)| Peer {
            name: name.clone(),
            address: address.clone(),
        });
        AwayService {
            inner: Arc::new(Inner {
                peers: Peers::of(&known.key, node),
                known: peers.collect(),
                cluster: ClusterIdentity {
                    name: known.cluster.clone(),
                    id: known.cluster_id.clone(),
                },
                proxies,
                limits,
                version: version.to_owned(),
                build_date: build_date.to_owned(),
            }),
        }
    }

    /// Front servers whose word for a client's address it believes.
    #[must_use]
    pub fn proxies(&self) -> TrustedProxies {
        self.inner.proxies.clone()
    }

    /// Answers one request that came from `peer`, or passes it on.
    pub async fn handle<B>(&self, request: Request<B>, peer: SocketAddr) -> Response<Full<Bytes>>
    where
        B: Body<Data = Bytes>,
    {
        let id = request_id();
        let framed = request.headers().contains_key(TRANSFER_ENCODING);
        let mut response = caught(&id, self.inner.respond(request, peer, &id)).await;
        if framed {
            end_connection(&mut response);
        }
        response
    }
}

impl Inner {
    async fn respond<B>(
        &self,
        request: Request<B>,
        peer: SocketAddr,
        id: &str,
    ) -> Response<Full<Bytes>>
    where
        B: Body<Data = Bytes>,
    {
        let client = match self.proxies.client(peer, request.headers()) {
            Ok(client) => client,
            Err(error) => {
                return Answer::error(StatusCode::BAD_REQUEST, error.to_string()).into_response(id);
            }
        };
        if is_local(request.uri().path()) {
            let answer = self.local(request.method(), request.uri());
            return answer.unwrap_or_else(Answer::from).into_response(id);
        }
        if is_about_this_node(request.uri().path()) {
            return no_numbers().into_response(id);
        }
        // Whose token is alive is known to the other nodes only.
        let limit = Limit {
            bytes: self.limits.open_body,
            time: self.limits.body_time,
        };
        self.peers
            .pass_on(self.known.clone(), limit, request, client, id)
            .await
            .unwrap_or_else(|answer| answer.into_response(id))
    }

    /// What every node says of itself.
    fn local(&self, method: &Method, uri: &http::Uri) -> Result<Answer, Trouble> {
        let away = || {
            Trouble::text(
                StatusCode::SERVICE_UNAVAILABLE,
                "this node has not reached its store since it started, and knows no more of itself; nothing was done; ask another node, or again in a moment",
            )
        };
        let raw = uri.path().strip_prefix("/v1/").ok_or_else(away)?;
        let decoded = path::decode(raw)?;
        let Route::Status(status) = Route::of(decoded.strip_suffix('/').unwrap_or(&decoded)) else {
            return Err(away());
        };
        if *method != Method::GET && *method != Method::HEAD {
            return Err(away());
        }
        match status {
            Status::Health => {
                let query = uri
                    .query()
                    .map_or_else(|| Ok(Params::new()), params::query)?;
                let health = Health {
                    serves: false,
                    sealed: false,
                    has_peers: !self.known.is_empty(),
                    now: i64::try_from(SystemClock.wall().as_secs()).unwrap_or(i64::MAX),
                    version: &self.version,
                    cluster: &self.cluster,
                };
                health.answer(query)
            }
            Status::Seal => {
                let words = SealWords {
                    sealed: false,
                    version: &self.version,
                    build_date: &self.build_date,
                    cluster: &self.cluster,
                    shared: true,
                    kind: SealKind::Auto,
                };
                Ok(Answer::bare(StatusCode::OK, words.object()))
            }
            Status::Init => Ok(initialised(true)),
            Status::Leader | Status::Unseal | Status::Join => Err(away()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn known(peers: &[(&str, &str)]) -> Acquaintances {
        let pairs = peers
            .iter()
            .map(|(name, at)| ((*name).to_owned(), (*at).to_owned()));
        Acquaintances {
            key: [7; 32],
            cluster: "vault-cluster-1".to_owned(),
            cluster_id: "an-id".to_owned(),
            peers: pairs.collect(),
            proxies: vec!["192.0.2.0/24".to_owned()],
        }
    }

    async fn asked(service: &AwayService, method: &str, path: &str) -> (u16, serde_json::Value) {
        use http_body_util::BodyExt as _;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .body(Full::<Bytes>::default())
            .unwrap();
        let from = "192.0.2.1:1".parse().unwrap();
        let response = service.handle(request, from).await;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }

    fn service(known: &Acquaintances) -> AwayService {
        AwayService::new("n1", known, "1.0", "2026-01-01", DialectLimits::default())
    }

    #[test]
    fn what_is_remembered_is_read_as_it_was_written() {
        let known = known(&[("n2", "n2.test:8200")]);
        let bytes = known.to_bytes().unwrap();
        assert_eq!(Acquaintances::from_bytes(&bytes).unwrap(), known);
        assert_eq!(known.names(), ["n2"]);
        for nonsense in [&b""[..], b"{}", b"null", &bytes[1..]] {
            assert!(Acquaintances::from_bytes(nonsense).is_none());
        }
        assert!(!format!("{known:?}").contains("7, 7"), "the key");
    }

    #[tokio::test]
    async fn it_says_that_it_is_a_standby_and_refuses_nobody() {
        // Nobody listens there.
        let away = service(&known(&[("n2", "127.0.0.1:1")]));
        let (status, body) = asked(&away, "GET", "/v1/sys/health").await;
        assert_eq!(
            (status, &body["standby"], &body["sealed"]),
            (429, &json!(true), &json!(false))
        );
        assert_eq!(body["cluster_id"], "an-id");
        assert_eq!(
            asked(&away, "GET", "/v1/sys/health?standbyok=true").await.0,
            200
        );
        let (status, body) = asked(&away, "GET", "/v1/sys/seal-status").await;
        assert_eq!(
            (status, &body["type"], &body["storage_type"]),
            (200, &json!("auto"), &json!("raft"))
        );
        assert_eq!(
            asked(&away, "GET", "/v1/sys/init").await,
            (200, json!({"initialized": true}))
        );
        for (method, path) in [
            ("GET", "/v1/sys/leader"),
            ("PUT", "/v1/sys/unseal"),
            ("PUT", "/v1/sys/init"),
            ("GET", "/gridkeep/peer"),
            ("GET", "/ui/"),
            ("GET", "/v1/auth/token/lookup-self"),
            ("POST", "/v1/auth/oidc-dune/oidc/auth_url"),
        ] {
            let (status, body) = asked(&away, method, path).await;
            assert_eq!(status, 503, "{path}");
            let said = body["errors"][0].as_str().unwrap();
            assert!(said.contains("nothing was done"), "{path}: {said}");
        }
        // Passed on, it would show the numbers of another node as this one's.
        let (status, body) = asked(&away, "GET", "/v1/sys/metrics?format=prometheus").await;
        let said = body["errors"][0].as_str().unwrap();
        assert!(status == 503 && said.contains("metrics.listen"), "{said}");
        let alone = service(&known(&[]));
        assert_eq!(
            asked(&alone, "GET", "/v1/sys/health?standbyok=true")
                .await
                .0,
            503
        );
    }
}
