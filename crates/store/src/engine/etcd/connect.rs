//! Connecting to a member of etcd: a TCP connection, TLS where the endpoint says https, and nothing else.
//!
//! The files of TLS are read for every connection, so that a renewed certificate is used without a restart.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};
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
                    .map_err(|error| problem(key, error.to_string()))?;
                builder
                    .with_client_auth_cert(chain, secret)
                    .map_err(|error| problem(certificate, error.to_string()))?
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
        return Err("there is no certificate in it".to_owned());
    }
    Ok(found)
}

/// Makes connections to one member.
#[derive(Clone)]
pub(crate) struct Connector {
    host: String,
    port: u16,
    tls: Option<Arc<Tls>>,
}

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
        })
    }

    /// Host and port, as HTTP writes them.
    pub(crate) fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    async fn connect(self) -> std::io::Result<TokioIo<Box<dyn Io>>> {
        let connecting = async {
            // An IPv6 address stands in brackets in an address of HTTP and nowhere else.
            let host = self.host.trim_start_matches('[').trim_end_matches(']');
            let tcp = TcpStream::connect((host, self.port)).await?;
            tcp.set_nodelay(true)?;
            let Some(tls) = self.tls else {
                return Ok(TokioIo::new(Box::new(tcp) as Box<dyn Io>));
            };
            let config = tokio::task::spawn_blocking(move || tls.load())
                .await
                .map_err(std::io::Error::other)?
                .map_err(std::io::Error::other)?;
            let name = ServerName::try_from(host.to_owned()).map_err(std::io::Error::other)?;
            let stream = TlsConnector::from(Arc::new(config))
                .connect(name, tcp)
                .await?;
            Ok(TokioIo::new(Box::new(stream) as Box<dyn Io>))
        };
        tokio::time::timeout(CONNECT, connecting)
            .await
            .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
    }
}

/// A connection.
pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

impl Service<Uri> for Connector {
    type Response = TokioIo<Box<dyn Io>>;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = std::io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        Box::pin(self.clone().connect())
    }
}
