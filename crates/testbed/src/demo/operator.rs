//! The steps with an operator's own files and the real issuer that they name, at which a person logs in.
//!
//! The server is a throw-away one: its own loopback port, certificate, data and audit log, given by a second file that holds
//! nothing but these, so that no secret of the operator's is copied. What runs at the operator's site is not touched.

use std::io::IsTerminal as _;
use std::path::Path;

use super::certificates::{self, Certificates};
use super::facts::{ConfiguredIssuer, issuers};
use super::failure::Failure;
use super::place::Place;
use super::ports::Ports;
use super::server::Server;
use super::tell::{Tell, quoted, typed};
use super::{Stage, own};

/// What the operator chose.
pub(super) struct Choice<'a> {
    pub(super) path: &'a Path,
    pub(super) issuer: Option<&'a str>,
    pub(super) role: Option<&'a str>,
}

/// Variables that decide how issuers are reached and believed.
const NETWORK: [&str; 13] = [
    "ALL_PROXY",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "NO_PROXY",
    "all_proxy",
    "https_proxy",
    "http_proxy",
    "no_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "X509_CERT_DIR",
    "X509_CERT_FILE",
    "GRIDKEEP_LOGIN_TIMEOUT",
];

pub(super) async fn steps(
    stage: &mut Stage,
    choice: &Choice<'_>,
    once: bool,
    tell: &mut Tell<'_>,
) -> Result<(), Failure> {
    let files = files(choice.path)?;
    own::set_up(stage, tell)?;
    stage.program.pass_on(&NETWORK);

    tell.step("Your configuration is read and judged.")?;
    let checked = stage
        .program
        .show(&["config", "check", "--config", &files], tell)
        .await?;
    match checked.status.code() {
        Some(0) => {}
        Some(1) => {
            tell.note("There are errors, but the server can start without what they name.")?
        }
        _ => {
            checked.well(
                "No server starts with these files, ours or this one.",
                "Correct what the lines above name; each has the file, the line, and what is allowed.",
            )?;
        }
    }
    let shown = stage
        .program
        .ask(&["config", "show", "--effective", "--config", &files])
        .await?;
    let all = issuers(&shown.text)?;
    let issuer = choose(&all, choice.issuer, choice.path)?;
    let role = role(issuer, choice.role)?;
    for other in all.iter().filter(|other| !other.by_device_code()) {
        tell.note(format_args!(
            "The issuer {} is set to callbackmode {}: it sends browsers back to an address registered there, which leads to your real server and not to this one.",
            other.name, other.callbackmode
        ))?;
    }
    if !issuer.by_device_code() {
        tell.note(format_args!(
            "For this demo alone {} is asked for a device code instead. If it refuses, its client registration lacks the device grant.",
            issuer.name
        ))?;
    }

    let certificates = certificates::make(&stage.place)?;
    let overlay = overlay(&stage.place, stage.ports, &certificates, issuer);
    let overlay = stage
        .place
        .write("etc/overlay.yaml", &overlay)?
        .display()
        .to_string();
    tell.step("The server starts with your issuers, but with an address, a certificate, data and an audit log of its own. What runs at your site is not touched.")?;
    let words = [
        "server",
        "--config",
        files.as_str(),
        "--config",
        overlay.as_str(),
    ];
    stage.files = words[1..].iter().map(|word| (*word).to_owned()).collect();
    tell.command(typed(&words))?;
    let server = stage
        .server
        .insert(Server::start(&stage.place, &stage.program, &words).await?);
    tell.note(format_args!(
        "It serves on {}; its log is {}.",
        server.address,
        server.log().display()
    ))?;
    let mut options = own::client_options(&stage.place, server.port(), &issuer.name, None);
    if role != "default" {
        options.push_str(&format!(" {}", quoted(&format!("--role={role}"))));
    }
    stage.program.set("HTGETTOKENOPTS", options);

    log_in(stage, issuer, tell).await?;
    let mut verify = vec!["verify", "--issuer", issuer.url.as_str()];
    if let Some(ca) = &issuer.ca_file {
        verify.extend(["--cafile", ca.as_str()]);
    }
    let first = own::inspect(&stage.program, &verify, tell).await?;
    tell.step("It is fetched again, with nobody logging in.")?;
    own::fetch_alone(&stage.program, &["get", "--nooidc"], tell).await?;
    let second = own::refresh(&stage.program, &first, tell).await?;
    if second == first {
        tell.note("Your issuer was asked and handed out the same token again.")?;
    }
    own::verified_again(&stage.program, &verify, &second, tell).await?;
    tell.note("The refresh token is sealed in the demo's directory and goes with it; at the issuer the login stays valid until it expires or is revoked there.")?;
    if !once {
        go_on(stage, &verify, tell)?;
    }
    Ok(())
}

