//! `gridkeep doctor`: looks at the host as the server and its clients meet it, and says for each finding what helps.
//!
//! Changes nothing, and works whether or not the server runs. A further examination is one more function here and one line in
//! [`examine`].

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::Duration;

use gridkeep_dialect_vault::listener::{ReloadableTls, TlsFiles};
use gridkeep_keeper::UnixSeconds;
use gridkeep_keeper::clock::{Clock as _, SystemClock};
use serde::Serialize;

use crate::config::{self, Config, Loaded, Severity, Surroundings};
use crate::server::assemble::{self, Issuers};
use crate::server::inventory::StatusAnswer;
use crate::server::operator::{self, Order};

/// For one question to the network.
const PATIENCE: Duration = Duration::from_secs(8);
/// Free space that is too little, and that is little, in bytes.
const TOO_LITTLE: u64 = 100 << 20;
const LITTLE: u64 = 1 << 30;
/// Days before the end of a certificate from which on it is doubtful.
const CERTIFICATE_DAYS: i64 = 14;

/// How a thing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// As it should be.
    Good,
    /// It works, but not for long or not for all.
    Doubtful,
    /// It does not work.
    Bad,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What it is about: `dns`, `certificate` …
    pub about: &'static str,
    /// How it is.
    pub state: State,
    /// What was found, a sentence.
    pub what: String,
    /// What helps; empty when nothing has to.
    pub remedy: String,
}

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn push(
        &mut self,
        about: &'static str,
        state: State,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.0.push(Finding {
            about,
            state,
            what: what.into(),
            remedy: remedy.into(),
        });
    }

    fn good(&mut self, about: &'static str, what: impl Into<String>) {
        self.push(about, State::Good, what, "");
    }
}

/// Examines everything, writes the report, and answers with the exit code: 0 when nothing is bad, 1 when something is.
///
/// # Errors
/// The report cannot be written, or the system gives no event loop.
pub fn run(paths: &[PathBuf], json: bool, out: &mut dyn Write) -> anyhow::Result<u8> {
    let loaded = config::load(paths, &Surroundings::of_this_host());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let findings = runtime.block_on(examine(&loaded));
    // A lookup that hangs must not hold up the end.
    runtime.shutdown_background();
    if json {
        writeln!(out, "{}", serde_json::to_string_pretty(&findings)?)?;
    } else {
        for finding in &findings {
            let mark = match finding.state {
                State::Good => "good     ",
                State::Doubtful => "doubtful ",
                State::Bad => "BAD      ",
            };
            writeln!(out, "{mark} {}: {}", finding.about, finding.what)?;
            if !finding.remedy.is_empty() {
                writeln!(out, "          {}", finding.remedy)?;
            }
        }
    }
    let bad = findings.iter().any(|finding| finding.state == State::Bad);
    Ok(u8::from(bad))
}

async fn examine(loaded: &Loaded) -> Vec<Finding> {
    let mut findings = Findings::default();
    configuration(loaded, &mut findings);
    let Some(config) = &loaded.config else {
        return findings.0;
    };
    certificate(config, &mut findings);
    let status = server(config, &mut findings);
    clock(status.as_ref(), &mut findings);
    store(config, loaded, status.as_ref(), &mut findings);
    ports(config, status.is_some(), &mut findings).await;
    for (name, port) in config.public_places() {
        dns(&name, port, status.is_some(), &mut findings).await;
    }
    issuers(config, &mut findings).await;
    findings.0
}

/// What `config check` finds, each under the thing it is about.
fn configuration(loaded: &Loaded, findings: &mut Findings) {
    let mut clean = true;
    for found in &loaded.findings {
        let state = match found.severity {
            Severity::Info => continue,
            Severity::Warning => State::Doubtful,
            Severity::Error | Severity::Fatal => State::Bad,
        };
        let about = if found.key.starts_with("gridkeep.tls") {
            "certificate"
        } else if found.key.starts_with("kerberos") {
            "keytab"
        } else {
            clean = false;
            "configuration"
        };
        let place = match found.origin.file() {
            Some(_) => format!("{}: {}: ", found.origin, found.key),
            None => String::new(),
        };
        findings.push(about, state, format!("{place}{}", found.what), &found.means);
    }
    match &loaded.config {
        Some(config) if clean => findings.good(
            "configuration",
            format!("{} issuers, nothing to object to.", config.issuers.len()),
        ),
        Some(_) => {}
        None => findings.push(
            "configuration",
            State::Bad,
            "It cannot be used, so nothing else can be looked at.",
            "Correct what the lines above say; gridkeep config check shows it with lines and columns.",
        ),
    }
}

