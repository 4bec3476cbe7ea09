//! The envelope of an answer, byte for byte, and what of it the audit log is told.

use std::sync::Arc;

use gridkeep_keeper::KeeperToken;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value};

use super::harmless;
use crate::audit::Hasher;
use crate::json::{self, Object};

/// The `data` of an envelope.
#[derive(Debug, Default)]
pub(crate) enum Data {
    #[default]
    None,
    Object(Map<String, Value>),
    /// An access token, the answer that matters for speed.
    Token(TokenData),
}

/// An access token with what belongs to it.
#[derive(Debug)]
pub(crate) struct TokenData {
    pub access_token: SecretString,
    pub expire_time: Option<String>,
    /// Left out of exchanged tokens.
    pub server: Option<String>,
    pub kind: String,
}

/// The `auth` of an envelope.
#[derive(Debug)]
pub(crate) struct Auth {
    /// The token's secret, where it is known.
    pub secret: Option<SecretString>,
    pub token: Arc<KeeperToken>,
    /// What goes into the metadata as `oauth2_refresh_token`: a handle, never a refresh token.
    pub handle: Option<SecretString>,
    /// Seconds.
    pub lease_duration: u64,
}

/// Writes the envelope; with `repeat` the members of its data stand beside it as well.
pub(super) fn write(
    out: &mut Vec<u8>,
    request_id: &str,
    data: &Data,
    auth: Option<&Auth>,
    warnings: &[String],
    repeat: bool,
) {
    out.extend_from_slice(b"{\"request_id\":\"");
    out.extend_from_slice(request_id.as_bytes());
    out.extend_from_slice(
        b"\",\"lease_id\":\"\",\"renewable\":false,\"lease_duration\":0,\"data\":",
    );
    data.write(out);
    out.extend_from_slice(b",\"wrap_info\":null,\"warnings\":");
    if warnings.is_empty() {
        out.extend_from_slice(b"null");
    } else {
        let warnings: Vec<String> = warnings.iter().cloned().map(harmless).collect();
        json::value(out, &warnings);
    }
    out.extend_from_slice(b",\"auth\":");
    match auth {
        None => out.extend_from_slice(b"null"),
        Some(auth) => auth.write(out),
    }
    if repeat && let Data::Object(members) = data {
        for (name, value) in members {
            if !matches!(
                name.as_str(),
                "request_id"
                    | "lease_id"
                    | "renewable"
                    | "lease_duration"
                    | "data"
                    | "wrap_info"
                    | "warnings"
                    | "auth"
            ) {
                out.push(b',');
                json::text(out, name);
                out.push(b':');
                json::value(out, value);
            }
        }
    }
    out.extend_from_slice(b"}\n");
}

impl Data {
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Data::None => out.extend_from_slice(b"null"),
            Data::Object(members) => json::value(out, members),
            Data::Token(token) => {
                let mut data = Object::begin(out);
                data.text("access_token", token.access_token.expose_secret());
                if let Some(time) = &token.expire_time {
                    data.text("expire_time", time);
                }
                if let Some(server) = &token.server {
                    data.text("server", server);
                }
                data.text("type", &token.kind);
                data.end();
            }
        }
    }

    /// The same for the audit log: texts replaced by their hash, times in clear.
    pub(crate) fn write_hashed(&self, out: &mut Vec<u8>, hasher: &Hasher) {
        match self {
            Data::None => out.extend_from_slice(b"null"),
            Data::Object(members) => hasher.members(out, members),
            Data::Token(token) => {
                let mut data = Object::begin(out);
                hasher.text(data.key("access_token"), token.access_token.expose_secret());
                if let Some(time) = &token.expire_time {
                    data.text("expire_time", time);
                }
                if let Some(server) = &token.server {
                    hasher.text(data.key("server"), server);
                }
                hasher.text(data.key("type"), &token.kind);
                data.end();
            }
        }
    }
}

impl Auth {
    fn write(&self, out: &mut Vec<u8>) {
        let token = &self.token;
        let mut auth = Object::begin(out);
        auth.text(
            "client_token",
            self.secret.as_ref().map_or("", ExposeSecret::expose_secret),
        );
        auth.text("accessor", &token.accessor);
        auth.member("policies", &token.policies);
        auth.member("token_policies", &token.policies);
        self.write_metadata(auth.key("metadata"));
        auth.member("lease_duration", &self.lease_duration);
        auth.member("renewable", &token.renewable);
        auth.text("entity_id", token.entity.as_deref().unwrap_or(""));
        auth.text("token_type", "service");
        auth.member("orphan", &token.orphan);
        auth.key("mfa_requirement").extend_from_slice(b"null");
        auth.member("num_uses", &token.num_uses);
        auth.end();
    }

    fn write_metadata(&self, out: &mut Vec<u8>) {
        if self.token.meta.is_empty() && self.handle.is_none() {
            out.extend_from_slice(b"null");
            return;
        }
        let mut separator = b'{';
        let handle = self
            .handle
            .as_ref()
            .map(|handle| ("oauth2_refresh_token", handle.expose_secret()));
        let facts = self
            .token
            .meta
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()));
        for (name, value) in facts
            .filter(|(name, _)| *name != "oauth2_refresh_token")
            .chain(handle)
        {
            out.push(separator);
            separator = b',';
            json::text(out, name);
            out.push(b':');
            json::text(out, value);
        }
        if separator == b'{' {
            out.push(b'{');
        }
        out.push(b'}');
    }
}
