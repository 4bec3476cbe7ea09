//! `discovery.json`, in a directory that stands for the whole file system.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use gridkeep_token::discovery::{DiscoveryError, Environment, Source, discover};
use nix::unistd::geteuid;
use secrecy::ExposeSecret;
use serde_json::Value;

use crate::{each, load, same};

fn make(path: &Path, content: &Value, fill: &dyn Fn(&str) -> String, root: &Path) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    match content {
        Value::String(text) => fs::write(path, fill(text)).unwrap(),
        other => match other["kind"].as_str().unwrap() {
            "directory" => fs::create_dir(path).unwrap(),
            "bytes" => {
                let count = usize::try_from(other["count"].as_u64().unwrap()).unwrap();
                fs::write(path, "a".repeat(count)).unwrap();
            }
            "link" => symlink(root.join(other["to"].as_str().unwrap()), path).unwrap(),
            // Root may read everything, but nobody can follow a link to itself.
            "unreadable" if geteuid().is_root() => symlink(path, path).unwrap(),
            "unreadable" => {
                fs::write(path, "x").unwrap();
                fs::set_permissions(path, fs::Permissions::from_mode(0o000)).unwrap();
            }
            other => panic!("unknown kind {other}"),
        },
    }
}

fn error(error: &DiscoveryError) -> (&'static str, Option<&Source>) {
    match error {
        DiscoveryError::NotFound { .. } => ("not found", None),
        DiscoveryError::Invalid { source_place, .. } => ("invalid", Some(source_place)),
        DiscoveryError::Unreadable { source_place, .. } => ("unreadable", Some(source_place)),
        DiscoveryError::ForeignOwner { source_place, .. } => ("foreign owner", Some(source_place)),
        DiscoveryError::TooLarge { source_place } => ("too large", Some(source_place)),
        DiscoveryError::TimedOut { source_place, .. } => ("timed out", Some(source_place)),
    }
}

#[test]
fn discovery() {
    let file = load("discovery.json");
    let (x, y) = (file["X"].as_str().unwrap(), file["Y"].as_str().unwrap());
    each(&file, |row| {
        let dir = tempfile::tempdir().unwrap();
        let own = geteuid().as_raw();
        // Files cannot be given away without privilege; a process with another uid sees ours as foreign just as well.
        let uid = if row["foreign"] == true { own + 1 } else { own };
        let fill = |text: &str| {
            text.replace("{X}", x)
                .replace("{Y}", y)
                .replace("{dir}", dir.path().to_str().unwrap())
                .replace("{uid}", &uid.to_string())
                .replace("{other}", &(uid + 7).to_string())
        };
        for (name, content) in row["files"].as_object().unwrap() {
            make(&dir.path().join(fill(name)), content, &fill, dir.path());
        }
        let variable = |name: &str| {
            row["variables"][name]
                .as_str()
                .map(|value| fill(value).into())
        };
        let mut environment = Environment::from_variables(variable, uid);
        environment.tmp = dir.path().join("tmp");
        let result = discover(&environment);
        let step = row["result"]["step"].as_u64();
        let expected = &row["result"];
        match &result {
            Ok(found) => {
                same("the step", Some(u64::from(found.source.step())), step)?;
                let token = found.token.expose_secret();
                if let Some(length) = expected["length"].as_u64() {
                    return same("the length", token.len() as u64, length);
                }
                same(
                    "the token",
                    Some(token),
                    expected["token"].as_str().map(fill).as_deref(),
                )
            }
            Err(problem) => {
                let (kind, source) = error(problem);
                same("the error", Some(kind), expected["error"].as_str())?;
                same(
                    "the step",
                    source.map(|source| u64::from(source.step())),
                    step,
                )?;
                let text = format!("{problem} {problem:?}");
                if text.contains(x) || text.contains(y) {
                    return Err(format!("the error shows a token: {text}"));
                }
                match source {
                    Some(source) if !text.contains(&format!("step {}", source.step())) => {
                        Err(format!("no step in: {text}"))
                    }
                    _ => Ok(()),
                }
            }
        }
    });
}
