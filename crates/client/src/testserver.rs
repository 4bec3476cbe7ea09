//! Servers for tests: TLS and HTTP in this process, on addresses of the loopback network that nobody else uses.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;

use crate::environment::{Environment, Terminals, Timing};
use crate::http::{Lookup, Resolver};
use gridkeep_identity::kerberos::InitiateError;

/// The name in all certificates, besides the loopback addresses.
pub(crate) const NAME: &str = "vault.example.org";

/// A throw-away authority.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Self { issuer }
    }

    pub(crate) fn pem(&self) -> String {
        self.issuer.pem()
    }

    fn acceptor(&self, names: &[String]) -> TlsAcceptor {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(names.to_vec())
            .unwrap()
            .signed_by(&key, &self.issuer)
            .unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
            )
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    }
}

/// The authority of all servers that do not ask for another.
pub(crate) static AUTHORITY: LazyLock<Authority> =
    LazyLock::new(|| Authority::new("Test Authority"));

/// A request as the server saw it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: String,
    pub(crate) sni: Option<String>,
    pub(crate) connection: usize,
}

impl Seen {
    pub(crate) fn line(&self) -> String {
        let query = if self.query.is_empty() { "" } else { "?" };
        format!("{} {}{query}{}", self.method, self.path, self.query)
    }
}

/// What the server does with a request.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    Answer(u16, Vec<(&'static str, String)>, String),
    /// Closes the connection without a word.
    Drop,
    /// Says nothing.
    Hang,
}

impl Act {
    pub(crate) fn json(status: u16, body: impl ToString) -> Self {
        Act::Answer(status, Vec::new(), body.to_string())
    }
}

type Handler = Arc<dyn Fn(&Seen) -> Act + Send + Sync>;

/// A running server; dropping it ends it.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start(handler: impl Fn(&Seen) -> Act + Send + Sync + 'static) -> Self {
        Self::start_at(listener(fresh_ip(), 0).unwrap(), &AUTHORITY, handler)
    }

    pub(crate) fn start_at(
        listener: TcpListener,
        authority: &Authority,
        handler: impl Fn(&Seen) -> Act + Send + Sync + 'static,
    ) -> Self {
        let address = listener.local_addr().unwrap();
        let acceptor = authority.acceptor(&[NAME.to_owned(), address.ip().to_string()]);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (stop, stopped) = oneshot::channel();
        let log = Arc::clone(&seen);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async move {
                tokio::select! {
                    _ = stopped => {}
                    () = serve(listener, acceptor, Arc::new(handler), log) => {}
                }
            });
        });
        Self {
            address,
            seen,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.seen().iter().map(Seen::line).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn serve(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    handler: Handler,
    seen: Arc<Mutex<Vec<Seen>>>,
) {
    listener.set_nonblocking(true).unwrap();
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    let mut connection = 0;
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        connection += 1;
        let (acceptor, handler, seen) = (acceptor.clone(), Arc::clone(&handler), Arc::clone(&seen));
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else {
                return;
            };
            let sni = stream.get_ref().1.server_name().map(str::to_owned);
            let service = service_fn(move |request: Request<Incoming>| {
                let (handler, seen, sni) = (Arc::clone(&handler), Arc::clone(&seen), sni.clone());
                async move {
                    let request = see(request, sni, connection).await;
                    seen.lock().unwrap().push(request.clone());
                    act(handler(&request)).await
                }
            });
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn see(request: Request<Incoming>, sni: Option<String>, connection: usize) -> Seen {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Seen {
        method: parts.method.to_string(),
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        headers: parts
            .headers
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
            .collect(),
        body: String::from_utf8(body.to_vec()).unwrap(),
        sni,
        connection,
    }
}

async fn act(act: Act) -> Result<Response<Full<Bytes>>, io::Error> {
    match act {
        Act::Answer(status, headers, body) => {
            let mut response = Response::builder().status(status);
            for (name, value) in headers {
                response = response.header(name, value);
            }
            Ok(response.body(Full::new(Bytes::from(body))).unwrap())
        }
        Act::Drop => Err(io::Error::other("dropped on purpose")),
        Act::Hang => {
            std::future::pending::<Infallible>().await;
            Err(io::Error::other("never"))
        }
    }
}

/// An address of 127.0.0.0/8 of its own, so that "refuses" and "answers" can be had on one port.
pub(crate) fn fresh_ip() -> IpAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed) + 1;
    let process = std::process::id();
    let [_, _, high, low] = number.to_be_bytes();
    let process = 1 + u8::try_from(process % 250).unwrap();
    IpAddr::V4(Ipv4Addr::new(127, process, high, low))
}

pub(crate) fn listener(ip: IpAddr, port: u16) -> io::Result<TcpListener> {
    TcpListener::bind(SocketAddr::new(ip, port))
}

/// Knows what it is told.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names(pub(crate) HashMap<String, Vec<IpAddr>>);

impl Names {
    pub(crate) fn of(addresses: &[IpAddr]) -> Self {
        Self(HashMap::from([(NAME.to_owned(), addresses.to_vec())]))
    }
}

impl Resolver for Names {
    fn resolve(&self, host: &str) -> Lookup {
        let found = self
            .0
            .get(host)
            .cloned()
            .ok_or_else(|| io::Error::other("no such name"));
        Box::pin(async move { found })
    }
}

/// An empty home, an empty directory for temporary files, no variables, no terminal, short waits.
pub(crate) fn environment(directory: &Path) -> Environment {
    for name in ["home", "tmp"] {
        std::fs::create_dir_all(directory.join(name)).unwrap();
    }
    let mut environment = Environment::current();
    environment.vars = [("HOME".into(), directory.join("home").into())].into();
    environment.terminals = Terminals::default();
    environment.cwd = directory.to_path_buf();
    environment.tmp = directory.join("tmp");
    environment.now = Arc::new(|| 1_800_000_000);
    environment.resolver = Arc::new(Names::default());
    environment.kerberos =
        Arc::new(|_| Err(InitiateError::NoCredential("there is no ticket".to_owned())));
    environment.timing = Timing {
        second: Duration::from_millis(2),
        resolve_again: Duration::from_millis(1),
        browser: Duration::from_millis(300),
        ..Timing::default()
    };
    environment
}

/// The authority of the test servers as a file.
pub(crate) fn ca_file(directory: &Path) -> PathBuf {
    let path = directory.join("ca.pem");
    // Runs side by side read it: written once.
    if !path.exists() {
        std::fs::write(&path, AUTHORITY.pem()).unwrap();
    }
    path
}
