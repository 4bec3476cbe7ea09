//! Failover, against servers in this process.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use secrecy::SecretString;
use serde_json::json;

use super::*;
use crate::environment::Environment;
use crate::testserver::{
    Act, Authority, NAME, Names, Server, ca_file, environment, fresh_ip, listener,
};

const NEVER: Duration = Duration::from_secs(86_400);

struct Bench {
    _directory: tempfile::TempDir,
    environment: Environment,
    trust: TrustSources,
}

impl Bench {
    fn new(addresses: &[IpAddr]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut environment = environment(directory.path());
        environment.resolver = Arc::new(Names::of(addresses));
        let trust = TrustSources {
            bundle: Some(ca_file(directory.path())),
            directory: None,
        };
        Self {
            _directory: directory,
            environment,
            trust,
        }
    }

    fn client(&self, port: u16) -> Client {
        self.client_for(&format!("{NAME}:{port}"), None)
    }

    fn client_for(&self, server: &str, certificate_name: Option<&str>) -> Client {
        let target = Target {
            server: ServerUrl::parse(server, 8200).unwrap(),
            alias: None,
            certificate_name: certificate_name.map(str::to_owned),
            trust: self.trust.clone(),
        };
        Client::new(target, &self.environment).unwrap()
    }
}

fn get<'a>() -> Call<'a> {
    Call::get("/v1/x".to_owned(), None)
}

fn ok(_: &crate::testserver::Seen) -> Act {
    Act::json(200, "{}")
}

/// Answers the acts in turn, then the last one for ever.
fn in_turn(acts: Vec<Act>) -> impl Fn(&crate::testserver::Seen) -> Act + Send + Sync {
    let next = AtomicUsize::new(0);
    move |_| {
        let index = next.fetch_add(1, Ordering::SeqCst);
        acts[index.min(acts.len() - 1)].clone()
    }
}

/// Two servers on one port and the bench that knows both by one name.
fn pair(
    first: impl Fn(&crate::testserver::Seen) -> Act + Send + Sync + 'static,
    second: impl Fn(&crate::testserver::Seen) -> Act + Send + Sync + 'static,
) -> (Server, Server, Bench) {
    let one = Server::start(first);
    let port = one.address.port();
    let two = Server::start_at(
        listener(fresh_ip(), port).unwrap(),
        &crate::testserver::AUTHORITY,
        second,
    );
    let bench = Bench::new(&[one.address.ip(), two.address.ip()]);
    (one, two, bench)
}

#[tokio::test]
async fn one_connection_with_proper_name() {
    let server = Server::start(ok);
    let bench = Bench::new(&[server.address.ip()]);
    let mut client = bench.client(server.address.port());
    let token = SecretString::from("hvs.x");
    let body = json!({"a": 1});
    for call in [
        get(),
        Call::post("/v1/y?z=1".to_owned(), Some(&token), &body),
    ] {
        assert_eq!(client.send(&call, &mut NoLog).await.unwrap().status, 200);
    }
    let seen = server.seen();
    assert_eq!(seen[0].sni.as_deref(), Some(NAME));
    assert_eq!(
        seen[0].headers["host"],
        format!("{NAME}:{}", server.address.port())
    );
    assert!(seen[0].headers["user-agent"].starts_with("gridkeep-htgettoken/"));
    assert_eq!(seen[1].headers["x-vault-token"], "hvs.x");
    assert_eq!(seen[1].headers["content-type"], "application/json");
    assert_eq!(seen[1].body, r#"{"a":1}"#);
    assert_eq!(seen[0].connection, seen[1].connection);
}

#[tokio::test]
async fn first_refuses_second_is_a_black_hole_third_answers() {
    let server = Server::start(ok);
    let port = server.address.port();
    let refusing = fresh_ip();
    // Connections are made by the kernel, and nobody ever speaks TLS on them.
    let black_hole = listener(fresh_ip(), port).unwrap();
    let mut bench = Bench::new(&[
        refusing,
        black_hole.local_addr().unwrap().ip(),
        server.address.ip(),
    ]);
    // Whoever waited for the one that is silent would never come to an end.
    bench.environment.timing.read = NEVER;
    let mut client = bench.client(port);
    assert_eq!(client.send(&get(), &mut NoLog).await.unwrap().status, 200);
    // The address that answered is kept, even for a new connection.
    client.send(&get(), &mut NoLog).await.unwrap();
    assert_eq!(server.seen().len(), 2);
}

#[tokio::test]
async fn all_refuse() {
    let ips = [fresh_ip(), fresh_ip()];
    let bench = Bench::new(&ips);
    let port = listener(fresh_ip(), 0)
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let error = bench
        .client(port)
        .send(&get(), &mut NoLog)
        .await
        .unwrap_err();
    let text = error.to_string();
    for ip in ips {
        assert!(
            text.contains(&format!("{ip}:{port}: connection refused")),
            "{text}"
        );
    }
    assert!(error.is_temporary());
}

#[tokio::test]
async fn unknown_name() {
    let bench = Bench::new(&[]);
    let mut client = bench.client_for("other.example.org", None);
    let error = client.send(&get(), &mut NoLog).await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("cannot find the address of other.example.org (no such name)")
    );
}

