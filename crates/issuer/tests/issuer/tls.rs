//! Certificates: those of a configured CA are trusted, no others, and only under the right name.

use std::sync::Arc;
use std::time::Duration;

use gridkeep_issuer::{Client, ClientOptions, IssuerError, Sent, TokenIssuer};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls_pki_types::PrivateKeyDer;
use tokio_rustls::TlsAcceptor;

use crate::support::*;

/// A CA in PEM and a server whose certificate is for `name`.
async fn server_called(name: &str) -> (String, Server) {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let pem = ca.self_signed(&ca_key).unwrap().pem();
    let ca = Issuer::new(ca, ca_key);
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec![name.to_owned()])
        .unwrap()
        .signed_by(&key, &ca)
        .unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    let server =
        Server::start_with(
            Some(TlsAcceptor::from(Arc::new(config))),
            |request| match request.path.as_str() {
                DISCOVERY => Answer::Json(200, discovery(&request.base)),
                _ => Answer::Json(200, tokens()),
            },
        )
        .await;
    (pem, server)
}

fn https_client(server: &Server, ca: &[&str]) -> Client {
    let ca_pem = ca.iter().map(|pem| pem.as_bytes().to_vec()).collect();
    client_of(ClientOptions {
        ca_pem,
        allow_http_loopback: false,
        ..options(server)
    })
}

#[track_caller]
fn assert_distrusted(result: Result<impl Sized, IssuerError>) {
    let Err(error) = result else {
        panic!("trusted")
    };
    assert!(
        matches!(error, IssuerError::Temporary { sent: Sent::No, .. }),
        "{error:?}"
    );
    assert!(error.to_string().contains("certificate"), "{error}");
}

#[tokio::test]
async fn a_configured_ca_is_trusted_and_no_other() {
    let (ca, server) = server_called("localhost").await;
    let (other, _) = server_called("localhost").await;
    https_client(&server, &[&other, &ca])
        .refresh(&"rt".into())
        .await
        .unwrap();
    assert_distrusted(https_client(&server, &[&other]).refresh(&"rt".into()).await);
    assert_eq!(server.count("/token"), 1);
}

#[tokio::test]
async fn the_name_must_be_right() {
    let (ca, server) = server_called("issuer.example.org").await;
    assert_distrusted(https_client(&server, &[&ca]).metadata().await);
}

#[tokio::test]
async fn a_handshake_that_never_ends_means_nothing_was_sent() {
    let (ca, server) = server_called("localhost").await;
    // Takes connections (the backlog does) and says nothing.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let options = ClientOptions {
        url: format!("https://localhost:{}", silent.local_addr().unwrap().port()),
        ca_pem: vec![ca.into_bytes()],
        connect_timeout: Duration::from_millis(200),
        ..options(&server)
    };
    let error = client_of(options).refresh(&"rt".into()).await.unwrap_err();
    assert!(
        matches!(error, IssuerError::Temporary { sent: Sent::No, .. }),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_handshake_that_never_ends_at_the_token_endpoint_means_nothing_was_sent() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let server = Server::start(move |request| {
        let mut document = discovery(&request.base);
        document["token_endpoint"] = serde_json::json!(format!("https://127.0.0.1:{port}/token"));
        Answer::Json(200, document)
    })
    .await;
    let options = ClientOptions {
        connect_timeout: Duration::from_millis(200),
        ..options(&server)
    };
    let error = client_of(options).refresh(&"rt".into()).await.unwrap_err();
    assert!(
        matches!(error, IssuerError::Temporary { sent: Sent::No, .. }),
        "{error:?}"
    );
    assert!(error.to_string().contains("no connection"), "{error}");
}
