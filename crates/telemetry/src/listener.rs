//! The port that Prometheus scrapes: plain HTTP, `GET /metrics`, nothing else. It has no authentication, so it belongs on the
//! loopback interface or a network where everybody may read the names of issuers and how many logins there were.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::Measures;

/// Connections at one time; more wait.
const CONNECTIONS: usize = 16;
/// Time for the head of a request, the idle time before it included.
const IDLE: Duration = Duration::from_secs(30);
/// Longest life of a connection.
const LIFE: Duration = Duration::from_secs(3600);

/// Serves `measures` until `stop` holds true or its sender is gone.
pub async fn serve(listener: TcpListener, measures: Measures, mut stop: watch::Receiver<bool>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let permit = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => break,
            permit = Arc::clone(&room).acquire_owned() => permit,
        };
        let stream = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            accepted = listener.accept() => accepted,
        };
        match stream {
            Ok((stream, _)) => {
                let measures = measures.clone();
                connections.spawn(async move {
                    // Whoever scrapes and goes away has what it wanted, or asks again.
                    let _ = tokio::time::timeout(LIFE, connection(stream, measures)).await;
                    drop(permit);
                });
            }
            // Out of file descriptors, mostly.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn connection(stream: TcpStream, measures: Measures) -> hyper::Result<()> {
    let answer = service_fn(move |request: Request<Incoming>| {
        let measures = measures.clone();
        async move { Ok::<_, Infallible>(answer(request.method(), request.uri().path(), &measures)) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        .max_buf_size(16 << 10)
        .serve_connection(TokioIo::new(stream), answer)
        .await
}

fn answer(method: &Method, path: &str, measures: &Measures) -> Response<Full<Bytes>> {
    let reads = method == Method::GET || method == Method::HEAD;
    let (status, text) = match path {
        "/metrics" if reads => (StatusCode::OK, measures.render()),
        "/metrics" => (
            StatusCode::METHOD_NOT_ALLOWED,
            "metrics are read with GET\n".to_owned(),
        ),
        _ => (
            StatusCode::NOT_FOUND,
            "there is only /metrics here\n".to_owned(),
        ),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"),
    );
    if status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::measures::tests::measured;

    #[tokio::test]
    async fn serves_metrics_and_nothing_else_until_it_is_stopped() {
        let measures = measured(|_| metrics::counter!("asked_total").increment(1));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopping) = watch::channel(false);
        let serving = tokio::spawn(serve(listener, measures, stopping));
        for (request, wanted) in [
            ("GET /metrics", "200 OK"),
            ("POST /metrics", "405 Method"),
            ("GET /", "404 Not Found"),
        ] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let head = format!("{request} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).await.unwrap();
            assert!(text.starts_with(&format!("HTTP/1.1 {wanted}")), "{text}");
            assert_eq!(
                text.contains("asked_total 1\n"),
                wanted == "200 OK",
                "{text}"
            );
        }
        stop.send_replace(true);
        serving.await.unwrap();
        assert!(TcpStream::connect(address).await.is_err());
    }
}
