//! The steps with an issuer of the demo's own, in which the demo plays the person: alice logs in once for a robot of hers, and from
//! then on the robot gets tokens alone.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Stdio;
use std::time::Duration;

use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use nix::pty::openpty;
use tokio::time::timeout;

use super::child::{Finished, Program};
use super::facts::Facts;
use super::failure::Failure;
use super::place::Place;
use super::ports::Ports;
use super::server::Server;
use super::tell::{Tell, quoted, typed};
use super::{Stage, certificates};
use crate::issuer::{Character, Client, Consent, Options, TestIssuer};
use gridkeep_token::time::UnixSeconds;

/// The server's name for the issuer.
pub(super) const ISSUER: &str = "demo";
/// Who logs in, and the robot's credential.
const PERSON: &str = "alice";
const CREDKEY: &str = "alice/cron/demo";
/// Life of the issuer's access tokens, seconds: short, as of real ones.
const TOKEN_LIFE: i64 = 600;
/// How old a token is made before it is refreshed, seconds: so much later the new one ends.
pub(super) const APART: i64 = 3;
const LOGIN_LIMIT: Duration = Duration::from_secs(120);
const CA: &str = "issuer-ca.pem";

pub(super) async fn steps(
    stage: &mut Stage,
    once: bool,
    tell: &mut Tell<'_>,
) -> Result<(), Failure> {
    set_up(stage, tell)?;
    let secret = secret()?;
    let issuer = start_issuer(&secret, once).await?;
    let issuer_ca = stage
        .place
        .write(CA, issuer.ca_pem())?
        .display()
        .to_string();
    let url = issuer.url().to_owned();
    tell.step(format_args!(
        "A token issuer runs at {url}, inside the demo. It knows alice and bob (a password is the name), and its tokens live {} minutes.",
        TOKEN_LIFE / 60
    ))?;
    let issuer = stage.issuer.insert(issuer);

    let certificates = certificates::make(&stage.place)?;
    let places = (&stage.place, stage.ports);
    let config = configuration(places, &url, &secret, &certificates, &issuer_ca);
    let config = stage
        .place
        .write("etc/demo.yaml", &config)?
        .display()
        .to_string();
    tell.step("The server starts with a file in htvault-config's schema, and a certificate of a throw-away authority.")?;
    stage.files = vec!["--config".to_owned(), config.clone()];
    let words = ["server", "--config", config.as_str()];
    tell.command(typed(&words))?;
    let server = stage
        .server
        .insert(Server::start(&stage.place, &stage.program, &words).await?);
    tell.note(format_args!(
        "It serves on {}; its log is {}.",
        server.address,
        server.log().display()
    ))?;
    let options = client_options(&stage.place, server.port(), ISSUER, Some(CREDKEY));
    stage.program.set("HTGETTOKENOPTS", options);

    log_in(&stage.program, issuer, tell).await?;
    let verify = [
        "verify",
        "--cafile",
        issuer_ca.as_str(),
        "--issuer",
        url.as_str(),
        "--operation",
        "read",
        "--path",
        "/data",
    ];
    let first = inspect(&stage.program, &verify, tell).await?;

    tell.step("The robot asks again, with no terminal and forbidden to log anybody in. The server hands out the token it keeps.")?;
    fetch_alone(&stage.program, &["get", "--nooidc"], tell).await?;
    let refreshes = issuer
        .counters()
        .grant_types
        .get("refresh_token")
        .map_or(0, |tally| tally.received);
    if decoded(&stage.program).await? != first || refreshes != 0 {
        return Err(Failure::Promise {
            what: "The token that was fetched again is not the first one, which still had most of its life.".to_owned(),
        });
    }

    let second = refresh(&stage.program, &first, tell).await?;
    if second == first {
        return Err(Failure::Promise {
            what: "Asking for a longer life than was left brought the same token again.".to_owned(),
        });
    }
    let counters = issuer.counters();
    let issued = |grant: &str| {
        counters
            .grant_types
            .get(grant)
            .map_or(0, |tally| tally.issued)
    };
    tell.note(format_args!(
        "The issuer counts {} login and {} refresh. The refresh token stays sealed at the server.",
        issued("urn:ietf:params:oauth:grant-type:device_code"),
        issued("refresh_token")
    ))?;
    verified_again(&stage.program, &verify, &second, tell).await?;
    if !once {
        go_on(stage, &issuer_ca, tell)?;
    }
    Ok(())
}

