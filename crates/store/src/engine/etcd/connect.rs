//! Connecting to a member of etcd: a TCP connection, TLS where the endpoint says https, and nothing else.
//!
//! The files of TLS are read for every connection, so that a renewed certificate is used without a restart.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore, crypto::aws_lc_rs};
use tonic::codegen::{Service, http::Uri};

use crate::StoreError;

/// How long making a connection may take, TLS included.
const CONNECT: Duration = Duration::from_secs(1);
/// etcd's usual port for clients.
const PORT: u16 = 2379;

/// The files that TLS with etcd needs, in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// Certificates of the authorities that etcd's certificates are signed by.
    pub ca: PathBuf,
    /// Our own certificate and its key, where etcd asks for one.
    pub identity: Option<(PathBuf, PathBuf)>,
}

impl Tls {
    /// Reads the files.
    pub(crate) fn load(&self) -> Result<ClientConfig, StoreError> {
        let problem = |path: &Path, problem: String| StoreError::Connection {
            problem: format!("the file {} can not be used: {problem}", path.display()),
        };
        let no_key = |error| {
            match error {
            pem::Error::NoItemsFound => {
                "there is no private key in it, which tls.key wants (it begins with -----BEGIN PRIVATE KEY----- or the like)".to_owned()
            }
            other => other.to_string(),
        }
        };
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&self.ca).map_err(|error| problem(&self.ca, error))? {
            roots
                .add(certificate)
                .map_err(|error| problem(&self.ca, error.to_string()))?;
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| problem(&self.ca, error.to_string()))?
            .with_root_certificates(roots);
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain =
                    certificates(certificate).map_err(|error| problem(certificate, error))?;
                let secret = PrivateKeyDer::from_pem_file(key)
                    .map_err(|error| problem(key, no_key(error)))?;
                builder
                    .with_client_auth_cert(chain, secret)
                    .map_err(|error| {
                        let why = format!("it does not fit the key in {} ({error})", key.display());
                        problem(certificate, why)
                    })?
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let found = CertificateDer::pem_file_iter(path)
        .map_err(|error| error.to_string())?
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| error.to_string())?;
    if found.is_empty() {
        return Err(
            "there is no certificate in it (which begins with -----BEGIN CERTIFICATE-----)"
                .to_owned(),
        );
    }
    Ok(found)
}

/// Makes connections to one member.
#[derive(Clone)]
pub(crate) struct Connector {
    host: String,
    port: u16,
    tls: Option<Arc<Tls>>,
    fault: Fault,
}

/// What was wrong with TLS when a connection was last tried; nothing from when the member says its first word on one.
#[derive(Clone, Default)]
struct Fault(Arc<Mutex<Option<String>>>);

impl Fault {
    fn set(&self, what: Option<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = what;
    }

    fn get(&self) -> Option<String> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// What an error of TLS means: whose certificate is refused by whom. Nothing where the connection merely broke.
fn meaning(error: &io::Error, shows_certificate: bool) -> Option<String> {
    let said = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    Some(match said {
        rustls::Error::AlertReceived(_) if shows_certificate => format!(
            "it has ended the TLS handshake ({said}): does it trust whoever signed gridkeep.store.etcd.tls.certificate?"
        ),
        rustls::Error::AlertReceived(_) => {
            format!("it has ended the TLS handshake ({said}); {WANTS}")
        }
        rustls::Error::InvalidCertificate(_) => format!(
            "its certificate is not accepted ({said}): is the authority that has signed it in gridkeep.store.etcd.tls.ca, and was it \
             made for the name in the endpoint?"
        ),
        other => format!("TLS failed ({other}): does it speak TLS at this port?"),
    })
}

const WANTS: &str =
    "does etcd want a client certificate (gridkeep.store.etcd.tls.certificate and tls.key)?";

impl Connector {
    pub(crate) fn new(endpoint: &str, tls: Option<Arc<Tls>>) -> Result<Self, StoreError> {
        let problem = |problem: &str| StoreError::Connection {
            problem: format!(
                "the endpoint {endpoint:?} {problem}; it is written as in https://etcd1.example.org:2379"
            ),
        };
        let uri: Uri = endpoint.parse().map_err(|_| problem("is no address"))?;
        let encrypted = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(problem("begins neither with https:// nor with http://")),
        };
        if encrypted && tls.is_none() {
            return Err(problem(
                "wants TLS, and no file of certificates (tls.ca) is given",
            ));
        }
        if uri
            .path_and_query()
            .is_some_and(|rest| rest.as_str() != "/")
        {
            return Err(problem("has a path"));
        }
        let host = uri
            .host()
            .filter(|host| !host.is_empty())
            .ok_or_else(|| problem("names no host"))?;
        Ok(Self {
            host: host.to_owned(),
            port: uri.port_u16().unwrap_or(PORT),
            tls: tls.filter(|_| encrypted),
            fault: Fault::default(),
        })
    }