#[tokio::test]
async fn a_lookup_is_tried_twice() {
    struct SecondTime(std::net::IpAddr, AtomicUsize);
    impl Resolver for SecondTime {
        fn resolve(&self, _: &str) -> Lookup {
            let first = self.1.fetch_add(1, Ordering::SeqCst) == 0;
            let address = self.0;
            Box::pin(async move {
                if first {
                    Err(std::io::Error::other("not now"))
                } else {
                    Ok(vec![address])
                }
            })
        }
    }
    let server = Server::start(ok);
    let mut bench = Bench::new(&[]);
    bench.environment.resolver = Arc::new(SecondTime(server.address.ip(), AtomicUsize::new(0)));
    let reply = bench
        .client(server.address.port())
        .send(&get(), &mut NoLog)
        .await;
    assert_eq!(reply.unwrap().status, 200);
}

#[tokio::test]
async fn answers_without_end_or_sense() {
    let large = Act::Answer(200, Vec::new(), "x".repeat((1 << 20) + 1));
    let server = Server::start(move |_| large.clone());
    let bench = Bench::new(&[server.address.ip()]);
    let error = bench
        .client(server.address.port())
        .send(&get(), &mut NoLog)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("larger than 1 MiB"), "{error}");
    // Not TLS at all.
    let plain = listener(fresh_ip(), 0).unwrap();
    let address = plain.local_addr().unwrap();
    let answering = std::thread::spawn(move || {
        let (mut stream, _) = plain.accept().unwrap();
        std::io::Write::write_all(&mut stream, b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
    });
    let bench = Bench::new(&[address.ip()]);
    let error = bench
        .client(address.port())
        .send(&get(), &mut NoLog)
        .await
        .unwrap_err();
    answering.join().unwrap();
    assert!(error.to_string().contains("TLS failed"), "{error}");
}

#[tokio::test]
async fn what_speaks_no_tls_or_shows_a_foreign_certificate_is_passed_over() {
    let server = Server::start(ok);
    let port = server.address.port();
    let plain = listener(fresh_ip(), port).unwrap();
    let plain_ip = plain.local_addr().unwrap().ip();
    let closing = std::thread::spawn(move || drop(plain.accept().unwrap()));
    let foreign = Authority::new("Foreign Authority");
    let foreign = Server::start_at(listener(fresh_ip(), port).unwrap(), &foreign, ok);
    let bench = Bench::new(&[plain_ip, foreign.address.ip(), server.address.ip()]);
    let body = json!({});
    let call = Call::post("/v1/w".to_owned(), None, &body);
    bench.client(port).send(&call, &mut NoLog).await.unwrap();
    closing.join().unwrap();
    assert_eq!((foreign.seen().len(), server.seen().len()), (0, 1));
}

