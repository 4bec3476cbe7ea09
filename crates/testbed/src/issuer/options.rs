//! What a test issuer is told before it starts: whose manner it imitates, its users and clients, lifetimes.
//! The same structure is the configuration file (JSON or YAML). It holds no behaviour: a new setting is a field here and
//! is used where it takes effect.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use secrecy::SecretString;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use super::yaml;

/// Whose manner the issuer imitates: paths, discovery document, error texts, audiences, order of scopes.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Character {
    /// What the WLCG profile and the RFCs ask for.
    #[default]
    Wlcg,
    /// INDIGO IAM.
    Iam,
    /// CILogon (OA4MP).
    Cilogon,
    /// Keycloak.
    Keycloak,
}

/// What becomes of a refresh token when it is used.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Rotation {
    /// It stays; no new one is issued.
    None,
    /// A new one is issued; the old one works for `grace_seconds` after its first use.
    Grace,
    /// A new one is issued; the old one is refused from then on.
    Immediate,
}

/// Form of access tokens.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenProfile {
    /// WLCG Common JWT Profile.
    #[default]
    Wlcg,
    /// SciTokens 2.0: `ver`, audience `ANY`, `read` and `write` instead of `storage.*`.
    Scitokens,
}

/// Order in which granted scopes are named in replies and in the `scope` claim.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ScopeOrder {
    /// As requested.
    Requested,
    /// Backwards, as a hash set might give them.
    Reversed,
    /// Alphabetical.
    Sorted,
}

/// How a client may ask for an audience.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AudienceBy {
    /// The parameter `audience` (RFC 8693), repeatable or separated by blanks.
    Audience,
    /// The parameter `resource` (RFC 8707), repeatable.
    Resource,
    /// A scope: `aud:NAME`, or a key of `audience_scopes`.
    Scope,
}

/// Somebody who can log in.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// Login name.
    pub name: String,
    /// Password on the login page.
    #[serde(deserialize_with = "secret")]
    pub password: SecretString,
    /// `sub` claim; derived from the name when absent.
    #[serde(default)]
    pub sub: Option<String>,
    /// More claims of id_token and userinfo (`email`, `wlcg.credkey` …).
    #[serde(default)]
    pub claims: Map<String, Value>,
    /// Claims that are added when a scope is among the requested ones: scope → claims.
    #[serde(default)]
    pub claims_when: BTreeMap<String, Map<String, Value>>,
    /// Groups asserted whenever groups are asserted, in order.
    #[serde(default)]
    pub default_groups: Vec<String>,
    /// Groups asserted only when named.
    #[serde(default)]
    pub optional_groups: Vec<String>,
    /// Capability sets: group → scopes.
    #[serde(default)]
    pub capability_sets: BTreeMap<String, Vec<String>>,
    /// Widest capabilities the user may have; a requested one must lie within one of these.
    #[serde(default = "all_capabilities")]
    pub capabilities: Vec<String>,
}

impl User {
    /// The `sub` claim.
    pub fn subject(&self) -> String {
        self.sub
            .clone()
            .unwrap_or_else(|| format!("sub-{}", self.name))
    }
}

/// How a client proves who it is at the token endpoint.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientAuth {
    /// HTTP Basic.
    ClientSecretBasic,
    /// `client_id` and `client_secret` in the form.
    ClientSecretPost,
    /// Signed assertion (RFC 7523).
    PrivateKeyJwt,
    /// Public client: `client_id` in the form.
    None,
}

impl ClientAuth {
    /// Name in discovery documents.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::ClientSecretBasic => "client_secret_basic",
            Self::ClientSecretPost => "client_secret_post",
            Self::PrivateKeyJwt => "private_key_jwt",
            Self::None => "none",
        }
    }
}

/// A registered client.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Client {
    /// `client_id`.
    pub id: String,
    /// Secret of a confidential client.
    #[serde(default, deserialize_with = "optional_secret")]
    pub secret: Option<SecretString>,
    /// Public keys for `private_key_jwt`, as a JWK set.
    #[serde(default)]
    pub jwks: Option<Value>,
    /// Accepted ways to authenticate; derived from `secret` and `jwks` when empty.
    #[serde(default)]
    pub auth: Vec<ClientAuth>,
    /// Allowed redirect URIs, compared exactly; empty = any.
    #[serde(default)]
    pub redirect_uris: Vec<String>,
    /// Allowed grant types; empty = all.
    #[serde(default)]
    pub grant_types: Vec<String>,
    /// Allowed scopes (a capability allows narrower paths); empty = any.
    #[serde(default)]
    pub scopes: Vec<String>,
    /// Refuse an authorization request without PKCE.
    #[serde(default = "yes")]
    pub require_pkce: bool,
    /// Capabilities of the client itself (client credentials).
    #[serde(default = "all_capabilities")]
    pub capabilities: Vec<String>,
}

