//! The configuration as types: what the YAML says after merging and validation, every value with its place.
//!
//! Holds no rule of reading and does no I/O. What follows from the values (service name, callback address, mounts,
//! permitted paths) is in `derived`. A new key gets a field here, a line in the reader of its section, one in
//! `effective` and one in `diff`.

use super::etcd::EtcdConfig;
use super::finding::{Finding, Setting};
use super::robots::RobotConfig;
use super::telemetry::TelemetryConfig;
use gridkeep_keeper::{CountedBy, LeftOut, Network};
use secrecy::SecretString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Everything that was configured.
#[derive(Clone, Debug)]
pub struct Config {
    /// The valid issuers, in the order of the files.
    pub issuers: Vec<IssuerConfig>,
    /// The valid Kerberos services; the first is the general one.
    pub kerberos: Vec<KerberosConfig>,
    /// ssh login, when it is switched on.
    pub ssh: Option<SshConfig>,
    /// The valid rate limits.
    pub ratelimits: Vec<RateLimitConfig>,
    /// Names of the service and its nodes, audit log.
    pub cluster: ClusterConfig,
    /// Our own settings.
    pub gridkeep: GridkeepConfig,
    /// `uname -n`, the last resort for the service name.
    pub hostname: String,
    /// The names of all Kerberos services as written, those with an error among them, in order; `None` if they cannot all be told.
    pub kerberos_names: Option<Vec<String>>,
    /// What the files have and is not among the above, because of an error in it.
    pub left_out: LeftOut,
    /// The errors by which something is left out, each with its place.
    pub faults: Vec<Finding>,
}

/// One issuer (`issuers[]`).
#[derive(Clone, Debug)]
pub struct IssuerConfig {
    /// The name used by `htgettoken -i`.
    pub name: Setting<String>,
    /// The issuer URL, to be compared exactly with the discovery document.
    pub url: Setting<String>,
    /// OIDC client id.
    pub clientid: Setting<String>,
    /// OIDC client secret; absent for public clients and for `private_key_jwt`.
    pub secret: Option<Setting<SecretString>>,
    /// The flow by which people log in.
    pub callback_mode: Setting<CallbackMode>,
    /// The claim whose value is the credkey, a top-level name taken literally.
    pub credclaim: Setting<String>,
    /// The Kerberos service named for this issuer.
    pub kerbservice: Option<Setting<String>>,
    /// The valid roles; at least one.
    pub roles: Vec<RoleConfig>,
    /// `public_client`: there is no secret, by intention.
    pub public_client: Setting<bool>,
    /// `client_auth`: how the client authenticates; absent: as the discovery document offers.
    pub client_auth: Option<Setting<ClientAuth>>,
    /// `private_key`: PEM file for `private_key_jwt`.
    pub private_key: Option<Setting<PathBuf>>,
    /// `ca_file`: PEM file of authorities that may certify this issuer, besides the system's.
    pub ca_file: Option<Setting<PathBuf>>,
    /// `authorization_params`: extra parameters of authorization and device requests.
    pub authorization_params: Vec<(String, Setting<String>)>,
    /// `reauth_on_scope_change`: a credential made with other scopes needs a new login.
    pub reauth_on_scope_change: Setting<bool>,
    /// `credclaim_json_pointer`: `credclaim`, here and in roles, is a JSON pointer.
    pub credclaim_json_pointer: Setting<bool>,
    /// `connect_timeout`: how long a connection to it may take to come about.
    pub connect_timeout: Option<Setting<Duration>>,
    /// `request_timeout`: how long a call may take in all.
    pub request_timeout: Option<Setting<Duration>>,
    /// `requests_per_second`: how often it may be asked in the long run.
    pub requests_per_second: Option<Setting<f64>>,
    /// `refresh_token_life`: how long it keeps a refresh token that is not used.
    pub refresh_token_life: Option<Setting<Duration>>,
    /// The terms of all its roles.
    pub terms: TermsConfig,
}