#[tokio::test]
async fn lost_after_sending() {
    let (one, two, bench) = pair(|_| Act::Drop, ok);
    let port = one.address.port();
    // A read goes on to the next address and stays there.
    let mut client = bench.client(port);
    client.send(&get(), &mut NoLog).await.unwrap();
    client.send(&get(), &mut NoLog).await.unwrap();
    assert_eq!((one.seen().len(), two.seen().len()), (1, 2));
    // A write that must not be repeated is not; one that may be, is.
    let body = json!({});
    let write = Call::post("/v1/w".to_owned(), None, &body);
    let error = bench
        .client(port)
        .send(&write, &mut NoLog)
        .await
        .unwrap_err();
    assert!(matches!(error, HttpError::Lost { .. }), "{error}");
    assert_eq!((one.seen().len(), two.seen().len()), (2, 2));
    bench
        .client(port)
        .send(&write.repeatable(), &mut NoLog)
        .await
        .unwrap();
    assert_eq!((one.seen().len(), two.seen().len()), (3, 3));
}

#[tokio::test(start_paused = true)]
async fn silence_is_a_loss() {
    // The paused clock moves by itself while nothing runs here, as when the servers' threads are at work, but not while this waits.
    let (_held, released) = std::sync::mpsc::channel::<()>();
    tokio::task::spawn_blocking(move || released.recv());
    let (one, two, bench) = pair(|_| Act::Hang, ok);
    let mut client = bench.client(one.address.port());
    // Time passes once the one who is silent has the request, and then no more.
    let silence = async {
        while one.seen().is_empty() {
            tokio::task::yield_now().await;
        }
        tokio::time::advance(bench.environment.timing.read).await;
    };
    let (call, mut log) = (get(), NoLog);
    let (reply, ()) = tokio::join!(client.send(&call, &mut log), silence);
    assert_eq!(reply.unwrap().status, 200);
    assert_eq!(two.seen().len(), 1);
}

#[tokio::test]
async fn a_whole_run_has_a_limit() {
    let server = Server::start(|_| Act::Hang);
    let bench = Bench::new(&[server.address.ip()]);
    let mut client = bench.client(server.address.port());
    client.limit(Some(Duration::from_millis(200)));
    let error = client.send(&get(), &mut NoLog).await.unwrap_err();
    assert!(matches!(error, HttpError::OutOfTime));
}

#[tokio::test]
async fn idle_connection_closed_by_the_server() {
    let close = |_: &crate::testserver::Seen| {
        Act::Answer(
            200,
            vec![("connection", "close".to_owned())],
            "{}".to_owned(),
        )
    };
    let (one, two, bench) = pair(close, ok);
    let mut client = bench.client(one.address.port());
    let body = json!({});
    for _ in 0..3 {
        let call = Call::post("/v1/w".to_owned(), None, &body);
        client.send(&call, &mut NoLog).await.unwrap();
    }
    // Login state may be there, so the address is not left.
    assert_eq!((one.seen().len(), two.seen().len()), (3, 0));
}

