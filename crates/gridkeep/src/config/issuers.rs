//! Reads `issuers` and their roles (profile sections 3.2, 4 and 16).
//!
//! A fault in an issuer leaves out that issuer, a fault in a role that role. Needs no network: what only the
//! discovery document can tell is checked by whoever fetches it.

use super::finding::{Origin, Setting, Severity, quoted};
use super::model::{CallbackMode, ClientAuth, IssuerConfig, RoleConfig};
use super::names::{differs_by_case, drop_collisions, spellings};
use super::read::{Item, Named, Reader};
use super::terms;
use super::yaml::{Mapping, Node, Value};
use std::collections::{BTreeMap, HashMap};
use url::Url;

pub(super) const KEYS: [&str; 24] = [
    "name",
    "clientid",
    "secret",
    "url",
    "callbackmode",
    "credclaim",
    "kerbservice",
    "roles",
    "public_client",
    "client_auth",
    "private_key",
    "ca_file",
    "authorization_params",
    "reauth_on_scope_change",
    "credclaim_json_pointer",
    "connect_timeout",
    "request_timeout",
    "requests_per_second",
    "refresh_token_life",
    "token_ttl",
    "token_max_ttl",
    "token_period",
    "token_bound_cidrs",
    "bound_claims",
];
pub(super) const ROLE_KEYS: [&str; 8] = [
    "name",
    "scopes",
    "credclaim",
    "token_ttl",
    "token_max_ttl",
    "token_period",
    "token_bound_cidrs",
    "bound_claims",
];
/// What becomes of an issuer with a fault.
pub const NOT_SERVED: &str = "This issuer is not served.";
const ROLE_NOT_SERVED: &str = "This role is not served.";

/// Parameters of an authorization request that the login itself sets.
const RESERVED_PARAMS: [&str; 10] = [
    "client_id",
    "client_secret",
    "code_challenge",
    "code_challenge_method",
    "nonce",
    "redirect_uri",
    "response_mode",
    "response_type",
    "scope",
    "state",
];

/// Reads the issuers. `services`: the Kerberos services that exist.
pub fn read(reader: &mut Reader<'_>, root: &Mapping, services: &[String]) -> Vec<IssuerConfig> {
    let named = reader.named_items(root.get("issuers"), "issuers", NOT_SERVED);
    if !named.is_empty() && !named.iter().any(|item| item.name.value == "default") {
        let origin = root
            .entry("issuers")
            .map(|entry| entry.key_origin.clone())
            .unwrap_or_default();
        reader.find(
            Severity::Warning,
            &origin,
            "issuers",
            "There is no issuer `default`.",
            "htgettoken asks for it when no -i is given; name one issuer so.",
        );
    }
    let mut issuers: Vec<(IssuerConfig, String, Origin)> = Vec::new();
    let spellings = spellings(&named);
    for item in &named {
        let issuer = issuer(reader, item, services);
        if differs_by_case(reader, item, &spellings, "issuer") {
            continue;
        }
        if let Some(issuer) = issuer {
            issuers.push((issuer, item.path.clone(), item.origin.clone()));
        }
    }
    drop_collisions(reader, &mut issuers);
    issuers.into_iter().map(|(issuer, ..)| issuer).collect()
}

