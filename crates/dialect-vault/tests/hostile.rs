//! What hostile and broken peers send: raw bytes against the service behind the HTTP library that serves it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests fail by panicking"
)]

mod common;

use std::net::SocketAddr;
use std::sync::Arc;

use common::{House, house};
use gridkeep_dialect_vault::listener::{ListenerLimits, ReloadableTls, TlsFiles, serve};
use http::Request;
use http_body_util::Full;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use rustls_pki_types::ServerName;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// The service on a real port.
struct Port {
    address: SocketAddr,
    connector: TlsConnector,
    stop: watch::Sender<bool>,
    served: tokio::task::JoinHandle<()>,
    _directory: tempfile::TempDir,
}

impl Port {
    async fn open(house: &House) -> Port {
        let directory = tempfile::tempdir().unwrap();
        let made =
            rcgen::generate_simple_self_signed(vec!["vault.example.org".to_owned()]).unwrap();
        let files = TlsFiles {
            certificate: directory.path().join("cert.pem"),
            key: directory.path().join("key.pem"),
        };
        std::fs::write(&files.certificate, made.cert.pem()).unwrap();
        std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopping) = watch::channel(false);
        let served = tokio::spawn(serve(
            listener,
            ReloadableTls::load(files).unwrap(),
            house.service.clone(),
            ListenerLimits::default(),
            stopping,
        ));
        Port {
            address,
            connector: TlsConnector::from(Arc::new(config)),
            stop,
            served,
            _directory: directory,
        }
    }

    async fn connect(&self) -> TlsStream<TcpStream> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from("vault.example.org").unwrap();
        self.connector.connect(name, stream).await.unwrap()
    }

    /// Everything the server answers to these bytes until it closes.
    async fn raw(&self, bytes: &[u8]) -> String {
        let mut client = self.connect().await;
        client.write_all(bytes).await.unwrap();
        client.shutdown().await.unwrap();
        let mut answer = Vec::new();
        // A server that stops reading in the middle may end without a farewell.
        let _ = client.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    }

    async fn close(self) {
        self.stop.send(true).unwrap();
        self.served.await.unwrap();
    }
}

/// The cached credential read that all clients live on, over TLS and one kept connection.
#[tokio::test]
async fn a_kept_connection_reads_credentials() {
    let house = house().await;
    let login = house.log_in("alice").await;
    let token = login["client_token"].as_str().unwrap();
    let port = Port::open(&house).await;
    let mut client = port.connect().await;
    let mut tokens = std::collections::BTreeSet::new();
    for _ in 0..5 {
        let request = format!(
            "GET /v1/secret/oauth/creds/dune/alice:default?minimum_seconds=60 HTTP/1.1\r\nhost: 10.0.0.1:8200\r\nx-vault-token: {token}\r\n\r\n"
        );
        client.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        while !answer.ends_with("}\n") {
            let mut buffer = [0; 4096];
            let count = client.read(&mut buffer).await.unwrap();
            assert!(count > 0, "{answer}");
            answer.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
        }
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(head.contains("\r\ncontent-type: application/json\r\n"));
        let body: Value = serde_json::from_str(body).unwrap();
        tokens.insert(body["data"]["access_token"].as_str().unwrap().to_owned());
    }
    assert_eq!(tokens.len(), 1, "one cached token");
    drop(client);
    port.close().await;
}

/// Each file of the corpus is a request; its name begins with the status it must get.
#[tokio::test]
async fn corpus() {
    let house = house().await;
    let port = Port::open(&house).await;
    let mut files: Vec<_> = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/corpus"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(files.len() > 40);
    for file in files {
        let name = file.file_name().unwrap().to_str().unwrap().to_owned();
        let expected = name.split('-').next().unwrap();
        let answer = port.raw(&std::fs::read(&file).unwrap()).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {expected} ")),
            "{name}: {answer}"
        );
        assert_eq!(
            answer.matches("HTTP/1.1 ").count(),
            1,
            "one answer only, {name}: {answer}"
        );
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(
            head.contains("\r\ncontent-type: application/json\r\n"),
            "{name}: {answer}"
        );
        let body: Value = serde_json::from_str(body).unwrap_or_else(|_| panic!("{name}: {answer}"));
        if expected != "200" {
            assert!(body["errors"].is_array(), "{name}: {answer}");
        }
        assert_eq!(
            answer.contains("permission denied"),
            expected == "403",
            "{name}: {answer}"
        );
    }
    assert_eq!(
        house
            .call("GET", "sys/health", None, Value::Null)
            .await
            .status,
        200
    );
    port.close().await;
}

/// The statuses that the stock clients' table knows and this server may give.
fn is_known(status: u16) -> bool {
    matches!(
        status,
        200 | 202 | 204 | 400 | 403 | 404 | 405 | 408 | 413 | 503
    )
}

