//! An HTTP server that answers as the test says, and remembers what it was asked.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use gridkeep_issuer::{Client, ClientAuth, ClientOptions};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// Wall clock of all tests.
pub const NOW: i64 = 1_800_000_000;

/// What the server was asked.
#[derive(Debug, Clone)]
pub struct Request {
    /// The server's own address.
    pub base: String,
    pub method: String,
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub form: Vec<(String, String)>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// The value of a parameter that was sent exactly once.
    pub fn field(&self, name: &str) -> Option<&str> {
        match self.fields(name).as_slice() {
            [] => None,
            [only] => Some(only),
            several => panic!("{name} was sent {} times", several.len()),
        }
    }

    pub fn fields(&self, name: &str) -> Vec<&str> {
        self.form
            .iter()
            .filter(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
            .collect()
    }
}

/// What the server does with a request.
pub enum Answer {
    Json(u16, Value),
    Raw {
        status: u16,
        headers: Vec<(&'static str, String)>,
        body: Vec<u8>,
    },
    /// Closes the connection without a word, having read the request.
    Drop,
    /// Announces more than it sends.
    Truncated,
    /// Never answers.
    Hang,
}

impl Answer {
    pub fn status(status: u16) -> Self {
        Self::Raw {
            status,
            headers: Vec::new(),
            body: Vec::new(),
        }
    }
}

type Handler = dyn Fn(&Request) -> Answer + Send + Sync;

/// The server; ends when dropped.
pub struct Server {
    pub url: String,
    requests: Arc<Mutex<Vec<Request>>>,
    pub asked: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Server {
    pub async fn start(handler: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        Self::start_with(None, handler).await
    }

    /// With TLS the server is called `localhost`.
    pub async fn start_with(
        tls: Option<TlsAcceptor>,
        handler: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let url = match tls {
            Some(_) => format!("https://localhost:{port}"),
            None => format!("http://127.0.0.1:{port}"),
        };
        let requests = Arc::new(Mutex::new(Vec::new()));
        let asked = Arc::new(Notify::new());
        let handler: Arc<Handler> = Arc::new(handler);
        let (base, seen, bell) = (url.clone(), Arc::clone(&requests), Arc::clone(&asked));
        let task = tokio::spawn(async move {
            // Connections end with the server.
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (base, seen, bell) = (base.clone(), Arc::clone(&seen), Arc::clone(&bell));
                let (handler, tls) = (Arc::clone(&handler), tls.clone());
                connections.spawn(async move {
                    match tls {
                        None => serve(stream, base, &seen, &bell, &*handler).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, base, &seen, &bell, &*handler).await;
                            }
                        }
                    }
                });
            }
        });
        Self {
            url,
            requests,
            asked,
            task,
        }
    }

    /// All requests to a path, oldest first.
    pub fn requests(&self, path: &str) -> Vec<Request> {
        self.requests
            .lock()
            .unwrap()
            .iter()
            .filter(|request| request.path == path)
            .cloned()
            .collect()
    }

    pub fn count(&self, path: &str) -> usize {
        self.requests(path).len()
    }

    /// The one request to a path.
    pub fn only(&self, path: &str) -> Request {
        let mut requests = self.requests(path);
        assert_eq!(requests.len(), 1, "requests to {path}");
        requests.remove(0)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    base: String,
    seen: &Mutex<Vec<Request>>,
    bell: &Notify,
    handler: &Handler,
) {
    let Some(request) = read(&mut stream, base).await else {
        return;
    };
    seen.lock().unwrap().push(request.clone());
    let answer = handler(&request);
    bell.notify_one();
    let (status, headers, body, announced) = match answer {
        Answer::Json(status, value) => {
            let headers = vec![("content-type", "application/json;charset=UTF-8".to_owned())];
            let body = value.to_string().into_bytes();
            let length = body.len();
            (status, headers, body, length)
        }
        Answer::Raw {
            status,
            headers,
            body,
        } => {
            let length = body.len();
            (status, headers, body, length)
        }
        Answer::Truncated => (200, Vec::new(), br#"{"access_token":"#.to_vec(), 1000),
        Answer::Drop => return,
        Answer::Hang => return std::future::pending().await,
    };
    let mut head =
        format!("HTTP/1.1 {status} X\r\ncontent-length: {announced}\r\nconnection: close\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    // A client that has gone is no concern of the server's.
    let _ = stream.write_all(head.as_bytes()).await;
    let _ = stream.write_all(&body).await;
    let _ = stream.shutdown().await;
}

async fn read(stream: &mut (impl AsyncRead + Unpin), base: String) -> Option<Request> {
    let mut bytes = Vec::new();
    let head_end = loop {
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break at;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(bytes[..head_end].to_vec()).unwrap();
    let mut lines = head.split("\r\n");
    let mut first = lines.next().unwrap().split(' ');
    let (method, path) = (
        first.next().unwrap().to_owned(),
        first.next().unwrap().to_owned(),
    );
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length = headers
        .iter()
        .find(|(name, _)| name == "content-length")
        .map_or(0, |(_, value)| value.parse().unwrap());
    while bytes.len() < head_end + 4 + length {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
    let form = url::form_urlencoded::parse(&bytes[head_end + 4..])
        .into_owned()
        .collect();
    Some(Request {
        base,
        method,
        path,
        headers,
        form,
    })
}

/// A discovery document with every endpoint.
pub fn discovery(base: &str) -> Value {
    json!({
        "issuer": base,
        "authorization_endpoint": format!("{base}/authorize?tenant=vo"),
        "token_endpoint": format!("{base}/token"),
        "device_authorization_endpoint": format!("{base}/device"),
        "revocation_endpoint": format!("{base}/revoke"),
        "userinfo_endpoint": format!("{base}/userinfo"),
        "jwks_uri": format!("{base}/jwk"),
        "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
    })
}

pub const DISCOVERY: &str = "/.well-known/openid-configuration";

/// Discovery as it should be; all else by `rest`.
pub async fn issuer(rest: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Server {
    Server::start(move |request| match request.path.as_str() {
        DISCOVERY => Answer::Json(200, discovery(&request.base)),
        _ => rest(request),
    })
    .await
}

pub const SECRET: &str = "the-client-secret";

pub fn options(server: &Server) -> ClientOptions {
    ClientOptions {
        auth: ClientAuth::Auto {
            secret: SECRET.into(),
        },
        connect_timeout: Duration::from_secs(5),
        request_timeout: Duration::from_secs(20),
        allow_http_loopback: true,
        ..ClientOptions::new(&server.url, "client-1")
    }
}

pub fn client(server: &Server) -> Client {
    client_of(options(server))
}

pub fn client_of(options: ClientOptions) -> Client {
    Client::with_clock(options, Arc::new(|| NOW)).unwrap()
}

/// Keeps tokio's paused clock from moving by itself, as it does while all tasks wait for the network.
pub fn hold_time() -> std::sync::mpsc::Sender<()> {
    let (hold, released) = std::sync::mpsc::channel();
    tokio::task::spawn_blocking(move || released.recv());
    hold
}

pub fn tokens() -> Value {
    json!({"access_token": "at-1", "token_type": "bearer", "expires_in": 3600, "refresh_token": "rt-2", "scope": "openid"})
}