fn issuer(reader: &mut Reader<'_>, named: &Named<'_>, services: &[String]) -> Option<IssuerConfig> {
    warn_underscore(reader, &named.name, &named.path);
    let mut item = Item::new(reader, named.map, &named.path, &named.origin, NOT_SERVED);
    item.unknown(&KEYS);
    let url = item.required("url");
    if let Some(url) = &url {
        check_url(&mut item, url);
    }
    let clientid = item.required("clientid");
    let credclaim = item.required("credclaim");
    let callback_mode = item
        .choice("callbackmode", &CallbackMode::CHOICES)
        .unwrap_or(Setting::builtin(CallbackMode::Device));
    let authentication = authentication(&mut item);
    let authorization_params = authorization_params(&mut item);
    let ca_file = item.file_path("ca_file");
    let reauth_on_scope_change = item
        .flag("reauth_on_scope_change")
        .unwrap_or(Setting::builtin(false));
    let credclaim_json_pointer = item
        .flag("credclaim_json_pointer")
        .unwrap_or(Setting::builtin(false));
    if let Some(claim) = credclaim.as_ref().filter(|_| credclaim_json_pointer.value) {
        check_pointer(&mut item, claim);
    }
    let connect_timeout = terms::positive(&mut item, "connect_timeout");
    let request_timeout = terms::positive(&mut item, "request_timeout");
    let requests_per_second = requests_per_second(&mut item);
    let refresh_token_life = terms::positive(&mut item, "refresh_token_life");
    let terms = terms::read(&mut item);
    let kerbservice = item.text("kerbservice");
    if let Some(service) = &kerbservice {
        check_service(&mut item, service, services);
    }
    if item.node("roles").is_none() {
        item.missing("roles");
    }
    let (sound, roles_path, roles_node) = (item.sound, item.key("roles"), item.node("roles"));
    let roles = roles(
        reader,
        roles_node,
        &roles_path,
        credclaim_json_pointer.value,
    );
    if let Some(node) = roles_node
        && roles.is_empty()
    {
        reader.find(
            Severity::Error,
            &node.origin,
            &roles_path,
            "No role of this issuer can be used.",
            NOT_SERVED,
        );
        return None;
    }
    if !roles.is_empty() && !roles.iter().any(|role| role.name.value == "default") {
        reader.find(
            Severity::Warning,
            &named.origin,
            &roles_path,
            "There is no role `default`.",
            "htgettoken asks for it when no -r is given.",
        );
    }
    if callback_mode.value == CallbackMode::NoConfirm && roles.len() > 1 && reader.ran_on_original {
        reader.find(
            Severity::Warning,
            &callback_mode.origin,
            &format!("{}.callbackmode", named.path),
            "The original applied `noconfirm` to the first role only; here it holds for all roles.",
            "Use `direct` if the other roles shall keep the confirmation page.",
        );
    }
    if !sound {
        return None;
    }
    let Authentication {
        public_client,
        secret,
        client_auth,
        private_key,
    } = authentication;
    Some(IssuerConfig {
        name: named.name.clone(),
        url: url?,
        clientid: clientid?,
        secret,
        callback_mode,
        credclaim: credclaim?,
        kerbservice,
        roles,
        public_client,
        client_auth,
        private_key,
        ca_file,
        authorization_params,
        reauth_on_scope_change,
        credclaim_json_pointer,
        connect_timeout,
        request_timeout,
        requests_per_second,
        refresh_token_life,
        terms,
    })
}

fn check_pointer(item: &mut Item<'_, '_, '_>, claim: &Setting<String>) {
    if !claim.value.starts_with('/') {
        let what = format!(
            "{} does not begin with a slash, as a JSON pointer does.",
            quoted(&claim.value)
        );
        item.refuse(
            &claim.origin,
            "credclaim",
            what,
            Some("a JSON pointer such as /realm/user, or no `credclaim_json_pointer`"),
        );
    }
}

fn requests_per_second(item: &mut Item<'_, '_, '_>) -> Option<Setting<f64>> {
    let rate = item.number("requests_per_second")?;
    if !(0.01..=10_000.0).contains(&rate.value) {
        let what = format!("{} is not a rate of requests.", rate.value);
        item.refuse(
            &rate.origin,
            "requests_per_second",
            what,
            Some("a number from 0.01 to 10000"),
        );
        return None;
    }
    Some(rate)
}

/// The issuer URL is compared byte by byte with the discovery document, so it is kept as written.
fn check_url(item: &mut Item<'_, '_, '_>, url: &Setting<String>) {
    const ALLOWED: &str = "a URL such as https://iam.example.org/, exactly as the issuer's discovery document spells it";
    let plain = !url
        .value
        .chars()
        .any(|c| c.is_whitespace() || c.is_control());
    let parsed = Url::parse(&url.value)
        .ok()
        .filter(|parsed| plain && parsed.host_str().is_some_and(|host| !host.is_empty()));
    // What stands before an `@` may be a password, which no message may show.
    let shown = if url.value.contains('@') {
        "The value".to_owned()
    } else {
        quoted(&url.value)
    };
    match parsed {
        Some(parsed) if matches!(parsed.scheme(), "https" | "http") => {
            if parsed.scheme() == "http" {
                let what =
                    format!("{shown} is not https: secrets and tokens would travel in clear.");
                item.refuse(&url.origin, "url", what, Some(ALLOWED));
            }
            if parsed.query().is_some() || parsed.fragment().is_some() {
                let what = "The URL has a query or a fragment, which issuer URLs never have.";
                item.warn(&url.origin, "url", what, "Discovery will probably fail.");
            }
            if !parsed.username().is_empty() || parsed.password().is_some() {
                item.refuse(
                    &url.origin,
                    "url",
                    "The URL holds a user name or password.",
                    Some(ALLOWED),
                );
            }
        }
        _ => item.refuse(
            &url.origin,
            "url",
            format!("{shown} is not the URL of an issuer."),
            Some(ALLOWED),
        ),
    }
}