/// No path, query, header or body makes the service panic (500), answer in another form, or let a token's bearer beyond its policies.
#[tokio::test]
async fn any_request_is_answered_in_form() {
    let house = house().await;
    let login = house.log_in("alice").await;
    house.log_in("bob").await;
    let token = login["client_token"].as_str().unwrap();
    let mut runner = TestRunner::deterministic();
    let segment = prop_oneof![
        Just("secret/oauth/creds"),
        Just("secret/oauth/sts"),
        Just("dune"),
        Just("bob:default"),
        Just("alice"),
        Just("alice:default"),
        Just(".."),
        Just("%2e%2e"),
        Just("%2f"),
        Just("auth/token"),
        Just("create"),
        Just("lookup"),
        Just("revoke-orphan"),
        Just("sys/policies/acl"),
        Just("sys/capabilities"),
        Just("auth/oidc-dune/oidc"),
        Just("auth_url"),
        Just("poll"),
        Just("callback"),
        Just("%00"),
        Just("*"),
        Just("+"),
        Just(""),
    ];
    let paths = proptest::collection::vec(segment, 1..6).prop_map(|parts| parts.join("/"));
    let value = prop_oneof![
        any::<i64>().prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
        Just(Value::Null),
        Just(json!([])),
        Just(json!({"a": [1, {"b": null}]})),
        Just(json!(["root", "a,b"])),
    ];
    let name = prop::sample::select(vec![
        "token",
        "accessor",
        "policies",
        "meta",
        "ttl",
        "period",
        "num_uses",
        "server",
        "refresh_token",
        "state",
        "client_nonce",
        "role",
        "path",
        "paths",
        "policy",
        "scopes",
        "audience",
        "id",
        "type",
        "no_parent",
    ]);
    let bodies = proptest::collection::btree_map(name, value, 0..6);
    let method = prop::sample::select(vec!["GET", "POST", "PUT", "LIST", "SCAN", "DELETE"]);
    let query = prop::sample::select(vec![
        "",
        "?list=true",
        "?scopes=a&scopes=b",
        "?minimum_seconds=-1",
        "?minimum_seconds=9999999999999",
        "?help=1",
    ]);
    let sent = prop::option::of(Just(()));
    for _ in 0..400 {
        let mut draw = |strategy: &dyn Fn(&mut TestRunner) -> String| strategy(&mut runner);
        let path = draw(&|runner| paths.new_tree(runner).unwrap().current());
        let body = draw(&|runner| json!(bodies.new_tree(runner).unwrap().current()).to_string());
        let method = draw(&|runner| method.new_tree(runner).unwrap().current().to_owned());
        let query = draw(&|runner| query.new_tree(runner).unwrap().current().to_owned());
        let with_token = sent.new_tree(&mut runner).unwrap().current().is_some();
        let headers: &[(&str, &str)] = if with_token {
            &[("x-vault-token", token)]
        } else {
            &[]
        };
        let target = format!("/v1/{path}{query}");
        let Ok(request) = Request::builder()
            .method(method.as_str())
            .uri(&target)
            .body(Full::new(bytes::Bytes::new()))
        else {
            continue;
        };
        drop(request);
        let answer = house.send(&method, &target, headers, body.clone()).await;
        let context = || {
            format!(
                "{method} {target} {body}: {} {}",
                answer.status, answer.text
            )
        };
        assert!(is_known(answer.status), "{}", context());
        if answer.status == 200
            && path.contains("bob:default")
            && answer.json["data"].get("access_token").is_some()
        {
            panic!("another's credential: {}", context());
        }
        if answer.status >= 400 && answer.status != 403 {
            assert!(!answer.text.contains("permission denied"), "{}", context());
        }
    }
    assert_eq!(
        house
            .get(
                "secret/oauth/creds/dune/bob:default",
                &house.operator().await
            )
            .await
            .status,
        403,
        "an operator cannot read it either"
    );
}

/// Login starts are capped, and the cap does not sound final.
#[tokio::test]
async fn a_flood_of_login_starts_is_capped() {
    let house = house().await;
    let mut last = 0;
    for _ in 0..300 {
        let answer = house
            .call(
                "POST",
                "auth/oidc-dune/oidc/auth_url",
                None,
                json!({"client_nonce": "n"}),
            )
            .await;
        last = answer.status;
        if last != 200 {
            assert_eq!(last, 503);
            assert!(!answer.text.contains("permission denied"));
            assert!(answer.headers.contains_key("retry-after"));
            break;
        }
    }
    assert_eq!(
        last, 503,
        "300 unfinished logins of one address are too many"
    );
}
