//! What is mounted where. Mounts follow from the configuration files, so they are only read here.

use gridkeep_keeper::{Mount, Operation};
use http::StatusCode;
use serde_json::{Map, Value, json};

use super::status::object;
use crate::answer::Answer;
use crate::failure::Trouble;
use crate::route::MountClass;
use crate::service::{Call, Inner};

pub(super) fn answer(
    inner: &Inner,
    class: MountClass,
    path: Option<&str>,
    call: &mut Call<'_>,
) -> Result<Answer, Trouble> {
    if call.operation != Operation::Read {
        let path = path.unwrap_or_default().trim_end_matches('/');
        let path = path.strip_suffix("/tune").unwrap_or(path);
        let stands = inner.keeper.mounts().iter().any(|mount| {
            let shown = mount.path.strip_prefix("auth/");
            let at = match class {
                MountClass::Auth => shown,
                MountClass::Secret => shown.is_none().then_some(mount.path.as_str()),
            };
            at.is_some_and(|at| at.trim_end_matches('/') == path)
        });
        if !stands {
            return Err(Trouble::text(
                StatusCode::METHOD_NOT_ALLOWED,
                format!(
                    "there is no mount \"{path}/\" on this server, and none can be made, moved or removed by API: what is mounted follows from issuers, kerberos and ssh in the configuration files; change these and reload"
                ),
            ));
        }
        if matches!(path, "token" | "delegation" | "robot") {
            return Err(Trouble::text(
                StatusCode::METHOD_NOT_ALLOWED,
                format!("mount \"{path}/\" is built in: it can neither be changed nor removed"),
            ));
        }
        let key = match class {
            MountClass::Auth if path.starts_with("kerberos-") => "kerberos",
            MountClass::Auth if path == "ssh" => "ssh",
            _ => "issuers",
        };
        let mount = format!("mount \"{path}/\"");
        return Err(Trouble::from_files(&inner.keeper, &mount, key));
    }
    let mounts = inner.keeper.mounts();
    let shown = mounts
        .iter()
        .filter_map(|mount| match (class, mount.path.strip_prefix("auth/")) {
            (MountClass::Auth, Some(rest)) => Some((rest, mount)),
            (MountClass::Secret, None) => Some((mount.path.as_str(), mount)),
            _ => None,
        });
    match path {
        None => Ok(Answer::repeated(
            shown
                .map(|(path, mount)| (path.to_owned(), describe(inner, class, mount)))
                .collect(),
        )),
        Some(wanted) => {
            let wanted = wanted.trim_end_matches('/');
            let (wanted, tune) = match wanted.strip_suffix("/tune") {
                Some(mount) => (mount, true),
                None => (wanted, false),
            };
            let found = shown
                .into_iter()
                .find(|(path, _)| path.trim_end_matches('/') == wanted);
            match found {
                Some((_, mount)) if tune => Ok(Answer::repeated(tuning(inner, class, mount))),
                Some((_, mount)) => Ok(Answer::repeated(object(describe(inner, class, mount)))),
                None => Err(Trouble::bad(format!(
                    "No {} engine at {wanted}/",
                    if class == MountClass::Auth {
                        "auth"
                    } else {
                        "secret"
                    }
                ))),
            }
        }
    }
}

/// The answer to `sys/remount`.
pub(super) fn cannot_be_moved() -> Trouble {
    Trouble::text(
        StatusCode::METHOD_NOT_ALLOWED,
        "mounts cannot be moved by API: what is mounted, and where, follows from issuers, kerberos and ssh in the configuration files; change these and reload",
    )
}

/// How long what a mount gives lives, in seconds.
fn tuning(inner: &Inner, class: MountClass, mount: &Mount) -> Map<String, Value> {
    let lifetimes = &inner.keeper.setup().lifetimes;
    let mut tuning = object(json!({
        "description": mount.description,
        "default_lease_ttl": lifetimes.default_ttl.0,
        "max_lease_ttl": lifetimes.max_ttl.0,
        "force_no_cache": false,
        "options": null,
    }));
    if class == MountClass::Auth {
        tuning.insert("token_type".to_owned(), "default-service".into());
    }
    tuning
}

/// The list in which a mount stands.
pub(super) fn class_of(mount: &Mount) -> MountClass {
    if mount.path.starts_with("auth/") {
        MountClass::Auth
    } else {
        MountClass::Secret
    }
}

pub(super) fn describe(inner: &Inner, class: MountClass, mount: &Mount) -> Value {
    let token_type = if class == MountClass::Auth {
        "default-service"
    } else {
        ""
    };
    let mut config =
        object(json!({"default_lease_ttl": 0, "max_lease_ttl": 0, "force_no_cache": false}));
    if !token_type.is_empty() {
        config.insert("token_type".to_owned(), token_type.into());
    }
    json!({
        "type": mount.kind,
        "description": mount.description,
        "accessor": mount.accessor,
        "local": false,
        "seal_wrap": false,
        "external_entropy_access": false,
        "options": null,
        "uuid": mount.uuid,
        "plugin_version": "",
        "running_plugin_version": format!("v{}", inner.options.version),
        "running_sha256": "",
        "deprecation_status": "supported",
        "config": config,
    })
}

/// The mounts anybody may see: none is flagged so.
pub(super) fn visible(call: &mut Call<'_>) -> Result<Answer, Trouble> {
    if call.operation != Operation::Read {
        return Err(Trouble::unsupported());
    }
    let mut data = Map::new();
    data.insert("auth".to_owned(), json!({}));
    data.insert("secret".to_owned(), json!({}));
    Ok(Answer::data(data))
}