fn certificate(config: &Config, findings: &mut Findings) {
    let files = TlsFiles {
        certificate: config.gridkeep.certificate.value.clone(),
        key: config.gridkeep.key.value.clone(),
    };
    let shown = files.certificate.display().to_string();
    let remedy = "Get a certificate for the service name, put it and its key where gridkeep.tls says; the server reads replaced files by itself.";
    match ReloadableTls::load(files) {
        Err(error) => findings.push("certificate", State::Bad, format!("{error}"), remedy),
        Ok(tls) => match tls.days_left(now()) {
            Some(days) if days < 0 => findings.push(
                "certificate",
                State::Bad,
                format!("{shown} ended {} days ago.", -days),
                remedy,
            ),
            Some(days) if days < CERTIFICATE_DAYS => findings.push(
                "certificate",
                State::Doubtful,
                format!("{shown} ends in {days} days."),
                remedy,
            ),
            Some(days) => findings.good(
                "certificate",
                format!("{shown} fits its key and ends in {days} days."),
            ),
            None => findings.good("certificate", format!("{shown} fits its key.")),
        },
    }
}

/// Whether the server runs, and what it says.
fn server(config: &Config, findings: &mut Findings) -> Option<StatusAnswer> {
    let directory = &config.gridkeep.run_directory.value;
    let asked = operator::ask(directory, &Order::Status)
        .and_then(|answer| Ok(serde_json::from_str::<StatusAnswer>(&answer)?));
    match asked {
        Ok(status) => {
            findings.good(
                "server",
                format!(
                    "It runs since {} as version {}.",
                    status.since, status.version
                ),
            );
            for issuer in &status.issuers {
                if let Some(trouble) = &issuer.trouble {
                    findings.push(
                        "server",
                        State::Bad,
                        format!("Issuer {} failed when it was last asked: {trouble}", issuer.name),
                        "See what is said of the issuer below; users keep what is cached meanwhile.",
                    );
                }
            }
            if !status.failing.is_empty() {
                findings.push(
                    "server",
                    State::Doubtful,
                    format!("{} credentials do not work.", status.failing.len()),
                    "gridkeep status says which and why; most need a new login of their owners.",
                );
            }
            if status.revocations.1 > 0 {
                findings.push(
                    "server",
                    State::Doubtful,
                    format!(
                        "{} logins could not be revoked at their issuers yet.",
                        status.revocations.1
                    ),
                    "It is tried again by itself; if it stays, look at the server's log.",
                );
            }
            Some(status)
        }
        Err(error) => {
            findings.push(
                "server",
                State::Bad,
                format!("{error:#}."),
                "Start it (systemctl start gridkeep) and look at its log (journalctl -u gridkeep); run this as root.",
            );
            None
        }
    }
}

fn clock(status: Option<&StatusAnswer>, findings: &mut Findings) {
    match SystemClock.synchronised() {
        Some(true) => findings.good("clock", "The kernel says that it is synchronised."),
        Some(false) => findings.push(
            "clock",
            State::Doubtful,
            "Nothing keeps the host's clock right, as far as the kernel knows.",
            "Run chrony or systemd-timesyncd; tokens are judged by the clock.",
        ),
        None => findings.push(
            "clock",
            State::Doubtful,
            "The kernel does not say whether it is synchronised.",
            "Compare it with another clock; in a container the host's clock counts.",
        ),
    }
    if status.is_some_and(|status| status.clock_doubtful) {
        findings.push(
            "clock",
            State::Bad,
            "The server saw the clock jump and trusts it no more: nothing is called expired, nothing is deleted.",
            "When date shows the right time: gridkeep operator confirm-clock",
        );
    }
}