/// What to hand to `--config`: the path itself, or the `config.d` in it, as below `/etc/htvault-config`.
fn files(path: &Path) -> Result<String, Failure> {
    let nested = path.join("config.d");
    let files = if nested.is_dir() {
        nested
    } else {
        path.to_owned()
    };
    let files = std::path::absolute(&files).unwrap_or(files);
    if !files.exists() {
        return Err(Failure::Configuration {
            what: format!("There is nothing at {}.", files.display()),
            means: "Without a configuration there is no issuer to log in at.",
            remedy: "Give a file, a config.d directory or the directory above it: make demo CONFIG=/etc/htvault-config".to_owned(),
        });
    }
    match files.to_str() {
        Some(text) => Ok(text.to_owned()),
        None => Err(Failure::Configuration {
            what: format!("The path {} is not UTF-8 text.", files.display()),
            means: "It cannot be named in commands that are shown.",
            remedy: "Give a path of plain letters, for example a symbolic link.".to_owned(),
        }),
    }
}

/// The issuer that was named, else the first with device codes, else the first.
fn choose<'i>(
    all: &'i [ConfiguredIssuer],
    wanted: Option<&str>,
    path: &Path,
) -> Result<&'i ConfiguredIssuer, Failure> {
    let names: Vec<&str> = all.iter().map(|issuer| issuer.name.as_str()).collect();
    let found = match wanted {
        Some(name) => all.iter().find(|issuer| issuer.name == name),
        None => all
            .iter()
            .find(|issuer| issuer.by_device_code())
            .or(all.first()),
    };
    found.ok_or_else(|| Failure::Configuration {
        what: match wanted {
            Some(name) => format!("There is no usable issuer {name} in {}.", path.display()),
            None => format!("There is no usable issuer in {}.", path.display()),
        },
        means: "Nobody can log in anywhere.",
        remedy: if names.is_empty() {
            "Add an issuer, or correct what the check above says about it.".to_owned()
        } else {
            format!("Choose one of: {}.", names.join(", "))
        },
    })
}

fn role<'i>(issuer: &'i ConfiguredIssuer, wanted: Option<&str>) -> Result<&'i str, Failure> {
    let names: Vec<&str> = issuer.roles.iter().map(|role| role.name.as_str()).collect();
    let found = match wanted {
        Some(wanted) => names.iter().find(|name| **name == wanted),
        None => names
            .iter()
            .find(|name| **name == "default")
            .or(names.first()),
    };
    found.copied().ok_or_else(|| Failure::Configuration {
        what: format!("The issuer {} has no such role.", issuer.name),
        means: "A role names the scopes to ask for.",
        remedy: format!("Choose one of: {}.", names.join(", ")),
    })
}

/// Everything that would touch the real server's places. A single value replaces a list, where another list would be added to it.
fn overlay(
    place: &Place,
    ports: Ports,
    certificates: &Certificates,
    issuer: &ConfiguredIssuer,
) -> String {
    let text = |path: &Path| own::yaml(&path.display().to_string());
    let file = |name: &str| text(&place.file(name));
    let mut overlay = format!(
        "\
gridkeep:
  listen: \"{}\"
  callback_port: {}
  tls:
    certificate: {}
    key: {}
  data: {}
  seal:
    key_file: {}
  run_directory: {}
  telemetry:
    metrics:
      listen: \"{}\"
cluster:
  auditlog: {}
",
        ports.server,
        ports.server.port(),
        text(&certificates.certificate),
        text(&certificates.key),
        file("data"),
        file("etc/root.key"),
        file("run"),
        ports.metrics,
        file("audit.log"),
    );
    if !issuer.by_device_code() {
        overlay.push_str(&format!(
            "issuers:\n- name: {}\n  callbackmode: device\n",
            own::yaml(&issuer.name)
        ));
    }
    overlay
}