#[tokio::test]
async fn unavailable_servers() {
    let busy = |wait: &str| {
        let headers = if wait.is_empty() {
            Vec::new()
        } else {
            vec![("retry-after", wait.to_owned())]
        };
        Act::Answer(503, headers, r#"{"errors":["busy"]}"#.to_owned())
    };
    for wait in ["", "2", "600"] {
        let act = busy(wait);
        let (one, two, bench) = pair(move |_| act.clone(), ok);
        let reply = bench
            .client(one.address.port())
            .send(&get(), &mut NoLog)
            .await
            .unwrap();
        assert_eq!(reply.status, 200, "{wait}");
        assert_eq!((one.seen().len(), two.seen().len()), (1, 1));
    }
    // Alone: once more after a short wait, not after a long one, and a write not at all.
    let body = json!({});
    for (wait, call, requests) in [
        ("1", get(), 2),
        ("600", get(), 1),
        ("1", Call::post("/v1/w".to_owned(), None, &body), 1),
    ] {
        let act = busy(wait);
        let server = Server::start(move |_| act.clone());
        let bench = Bench::new(&[server.address.ip()]);
        let reply = bench
            .client(server.address.port())
            .send(&call, &mut NoLog)
            .await
            .unwrap();
        assert_eq!(
            reply.success().unwrap_err().to_string(),
            "HTTPError: 503 Service Unavailable: busy"
        );
        assert_eq!(server.seen().len(), requests, "{wait}");
    }
}

#[tokio::test]
async fn rate_limits() {
    let limited =
        |wait: &str| Act::Answer(429, vec![("retry-after", wait.to_owned())], "{}".to_owned());
    for (wait, requests, status) in [("5", 2, 200), ("6", 1, 429)] {
        let server = Server::start(in_turn(vec![limited(wait), Act::json(200, "{}")]));
        let bench = Bench::new(&[server.address.ip()]);
        let reply = bench
            .client(server.address.port())
            .send(&get(), &mut NoLog)
            .await
            .unwrap();
        assert_eq!((reply.status, server.seen().len()), (status, requests));
        if let Err(error) = reply.success() {
            assert!(error.to_string().contains("rate limited: try again in 6 s"));
        }
    }
}

#[tokio::test]
async fn redirects_within_the_service_only() {
    let to = |location: String| {
        move |_: &crate::testserver::Seen| {
            Act::Answer(307, vec![("location", location.clone())], String::new())
        }
    };
    let two = Server::start(ok);
    let port = two.address.port();
    let token = SecretString::from("hvs.x");
    let body = json!({"a": 1});
    let call = Call::post("/v1/w?q=1".to_owned(), Some(&token), &body);
    // To the other node by its address, and by the service's own name.
    for location in [
        format!("https://{}/v1/w?q=1", two.address),
        format!("https://{NAME}:{port}/v1/w?q=1"),
    ] {
        let one = Server::start_at(
            listener(fresh_ip(), port).unwrap(),
            &crate::testserver::AUTHORITY,
            to(location),
        );
        let bench = Bench::new(&[one.address.ip(), two.address.ip()]);
        let before = two.seen().len();
        assert_eq!(
            bench
                .client(port)
                .send(&call, &mut NoLog)
                .await
                .unwrap()
                .status,
            200
        );
        let seen = &two.seen()[before];
        assert_eq!(seen.line(), "POST /v1/w?q=1");
        assert_eq!(
            (seen.headers["x-vault-token"].as_str(), seen.body.as_str()),
            ("hvs.x", r#"{"a":1}"#)
        );
    }
    // To anywhere else, never.
    let stranger = Server::start(ok);
    for location in [
        format!("https://{}/v1/w", stranger.address),
        format!("http://{NAME}:{port}/v1/w"),
        format!("https://{NAME}:{}/v1/w", port ^ 1),
        "https://evil.example.org/v1/w".to_owned(),
        format!("https://{NAME}:{port}/else"),
        "/v1/w".to_owned(),
    ] {
        let one = Server::start_at(
            listener(fresh_ip(), port).unwrap(),
            &crate::testserver::AUTHORITY,
            to(location.clone()),
        );
        let bench = Bench::new(&[one.address.ip(), two.address.ip()]);
        let error = bench
            .client(port)
            .send(&call, &mut NoLog)
            .await
            .unwrap_err();
        assert!(
            matches!(error, HttpError::Redirect(_)),
            "{location}: {error}"
        );
        assert_eq!(one.seen().len(), 1);
    }
    assert!(stranger.seen().is_empty());
}

#[tokio::test]
async fn redirects_that_go_round() {
    let one = Server::start(|seen| {
        let location = format!("https://{}/v1/x", seen.headers["host"]);
        Act::Answer(308, vec![("location", location)], String::new())
    });
    let bench = Bench::new(&[one.address.ip()]);
    let error = bench
        .client(one.address.port())
        .send(&get(), &mut NoLog)
        .await
        .unwrap_err();
    assert!(matches!(error, HttpError::Redirect(_)));
    assert_eq!(one.seen().len(), 2);
}

#[tokio::test]
async fn certificates() {
    let server = Server::start(ok);
    let mut bench = Bench::new(&[server.address.ip()]);
    let address = server.address.to_string();
    // By address, if the certificate names it; by another name only when told so.
    bench
        .client_for(&address, None)
        .send(&get(), &mut NoLog)
        .await
        .unwrap();
    bench
        .client_for(&address, Some(NAME))
        .send(&get(), &mut NoLog)
        .await
        .unwrap();
    let error = bench
        .client_for(&address, Some("other.example.org"))
        .send(&get(), &mut NoLog)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("for another name"), "{error}");

    // A grid directory is read when the bundle does not suffice; whatever is no certificate there is passed over.
    let directory = tempfile::tempdir().unwrap();
    let other = Authority::new("Other Authority");
    std::fs::write(directory.path().join("bundle.pem"), other.pem()).unwrap();
    bench.trust.bundle = Some(directory.path().join("bundle.pem"));
    let error = bench
        .client_for(&address, None)
        .send(&get(), &mut NoLog)
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("not signed by an authority in"),
        "{error}"
    );
    let grid = directory.path().join("certificates");
    std::fs::create_dir(&grid).unwrap();
    for (name, content) in [
        ("0a1b2c3d.0", crate::testserver::AUTHORITY.pem()),
        ("0a1b2c3d.1", crate::testserver::AUTHORITY.pem()),
        (
            "ffffffff.0",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_owned(),
        ),
        ("0a1b2c3d.r0", "not a list".to_owned()),
        ("x.info", "alias = x".to_owned()),
    ] {
        std::fs::write(grid.join(name), content).unwrap();
    }
    bench.trust.directory = Some(grid.clone());
    bench
        .client_for(&address, None)
        .send(&get(), &mut NoLog)
        .await
        .unwrap();
    // Without hashed names, the plain ones count; without a bundle, the directory alone.
    for name in ["0a1b2c3d.0", "0a1b2c3d.1", "ffffffff.0"] {
        std::fs::remove_file(grid.join(name)).unwrap();
    }
    std::fs::write(grid.join("test.pem"), crate::testserver::AUTHORITY.pem()).unwrap();
    bench.trust.bundle = None;
    bench
        .client_for(&address, None)
        .send(&get(), &mut NoLog)
        .await
        .unwrap();
}

