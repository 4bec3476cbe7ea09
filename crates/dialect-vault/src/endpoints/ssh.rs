//! Logging in with ssh keys, and the keys themselves: section 9 of the Vault API specification.
//!
//! Beyond the original: a nonce's answer says which signatures can be sent as a whole and, when asked with fingerprints, which key
//! would be accepted; `keys/<issuer>/<credkey>` shows people their own keys and takes them away.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gridkeep_keeper::{
    BadInput, Failure, Operation, RegisterSshKeys, SSH_SIGNATURE_FORMATS, SshKey, SshKeySource,
    SshLogin, SshProbe, SshSignatureForm, UnixSeconds,
};
use serde_json::{Map, Value};

use crate::answer::{Answer, Auth};
use crate::failure::Trouble;
use crate::fields::Fields;
use crate::route::SshRoute;
use crate::service::{Call, Caller, Inner};
use crate::time;

/// What this server does with every role of this mount, under the names of the original.
const TOKEN_POLICIES: [&str; 2] = ["ssh", "tokenops"];
/// Parameters of the original that would change what a login's token is.
const TOKEN_FIELDS: [&str; 10] = [
    "token_bound_cidrs",
    "token_strictly_bind_ip",
    "token_explicit_max_ttl",
    "token_max_ttl",
    "token_no_default_policy",
    "token_num_uses",
    "token_period",
    "token_policies",
    "token_ttl",
    "token_type",
];

pub(super) async fn nonce(inner: &Inner, call: &mut Call<'_>) -> Result<Answer, Trouble> {
    if call.operation != Operation::Read {
        return Err(Trouble::unsupported());
    }
    let fields = &mut call.fields;
    let fingerprints = fields.list("fingerprints")?.unwrap_or_default();
    let role = fields.text("role")?.unwrap_or_default();
    let issuer = fields.text("issuer")?.unwrap_or_default();
    let probed = !fingerprints.is_empty();
    let probe = probed.then_some(SshProbe {
        role,
        issuer,
        fingerprints,
    });
    let challenge = inner.keeper.ssh_challenge(probe).await?;
    let mut data = Map::new();
    data.insert("nonce".to_owned(), challenge.nonce.into());
    data.insert(
        "signature_formats".to_owned(),
        SSH_SIGNATURE_FORMATS.to_vec().into(),
    );
    if probed {
        data.insert(
            "fingerprint".to_owned(),
            challenge.acceptable.unwrap_or_default().into(),
        );
    }
    Ok(Answer::data(data))
}

pub(super) async fn login(inner: &Inner, call: &mut Call<'_>) -> Result<Answer, Trouble> {
    if call.operation != Operation::Update {
        return Err(Trouble::unsupported());
    }
    if inner.keeper.setup().ssh.is_none() {
        return Err(BadInput::SshNotConfigured.into());
    }
    let fields = &mut call.fields;
    let role = required(fields, "role", "role must be provided")?;
    let signature = required(fields, "signature", "signature must be provided")?;
    let certificate = fields.text("cert")?.filter(|text| !text.is_empty());
    let public_key = fields.text("public_key")?.filter(|text| !text.is_empty());
    fields.ignore(&["username"]);
    if certificate.is_some() {
        return Err(Trouble::bad(
            "validation cert failed: no certificate authorities are configured on this server; log in with the public key itself",
        ));
    }
    let public_key = public_key.ok_or_else(|| Trouble::bad("cert or pubkey must be provided"))?;
    let nonce = required(fields, "nonce", "nonce must be provided")?;
    let signature = decoded(&signature).ok_or_else(|| Trouble::bad("decoding signature failed"))?;
    let nonce = decoded(&nonce)
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .ok_or_else(|| Trouble::bad("decoding nonce failed"))?;
    let format = fields
        .text("signature_format")?
        .filter(|text| !text.is_empty());
    let form = match &format {
        None => SshSignatureForm::Bare,
        Some(name) if SSH_SIGNATURE_FORMATS.contains(&name.as_str()) => SshSignatureForm::Whole,
        Some(_) => {
            return Err(Trouble::bad(format!(
                "signature_format must be one of {}",
                SSH_SIGNATURE_FORMATS.join(", ")
            )));
        }
    };
    let issued = inner
        .keeper
        .ssh_login(SshLogin {
            role,
            public_key,
            signature: &signature,
            form,
            nonce,
            metadata: fields.map("metadata")?.unwrap_or_default(),
            from: Some(call.peer.ip()),
        })
        .await?;
    let lease_duration = issued.token.creation_ttl.0;
    Ok(Answer::auth(Auth {
        secret: Some(issued.secret),
        token: issued.token,
        handle: None,
        lease_duration,
    })
    .with_warnings(issued.warnings))
}