/// Terms of logins, extensions of issuers and roles.
#[derive(Clone, Debug, Default)]
pub struct TermsConfig {
    /// `token_ttl`: life of the login token.
    pub token_ttl: Option<Setting<Duration>>,
    /// `token_max_ttl`: its end, renewals included.
    pub token_max_ttl: Option<Setting<Duration>>,
    /// `token_period`: each renewal gives it this long.
    pub token_period: Option<Setting<Duration>>,
    /// `token_bound_cidrs`: addresses it may be used from; empty: any.
    pub token_bound_cidrs: Vec<Setting<Network>>,
    /// `bound_claims`: claims a person has to have, each with the values of which one is enough.
    pub bound_claims: Vec<(Setting<String>, Vec<Setting<String>>)>,
}

/// One role of an issuer.
#[derive(Clone, Debug)]
pub struct RoleConfig {
    /// The name used by `htgettoken -r`.
    pub name: Setting<String>,
    /// The scopes as configured, in order, repetitions kept.
    pub scopes: Vec<Setting<String>>,
    /// `credclaim` of this role alone, an extension.
    pub credclaim: Option<Setting<String>>,
    /// The terms of this role.
    pub terms: TermsConfig,
}

/// How people log in at an issuer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallbackMode {
    /// RFC 8628.
    Device,
    /// Authorization code with our confirmation page.
    Direct,
    /// Authorization code without it.
    NoConfirm,
}

impl CallbackMode {
    /// The spellings and their meaning.
    pub const CHOICES: [(&'static str, Self); 3] = [
        ("device", Self::Device),
        ("direct", Self::Direct),
        ("noconfirm", Self::NoConfirm),
    ];

    /// The word of the files.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::Direct => "direct",
            Self::NoConfirm => "noconfirm",
        }
    }
}

/// Client authentication at the token endpoint (OpenID Connect Core, section 9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// `client_secret_basic`
    SecretBasic,
    /// `client_secret_post`
    SecretPost,
    /// `private_key_jwt`
    PrivateKeyJwt,
}

impl ClientAuth {
    /// The spellings and their meaning.
    pub const CHOICES: [(&'static str, Self); 3] = [
        ("client_secret_basic", Self::SecretBasic),
        ("client_secret_post", Self::SecretPost),
        ("private_key_jwt", Self::PrivateKeyJwt),
    ];

    /// The word of the files.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SecretBasic => "client_secret_basic",
            Self::SecretPost => "client_secret_post",
            Self::PrivateKeyJwt => "private_key_jwt",
        }
    }
}

/// One Kerberos service (`kerberos[]`). The three LDAP keys of the original are accepted and have no effect.
#[derive(Clone, Debug)]
pub struct KerberosConfig {
    /// The name; selects the keytab.
    pub name: Setting<String>,
    /// Text, beginning with `@`, that may follow the Kerberos user name in a credential's path.
    pub policydomain: Option<Setting<String>>,
    /// `keytab`: where its keys are, instead of the places that follow from the name.
    pub keytab: Option<Setting<PathBuf>>,
    /// `realms`: whose people may log in; empty: those of the realms the keytab has a key of the service in.
    pub realms: Vec<Setting<String>>,
}

/// ssh login (`ssh`).
#[derive(Clone, Debug)]
pub struct SshConfig {
    /// May people register their own keys?
    pub self_registration: Setting<bool>,
    /// `cross_issuer`: a key registered through one issuer opens credentials of all, as in the original.
    pub cross_issuer: Setting<bool>,
}

/// One rate limit (`ratelimits[]`).
#[derive(Clone, Debug)]
pub struct RateLimitConfig {
    /// The name.
    pub name: Setting<String>,
    /// API path without `/v1/`; empty: everything.
    pub path: Setting<String>,
    /// Requests per interval and client address.
    pub rate: Setting<u64>,
    /// The interval.
    pub interval: Setting<Duration>,
    /// How long an address stays shut out after exceeding the rate.
    pub block_interval: Setting<Duration>,
    /// `per`: whose requests are counted together, an extension.
    pub per: Setting<CountedBy>,
}

/// Names of the service and its nodes (`cluster`).
#[derive(Clone, Debug)]
pub struct ClusterConfig {
    /// Name shared by the nodes.
    pub name: Option<Setting<String>>,
    /// The node that applied the configuration in the original.
    pub master: Option<Setting<String>>,
    /// `peer1` and `peer2`: the other nodes as seen from this one.
    pub peers: Vec<Setting<String>>,
    /// `members`: all nodes, an extension.
    pub members: Vec<Setting<String>>,
    /// Own name.
    pub myname: Option<Setting<String>>,
    /// Where the audit log goes.
    pub audit_log: Setting<AuditLog>,
}