fn store(config: &Config, loaded: &Loaded, status: Option<&StatusAnswer>, findings: &mut Findings) {
    let data = &config.gridkeep.data.value;
    let shown = data.display();
    let found = match std::fs::metadata(data) {
        Ok(found) => Some(found),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            findings.push(
                "store",
                State::Doubtful,
                format!("{shown} is not there yet."),
                "The first start makes it, when the service's user may write the directory above.",
            );
            None
        }
        Err(error) => {
            findings.push(
                "store",
                State::Bad,
                format!("{shown} cannot be looked at: {error}."),
                "Run this as root.",
            );
            None
        }
    };
    if let Some(found) = &found {
        if found.mode() & 0o077 != 0 {
            findings.push(
                "store",
                State::Doubtful,
                format!("{shown} has mode {:o}.", found.mode() & 0o7777),
                format!("chmod 0700 {shown}"),
            );
        }
        free_space(data, findings);
        root_key(config, loaded, findings);
    }
    match status.map(|status| &status.store) {
        Some(store) => match &store.trouble {
            None => findings.good("store", format!("It takes writes ({}).", store.engine)),
            Some(trouble) => findings.push(
                "store",
                State::Bad,
                format!("It takes no writes: {trouble}"),
                "Make room or mend the disk; the server goes on by itself.",
            ),
        },
        None if config.gridkeep.etcd.is_some() => findings.push(
            "store",
            State::Doubtful,
            "It is in etcd, which only a running server asks.",
            "Start the server; gridkeep status then says how the store is.",
        ),
        None if found.is_some() => {
            findings.good(
                "store",
                format!("{shown} is there; the server is not, to say more."),
            );
        }
        None => {}
    }
}

fn free_space(data: &std::path::Path, findings: &mut Findings) {
    let Ok(space) = nix::sys::statvfs::statvfs(data) else {
        return;
    };
    let free = space
        .blocks_available()
        .saturating_mul(space.fragment_size());
    let state = match free {
        free if free < TOO_LITTLE => State::Bad,
        free if free < LITTLE => State::Doubtful,
        _ => return,
    };
    findings.push(
        "store",
        state,
        format!(
            "Only {} MiB are free where {} is.",
            free >> 20,
            data.display()
        ),
        "Make room: without it nobody can log in, and refresh tokens live from what was set aside.",
    );
}

/// The root key's file, where one is used. A store without its key is lost.
fn root_key(config: &Config, loaded: &Loaded, findings: &mut Findings) {
    let default = loaded.sources.base.join("gridkeep-root.key");
    let (file, named) = match &config.gridkeep.seal_key_file {
        Some(setting) => (setting.value.clone(), true),
        None => (default, false),
    };
    match std::fs::metadata(&file) {
        Ok(found) if found.mode() & 0o077 != 0 => findings.push(
            "root key",
            State::Bad,
            format!("{} has mode {:o}.", file.display(), found.mode() & 0o7777),
            format!("chmod 0600 {}", file.display()),
        ),
        Ok(_) => findings.good(
            "root key",
            format!("{} is there; keep a copy in a safe place.", file.display()),
        ),
        Err(error) if named => findings.push(
            "root key",
            State::Bad,
            format!("{} cannot be read: {error}.", file.display()),
            "Put the copy of the root key back; without it the data cannot be opened.",
        ),
        // A credential of the service manager, which only the service sees.
        Err(_) => {}
    }
}

async fn ports(config: &Config, runs: bool, findings: &mut Findings) {
    for setting in &config.gridkeep.listen {
        let address = setting.value;
        if address.port() == 0 {
            continue;
        }
        if runs {
            let near = SocketAddr::new(reachable(address.ip()), address.port());
            match connect(near).await {
                Ok(()) => findings.good("ports", format!("{address} answers.")),
                Err(why) => findings.push(
                    "ports",
                    State::Bad,
                    format!("The server runs, but {near} does not answer: {why}."),
                    "Was gridkeep.listen changed without a restart? Look at the host's firewall, too.",
                ),
            }
        } else {
            match std::net::TcpListener::bind(address) {
                Ok(_) => findings.good("ports", format!("{address} is free for the server.")),
                Err(error) => findings.push(
                    "ports",
                    State::Bad,
                    format!("{address} cannot be listened on: {error}."),
                    format!(
                        "Another program may hold it (ss -ltnp 'sport = :{}'), or the address is not this host's; see gridkeep.listen.",
                        address.port()
                    ),
                ),
            }
        }
    }
}