pub(super) async fn answer(
    inner: &Inner,
    route: SshRoute<'_>,
    call: &mut Call<'_>,
    caller: &Caller<'_>,
) -> Result<Answer, Trouble> {
    match route {
        SshRoute::Roles if call.operation == Operation::List => {
            Ok(Answer::keys(inner.keeper.ssh_key_names().await?))
        }
        SshRoute::Role { name } => {
            call.fields.captured("name");
            role(inner, name, call, caller).await
        }
        SshRoute::Keys { issuer, name } => keys(inner, issuer, name, call, caller).await,
        SshRoute::Config => config(inner, call),
        SshRoute::Roles => Err(Trouble::unsupported()),
    }
}

async fn role(
    inner: &Inner,
    name: &str,
    call: &mut Call<'_>,
    caller: &Caller<'_>,
) -> Result<Answer, Trouble> {
    let keeper = &inner.keeper;
    match call.operation {
        Operation::Read => {
            let keys = keeper.ssh_keys(name, None).await?;
            let mut lines: Vec<&str> = keys.iter().map(|key| key.line.as_str()).collect();
            lines.sort_unstable();
            lines.dedup();
            let mut data = Map::new();
            data.insert("public_keys".to_owned(), lines.into());
            data.insert("principals".to_owned(), Value::Array(Vec::new()));
            token_fields(inner, &mut data);
            data.insert("key_info".to_owned(), key_info(&keys).into());
            Ok(Answer::data(data))
        }
        Operation::Create | Operation::Update => {
            let fields = &mut call.fields;
            let keys = fields.list("public_keys")?.unwrap_or_default();
            let principals = fields.list("principals")?.unwrap_or_default();
            if !keys.is_empty() && !principals.is_empty() {
                return Err(Trouble::bad(
                    "public_keys and principals option are mutually exclusive",
                ));
            }
            if !principals.is_empty() {
                return Err(Trouble::bad(
                    "principals are names in certificates, and no certificate authorities are configured on this server; give public_keys",
                ));
            }
            for name in TOKEN_FIELDS {
                if fields.present(name) {
                    return Err(Trouble::bad(format!(
                        "the parameter {name} is not supported by this server: the tokens of ssh logins are as its configuration says"
                    )));
                }
            }
            let request = RegisterSshKeys {
                name: name.to_owned(),
                // A file sent as one text holds one key a line.
                keys: keys
                    .iter()
                    .flat_map(|text| text.lines().map(str::to_owned))
                    .collect(),
                issuers: fields.list("issuers")?.unwrap_or_default(),
            };
            let left_out = keeper
                .register_ssh_keys(caller.bearer, caller.granted, request)
                .await?;
            Ok(Answer::done().with_warnings(left_out))
        }
        Operation::Delete => {
            let (bearer, granted) = (caller.bearer, caller.granted);
            match keeper
                .remove_ssh_keys(bearer, granted, name, None, None)
                .await
            {
                Ok(warnings) => Ok(Answer::done().with_warnings(warnings)),
                // What is not there is deleted, as in the original.
                Err(Failure::NotFound) => Ok(Answer::done()),
                Err(other) => Err(other.into()),
            }
        }
        Operation::List | Operation::Scan | Operation::Patch => Err(Trouble::unsupported()),
    }
}

