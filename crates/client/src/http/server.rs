//! The address of a server as users write it. Owns the parsing of `-a`, `--vaultalias` and the option server's host.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use thiserror::Error;

/// Scheme, host and port of a server; the scheme is always `https`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServerUrl {
    host: String,
    port: u16,
}

/// The text names no server that can be used; a usage error.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ServerUrlError {
    /// Tokens would cross the network readable.
    #[error(
        "\"{0}\" is not an https address; tokens are only sent over TLS, so write https:// or the bare host name"
    )]
    Scheme(String),
    /// The interface is at a fixed path, so a path cannot be meant.
    #[error("\"{0}\" has a path; give only the host name, and a port if it is not {1}")]
    Path(String, u16),
    /// Neither a name nor an address.
    #[error("\"{0}\" is not a host name or address")]
    Host(String),
    /// Not a number up to 65535.
    #[error("\"{0}\" has no valid port number")]
    Port(String),
}

impl ServerUrl {
    /// Reads `host`, `host:port`, an IPv6 address with or without brackets, or any of these after `https://`. A slash at the
    /// end is tolerated; `default_port` is used where none is written.
    ///
    /// # Errors
    /// See [`ServerUrlError`].
    pub fn parse(text: &str, default_port: u16) -> Result<Self, ServerUrlError> {
        let rest = match text.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => rest,
            Some(_) => return Err(ServerUrlError::Scheme(text.to_owned())),
            None => text,
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        if !path.is_empty() && path != "/" {
            return Err(ServerUrlError::Path(text.to_owned(), default_port));
        }
        let (host, port) = Self::authority_parts(text, authority)?;
        let port = match port {
            None | Some("") => default_port,
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => digits
                .parse()
                .ok()
                .filter(|&port| port != 0)
                .ok_or_else(|| ServerUrlError::Port(text.to_owned()))?,
            Some(_) => return Err(ServerUrlError::Port(text.to_owned())),
        };
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }

    fn authority_parts<'t>(
        text: &str,
        authority: &'t str,
    ) -> Result<(&'t str, Option<&'t str>), ServerUrlError> {
        let bad = || ServerUrlError::Host(text.to_owned());
        if let Some(rest) = authority.strip_prefix('[') {
            let (host, tail) = rest.split_once(']').ok_or_else(bad)?;
            host.parse::<Ipv6Addr>().map_err(|_| bad())?;
            return match tail.strip_prefix(':') {
                Some(port) => Ok((host, Some(port))),
                None if tail.is_empty() => Ok((host, None)),
                None => Err(bad()),
            };
        }
        if authority.parse::<Ipv6Addr>().is_ok() {
            return Ok((authority, None));
        }
        let (host, port) = match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        };
        let valid = |c: char| c.is_alphanumeric() || matches!(c, '-' | '.' | '_');
        if host.is_empty() || !host.chars().all(valid) {
            return Err(bad());
        }
        Ok((host, port))
    }

    /// The name or address, an IPv6 address without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The host as an address, if it is one.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }

    /// `host:port`, as in the `Host` header.
    #[must_use]
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "https://{}", self.authority())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_users_write_it() {
        for (text, canonical) in [
            ("vault.example.org", "https://vault.example.org:8200"),
            ("vault.example.org:8443", "https://vault.example.org:8443"),
            (
                "https://vault.example.org/",
                "https://vault.example.org:8200",
            ),
            (
                "HTTPS://vault.example.org:443/",
                "https://vault.example.org:443",
            ),
            ("fd00::1", "https://[fd00::1]:8200"),
            ("https://[fd00::1]", "https://[fd00::1]:8200"),
            ("[fd00::1]:1", "https://[fd00::1]:1"),
            ("10.0.0.1", "https://10.0.0.1:8200"),
            ("-v", "https://-v:8200"),
        ] {
            assert_eq!(ServerUrl::parse(text, 8200).unwrap().to_string(), canonical);
        }
    }

    #[test]
    fn refused() {
        let error = |text: &str| ServerUrl::parse(text, 8200).unwrap_err();
        assert!(matches!(error("http://h"), ServerUrlError::Scheme(_)));
        assert!(matches!(error("h/v1"), ServerUrlError::Path(..)));
        assert!(matches!(error("h?x"), ServerUrlError::Path(..)));
        assert!(matches!(error("h:0"), ServerUrlError::Port(_)));
        assert!(matches!(error("h:65536"), ServerUrlError::Port(_)));
        assert!(matches!(error("h:+1"), ServerUrlError::Port(_)));
        for text in ["", "a b", "user@h", "[::1", "[h]", "https://", "a:b:c:"] {
            let error = error(text);
            assert!(
                matches!(error, ServerUrlError::Host(_) | ServerUrlError::Port(_)),
                "{text}: {error:?}"
            );
        }
    }
}
