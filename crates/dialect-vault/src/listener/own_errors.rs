//! A stream that gives the HTTP library's own error answers a body.
//!
//! What is not a request at all never reaches a service: the library answers it by itself, without a body. Stock clients read every
//! error as JSON, so such an answer is replaced on its way out. It is told from ours by having no content type and no content.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Wraps a stream. Costs one comparison per write.
pub(super) struct OwnErrors<S> {
    stream: S,
    replacing: Option<Replacing>,
}

struct Replacing {
    with: Vec<u8>,
    written: usize,
    /// Length of what the library wanted to write.
    instead_of: usize,
}

impl<S> OwnErrors<S> {
    pub(super) fn new(stream: S) -> Self {
        OwnErrors {
            stream,
            replacing: None,
        }
    }
}

impl<S: AsyncWrite + Unpin> OwnErrors<S> {
    fn poll_replace(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        while let Some(replacing) = &mut self.replacing {
            let rest = &replacing.with[replacing.written..];
            if rest.is_empty() {
                let instead_of = replacing.instead_of;
                self.replacing = None;
                return Poll::Ready(Ok(instead_of));
            }
            let count = ready!(Pin::new(&mut self.stream).poll_write(context, rest))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            replacing.written += count;
        }
        Poll::Ready(Ok(0))
    }

    /// Whether a replacement is under way or begins with `data`.
    fn replaces(&mut self, data: &[u8]) -> bool {
        if self.replacing.is_none()
            && let Some(with) = replacement(data)
        {
            self.replacing = Some(Replacing {
                with,
                written: 0,
                instead_of: data.len(),
            });
        }
        self.replacing.is_some()
    }
}

/// The answer to send instead of `data`, if that is an error answer of the library.
fn replacement(data: &[u8]) -> Option<Vec<u8>> {
    let status = data
        .strip_prefix(b"HTTP/1.1 4")
        .or_else(|| data.strip_prefix(b"HTTP/1.0 4"))?
        .get(..2)?;
    let head = std::str::from_utf8(data).ok()?.to_ascii_lowercase();
    let bare = head.ends_with("\r\n\r\n")
        && head.contains("\r\ncontent-length: 0\r\n")
        && !head.contains("\r\ncontent-type:");
    if !bare {
        return None;
    }
    let (line, text) = match status {
        b"14" => (
            "414 URI Too Long",
            "the address of the request is longer than this server takes",
        ),
        b"31" => (
            "431 Request Header Fields Too Large",
            "the headers of the request are more than this server takes; check what is sent as X-Vault-Token",
        ),
        b"00" => ("400 Bad Request", "the request is not valid HTTP/1.1"),
        _ => return None,
    };
    let body = format!("{{\"errors\":[\"{text}\"]}}\n");
    let answer = format!(
        "HTTP/1.1 {line}\r\ncontent-type: application/json\r\ncache-control: no-store\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    Some(answer.into_bytes())
}

impl<S: AsyncRead + Unpin> AsyncRead for OwnErrors<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for OwnErrors<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.replaces(data) {
            return self.poll_replace(context);
        }
        Pin::new(&mut self.stream).poll_write(context, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let first = data.iter().find(|slice| !slice.is_empty());
        if first.is_some_and(|first| self.replaces(first)) {
            return self.poll_replace(context);
        }
        Pin::new(&mut self.stream).poll_write_vectored(context, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn only_answers_without_content_are_replaced() {
        let bare = "HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\ndate: x\r\n\r\n";
        let ours = "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: 0\r\n\r\n";
        let fine = "HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n";
        // A narrow stream, so that the replacement takes several writes.
        let (near, mut far) = tokio::io::duplex(7);
        let writing = tokio::spawn(async move {
            let mut stream = OwnErrors::new(near);
            for text in [fine, ours, bare] {
                stream.write_all(text.as_bytes()).await.unwrap();
            }
            stream.shutdown().await.unwrap();
        });
        let mut sent = String::new();
        far.read_to_string(&mut sent).await.unwrap();
        writing.await.unwrap();
        let rest = sent
            .strip_prefix(fine)
            .and_then(|rest| rest.strip_prefix(ours))
            .unwrap();
        let (head, body) = rest.split_once("\r\n\r\n").unwrap();
        assert!(
            head.starts_with("HTTP/1.1 431 ") && head.contains("content-type: application/json")
        );
        assert!(head.contains(&format!("content-length: {}", body.len())));
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert!(
            body["errors"][0]
                .as_str()
                .unwrap()
                .contains("X-Vault-Token")
        );
    }
}