impl Client {
    /// A confidential client with everything allowed.
    pub fn confidential(id: &str, secret: &str) -> Self {
        Self {
            secret: Some(SecretString::from(secret)),
            ..Self::public(id)
        }
    }

    /// A public client with everything allowed.
    pub fn public(id: &str) -> Self {
        Self {
            id: id.to_owned(),
            secret: None,
            jwks: None,
            auth: Vec::new(),
            redirect_uris: Vec::new(),
            grant_types: Vec::new(),
            scopes: Vec::new(),
            require_pkce: true,
            capabilities: all_capabilities(),
        }
    }

    /// Ways this client may authenticate.
    pub(crate) fn auth_methods(&self) -> Vec<ClientAuth> {
        if !self.auth.is_empty() {
            return self.auth.clone();
        }
        let mut methods = Vec::new();
        if self.secret.is_some() {
            methods.extend([ClientAuth::ClientSecretBasic, ClientAuth::ClientSecretPost]);
        }
        if self.jwks.is_some() {
            methods.push(ClientAuth::PrivateKeyJwt);
        }
        if methods.is_empty() {
            methods.push(ClientAuth::None);
        }
        methods
    }
}

/// All settings of a test issuer.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Whose manner.
    pub character: Character,
    /// Refresh token rotation; the character's own habit when absent.
    pub rotation: Option<Rotation>,
    /// Life of a retired refresh token under [`Rotation::Grace`], seconds.
    pub grace_seconds: i64,
    /// Address of the issuer; port 0 = any free one.
    pub listen: SocketAddr,
    /// Address of the administration interface; none when absent.
    pub admin_listen: Option<SocketAddr>,
    /// Host name in URLs; the listening address when absent. The certificate covers it, `localhost` and the loopback addresses.
    pub host: Option<String>,
    /// Name of the virtual organisation: path component at CILogon, realm at Keycloak.
    pub vo: String,
    /// JOSE name of the signing algorithm; the character's own when absent.
    pub algorithm: Option<String>,
    /// Life of access tokens, seconds.
    pub access_token_seconds: i64,
    /// Life of id_tokens, seconds.
    pub id_token_seconds: i64,
    /// Absolute end of a refresh token after the login, seconds.
    pub refresh_token_seconds: i64,
    /// Idle end of a refresh token after its issue or last use, seconds.
    pub refresh_idle_seconds: Option<i64>,
    /// Life of authorization codes, seconds.
    pub code_seconds: i64,
    /// Life of device codes, seconds.
    pub device_seconds: i64,
    /// Least seconds between two polls of one device code.
    pub device_interval: i64,
    /// Form of access tokens.
    pub profile: TokenProfile,
    /// A user who is taken to be logged in everywhere, and for whom device requests are approved at once: a robot.
    pub auto_login: Option<String>,
    /// Ask the person for consent; otherwise a login is enough.
    pub ask_consent: bool,
    /// Ways to ask for an audience; the character's own when absent.
    pub audience_by: Option<Vec<AudienceBy>>,
    /// Scopes that stand for an audience: scope → audience.
    pub audience_scopes: BTreeMap<String, String>,
    /// Scopes that are never granted, silently.
    pub drop_scopes: Vec<String>,
    /// Order of granted scopes; the character's own when absent.
    pub scope_order: Option<ScopeOrder>,
    /// `token_endpoint_auth_methods_supported`; the character's own when absent.
    pub auth_methods: Option<Vec<ClientAuth>>,
    /// Members that replace those of the discovery document; `null` removes one.
    pub discovery: Map<String, Value>,
    /// People.
    pub users: Vec<User>,
    /// Clients.
    pub clients: Vec<Client>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            character: Character::Wlcg,
            rotation: None,
            grace_seconds: 86_400,
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            admin_listen: None,
            host: None,
            vo: "testvo".to_owned(),
            algorithm: None,
            access_token_seconds: 3_600,
            id_token_seconds: 3_600,
            refresh_token_seconds: 30 * 86_400,
            refresh_idle_seconds: None,
            code_seconds: 120,
            device_seconds: 600,
            device_interval: 5,
            profile: TokenProfile::Wlcg,
            auto_login: None,
            ask_consent: true,
            audience_by: None,
            audience_scopes: BTreeMap::new(),
            drop_scopes: Vec::new(),
            scope_order: None,
            auth_methods: None,
            discovery: Map::new(),
            users: vec![sample_user("alice"), sample_user("bob")],
            clients: vec![
                Client::confidential("gridkeep", "gridkeep-secret"),
                Client::public("public-client"),
            ],
        }
    }
}

