//! Connections to peers: made, proven on both ends, kept for the next request.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use gridkeep_keeper::Peer;
use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::{HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs as provider, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use serde::Deserialize;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::proof::{Channel, Proofs, Side};
use super::{GREETING, PEER};

/// Time for finding out whether a peer is there and can serve.
const GREET: Duration = Duration::from_millis(1500);
/// How long a peer that could not serve is not asked again.
const LOST: Duration = Duration::from_secs(1);
/// Connections kept for each peer.
const KEPT: usize = 16;
/// Largest answer that is passed back.
const LARGEST: usize = 16 << 20;

/// Why a peer did not answer.
#[derive(Debug, Error)]
pub(super) enum Trouble {
    /// Nothing of the request has left this node.
    #[error("{0}")]
    Unsent(String),
    /// It may have been acted upon.
    #[error("{0}")]
    Sent(String),
}

fn unsent(error: impl std::fmt::Display) -> Trouble {
    Trouble::Unsent(error.to_string())
}

/// A connection whose other end has proven to be a node of the same store.
pub(super) struct Proven {
    sender: SendRequest<Full<Bytes>>,
    /// Our own proof on it.
    proof: HeaderValue,
}

#[derive(Deserialize)]
struct Greeting {
    peer: String,
    store: bool,
}

/// Connections to peers, by name.
#[derive(Default)]
pub(super) struct Pool {
    idle: Mutex<HashMap<String, Vec<Proven>>>,
    /// When a peer last could not serve.
    lost: Mutex<HashMap<String, Instant>>,
    tls: std::sync::OnceLock<TlsConnector>,
}

impl Pool {
    /// A connection to `peer`, which says that it has its store.
    pub async fn connection(&self, proofs: &Proofs, peer: &Peer) -> Result<Proven, Trouble> {
        if self.is_lost(&peer.name) {
            return Err(unsent("it could not serve a moment ago"));
        }
        let connected = tokio::time::timeout(GREET, async {
            let mut proven = match self.kept(&peer.name) {
                Some(proven) => proven,
                None => self.connect(proofs, peer).await?,
            };
            let greeting = greet(&mut proven).await?;
            if !greeting.store {
                return Err(unsent("it is without the store too"));
            }
            Ok(proven)
        });
        let connected = connected
            .await
            .unwrap_or_else(|_| Err(unsent("it does not answer")));
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        match &connected {
            Ok(_) => lost.remove(&peer.name),
            Err(_) => lost.insert(peer.name.clone(), Instant::now()),
        };
        connected
    }

    /// Nobody waits for a peer that has just been found to be away.
    fn is_lost(&self, peer: &str) -> bool {
        let lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        lost.get(peer).is_some_and(|since| since.elapsed() < LOST)
    }

    fn kept(&self, peer: &str) -> Option<Proven> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = idle.get_mut(peer)?;
        while let Some(proven) = kept.pop() {
            if proven.sender.is_ready() {
                return Some(proven);
            }
        }
        None
    }

    fn keep(&self, peer: &str, proven: Proven) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = idle.entry(peer.to_owned()).or_default();
        if kept.len() < KEPT && !proven.sender.is_closed() {
            kept.push(proven);
        }
    }

    async fn connect(&self, proofs: &Proofs, peer: &Peer) -> Result<Proven, Trouble> {
        let stream = TcpStream::connect(&peer.address).await.map_err(unsent)?;
        let _ = stream.set_nodelay(true);
        let host = peer
            .address
            .rsplit_once(':')
            .map_or(peer.address.as_str(), |(host, _)| host);
        let host = host.trim_matches(['[', ']']);
        let name = ServerName::try_from(host.to_owned()).map_err(unsent)?;
        let stream = self.tls()?.connect(name, stream).await.map_err(unsent)?;
        let channel = Channel::of(stream.get_ref().1)
            .ok_or_else(|| unsent("the connection has no key of its own"))?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(unsent)?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to a node ended");
            }
        });
        let proof = proofs.prove(channel, Side::Client);
        let mut proven = Proven {
            sender,
            proof: HeaderValue::try_from(proof).map_err(unsent)?,
        };
        let greeting = greet(&mut proven).await?;
        match proofs.judge(channel, Side::Server, &greeting.peer) {
            Some(node) if node == peer.name => Ok(proven),
            Some(node) => Err(unsent(format!("node {node} answers at its address"))),
            None => Err(unsent(
                "it does not prove to be a node of this store: somebody else answers at its address",
            )),
        }
    }

    fn tls(&self) -> Result<&TlsConnector, Trouble> {
        if let Some(tls) = self.tls.get() {
            return Ok(tls);
        }
        let crypto = Arc::new(provider::default_provider());
        let config = ClientConfig::builder_with_provider(crypto.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(unsent)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(crypto)))
            .with_no_client_auth();
        Ok(self
            .tls
            .get_or_init(|| TlsConnector::from(Arc::new(config))))
    }

    /// Sends a request, and keeps the connection when it is whole afterwards.
    pub async fn send(
        &self,
        peer: &Peer,
        mut proven: Proven,
        mut request: Request<Full<Bytes>>,
    ) -> Result<Response<Full<Bytes>>, Trouble> {
        request.headers_mut().insert(PEER, proven.proof.clone());
        proven.sender.ready().await.map_err(unsent)?;
        let answer = proven
            .sender
            .send_request(request)
            .await
            .map_err(|error| Trouble::Sent(error.to_string()))?;
        let (mut parts, body) = answer.into_parts();
        let body = Limited::new(body, LARGEST)
            .collect()
            .await
            .map_err(|error| Trouble::Sent(error.to_string()))?
            .to_bytes();
        self.keep(&peer.name, proven);
        for name in [http::header::CONNECTION, TRANSFER_ENCODING, CONTENT_LENGTH] {
            parts.headers.remove(name);
        }
        Ok(Response::from_parts(parts, Full::new(body)))
    }
}

async fn greet(proven: &mut Proven) -> Result<Greeting, Trouble> {
    let request = Request::get(GREETING)
        .header(HOST, "gridkeep")
        .header(PEER, proven.proof.clone())
        .body(Full::default())
        .map_err(unsent)?;
    proven.sender.ready().await.map_err(unsent)?;
    let answer = proven.sender.send_request(request).await.map_err(unsent)?;
    let body = Limited::new(answer.into_body(), 4096)
        .collect()
        .await
        .map_err(unsent)?
        .to_bytes();
    serde_json::from_slice(&body)
        .map_err(|_| unsent("it does not answer as a node of this store does"))
}

/// Takes any certificate, but only from who has its key: that the other end is a node of this store is proven on top, by a key
/// that only nodes have, over this very connection.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("nodes speak TLS 1.3".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
