//! The two lines of a request, member for member as the original writes them; empty members are left out.

use std::net::SocketAddr;
use std::time::Duration;

use gridkeep_keeper::{Granted, KeeperToken};
use secrecy::{ExposeSecret, SecretString};

use super::Hasher;
use super::blot::blot;
use super::hash::Hash;
use crate::answer::{Auth, Data};
use crate::fields::UNRECOGNISED;
use crate::json::{self, Object};
use crate::params::Params;
use crate::time;

/// Where the API of a path is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    /// `secret/oauth/`.
    pub point: String,
    /// `oauth`.
    pub kind: String,
    /// `oauth_77aa10cd`.
    pub accessor: String,
    /// `secret`, `auth` or `system`.
    pub class: &'static str,
}

/// What is known of a request when its line is written.
pub(crate) struct Exchange<'a, 'm> {
    pub id: &'a str,
    pub operation: &'static str,
    pub path: &'a str,
    pub mount: Option<&'m Mount>,
    pub secret: Option<&'a SecretString>,
    pub params: &'a Params,
    pub peer: SocketAddr,
    pub token: Option<&'a KeeperToken>,
    pub granted: Option<&'a Granted>,
}

/// What both lines of a request share, written once.
pub(crate) struct Common<'m> {
    shared: Vec<u8>,
    has_token: bool,
    mount: Option<&'m Mount>,
}

/// What the second line adds.
#[derive(Default)]
pub(crate) struct ResponsePart<'a> {
    pub data: Option<&'a Data>,
    pub auth: Option<&'a Auth>,
    pub warnings: &'a [String],
}

impl<'m> Common<'m> {
    pub(crate) fn new(hasher: &Hasher, exchange: &Exchange<'_, 'm>) -> Self {
        let secret = exchange
            .secret
            .map(|secret| hasher.quoted(secret.expose_secret()));
        let accessor = exchange.token.map(|token| hasher.quoted(&token.accessor));
        let mut shared = Vec::with_capacity(1400);
        if let Some(token) = exchange.token {
            shared.extend_from_slice(b",\"auth\":");
            auth(
                &mut shared,
                token,
                &Hashes { secret, accessor },
                Some(exchange.granted),
            );
        }
        shared.extend_from_slice(b",\"request\":");
        let mut request = Object::begin(&mut shared);
        request.text("id", exchange.id);
        if let Some(entity) = exchange.token.and_then(|token| token.entity.as_deref()) {
            request.text("client_id", entity);
        }
        request.text("operation", exchange.operation);
        if let Some(mount) = exchange.mount {
            write_mount(&mut request, mount);
        }
        if let Some(secret) = secret {
            request.key("client_token").extend_from_slice(&secret);
        }
        if let Some(accessor) = accessor {
            request
                .key("client_token_accessor")
                .extend_from_slice(&accessor);
        }
        request
            .key("namespace")
            .extend_from_slice(b"{\"id\":\"root\"}");
        request.text("path", exchange.path);
        if !exchange.params.is_empty() {
            hasher.sent(request.key("data"), exchange.params);
        }
        request.text(
            "remote_address",
            &exchange.peer.ip().to_canonical().to_string(),
        );
        request.member("remote_port", &exchange.peer.port());
        request.end();
        Common {
            shared,
            has_token: exchange.token.is_some(),
            mount: exchange.mount,
        }
    }

    /// The line before anything is done; `error` when nothing will be.
    pub(crate) fn request_line(
        &self,
        hasher: &Hasher,
        now: Duration,
        error: Option<&str>,
    ) -> Vec<u8> {
        let mut line = self.begin(now, "request", 0);
        line.extend_from_slice(&self.shared);
        blot(finish(line, error), hasher)
    }

