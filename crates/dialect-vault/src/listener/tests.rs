use std::sync::atomic::{AtomicUsize, Ordering};

use gridkeep_keeper::UnixSeconds;
use http_body_util::BodyExt as _;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsConnector;

use super::*;

/// Answers with what it was asked, after `wait`.
#[derive(Clone)]
struct Echo {
    wait: Duration,
    calls: Arc<AtomicUsize>,
    finished: Arc<AtomicUsize>,
}

impl HttpService for Echo {
    async fn call(&self, request: Request<Incoming>, _: SocketAddr) -> Response<Full<Bytes>> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(self.wait).await;
        self.finished.fetch_add(1, Ordering::SeqCst);
        let path = request.uri().path().to_owned();
        let body = request
            .into_body()
            .collect()
            .await
            .map(|body| body.to_bytes())
            .unwrap_or_default();
        Response::new(Full::new(Bytes::from(format!("{path} {}", body.len()))))
    }
}

struct Port {
    address: SocketAddr,
    tls: Arc<ReloadableTls>,
    files: TlsFiles,
    directory: tempfile::TempDir,
    stop: watch::Sender<bool>,
    served: tokio::task::JoinHandle<()>,
    calls: Arc<AtomicUsize>,
    finished: Arc<AtomicUsize>,
}

/// Writes a new key and certificate and returns the certificate.
fn write_pair(files: &TlsFiles, not_after: i32) -> CertificateDer<'static> {
    write_pair_of(files, 2000, not_after)
}

/// One that is valid between the first days of two years.
fn write_pair_of(files: &TlsFiles, not_before: i32, not_after: i32) -> CertificateDer<'static> {
    let mut parameters =
        rcgen::CertificateParams::new(vec!["vault.example.org".to_owned()]).unwrap();
    parameters.not_before = rcgen::date_time_ymd(not_before, 1, 1);
    parameters.not_after = rcgen::date_time_ymd(not_after, 1, 1);
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = parameters.self_signed(&key).unwrap();
    std::fs::write(&files.certificate, certificate.pem()).unwrap();
    std::fs::write(&files.key, key.serialize_pem()).unwrap();
    certificate.der().clone()
}

async fn port(limits: ListenerLimits, wait: Duration) -> (Port, CertificateDer<'static>) {
    let directory = tempfile::tempdir().unwrap();
    let files = TlsFiles {
        certificate: directory.path().join("cert.pem"),
        key: directory.path().join("key.pem"),
    };
    let certificate = write_pair(&files, 2040);
    let tls = ReloadableTls::load(files.clone()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopping) = watch::channel(false);
    let calls = Arc::new(AtomicUsize::new(0));
    let finished = Arc::new(AtomicUsize::new(0));
    let served = tokio::spawn(serve(
        listener,
        Arc::clone(&tls),
        Echo {
            wait,
            calls: Arc::clone(&calls),
            finished: Arc::clone(&finished),
        },
        limits,
        stopping,
    ));
    (
        Port {
            address,
            tls,
            files,
            directory,
            stop,
            served,
            calls,
            finished,
        },
        certificate,
    )
}

type Client = tokio_rustls::client::TlsStream<TcpStream>;

async fn connect_with(
    address: SocketAddr,
    certificate: &CertificateDer<'static>,
    name: &str,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> std::io::Result<Client> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(
        rustls::crypto::aws_lc_rs::default_provider(),
    ))
    .with_protocol_versions(versions)
    .unwrap()
    .with_root_certificates(roots)
    .with_no_client_auth();
    let mut config = config;
    config.enable_sni = name != "vault.example.org" || versions.len() == 2;
    let stream = TcpStream::connect(address).await?;
    TlsConnector::from(Arc::new(config))
        .connect(ServerName::try_from(name.to_owned()).unwrap(), stream)
        .await
}

async fn connect(
    address: SocketAddr,
    certificate: &CertificateDer<'static>,
) -> std::io::Result<Client> {
    connect_with(
        address,
        certificate,
        "vault.example.org",
        &[&rustls::version::TLS13, &rustls::version::TLS12],
    )
    .await
}

/// Reads one response with a content length.
async fn response(client: &mut Client) -> String {
    let mut bytes = Vec::new();
    let mut buffer = [0; 1024];
    loop {
        let count = client.read(&mut buffer).await.unwrap();
        assert!(
            count > 0,
            "closed after {:?}",
            String::from_utf8_lossy(&bytes)
        );
        bytes.extend_from_slice(&buffer[..count]);
        let text = String::from_utf8(bytes.clone()).unwrap();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .to_lowercase()
                .split("content-length: ")
                .nth(1)
                .and_then(|rest| {
                    rest.lines()
                        .next()
                        .and_then(|line| line.parse::<usize>().ok())
                })
                .unwrap_or(0);
            if body.len() >= length {
                return text;
            }
        }
    }
}