struct Authentication {
    public_client: Setting<bool>,
    secret: Option<Setting<secrecy::SecretString>>,
    client_auth: Option<Setting<ClientAuth>>,
    private_key: Option<Setting<std::path::PathBuf>>,
}

fn authentication(item: &mut Item<'_, '_, '_>) -> Authentication {
    let public_client = item
        .flag("public_client")
        .unwrap_or(Setting::builtin(false));
    let client_auth = item.choice("client_auth", &ClientAuth::CHOICES);
    let private_key = item.file_path("private_key");
    let secret = item.secret("secret");
    let by_key = client_auth
        .as_ref()
        .is_some_and(|auth| auth.value == ClientAuth::PrivateKeyJwt);
    if public_client.value {
        if let Some(auth) = &client_auth {
            let what = "A public client does not authenticate, but `client_auth` says how it does; take one of the two out.";
            item.refuse(&auth.origin, "client_auth", what, None);
        }
        if let Some(secret) = &secret {
            let what = "The client is declared public and has a secret.";
            item.warn(
                &secret.origin,
                "secret",
                what,
                "The secret is not used; remove it or `public_client`.",
            );
        }
    } else if by_key {
        if private_key.is_none() {
            item.missing("private_key");
        }
    } else if secret.is_none() {
        item.missing_or(
            "secret",
            Some("the client's secret; for a client without one `public_client: true`; for one with a key `client_auth: private_key_jwt` and `private_key`"),
        );
    }
    if let (Some(key), false) = (&private_key, by_key) {
        let what = "A private key is given, but `client_auth` is not `private_key_jwt`.";
        item.warn(&key.origin, "private_key", what, "The key is not used.");
    }
    Authentication {
        secret: if public_client.value { None } else { secret },
        public_client,
        client_auth,
        private_key,
    }
}

fn authorization_params(item: &mut Item<'_, '_, '_>) -> Vec<(String, Setting<String>)> {
    const KEY: &str = "authorization_params";
    let Some(node) = item.mapping(KEY) else {
        return Vec::new();
    };
    let Some(map) = node.as_map() else {
        return Vec::new();
    };
    let path = item.key(KEY);
    let mut params = BTreeMap::new();
    let mut inner = Item::new(item.reader, map, &path, &node.origin, NOT_SERVED).own_item();
    for entry in &map.entries {
        if RESERVED_PARAMS.contains(&entry.key.as_str()) || entry.key.is_empty() {
            let what = format!(
                "The parameter {} is set by the login itself; take it out.",
                quoted(&entry.key)
            );
            inner.refuse(&entry.key_origin, &entry.key, what, None);
        } else if let Some(value) = inner.text(&entry.key) {
            params.insert(entry.key.clone(), value);
        }
    }
    let sound = inner.sound;
    item.sound &= sound;
    params.into_iter().collect()
}

/// The original never noticed a wrong name and went on without Kerberos. So does the issuer here, but reported.
fn check_service(item: &mut Item<'_, '_, '_>, service: &Setting<String>, services: &[String]) {
    if services.contains(&service.value) {
        return;
    }
    let known: Vec<&str> = services.iter().map(String::as_str).collect();
    let allowed = if known.is_empty() {
        "none, `kerberos` defines no usable service".to_owned()
    } else {
        known.join(", ")
    };
    let what = format!("There is no Kerberos service {}.", quoted(&service.value));
    let key = item.key("kerbservice");
    item.reader.findings.push(
        super::finding::Finding::new(
            Severity::Error,
            &service.origin,
            key,
            what,
            "This issuer has no Kerberos login; the rest of it is served.",
        )
        .nearest_of(&service.value, &known)
        .allowed(allowed),
    );
}

fn warn_underscore(reader: &mut Reader<'_>, name: &Setting<String>, path: &str) {
    if name.value.contains('_') {
        let what = format!("The name {} has an underscore.", quoted(&name.value));
        let means =
            "HTCondor splits `issuer_role` at the first underscore, so jobs cannot name this one.";
        reader.find(Severity::Warning, &name.origin, path, what, means);
    }
}

