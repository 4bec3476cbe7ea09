//! What operators' tools ask about the program and its machine: audit devices, plugins, the host.

use gridkeep_keeper::Operation;
use http::StatusCode;
use serde_json::{Map, Value, json};

use super::status::object;
use crate::answer::Answer;
use crate::failure::Trouble;
use crate::service::{Call, Inner};
use crate::time;

/// What is built in that scripts of the original look for as plugins.
const PLUGINS: [(&str, &str); 5] = [
    ("auth", "kerberos"),
    ("auth", "oidc"),
    ("auth", "ssh"),
    ("auth", "token"),
    ("secret", "oauth"),
];

/// `sys/audit`: the one device that the configuration file names.
pub(super) fn audit(
    inner: &Inner,
    path: Option<&str>,
    call: &mut Call<'_>,
) -> Result<Answer, Trouble> {
    match (path, call.operation) {
        (None, Operation::Read | Operation::List) => {
            let mut devices = Map::new();
            if let Some(file) = inner.options.audit.file() {
                devices.insert(
                    "file/".to_owned(),
                    json!({
                        "type": "file",
                        "path": "file/",
                        "description": "",
                        "local": false,
                        "options": {"file_path": file.display().to_string(), "log_raw": "false"},
                    }),
                );
            }
            Ok(Answer::repeated(devices))
        }
        (Some(_), Operation::Update) => Err(Trouble::text(
            StatusCode::METHOD_NOT_ALLOWED,
            "cannot enable audit device via API; use declarative, config-based audit device management instead: change cluster.auditlog and restart",
        )),
        (Some(_), Operation::Delete) => Err(Trouble::text(
            StatusCode::METHOD_NOT_ALLOWED,
            "the audit device follows from the configuration files of this server and cannot be changed by API; change cluster.auditlog and restart",
        )),
        _ => Err(Trouble::unsupported()),
    }
}

/// `sys/audit-hash/<path>`: how a text looks in the audit log, to find it there.
pub(super) fn audit_hash(
    inner: &Inner,
    device: &str,
    call: &mut Call<'_>,
) -> Result<Answer, Trouble> {
    if call.operation != Operation::Update {
        return Err(Trouble::unsupported());
    }
    call.fields.captured("path");
    let input = call
        .fields
        .text("input")?
        .filter(|input| !input.is_empty())
        .ok_or_else(|| Trouble::bad("the \"input\" parameter is empty"))?;
    if device.trim_end_matches('/') != "file" || inner.options.audit.file().is_none() {
        return Err(Trouble::bad(format!("unknown audit backend \"{device}\"")));
    }
    let quoted = inner.hash_for_audit(&input);
    let mut data = Map::new();
    data.insert("hash".to_owned(), quoted.into());
    Ok(Answer::data(data))
}

/// `sys/plugins/*`: everything is built in.
pub(super) fn plugins(inner: &Inner, rest: &str, call: &mut Call<'_>) -> Result<Answer, Trouble> {
    let reads = matches!(call.operation, Operation::Read | Operation::List);
    let rest = rest.trim_matches('/');
    if rest == "reload/backend" {
        if call.operation != Operation::Update {
            return Err(Trouble::unsupported());
        }
        call.fields.ignore(&["plugin", "mounts", "scope"]);
        return Ok(Answer::done());
    }
    let Some(wanted) = rest.strip_prefix("catalog") else {
        return Err(Trouble::unsupported_path());
    };
    if !reads {
        return Err(Trouble::text(
            StatusCode::METHOD_NOT_ALLOWED,
            "everything this server does is built in: there is no catalogue of plugins to change",
        ));
    }
    let parts: Vec<&str> = wanted.split('/').filter(|part| !part.is_empty()).collect();
    let of_kind = |kind: &str| -> Vec<String> {
        PLUGINS
            .iter()
            .filter(|(class, _)| *class == kind)
            .map(|(_, name)| (*name).to_owned())
            .collect()
    };
    match parts.as_slice() {
        [] => Ok(Answer::data(object(json!({
            "auth": of_kind("auth"),
            "secret": of_kind("secret"),
            "database": [],
        })))),
        [kind] if matches!(*kind, "auth" | "secret" | "database") => {
            Ok(Answer::keys(of_kind(kind)))
        }
        [kind, name] if of_kind(kind).iter().any(|known| known == name) => {
            Ok(Answer::data(object(json!({
                "name": name,
                "builtin": true,
                "command": "",
                "args": null,
                "sha256": "",
                "version": format!("v{}", inner.options.version),
                "deprecation_status": "supported",
            }))))
        }
        _ => Ok(Answer::nothing()),
    }
}

/// `sys/host-info`: a few facts of the machine, without asking any program.
pub(super) fn host_info(inner: &Inner, call: &mut Call<'_>) -> Result<Answer, Trouble> {
    if call.operation != Operation::Read {
        return Err(Trouble::unsupported());
    }
    let fact = |path: &str| {
        std::fs::read_to_string(path)
            .map(|text| text.trim().to_owned())
            .unwrap_or_default()
    };
    let uptime = fact("/proc/uptime");
    let uptime: u64 = uptime
        .split('.')
        .next()
        .and_then(|seconds| seconds.parse().ok())
        .unwrap_or(0);
    let memory = fact("/proc/meminfo");
    let bytes = |name: &str| -> u64 {
        memory
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(key, _)| *key == name)
            .and_then(|(_, value)| value.split_whitespace().next()?.parse::<u64>().ok())
            .map_or(0, |kib| kib * 1024)
    };
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    Ok(Answer::data(object(json!({
        "timestamp": time::whole(inner.keeper.now()),
        "cpu": vec![json!({}); processors],
        "host": {
            "hostname": fact("/proc/sys/kernel/hostname"),
            "os": "linux",
            "kernelVersion": fact("/proc/sys/kernel/osrelease"),
            "kernelArch": std::env::consts::ARCH,
            "uptime": uptime,
        },
        "memory": {
            "total": bytes("MemTotal"),
            "available": bytes("MemAvailable"),
            "free": bytes("MemFree"),
        },
    }))))
}

/// `sys/internal/ui/mounts/<path>`: which mount a path belongs to, for those who may use something there.
pub(super) fn mount_of(
    inner: &Inner,
    path: &str,
    call: &mut Call<'_>,
    token: &gridkeep_keeper::KeeperToken,
) -> Result<Answer, Trouble> {
    if call.operation != Operation::Read {
        return Err(Trouble::unsupported());
    }
    let path = format!("{}/", path.trim_matches('/'));
    let mount = inner
        .keeper
        .mounts()
        .into_iter()
        .find(|mount| path.starts_with(&mount.path))
        .filter(|mount| inner.keeper.reaches(token, &mount.path));
    let Some(mount) = mount else {
        return Err(Trouble::text(
            StatusCode::FORBIDDEN,
            format!(
                "preflight capability check returned 403, please ensure client's policies grant access to path \"{path}\""
            ),
        ));
    };
    let class = super::mounts::class_of(&mount);
    let mut data = object(super::mounts::describe(inner, class, &mount));
    data.insert("path".to_owned(), Value::from(mount.path));
    Ok(Answer::data(data))
}
