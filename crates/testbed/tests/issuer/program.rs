//! The program: ready file, administration interface, configuration file, and an end that leaves nothing behind.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::bench::text;

fn start(directory: &std::path::Path, more: &[&str]) -> (Child, Value) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_gridkeep-testbed"))
        .args(["issuer", "--listen", "127.0.0.1:0", "--ready-file"])
        .arg(directory.join("ready.json"))
        .args(more)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let said: Value = serde_json::from_str(&line).unwrap();
    let written: Value =
        serde_json::from_slice(&std::fs::read(directory.join("ready.json")).unwrap()).unwrap();
    assert_eq!(said, written);
    (child, said)
}

fn files(directory: &std::path::Path) -> usize {
    std::fs::read_dir(directory).unwrap().count()
}

#[tokio::test]
async fn the_program_serves_and_leaves_no_file() {
    let directory = tempfile::tempdir().unwrap();
    let config = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
    std::fs::write(
        config.path(),
        "vo: dune\nusers:\n  - name: carol\n    password: pw\n    default_groups: [/dune]\nclients:\n  - id: cli\n    secret: s\n",
    )
    .unwrap();
    let config_path = config.path().to_str().unwrap();
    let (mut child, ready) = start(
        directory.path(),
        &[
            "--character",
            "cilogon",
            "--rotation",
            "grace",
            "--config",
            config_path,
        ],
    );
    assert!(text(&ready, "url").ends_with("/dune"));
    let ca = std::fs::read_to_string(text(&ready, "ca")).unwrap();
    let tls = gridkeep_testbed::issuer::client_config(&[&ca]).unwrap();
    let http = reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .build()
        .unwrap();
    let admin = |path: &str| format!("{}/{path}", text(&ready, "admin_url"));
    let base = text(&ready, "base_url");

    let fields = [
        ("client_id", "cli"),
        ("client_secret", "s"),
        ("scope", "openid wlcg.groups"),
    ];
    let device: Value = http
        .post(format!("{base}/oauth2/device_authorization"))
        .form(&fields)
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    let open: Value = http
        .get(admin("devices"))
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(open[0]["user_code"], device["user_code"]);
    let post = |path: &str, body: Value| http.post(admin(path)).json(&body).send();
    assert_eq!(
        post("approve", json!({"user": "nobody"}))
            .await
            .unwrap()
            .status(),
        404
    );
    let done: Value = post("approve", json!({"user": "carol"}))
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(done, json!({"done": 1}));
    let poll = [
        ("client_id", "cli"),
        ("client_secret", "s"),
        ("grant_type", super::bench::DEVICE),
        ("device_code", text(&device, "device_code")),
    ];
    let token_url = format!("{base}/oauth2/token");
    let tokens: Value = http
        .post(&token_url)
        .form(&poll)
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert!(tokens["refresh_token"].is_string(), "{tokens}");

    let fault =
        json!({"endpoint": "token", "kind": "refuse", "error": "invalid_grant", "times": 1});
    assert_eq!(post("faults", fault).await.unwrap().status(), 200);
    assert_eq!(
        post("faults", json!({"endpoint": "token", "kind": "no such"}))
            .await
            .unwrap()
            .status(),
        400
    );
    let refresh = [
        ("client_id", "cli"),
        ("client_secret", "s"),
        ("grant_type", "refresh_token"),
        ("refresh_token", text(&tokens, "refresh_token")),
    ];
    assert_eq!(
        http.post(&token_url)
            .form(&refresh)
            .send()
            .await
            .unwrap()
            .status(),
        400
    );
    let settings = json!({"access_token_seconds": 11, "rotation": "immediate"});
    assert_eq!(post("settings", settings).await.unwrap().status(), 200);
    let tokens: Value = http
        .post(&token_url)
        .form(&refresh)
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(tokens["expires_in"], 11);
    assert_eq!(
        http.post(&token_url)
            .form(&refresh)
            .send()
            .await
            .unwrap()
            .status(),
        400
    );
    let counters: Value = http
        .get(admin("counters"))
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(counters["grant_types"]["refresh_token"]["received"], 3);
    assert_eq!(counters["grants"][0]["user"], "carol");
    let kid: Value = post("rotate-keys", json!({"how": "emergency"}))
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert!(kid["kid"].is_string());
    // curl -X POST without a body.
    let kid: Value = http
        .post(admin("rotate-keys"))
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert!(kid["kid"].is_string());
    let nothing: Value = post("approve", json!({"user": "carol", "wait_ms": 50}))
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(nothing, json!({"done": 0}));
    let offset: Value = post("clock-offset", json!({"advance": 60}))
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(offset, json!({"seconds": 60}));
    let done: Value = post("revoke", json!({"user": "carol"}))
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(done, json!({"done": 1}));
    let page: Value = post(
        "login",
        json!({"url": format!("{base}/device/"), "user": "carol"}),
    )
    .await
    .unwrap()
    .json()
    .await
    .unwrap();
    assert!(text(&page, "body").contains("Connect a device"), "{page}");

    assert_eq!(files(directory.path()), 2);
    kill(
        Pid::from_raw(i32::try_from(child.id()).unwrap()),
        Signal::SIGTERM,
    )
    .unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(files(directory.path()), 0);
}

#[test]
fn the_end_of_standard_input_is_an_order_to_end() {
    let directory = tempfile::tempdir().unwrap();
    let (mut child, _) = start(directory.path(), &[]);
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
    assert_eq!(files(directory.path()), 0);
}

#[test]
fn a_wrong_configuration_is_explained() {
    let config = tempfile::Builder::new().suffix(".json").tempfile().unwrap();
    std::fs::write(config.path(), r#"{"caracter": "iam"}"#).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_gridkeep-testbed"))
        .args(["issuer", "--config"])
        .arg(config.path())
        .output()
        .unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("caracter") && said.contains("character"),
        "{said}"
    );
}