fn roles(
    reader: &mut Reader<'_>,
    node: Option<&Node>,
    path: &str,
    pointer: bool,
) -> Vec<RoleConfig> {
    let named = reader.named_items(node, path, ROLE_NOT_SERVED);
    let spellings = spellings(&named);
    let mut roles = Vec::with_capacity(named.len());
    for item in &named {
        warn_underscore(reader, &item.name, &item.path);
        if !differs_by_case(reader, item, &spellings, "role")
            && let Some(role) = role(reader, item, pointer)
        {
            roles.push(role);
        }
    }
    roles
}

fn role(reader: &mut Reader<'_>, named: &Named<'_>, pointer: bool) -> Option<RoleConfig> {
    let mut item = Item::new(
        reader,
        named.map,
        &named.path,
        &named.origin,
        ROLE_NOT_SERVED,
    );
    item.unknown(&ROLE_KEYS);
    let scopes = scopes(&mut item);
    let credclaim = item.text("credclaim");
    if let Some(claim) = credclaim.as_ref().filter(|_| pointer) {
        check_pointer(&mut item, claim);
    }
    let terms = terms::read(&mut item);
    let mut seen: HashMap<&str, &Origin> = HashMap::new();
    for scope in &scopes {
        if let Some(first) = seen.insert(&scope.value, &scope.origin) {
            let what = format!(
                "The scope {} was already listed at {first}.",
                quoted(&scope.value)
            );
            item.warn(
                &scope.origin,
                "scopes",
                what,
                "Lists of several files add up, they do not replace one another.",
            );
        }
    }
    item.sound.then(|| RoleConfig {
        name: named.name.clone(),
        scopes,
        credclaim,
        terms,
    })
}

/// A list, or one text with blanks or commas.
fn scopes(item: &mut Item<'_, '_, '_>) -> Vec<Setting<String>> {
    let Some(node) = item.node("scopes") else {
        return Vec::new();
    };
    let mut scopes = Vec::new();
    match &node.value {
        Value::List(items) => items
            .iter()
            .for_each(|element| scope_element(item, element, &mut scopes)),
        _ => scope_element(item, node, &mut scopes),
    }
    scopes
}

fn scope_element(item: &mut Item<'_, '_, '_>, element: &Node, scopes: &mut Vec<Setting<String>>) {
    const ALLOWED: &str = "a list of scopes, or one text with blanks between them";
    let text = match &element.value {
        Value::Scalar(scalar) => {
            let key = item.key("scopes");
            item.reader
                .note_reading(scalar, &element.origin, &key, false);
            item.unescaped(scalar.text())
        }
        // `[storage.read:]` is YAML for a mapping with one key and no value.
        Value::Map(map) => match map.entries.as_slice() {
            [entry] if entry.value.value == Value::Null => format!("{}:", entry.key),
            [entry] => {
                let what = format!(
                    "Here is a mapping; a blank follows the colon of {}.",
                    quoted(&entry.key)
                );
                return item.refuse(
                    &element.origin,
                    "scopes",
                    what,
                    Some("scopes without blanks, such as storage.read:/ for example"),
                );
            }
            _ => {
                return item.refuse(
                    &element.origin,
                    "scopes",
                    "Here is a mapping, but a scope is wanted.",
                    Some(ALLOWED),
                );
            }
        },
        Value::Null => {
            return item.refuse(
                &element.origin,
                "scopes",
                "Here is an empty element.",
                Some(ALLOWED),
            );
        }
        Value::List(_) => {
            return item.refuse(
                &element.origin,
                "scopes",
                "Here is a list inside the list.",
                Some(ALLOWED),
            );
        }
    };
    for scope in text
        .split(|c: char| c.is_ascii_whitespace() || c == ',')
        .filter(|scope| !scope.is_empty())
    {
        // RFC 6749, section 3.3
        if scope
            .bytes()
            .all(|b| matches!(b, 0x21 | 0x23..=0x5b | 0x5d..=0x7e))
        {
            scopes.push(Setting::new(scope.to_owned(), element.origin.clone()));
        } else {
            let what = format!(
                "The scope {} has characters that scopes may not have.",
                quoted(scope)
            );
            item.refuse(
                &element.origin,
                "scopes",
                what,
                Some("printable ASCII without blanks, `\"` and `\\`"),
            );
        }
    }
}