async fn keys(
    inner: &Inner,
    issuer: &str,
    name: &str,
    call: &mut Call<'_>,
    caller: &Caller<'_>,
) -> Result<Answer, Trouble> {
    let keeper = &inner.keeper;
    let fields = &mut call.fields;
    let (bearer, granted) = (caller.bearer, caller.granted);
    match call.operation {
        Operation::Read => {
            let keys = keeper.ssh_keys(name, Some(issuer)).await?;
            let prints: Vec<&str> = keys.iter().map(|key| key.fingerprint.as_str()).collect();
            let mut data = Map::new();
            data.insert("keys".to_owned(), prints.into());
            data.insert("key_info".to_owned(), key_info(&keys).into());
            Ok(Answer::data(data))
        }
        Operation::Update => {
            let fingerprint = required(fields, "fingerprint", MISSING_FINGERPRINT)?;
            let Some(ttl) = fields.duration("ttl")? else {
                return Err(Trouble::bad(
                    "ttl must be provided: how long the key shall still count",
                ));
            };
            let ttl = i64::try_from(ttl.0).unwrap_or(i64::MAX);
            let end = UnixSeconds(keeper.now().0.saturating_add(ttl));
            let warnings = keeper
                .expire_ssh_key(bearer, granted, name, issuer, &fingerprint, end)
                .await?;
            Ok(Answer::done().with_warnings(warnings))
        }
        Operation::Delete => {
            let fingerprint = fields.text("fingerprint")?.filter(|text| !text.is_empty());
            let all = fields.boolean("all")?.unwrap_or(false);
            if fingerprint.is_none() && !all {
                return Err(Trouble::bad(MISSING_FINGERPRINT));
            }
            let warnings = keeper
                .remove_ssh_keys(bearer, granted, name, Some(issuer), fingerprint.as_deref())
                .await?;
            Ok(Answer::done().with_warnings(warnings))
        }
        _ => Err(Trouble::unsupported()),
    }
}

const MISSING_FINGERPRINT: &str = "fingerprint must be provided, as ssh-add -l shows it (SHA256:…)";

fn config(inner: &Inner, call: &mut Call<'_>) -> Result<Answer, Trouble> {
    if inner.keeper.setup().ssh.is_none() {
        return Err(BadInput::SshNotConfigured.into());
    }
    match call.operation {
        Operation::Read => {
            let mut data = Map::new();
            data.insert("ssh_ca_public_keys".to_owned(), Value::Array(Vec::new()));
            data.insert("secure_nonce".to_owned(), true.into());
            token_fields(inner, &mut data);
            Ok(Answer::data(data))
        }
        Operation::Create | Operation::Update | Operation::Delete => Err(Trouble::from_files(
            &inner.keeper,
            "the configuration of ssh logins",
            "ssh",
        )),
        _ => Err(Trouble::unsupported()),
    }
}

fn token_fields(inner: &Inner, data: &mut Map<String, Value>) {
    let lifetimes = inner.keeper.setup().lifetimes.clone();
    let mut put = |name: &str, value: Value| data.insert(name.to_owned(), value);
    put("token_bound_cidrs", Value::Array(Vec::new()));
    put("token_explicit_max_ttl", 0.into());
    put("token_max_ttl", lifetimes.max_ttl.0.into());
    put("token_no_default_policy", false.into());
    put("token_num_uses", 0.into());
    put("token_period", 0.into());
    put("token_policies", TOKEN_POLICIES.to_vec().into());
    put("token_ttl", lifetimes.default_ttl.0.into());
    put("token_type", "service".into());
}

/// What is known of each key, by fingerprint. A key at several issuers stands there once for each, as a list.
fn key_info(keys: &[SshKey]) -> Map<String, Value> {
    let mut info: Map<String, Value> = Map::new();
    for key in keys {
        let entry = info
            .entry(key.fingerprint.clone())
            .or_insert_with(|| Value::Array(Vec::new()));
        if let Value::Array(list) = entry {
            list.push(describe(key).into());
        }
    }
    info
}

fn describe(key: &SshKey) -> Map<String, Value> {
    let moment = |at: Option<UnixSeconds>| at.map_or(Value::Null, |at| time::whole(at).into());
    let mut data = Map::new();
    let mut put = |name: &str, value: Value| data.insert(name.to_owned(), value);
    put("public_key", key.line.as_str().into());
    put("comment", key.comment.as_str().into());
    put("credkey", key.owner.as_str().into());
    put("issuer", key.issuer.clone().into());
    put("added", moment(key.added_at));
    put("added_by", key.added_by.clone().into());
    put("expires", moment(key.expires_at));
    put("used", moment(key.used_at));
    put(
        "source",
        match &key.source {
            SshKeySource::Registered => "registered".into(),
            SshKeySource::File { line, .. } => {
                format!("line {line} of a file of the operators").into()
            }
        },
    );
    data
}

fn required(fields: &mut Fields, name: &str, missing: &'static str) -> Result<String, Trouble> {
    fields
        .text(name)?
        .filter(|text| !text.is_empty())
        .ok_or_else(|| Trouble::bad(missing))
}

/// Base64; some clients break it into lines.
fn decoded(text: &str) -> Option<Vec<u8>> {
    let text: String = text.split_ascii_whitespace().collect();
    STANDARD.decode(text).ok()
}