    /// Host and port, as HTTP writes them.
    pub(crate) fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// What was wrong with TLS when a connection was last tried, where it was that.
    pub(crate) fn fault(&self) -> Option<String> {
        self.fault.get()
    }

    async fn connect(self) -> io::Result<TokioIo<Box<dyn Io>>> {
        self.fault.set(None);
        let connecting = async {
            // An IPv6 address stands in brackets in an address of HTTP and nowhere else.
            let host = self.host.trim_start_matches('[').trim_end_matches(']');
            let tcp = TcpStream::connect((host, self.port)).await?;
            tcp.set_nodelay(true)?;
            let Some(tls) = self.tls else {
                return Ok(TokioIo::new(Box::new(tcp) as Box<dyn Io>));
            };
            let shows_certificate = tls.identity.is_some();
            let config = tokio::task::spawn_blocking(move || tls.load())
                .await
                .map_err(io::Error::other)?
                .map_err(|error| {
                    self.fault.set(Some(error.to_string()));
                    io::Error::other(error)
                })?;
            let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
            let stream = TlsConnector::from(Arc::new(config))
                .connect(name, tcp)
                .await
                .inspect_err(|error| self.fault.set(meaning(error, shows_certificate)))?;
            Ok(TokioIo::new(Box::new(FirstWord {
                stream,
                shows_certificate,
                heard: false,
                fault: self.fault,
            }) as Box<dyn Io>))
        };
        tokio::time::timeout(CONNECT, connecting)
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}

/// A connection.
pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A connection with TLS until the member has said its first word. In TLS 1.3 the handshake has succeeded for us before the member
/// looks at our certificate: that it refuses it, or wants one, is heard only here.
struct FirstWord {
    stream: TlsStream<TcpStream>,
    shows_certificate: bool,
    heard: bool,
    fault: Fault,
}

impl FirstWord {
    fn spoke(&mut self) {
        if !self.heard {
            self.heard = true;
            self.fault.set(None);
        }
    }

    /// Notes how the connection has ended, unless something was heard on it.
    fn ended(&mut self, error: Option<&io::Error>) {
        if self.heard {
            return;
        }
        let meant = error.and_then(|error| meaning(error, self.shows_certificate));
        let silent = || {
            let what = format!("it has ended the connection without a word; {WANTS}");
            (!self.shows_certificate).then_some(what)
        };
        // What was understood first tells more than what follows from it.
        if let Some(what) = meant.or_else(|| self.fault.get().is_none().then(silent).flatten()) {
            self.fault.set(Some(what));
        }
    }

    fn wrote<T>(&mut self, done: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if let Poll::Ready(Err(error)) = &done {
            self.ended(Some(error));
        }
        done
    }
}

impl AsyncRead for FirstWord {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let room = buffer.remaining() > 0;
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        match &read {
            Poll::Ready(Ok(())) if buffer.filled().len() > before => {
                self.spoke();
            }
            Poll::Ready(Ok(())) if room => self.ended(None),
            Poll::Ready(Err(error)) => self.ended(Some(error)),
            _ => {}
        }
        read
    }
}

impl AsyncWrite for FirstWord {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.wrote(done)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let done = Pin::new(&mut self.stream).poll_flush(context);
        self.wrote(done)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Box<dyn Io>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        Box::pin(self.clone().connect())
    }
}