/// Where the audit log goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuditLog {
    /// `none`
    Off,
    /// To a file.
    File(PathBuf),
}

/// Our own settings (top-level key `gridkeep`, which the original ignores).
#[derive(Clone, Debug)]
pub struct GridkeepConfig {
    /// Addresses to listen on.
    pub listen: Vec<Setting<SocketAddr>>,
    /// `plain_listen`: loopback addresses without TLS.
    pub plain_listen: Vec<Setting<SocketAddr>>,
    /// `callback_port`: the port in callback addresses, where clients and browsers reach the service; 8200 in the original.
    pub callback_port: Setting<u16>,
    /// `public_url`: how clients and browsers reach the service, where that is not the service name and `callback_port`.
    pub public_url: Option<Setting<String>>,
    /// `other_urls`: further addresses under which browsers may come back.
    pub other_urls: Vec<Setting<String>>,
    /// `keep_removed`: how long credentials of issuers and roles that were taken out are kept.
    pub keep_removed: Option<Setting<Duration>>,
    /// `keep_alive.limit`: for how long a login that nobody uses is kept alive at its issuer.
    pub keep_alive_limit: Option<Setting<Duration>>,
    /// `trusted_proxies`: front servers whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<Setting<Network>>,
    /// `tokens.default_ttl`: life of a token nobody asked a life for.
    pub default_ttl: Option<Setting<Duration>>,
    /// `tokens.max_ttl`: upper limit for every token that is not periodic.
    pub max_ttl: Option<Setting<Duration>>,
    /// `tls.certificate`: PEM chain.
    pub certificate: Setting<PathBuf>,
    /// `tls.key`: PEM key.
    pub key: Setting<PathBuf>,
    /// `data`: the data directory.
    pub data: Setting<PathBuf>,
    /// `store.etcd`: the store is there; absent: it is in the data directory.
    pub etcd: Option<EtcdConfig>,
    /// `advertise`: host and port at which the other nodes reach this one; absent: its name and the first port it listens on.
    pub advertise: Option<Setting<String>>,
    /// `seal.key_file`: the root key; absent: the service manager's credential.
    pub seal_key_file: Option<Setting<PathBuf>>,
    /// `seal.shamir`: nobody holds the root key; shares of it are given by `sys/unseal`.
    pub shamir: Setting<bool>,
    /// Who is an operator.
    pub operators: Vec<OperatorConfig>,
    /// `audit.on_failure`: what is done while the audit log cannot be written.
    pub on_audit_failure: Setting<OnAuditFailure>,
    /// Who cares for robots.
    pub robots: Vec<RobotConfig>,
    /// `run_directory`: sockets and other things of this run.
    pub run_directory: Setting<PathBuf>,
    /// `ssh.authorized_keys`: a directory of ssh keys that administrators supply.
    pub ssh_authorized_keys: Option<Setting<PathBuf>>,
    /// `ssh.rsa_sha1`: whether signatures of RSA keys with SHA-1 count, the only ones that clients of the original make.
    pub ssh_rsa_sha1: Setting<bool>,
    /// `compat.shell_unescape`: values were written for the original's shell quoting.
    pub shell_unescape: Setting<bool>,
    /// `telemetry`: metrics, traces, logs.
    pub telemetry: TelemetryConfig,
}

/// What is done while the audit log cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnAuditFailure {
    /// Nothing.
    Refuse,
    /// Revoking, deleting, and taking in refresh tokens.
    Revoke,
    /// Everything.
    Serve,
}

impl OnAuditFailure {
    /// The word of the configuration.
    pub fn word(self) -> &'static str {
        match self {
            OnAuditFailure::Refuse => "refuse",
            OnAuditFailure::Revoke => "revoke",
            OnAuditFailure::Serve => "serve",
        }
    }
}

/// Everybody whose login at `issuer` carries `claim` with `value` is an operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperatorConfig {
    /// Name of a configured issuer.
    pub issuer: Setting<String>,
    /// Claim name.
    pub claim: Setting<String>,
    /// The value the claim has or, being a list, contains.
    pub value: Setting<String>,
}