/// The directory and the environment that all programs get.
pub(super) fn set_up(stage: &mut Stage, tell: &mut Tell<'_>) -> Result<(), Failure> {
    let place = &stage.place;
    let names = place.file("bin");
    let link = names.join("gridkeep");
    let linked = std::fs::create_dir(&names)
        .and_then(|()| std::os::unix::fs::symlink(stage.program.path(), &link));
    linked.map_err(|source| Failure::File {
        what: "linking the program",
        path: link.clone(),
        source,
    })?;
    tell.note("gridkeep keeps people's and robots' long-lived credentials and hands out short-lived bearer tokens.")?;
    tell.note("This shows it, with the commands as a person types them.")?;
    tell.step(format_args!(
        "Everything is in {}, which only you can read; it is the HOME of all programs below, and is removed at the end.",
        place.root().display()
    ))?;
    tell.note(format_args!(
        "The program is {}.",
        stage.program.path().display()
    ))?;
    stage.program.call_as(link);
    stage.program.pass_on(&["PATH", "LANG", "LC_ALL", "TERM"]);
    stage.program.set("HOME", place.file("home"));
    stage
        .program
        .set("BEARER_TOKEN_FILE", place.file("home/bearer-token"));
    Ok(())
}

/// Options of the htgettoken family that all commands share, for `HTGETTOKENOPTS`.
pub(super) fn client_options(
    place: &Place,
    port: &str,
    issuer: &str,
    credkey: Option<&str>,
) -> String {
    let mut options = vec![
        format!("--vaultserver=localhost:{port}"),
        format!("--issuer={issuer}"),
    ];
    options.extend(credkey.map(|credkey| format!("--credkey={credkey}")));
    options.extend([
        format!("--cafile={}", place.text("ca.pem")),
        format!("--vaulttokenfile={}", place.text("home/vault-token")),
        "--nokerberos".to_owned(),
        "--nossh".to_owned(),
        "--web-open-command=".to_owned(),
    ]);
    let options: Vec<String> = options.iter().map(|option| quoted(option)).collect();
    options.join(" ")
}