/// The person's login, on the person's terminal.
async fn log_in(
    stage: &Stage,
    issuer: &ConfiguredIssuer,
    tell: &mut Tell<'_>,
) -> Result<(), Failure> {
    tell.step(format_args!(
        "Now you log in at {}. Open the address below in any browser; the demo waits.",
        issuer.url
    ))?;
    let terminal = std::io::stdin().is_terminal()
        || std::io::stdout().is_terminal()
        || std::io::stderr().is_terminal();
    if !terminal {
        return Err(Failure::Configuration {
            what: "There is no terminal, so nobody can be asked to log in.".to_owned(),
            means: "A real issuer wants a person, once.",
            remedy: "Run the demo from a terminal; without CONFIG it plays the person itself."
                .to_owned(),
        });
    }
    let finished = stage.program.show_on_terminal(&["get"], tell).await?;
    finished.well(
        "Nobody is logged in, so there is no token.",
        "The lines above say where it stopped: the person did not finish in time, or the issuer refused the client, its secret, or a scope of the role.",
    )?;
    Ok(())
}

fn go_on(stage: &Stage, verify: &[&str], tell: &mut Tell<'_>) -> Result<(), Failure> {
    own::environment(stage, tell)?;
    tell.step("Then, with our client:")?;
    for words in [
        &["get"][..],
        &["decode", "-H"],
        &["explain", "--ask-server"],
        verify,
        &["sh", "--", "gridkeep", "explain"],
    ] {
        tell.command(typed(words))?;
    }
    own::on_the_wire(stage, tell)?;
    own::as_operator(stage, None, tell)?;
    own::at_last(tell)
}

#[cfg(test)]
mod tests {
    use super::super::facts::ConfiguredRole;
    use super::*;

    fn issuer(name: &str, mode: &str, roles: &[&str]) -> ConfiguredIssuer {
        ConfiguredIssuer {
            name: name.to_owned(),
            url: format!("https://{name}"),
            ca_file: None,
            callbackmode: mode.to_owned(),
            roles: roles
                .iter()
                .map(|name| ConfiguredRole {
                    name: (*name).to_owned(),
                })
                .collect(),
        }
    }

    #[test]
    fn the_first_issuer_with_device_codes_is_taken() {
        let all = [
            issuer("a", "direct", &["x"]),
            issuer("b", "device", &["y", "default"]),
        ];
        let path = Path::new("/etc/x");
        assert_eq!(choose(&all, None, path).unwrap().name, "b");
        assert_eq!(choose(&all, Some("a"), path).unwrap().name, "a");
        assert_eq!(choose(&all[..1], None, path).unwrap().name, "a");
        assert!(
            choose(&all, Some("c"), path)
                .unwrap_err()
                .to_string()
                .contains("a, b")
        );
        assert!(choose(&[], None, path).is_err());
        assert_eq!(role(&all[1], None).unwrap(), "default");
        assert_eq!(role(&all[0], None).unwrap(), "x");
        assert!(
            role(&all[0], Some("z"))
                .unwrap_err()
                .to_string()
                .contains('x')
        );
    }

    #[test]
    fn the_overlay_holds_places_and_no_secret() {
        let place = Place::make().unwrap();
        let certificates = certificates::make(&place).unwrap();
        let ports = Ports::choose().unwrap();
        let text = overlay(
            &place,
            ports,
            &certificates,
            &issuer("it's", "direct", &["x"]),
        );
        let read = crate::issuer::yaml::to_json(&text).unwrap();
        let own = &read["gridkeep"];
        assert_eq!(own["listen"], ports.server.to_string());
        assert_eq!(own["callback_port"], ports.server.port());
        assert_eq!(
            own["telemetry"]["metrics"]["listen"],
            ports.metrics.to_string()
        );
        assert_eq!(read["issuers"][0]["name"], "it's");
        assert_eq!(read["issuers"][0]["callbackmode"], "device");
        let text = overlay(&place, ports, &certificates, &issuer("a", "device", &["x"]));
        assert!(!text.contains("issuers"));
    }

    #[test]
    fn a_directory_above_config_d_will_do() {
        let place = Place::make().unwrap();
        assert_eq!(files(&place.file("etc")).unwrap(), place.text("etc"));
        std::fs::create_dir(place.file("etc/config.d")).unwrap();
        assert_eq!(
            files(&place.file("etc")).unwrap(),
            place.text("etc/config.d")
        );
        assert!(files(&place.file("absent")).is_err());
    }
}