    /// The line after it.
    pub(crate) fn response_line(
        &self,
        hasher: &Hasher,
        now: Duration,
        part: &ResponsePart<'_>,
        error: Option<&str>,
    ) -> Vec<u8> {
        let mut line = self.begin(now, "response", 1024);
        let login = part.auth.map(|login| {
            let secret = login.secret.as_ref();
            let hashes = Hashes {
                secret: secret.map(|secret| hasher.quoted(secret.expose_secret())),
                accessor: Some(hasher.quoted(&login.token.accessor)),
            };
            (&login.token, hashes)
        });
        if !self.has_token
            && let Some((token, hashes)) = &login
        {
            line.extend_from_slice(b",\"auth\":");
            auth(&mut line, token, hashes, None);
        }
        line.extend_from_slice(&self.shared);
        line.extend_from_slice(b",\"response\":");
        let mut response = Object::begin(&mut line);
        if let Some(mount) = self.mount {
            write_mount(&mut response, mount);
        }
        if let Some((token, hashes)) = &login {
            auth(response.key("auth"), token, hashes, None);
        }
        match part.data {
            None | Some(Data::None) => {}
            Some(data) => data.write_hashed(response.key("data"), hasher),
        }
        // The names of parameters nobody knew are in the request already, hashed where they are not plain words.
        let warnings: Vec<&String> = part
            .warnings
            .iter()
            .filter(|warning| !warning.starts_with(UNRECOGNISED))
            .collect();
        if !warnings.is_empty() {
            response.member("warnings", &warnings);
        }
        response.end();
        blot(finish(line, error), hasher)
    }

    fn begin(&self, now: Duration, kind: &str, more: usize) -> Vec<u8> {
        let mut line = Vec::with_capacity(self.shared.len() + 128 + more);
        line.extend_from_slice(b"{\"time\":\"");
        line.extend_from_slice(time::since_epoch(now).as_bytes());
        line.extend_from_slice(b"\",\"type\":\"");
        line.extend_from_slice(kind.as_bytes());
        line.push(b'"');
        line
    }
}

fn finish(mut line: Vec<u8>, error: Option<&str>) -> Vec<u8> {
    if let Some(error) = error {
        line.extend_from_slice(b",\"error\":");
        json::text(&mut line, error);
    }
    line.extend_from_slice(b"}\n");
    line
}

fn write_mount(object: &mut Object<'_>, mount: &Mount) {
    object.text_unless_empty("mount_point", &mount.point);
    object.text_unless_empty("mount_type", &mount.kind);
    object.text_unless_empty("mount_accessor", &mount.accessor);
    object.text_unless_empty("mount_class", mount.class);
}

/// What stands for the secrets of a token.
struct Hashes {
    secret: Option<Hash>,
    accessor: Option<Hash>,
}

/// The `auth` object. `results`: `None` where no policy was asked, `Some(None)` where the policies did not allow it.
fn auth(
    out: &mut Vec<u8>,
    token: &KeeperToken,
    hashes: &Hashes,
    results: Option<Option<&Granted>>,
) {
    let mut auth = Object::begin(out);
    if let Some(secret) = &hashes.secret {
        auth.key("client_token").extend_from_slice(secret);
    }
    if let Some(accessor) = &hashes.accessor {
        auth.key("accessor").extend_from_slice(accessor);
    }
    auth.text_unless_empty("display_name", &token.display_name);
    auth.member("policies", &token.policies);
    auth.member("token_policies", &token.policies);
    match results {
        None => {}
        Some(None) => auth
            .key("policy_results")
            .extend_from_slice(b"{\"allowed\":false}"),
        Some(Some(granted)) => {
            let results = auth.key("policy_results");
            results.extend_from_slice(b"{\"allowed\":true");
            for (index, name) in granted.policies.iter().enumerate() {
                results.extend_from_slice(if index == 0 {
                    b",\"granting_policies\":[{\"name\":"
                } else {
                    b",{\"name\":"
                });
                json::text(results, name);
                results.extend_from_slice(b",\"namespace_id\":\"root\",\"type\":\"acl\"}");
            }
            if !granted.policies.is_empty() {
                results.push(b']');
            }
            results.push(b'}');
        }
    }
    if !token.meta.is_empty() {
        auth.member("metadata", &token.meta);
    }
    if token.num_uses > 0 {
        auth.member("num_uses", &token.num_uses);
    }
    if let Some(entity) = &token.entity {
        auth.text("entity_id", entity);
    }
    auth.text("token_type", "service");
    if token.creation_ttl.0 > 0 {
        auth.member("token_ttl", &token.creation_ttl.0);
    }
    auth.text("token_issue_time", &time::whole(token.created_at));
    auth.end();
}