async fn get(client: &mut Client, path: &str) -> String {
    client
        .write_all(format!("GET {path} HTTP/1.1\r\nhost: 10.0.0.1\r\n\r\n").as_bytes())
        .await
        .unwrap();
    response(client).await
}

/// Keeps tokio's paused clock from moving by itself, as it does while all tasks wait for the network.
fn hold_time() -> std::sync::mpsc::Sender<()> {
    let (hold, released) = std::sync::mpsc::channel();
    tokio::task::spawn_blocking(move || released.recv());
    hold
}

/// Waits until the service was called so many times.
async fn called(port: &Port, times: usize) {
    while port.calls.load(Ordering::SeqCst) < times {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn one_certificate_for_every_version_and_name() {
    let (port, certificate) = port(ListenerLimits::default(), Duration::ZERO).await;
    for versions in [
        &[&rustls::version::TLS12][..],
        &[&rustls::version::TLS13][..],
    ] {
        let mut client = connect_with(port.address, &certificate, "vault.example.org", versions)
            .await
            .unwrap();
        assert!(get(&mut client, "/a").await.ends_with("/a 0"));
        assert!(
            get(&mut client, "/b").await.ends_with("/b 0"),
            "the connection is kept"
        );
    }
    // The certificate is the same for a foreign name: the client, not the server, finds it wrong.
    let error = connect_with(
        port.address,
        &certificate,
        "other.example.org",
        &[&rustls::version::TLS13],
    )
    .await
    .unwrap_err();
    assert!(error.to_string().contains("certificate"), "{error}");
    port.stop.send(true).unwrap();
    port.served.await.unwrap();
}

#[tokio::test]
async fn certificates_are_replaced_while_connections_live() {
    let (port, first) = port(ListenerLimits::default(), Duration::ZERO).await;
    let mut kept = connect(port.address, &first).await.unwrap();
    assert!(get(&mut kept, "/before").await.contains("/before"));
    assert!(
        !port.tls.reload().unwrap(),
        "unchanged files are not reloaded"
    );
    let ends = port.tls.not_after().unwrap();
    assert_eq!(
        port.tls.days_left(UnixSeconds(ends.0 - 3 * 86_400 - 5)),
        Some(3)
    );
    assert_eq!(port.tls.days_left(UnixSeconds(ends.0 + 5)), Some(-1));

    let second = write_pair(&port.files, 2050);
    assert!(port.tls.reload().unwrap());
    assert!(port.tls.not_after().unwrap() > ends);
    assert!(
        connect(port.address, &first).await.is_err(),
        "the old one is gone"
    );
    assert!(
        get(&mut connect(port.address, &second).await.unwrap(), "/new")
            .await
            .contains("/new")
    );
    assert!(
        get(&mut kept, "/after").await.contains("/after"),
        "a living connection is not disturbed"
    );

    // A key that does not fit, garbage, a missing file: each is refused by name and the certificate stays.
    let key = std::fs::read(&port.files.key).unwrap();
    let other = TlsFiles {
        certificate: port.directory.path().join("other.pem"),
        key: port.files.key.clone(),
    };
    write_pair(&other, 2060);
    let text = port.tls.reload().unwrap_err().to_string();
    assert!(text.contains("does not fit"), "{text}");
    std::fs::write(&port.files.key, "-----BEGIN PRIVATE KEY-----\ncanary\n").unwrap();
    let text = port.tls.reload().unwrap_err().to_string();
    assert!(
        text.contains("key.pem") && !text.contains("canary"),
        "{text}"
    );
    std::fs::remove_file(&port.files.key).unwrap();
    assert!(port.tls.reload().is_err());
    port.tls.reload_and_report();
    std::fs::write(&port.files.key, &key).unwrap();
    std::fs::write(&port.files.certificate, "").unwrap();
    assert!(
        port.tls
            .reload()
            .unwrap_err()
            .to_string()
            .contains("no certificate")
    );
    assert!(connect(port.address, &second).await.is_ok());
    port.stop.send(true).unwrap();
    port.served.await.unwrap();
}

#[test]
fn a_certificate_that_clients_refuse_takes_the_place_of_none_that_they_accept() {
    let directory = tempfile::tempdir().unwrap();
    let files = TlsFiles {
        certificate: directory.path().join("cert.pem"),
        key: directory.path().join("key.pem"),
    };
    write_pair_of(&files, 2020, 2040);
    let tls = ReloadableTls::load(files.clone()).unwrap();
    let year = |year: i64| UnixSeconds((year - 1970) * 31_557_600);
    let in_use = tls.not_after();
    for (from, until, said) in [
        (2019, 2025, "cert.pem ended at 2025-01-01T00:00:00Z"),
        (
            2036,
            2050,
            "cert.pem is not valid before 2036-01-01T00:00:00Z",
        ),
    ] {
        write_pair_of(&files, from, until);
        let text = tls.reload_at(year(2030)).unwrap_err().to_string();
        assert!(text.contains(said), "{text}");
        assert_eq!(tls.not_after(), in_use, "the old one stays");
    }
    assert!(tls.reload_at(year(2037)).unwrap(), "its time has come");
    // Of two that have ended, the new one is what the operators want.
    write_pair_of(&files, 2019, 2025);
    assert!(tls.reload_at(year(2060)).unwrap());
    assert!(tls.not_after() < in_use);
    // What is valid replaces it.
    write_pair_of(&files, 2050, 2070);
    assert!(tls.reload_at(year(2060)).unwrap());
}

#[tokio::test(start_paused = true)]
async fn changed_files_are_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let files = TlsFiles {
        certificate: directory.path().join("cert.pem"),
        key: directory.path().join("key.pem"),
    };
    write_pair(&files, 2040);
    let tls = ReloadableTls::load(files.clone()).unwrap();
    let before = tls.not_after();
    let (stop, stopping) = watch::channel(false);
    let watching = tokio::spawn(Arc::clone(&tls).watch(Duration::from_secs(60), stopping));
    write_pair(&files, 2050);
    tokio::time::sleep(Duration::from_secs(61)).await;
    while tls.not_after() == before {
        tokio::task::yield_now().await;
    }
    stop.send(true).unwrap();
    watching.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn stopping_finishes_what_is_under_way() {
    const WAIT: Duration = Duration::from_millis(200);
    let _held = hold_time();
    let (port, certificate) = port(ListenerLimits::default(), WAIT).await;
    let mut idle = connect(port.address, &certificate).await.unwrap();
    idle.write_all(b"GET /idle HTTP/1.1\r\nhost: a\r\n\r\n")
        .await
        .unwrap();
    called(&port, 1).await;
    tokio::time::advance(WAIT).await;
    response(&mut idle).await;
    let mut busy = connect(port.address, &certificate).await.unwrap();
    busy.write_all(b"GET /busy HTTP/1.1\r\nhost: a\r\n\r\n")
        .await
        .unwrap();
    called(&port, 2).await;
    port.stop.send(true).unwrap();
    tokio::time::advance(WAIT).await;
    let answer = response(&mut busy).await;
    assert!(
        answer.contains("/busy") && answer.to_lowercase().contains("connection: close"),
        "{answer}"
    );
    tokio::time::advance(ONE_MORE_REQUEST).await;
    assert_eq!(
        idle.read(&mut [0; 16]).await.unwrap_or(0),
        0,
        "an idle connection is closed"
    );
    port.served.await.unwrap();
    assert!(TcpStream::connect(port.address).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_on_its_way_when_the_port_stops_is_answered() {
    // It has a second to arrive, which a busy machine may take.
    let _held = hold_time();
    let (port, certificate) = port(ListenerLimits::default(), Duration::ZERO).await;
    let fresh = connect(port.address, &certificate).await.unwrap();
    let mut used = connect(port.address, &certificate).await.unwrap();
    get(&mut used, "/before").await;
    port.stop.send(true).unwrap();
    for mut client in [fresh, used] {
        client
            .write_all(b"GET /after HTTP/1.1\r\nhost: a\r\n\r\n")
            .await
            .unwrap();
        let answer = response(&mut client).await;
        assert!(
            answer.contains("/after") && answer.to_lowercase().contains("connection: close"),
            "{answer}"
        );
    }
    port.served.await.unwrap();
}

#[tokio::test]
async fn what_a_client_asked_for_is_finished_when_it_goes_away() {
    let (port, certificate) = port(ListenerLimits::default(), Duration::from_millis(100)).await;
    let mut client = connect(port.address, &certificate).await.unwrap();
    client
        .write_all(b"GET /gone HTTP/1.1\r\nhost: a\r\n\r\n")
        .await
        .unwrap();
    called(&port, 1).await;
    drop(client);
    while port.finished.load(Ordering::SeqCst) < 1 {
        tokio::task::yield_now().await;
    }
    port.stop.send(true).unwrap();
    port.served.await.unwrap();
}

#[tokio::test]
async fn stuck_requests_are_given_up_at_the_end_of_the_drain() {
    let limits = ListenerLimits {
        drain: Duration::from_millis(50),
        ..ListenerLimits::default()
    };
    let (port, certificate) = port(limits, Duration::from_secs(3600)).await;
    let mut busy = connect(port.address, &certificate).await.unwrap();
    busy.write_all(b"GET /busy HTTP/1.1\r\nhost: a\r\n\r\n")
        .await
        .unwrap();
    called(&port, 1).await;
    port.stop.send(true).unwrap();
    port.served.await.unwrap();
}

const SHORT: Duration = Duration::from_millis(50);
const NEVER: Duration = Duration::from_secs(86_400);

#[tokio::test]
async fn a_connection_without_a_handshake_is_closed() {
    let limits = ListenerLimits {
        handshake: SHORT,
        idle: NEVER,
        ..ListenerLimits::default()
    };
    let (port, _) = port(limits, Duration::ZERO).await;
    let mut silent = TcpStream::connect(port.address).await.unwrap();
    assert_eq!(silent.read(&mut [0; 16]).await.unwrap_or(0), 0);
    port.stop.send(true).unwrap();
    port.served.await.unwrap();
}

#[tokio::test]
async fn a_head_that_never_ends_is_given_up() {
    // A busy machine may take its time for the handshake.
    let limits = ListenerLimits {
        handshake: NEVER,
        idle: SHORT,
        ..ListenerLimits::default()
    };
    let (port, certificate) = port(limits, Duration::ZERO).await;
    let slow = connect(port.address, &certificate).await.unwrap();
    let (mut reading, mut writing) = tokio::io::split(slow);
    // Something of it keeps coming.
    let dripping = tokio::spawn(async move {
        let mut line: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n";
        while writing.write_all(line).await.is_ok() && writing.flush().await.is_ok() {
            line = b"x: y\r\n";
            tokio::time::sleep(SHORT / 4).await;
        }
    });
    let mut rest = Vec::new();
    // Closed with or without a word; what counts is that it ends and nothing was called.
    let _ = reading.read_to_end(&mut rest).await;
    dripping.abort();
    assert_eq!(port.calls.load(Ordering::SeqCst), 0);
    port.stop.send(true).unwrap();
    port.served.await.unwrap();
}

#[tokio::test]
async fn http_without_tls_is_told_so() {
    let (port, _) = port(ListenerLimits::default(), Duration::ZERO).await;
    let mut client = TcpStream::connect(port.address).await.unwrap();
    client
        .write_all(b"GET /v1/sys/health HTTP/1.1\r\nhost: a\r\n\r\n")
        .await
        .unwrap();
    client.shutdown().await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 400 "), "{answer}");
    assert!(
        head.contains(&format!("content-length: {}", body.len())),
        "{answer}"
    );
    assert!(body.contains("https://"), "{answer}");
    assert_eq!(port.calls.load(Ordering::SeqCst), 0);
    port.stop.send(true).unwrap();
    port.served.await.unwrap();
}

#[tokio::test]
async fn connections_are_counted() {
    let limits = ListenerLimits {
        connections: 3,
        connections_per_address: 2,
        ..ListenerLimits::default()
    };
    let (port, certificate) = port(limits, Duration::ZERO).await;
    let mut first = connect(port.address, &certificate).await.unwrap();
    get(&mut first, "/1").await;
    let mut second = connect(port.address, &certificate).await.unwrap();
    get(&mut second, "/2").await;
    assert!(
        connect(port.address, &certificate).await.is_err(),
        "the third from one address is closed"
    );
    drop(first);
    // The server notices the closing a moment later.
    let mut third = loop {
        if let Ok(client) = connect(port.address, &certificate).await {
            break client;
        }
    };
    get(&mut third, "/3").await;
    port.stop.send(true).unwrap();
    port.served.await.unwrap();
}

#[tokio::test]
async fn broken_requests_end_their_connection_only() {
    let (port, certificate) = port(ListenerLimits::default(), Duration::ZERO).await;
    let long_head = format!(
        "GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n",
        "x".repeat(300 << 10)
    );
    let many = format!("GET / HTTP/1.1\r\nhost: a\r\n{}\r\n", "x: y\r\n".repeat(80));
    let smuggled = [
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip\r\n\r\nhello",
        "POST / HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: +5\r\n\r\nhello",
        "GET / HTTP/1.1\r\nhost : a\r\n\r\n",
        "GET / HTTP/1.1\r\nx: a\r\n folded\r\n\r\n",
        "\u{0}\u{1}\u{2}\r\n\r\n",
        &long_head,
        &many,
    ];
    for raw in smuggled {
        let mut client = connect(port.address, &certificate).await.unwrap();
        let _ = client.write_all(raw.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = client.read_to_end(&mut answer).await;
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 4"), "{raw:.60}: {answer}");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(
            head.contains("content-type: application/json"),
            "{raw:.60}: {answer}"
        );
        assert!(body.starts_with("{\"errors\":[\""), "{raw:.60}: {answer}");
    }
    assert_eq!(port.calls.load(Ordering::SeqCst), 0);
    let mut client = connect(port.address, &certificate).await.unwrap();
    assert!(get(&mut client, "/alive").await.contains("/alive"));
    port.stop.send(true).unwrap();
    port.served.await.unwrap();
}