#[tokio::test]
async fn the_directory_is_not_read_when_the_bundle_suffices() {
    struct Lines(Vec<String>);
    impl Log for Lines {
        fn request_line(&mut self, line: &str) {
            self.0.push(line.to_owned());
        }
    }
    let server = Server::start(ok);
    let mut bench = Bench::new(&[server.address.ip()]);
    bench.trust.directory = Some("/no/such/directory".into());
    let mut lines = Lines(Vec::new());
    bench
        .client(server.address.port())
        .send(&get(), &mut lines)
        .await
        .unwrap();
    assert!(
        lines
            .0
            .iter()
            .all(|line| !line.contains("/no/such/directory")),
        "{:?}",
        lines.0
    );
    bench.trust.bundle = None;
    let mut lines = Lines(Vec::new());
    bench
        .client(server.address.port())
        .send(&get(), &mut lines)
        .await
        .unwrap_err();
    assert!(
        lines
            .0
            .iter()
            .any(|line| line.contains("/no/such/directory"))
    );
}

#[test]
fn a_bundle_that_is_not_there() {
    let bench = Bench::new(&[]);
    let target = Target {
        server: ServerUrl::parse(NAME, 8200).unwrap(),
        alias: None,
        certificate_name: None,
        trust: TrustSources {
            bundle: Some("/no/such/bundle.pem".into()),
            directory: None,
        },
    };
    let error = Client::new(target, &bench.environment).unwrap_err();
    assert!(error.to_string().contains("/no/such/bundle.pem"));
}