/// Where a listener on `address` can be reached from the host itself.
fn reachable(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(any) if any.is_unspecified() => IpAddr::from([127, 0, 0, 1]),
        IpAddr::V6(any) if any.is_unspecified() => IpAddr::V6(std::net::Ipv6Addr::LOCALHOST),
        other => other,
    }
}

async fn connect(address: SocketAddr) -> Result<(), String> {
    match tokio::time::timeout(PATIENCE, tokio::net::TcpStream::connect(address)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
    }
}

async fn dns(name: &str, port: u16, runs: bool, findings: &mut Findings) {
    let asked = tokio::time::timeout(PATIENCE, tokio::net::lookup_host((name, port))).await;
    let remedy = format!(
        "Give {name} an address in the DNS, or set cluster.name or gridkeep.public_url to what clients use."
    );
    let addresses: Vec<SocketAddr> = match asked {
        Ok(Ok(addresses)) => addresses.collect(),
        Ok(Err(error)) => {
            let what = format!("The service name {name} cannot be looked up: {error}.");
            return findings.push("dns", State::Bad, what, remedy);
        }
        Err(_) => {
            let what = format!(
                "Nobody answered the look-up of {name} within {} s.",
                PATIENCE.as_secs()
            );
            let remedy = "See /etc/resolv.conf and its servers.";
            return findings.push("dns", State::Bad, what, remedy);
        }
    };
    let list = addresses
        .iter()
        .map(|address| address.ip().to_string())
        .collect::<Vec<_>>()
        .join(", ");
    // Only an address of this host can be bound.
    let own = |address: &SocketAddr| std::net::UdpSocket::bind((address.ip(), 0)).is_ok();
    if addresses.iter().any(own) {
        findings.good("dns", format!("{name} is {list}, which is this host."));
    } else {
        findings.push(
            "dns",
            State::Doubtful,
            format!("{name} is {list}, and none of these is an address of this host."),
            "Right behind a load balancer or address translation; otherwise correct the DNS or cluster.name.",
        );
    }
    if !runs {
        return;
    }
    let mut dead = Vec::new();
    for address in &addresses {
        if let Err(why) = connect(*address).await {
            dead.push(format!("{address}: {why}"));
        }
    }
    if !dead.is_empty() {
        let state = if dead.len() < addresses.len() {
            State::Doubtful
        } else {
            State::Bad
        };
        findings.push(
            "dns",
            state,
            format!(
                "Clients of {name} get no connection at some of its addresses ({}).",
                dead.join("; ")
            ),
            format!(
                "Clients and browsers use port {port}: does the server, or what stands before it, listen there? Take addresses where nothing answers out of the DNS: the original's clients give up at the first that refuses."
            ),
        );
    }
}

async fn issuers(config: &Config, findings: &mut Findings) {
    let mut clients = Issuers::default();
    let setup = assemble::setup(config, &mut clients);
    for (issuer, configured) in setup.issuers.iter().zip(&config.issuers) {
        let name = &issuer.name;
        match tokio::time::timeout(PATIENCE, issuer.client.metadata()).await {
            Ok(Ok(metadata)) => {
                let objections = config::against_discovery(configured, &metadata.document);
                if objections.is_empty() {
                    findings.good("issuers", format!("{name} answers at {}.", issuer.url));
                }
                for objection in objections {
                    findings.push(
                        "issuers",
                        State::Doubtful,
                        format!("{name}: {}", objection.what),
                        objection.means,
                    );
                }
            }
            Ok(Err(error)) => findings.push(
                "issuers",
                State::Bad,
                format!("{name} at {} cannot be used: {error}.", issuer.url),
                format!(
                    "Is the URL right, to the letter? Does the host get there (curl {}/.well-known/openid-configuration)? A private authority goes into ca_file.",
                    issuer.url.trim_end_matches('/')
                ),
            ),
            Err(_) => findings.push(
                "issuers",
                State::Bad,
                format!("{name} at {} did not answer within {} s.", issuer.url, PATIENCE.as_secs()),
                "The network to it, or the issuer itself, is slow or down; users keep what is cached.",
            ),
        }
    }
    clients.stop();
}

fn now() -> UnixSeconds {
    UnixSeconds(i64::try_from(SystemClock.wall().as_secs()).unwrap_or(i64::MAX))
}