fn secret() -> Result<String, Failure> {
    let mut bytes = [0; 32];
    rand::fill(&mut bytes).map_err(|_| Failure::Random)?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

async fn start_issuer(secret: &str, once: bool) -> Result<TestIssuer, Failure> {
    let mut options = Options::new(Character::Wlcg);
    options.clients = vec![Client::confidential("gridkeep", secret)];
    options.access_token_seconds = TOKEN_LIFE;
    options.device_interval = 1;
    // Only somebody who goes on typing has a use for it.
    options.admin_listen = (!once).then(|| SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    Ok(TestIssuer::start(options).await?)
}

/// The configuration file, in the original's schema and with our own keys beside it.
fn configuration(
    (place, ports): (&Place, Ports),
    issuer: &str,
    secret: &str,
    certificates: &certificates::Certificates,
    issuer_ca: &str,
) -> String {
    let text = |path: &std::path::Path| yaml(&path.display().to_string());
    format!(
        "\
# The original's keys:
issuers:
- name: {ISSUER}
  url: {issuer}
  clientid: gridkeep
  secret: {secret}
  callbackmode: device
  credclaim: wlcg.credkey
  roles:
  - name: default
    scopes: [profile, offline_access, wlcg, storage.read:/]
  ca_file: {issuer_ca}    # our own: the issuer's certificate is of a throw-away authority too
cluster:
  name: localhost
  auditlog: {audit}
# Our own, which the original ignores:
gridkeep:
  listen: [\"{server}\"]
  callback_port: {port}
  tls:
    certificate: {certificate}
    key: {key}
  data: {data}
  seal:
    key_file: {root_key}
  run_directory: {run}
  telemetry:
    metrics:
      listen: [\"{metrics}\"]
",
        server = ports.server,
        port = ports.server.port(),
        metrics = ports.metrics,
        issuer = yaml(issuer),
        secret = yaml(secret),
        issuer_ca = yaml(issuer_ca),
        audit = text(&place.file("audit.log")),
        certificate = text(&certificates.certificate),
        key = text(&certificates.key),
        data = text(&place.file("data")),
        root_key = text(&place.file("etc/root.key")),
        run = text(&place.file("run")),
    )
}

/// A YAML scalar that holds any line of text.
pub(super) fn yaml(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// The one login, alice's part included.
async fn log_in(
    program: &Program,
    issuer: &TestIssuer,
    tell: &mut Tell<'_>,
) -> Result<(), Failure> {
    tell.step(format_args!(
        "Alice logs in once for her robot, whose credential is called {CREDKEY}."
    ))?;
    let words = ["get"];
    tell.command(typed(&words))?;
    // A person is only asked on a terminal, so there is one.
    let terminal = openpty(None, None).map_err(|error| Failure::Run {
        command: typed(&words),
        source: error.into(),
    })?;
    let mut running = program.start(&words, Stdio::from(terminal.slave))?;
    let login = async {
        while let Some(line) = running.next_line().await? {
            tell.output(&line)?;
            if let Some(address) = address(&line) {
                issuer
                    .log_in(address, PERSON, Consent::Approve, &[])
                    .await?;
                tell.note("Alice opened that address, logged in and approved. (The demo did it for her, page by page.)")?;
            }
        }
        running.finish(None).await
    };
    let finished = timeout(LOGIN_LIMIT, login)
        .await
        .map_err(|_| Failure::TooLong {
            command: typed(&words),
            seconds: LOGIN_LIMIT.as_secs(),
        })??;
    drop(terminal.master);
    finished.well(
        "Nobody is logged in, so there is no token.",
        "The lines above say where it stopped. Start the demo again; if it stays, please report it with these lines.",
    )?;
    Ok(())
}

/// The address that the client asks the person to open: alone on its line, indented.
fn address(line: &str) -> Option<&str> {
    let text = line.trim();
    (line.starts_with(' ') && text.starts_with("https://")).then_some(text)
}

/// Shows, decodes and verifies the token that is there.
pub(super) async fn inspect(
    program: &Program,
    verify: &[&str],
    tell: &mut Tell<'_>,
) -> Result<Facts, Failure> {
    tell.step("What the token says:")?;
    let text = program.show(&["decode"], tell).await?.well(
        "There is a token, but it cannot be read as a JSON Web Token.",
        "If the issuer hands out opaque tokens they cannot be shown or verified; a role of a WLCG or SciTokens issuer is needed.",
    )?;
    let facts = Facts::read(&text)?;
    tell.step("Which token programs would use, from where, and how long it lives:")?;
    program
        .show(&["explain", "--ask-server"], tell)
        .await?
        .well(
            "The token that was just fetched is not found, or has expired.",
            "Check that the clock of this machine is right; the lines above say where was looked.",
        )?;
    tell.step("Whether a service would accept it, checked with the issuer's published keys:")?;
    accepted(program.show(verify, tell).await?)?;
    tell.note(verified(&facts))?;
    Ok(facts)
}

fn accepted(finished: Finished) -> Result<(), Failure> {
    finished.well(
        "A service would refuse this token, or the issuer's keys could not be had.",
        "The report names the step that failed and why; it is about the issuer's token, or this machine's clock or trust in certificates.",
    )?;
    Ok(())
}

fn verified(facts: &Facts) -> String {
    format!(
        "Verified token: issuer {}, subject {}, good until {}.",
        facts.iss, facts.sub, facts.exp
    )
}

/// `get` without a person.
pub(super) async fn fetch_alone(
    program: &Program,
    words: &[&str],
    tell: &mut Tell<'_>,
) -> Result<(), Failure> {
    program.show(words, tell).await?.well(
        "The server could not hand out a token without a new login.",
        "The line above says why. If the issuer gave no refresh token, the role's scopes probably lack offline_access.",
    )?;
    Ok(())
}

/// The claims of the token that is there.
pub(super) async fn decoded(program: &Program) -> Result<Facts, Failure> {
    let finished = program.ask(&["decode"]).await?;
    Facts::read(&finished.text)
}

/// Asks for more life than the token has left, and says what came of it.
pub(super) async fn refresh(
    program: &Program,
    first: &Facts,
    tell: &mut Tell<'_>,
) -> Result<Facts, Failure> {
    // The new one is to end visibly later than the first, so some of its life has to be over.
    let mut now = UnixSeconds::system();
    let enough = first.iat.unwrap_or(now).0.min(now.0) + APART;
    while now.0 < enough {
        tokio::time::sleep(Duration::from_millis(100)).await;
        now = UnixSeconds::system();
    }
    let left = (first.exp.0 - now.0).max(0);
    let wanted = (left + APART - 1).to_string();
    tell.step(format_args!(
        "The token has {left} s left. One with at least {wanted} s is asked for, so the server has to refresh it at the issuer. (Nothing was done to the token or a clock; only more is asked for than is left.)"
    ))?;
    fetch_alone(program, &["get", "--nooidc", "--minsecs", &wanted], tell).await?;
    let second = decoded(program).await?;
    for (when, facts) in [("before", first), ("after ", &second)] {
        tell.output(format_args!(
            "{when}  iss {}  sub {}  exp {} ({})",
            facts.iss, facts.sub, facts.exp.0, facts.exp
        ))?;
    }
    Ok(second)
}

/// The last step.
pub(super) async fn verified_again(
    program: &Program,
    verify: &[&str],
    facts: &Facts,
    tell: &mut Tell<'_>,
) -> Result<(), Failure> {
    tell.step("The new token is verified as the first was.")?;
    let mut quietly = verify.to_vec();
    quietly.push("--quiet");
    accepted(program.show(&quietly, tell).await?)?;
    tell.note(verified(facts))
}

/// What to paste and to type next.
fn go_on(stage: &Stage, issuer_ca: &str, tell: &mut Tell<'_>) -> Result<(), Failure> {
    environment(stage, tell)?;
    tell.step("Then, with our client:")?;
    for command in [
        "gridkeep get",
        "gridkeep decode -H",
        "gridkeep explain --ask-server",
        &format!("gridkeep verify --cafile {}", quoted(issuer_ca)),
        "gridkeep sh -- gridkeep explain",
    ] {
        tell.command(command)?;
    }
    on_the_wire(stage, tell)?;
    as_operator(stage, Some(PERSON), tell)?;
    let Some((issuer, server)) = stage.issuer.as_ref().zip(stage.server.as_ref()) else {
        return Ok(());
    };
    let ca = quoted(issuer_ca);
    tell.step("With the token at the issuer, as a service would:")?;
    tell.command(format_args!(
        "printf 'Authorization: Bearer %s' \"$(cat \"$BEARER_TOKEN_FILE\")\" | curl --cacert {ca} -H @- {}/userinfo",
        issuer.base_url()
    ))?;
    if let Some(admin) = issuer.admin_url() {
        tell.step("A new login: begin it in one terminal, and be bob in another (or open the address in a browser).")?;
        tell.command(format_args!(
            "gridkeep get --credkey=bob --vaulttokenfile={}",
            quoted(&stage.place.text("home/vault-token-bob"))
        ))?;
        tell.command(format_args!(
            "curl -d '{{\"user\": \"bob\"}}' {admin}/approve"
        ))?;
        tell.step("What the issuer has issued, the server's log and its audit log:")?;
        tell.command(format_args!("curl {admin}/counters"))?;
    }
    tell.command(format_args!(
        "tail {}",
        quoted(&server.log().display().to_string())
    ))?;
    tell.command(format_args!(
        "tail -n 2 {}",
        quoted(&stage.place.text("audit.log"))
    ))?;
    at_last(tell)
}

/// What ends the person's tokens, and then the demo.
pub(super) fn at_last(tell: &mut Tell<'_>) -> Result<(), Failure> {
    tell.step("At last, to remove the tokens (the commands above need them):")?;
    tell.command("gridkeep destroy -f")?;
    tell.step("Ctrl-C ends the demo and removes everything.")
}

/// The commands of whoever runs the server.
pub(super) fn as_operator(
    stage: &Stage,
    person: Option<&str>,
    tell: &mut Tell<'_>,
) -> Result<(), Failure> {
    tell.step("As its operator:")?;
    for words in [
        &["status"][..],
        &["operator", "credentials"],
        &["operator", "tokens"],
        &["operator", "token"],
        &["config", "show"],
        &["audit", "verify"],
    ] {
        let mut words = words.to_vec();
        if words.ends_with(&["tokens"]) {
            words.extend(person);
        }
        words.extend(stage.files.iter().map(String::as_str));
        tell.command(typed(&words))?;
    }
    tell.command(format_args!("curl http://{}/metrics", stage.ports.metrics))
}

/// The environment of the commands, to be pasted into another shell.
pub(super) fn environment(stage: &Stage, tell: &mut Tell<'_>) -> Result<(), Failure> {
    tell.step("It goes on running. For commands of your own, paste this into another shell:")?;
    tell.output(format_args!(
        "export PATH={}:\"$PATH\"",
        quoted(&stage.place.text("bin"))
    ))?;
    tell.output(format_args!(
        "export HOME={}",
        quoted(&stage.place.text("home"))
    ))?;
    for (name, value) in stage.program.variables() {
        if ["BEARER_TOKEN_FILE", "HTGETTOKENOPTS"].contains(&name) {
            tell.output(format_args!(
                "export {name}={}",
                quoted(&value.to_string_lossy())
            ))?;
        }
    }
    // What tools of Vault look at.
    let address = format!("https://localhost:{}", stage.ports.server.port());
    for (name, value) in [
        ("VAULT_ADDR", address),
        ("VAULT_CACERT", stage.place.text("ca.pem")),
        ("VAULT_TOKEN_FILE", stage.place.text("home/vault-token")),
    ] {
        tell.output(format_args!("export {name}={}", quoted(&value)))?;
    }
    Ok(())
}

/// The same with other people's clients.
pub(super) fn on_the_wire(stage: &Stage, tell: &mut Tell<'_>) -> Result<(), Failure> {
    let venv = quoted(&stage.place.text("home/venv"));
    tell.step("With the original htgettoken (from PyPI; its gssapi needs gcc, python3-dev and libkrb5-dev):")?;
    tell.command(format_args!(
        "python3 -m venv {venv} && {venv}/bin/pip install htgettoken"
    ))?;
    tell.command(format_args!("{venv}/bin/htgettoken"))?;
    let Some(server) = &stage.server else {
        return Ok(());
    };
    tell.step("With curl:")?;
    tell.command(format_args!(
        "curl --cacert {ca} https://localhost:{port}/v1/sys/health",
        ca = quoted(&stage.place.text("ca.pem")),
        port = server.port()
    ))?;
    tell.command(
        r#"printf 'X-Vault-Token: %s' "$(cat "$VAULT_TOKEN_FILE")" | curl --cacert "$VAULT_CACERT" -H @- "$VAULT_ADDR/v1/auth/token/lookup-self""#,
    )?;
    tell.command(format_args!(
        "printf 'X-Vault-Token: %s' \"$(cat {vault_token})\" | curl --cacert {ca} -H @- \"$({url})\"",
        vault_token = quoted(&stage.place.text("home/vault-token")),
        ca = quoted(&stage.place.text("ca.pem")),
        url = "gridkeep get --nobearertoken --showbearerurl"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_to_open() {
        assert_eq!(
            address("    https://x/device?user_code=A"),
            Some("https://x/device?user_code=A")
        );
        assert_eq!(address("Attempting to get token from https://x"), None);
        assert_eq!(address("https://x"), None);
    }

    #[test]
    fn texts_survive_yaml() {
        assert_eq!(yaml("it's: #"), "'it''s: #'");
        let read = crate::issuer::yaml::to_json(&format!("a: {}\n", yaml("it's: #"))).unwrap();
        assert_eq!(read["a"], "it's: #");
    }
}