impl Options {
    /// Defaults in the manner of `character`.
    pub fn new(character: Character) -> Self {
        Self {
            character,
            ..Self::default()
        }
    }

    /// Reads a configuration file: YAML when its name ends in `.yaml` or `.yml`, JSON otherwise.
    ///
    /// # Errors
    /// [`OptionsError`] when the file cannot be read or does not fit.
    pub fn from_file(path: &Path) -> Result<Self, OptionsError> {
        let text = std::fs::read_to_string(path).map_err(|source| OptionsError::Read {
            path: path.display().to_string(),
            source,
        })?;
        let yaml = path.extension().is_some_and(|e| e == "yaml" || e == "yml");
        let value = if yaml {
            yaml::to_json(&text).map_err(|reason| OptionsError::Form {
                path: path.display().to_string(),
                reason,
            })?
        } else {
            serde_json::from_str(&text).map_err(|e| OptionsError::Form {
                path: path.display().to_string(),
                reason: e.to_string(),
            })?
        };
        serde_json::from_value(value).map_err(|e| OptionsError::Form {
            path: path.display().to_string(),
            reason: e.to_string(),
        })
    }
}

/// Why a configuration file was not taken.
#[derive(Debug, thiserror::Error)]
pub enum OptionsError {
    /// Reading failed.
    #[error(
        "the issuer's configuration file {path} cannot be read: {source}. Check the path and its permissions."
    )]
    Read {
        /// The file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// Content does not fit.
    #[error(
        "the issuer's configuration file {path} does not fit: {reason}. Correct the named place; field names are those of the issuer's Options."
    )]
    Form {
        /// The file.
        path: String,
        /// Parser's words, with line or field.
        reason: String,
    },
}

/// Every capability of the WLCG profile over the whole area.
pub(crate) fn all_capabilities() -> Vec<String> {
    [
        "storage.read:/",
        "storage.create:/",
        "storage.modify:/",
        "storage.stage:/",
        "storage.poll:/",
        "compute.read",
        "compute.modify",
        "compute.create",
        "compute.cancel",
        "host.auth",
    ]
    .map(str::to_owned)
    .to_vec()
}

/// The people every test issuer knows unless told otherwise; the password is the name.
fn sample_user(name: &str) -> User {
    let mut claims = Map::new();
    claims.insert(
        "email".to_owned(),
        Value::from(format!("{name}@vo.example.org")),
    );
    claims.insert(
        "name".to_owned(),
        Value::from(format!("{name} of the test VO")),
    );
    claims.insert("wlcg.credkey".to_owned(), Value::from(name));
    User {
        name: name.to_owned(),
        password: SecretString::from(name),
        sub: None,
        claims,
        claims_when: BTreeMap::from([(
            "wlcg.capabilityset:/testvo/prod".to_owned(),
            Map::from_iter([("wlcg.credkey".to_owned(), Value::from("testvopro"))]),
        )]),
        default_groups: vec!["/testvo".to_owned(), "/testvo/ana".to_owned()],
        optional_groups: vec!["/testvo/prod".to_owned()],
        capability_sets: BTreeMap::from([
            (
                "/testvo".to_owned(),
                vec![
                    "storage.read:/testvo".to_owned(),
                    format!("storage.create:/testvo/users/{name}"),
                    "compute.create".to_owned(),
                ],
            ),
            (
                "/testvo/prod".to_owned(),
                vec![
                    "storage.read:/testvo".to_owned(),
                    "storage.create:/testvo/data".to_owned(),
                ],
            ),
        ]),
        capabilities: all_capabilities(),
    }
}

fn yes() -> bool {
    true
}

fn secret<'de, D: Deserializer<'de>>(input: D) -> Result<SecretString, D::Error> {
    String::deserialize(input).map(SecretString::from)
}

fn optional_secret<'de, D: Deserializer<'de>>(input: D) -> Result<Option<SecretString>, D::Error> {
    Ok(Option::<String>::deserialize(input)?.map(SecretString::from))
}
