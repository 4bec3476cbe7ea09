//! Checks of the files that the configuration names on this host: modes, certificate, keytabs.
//!
//! Only warns: what is missing now may be there when it is needed. Knows nothing of how the files are used later.

use super::client_key;
use super::commands::counted;
use super::finding::{Finding, Findings, Origin, Severity};
use super::model::Config;
use gridkeep_dialect_vault::listener::Validity;
use gridkeep_identity::kerberos::keytab;
use gridkeep_keeper::UnixSeconds;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// What the loader needs to know of the host.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// `uname -n`.
    pub hostname: String,
    /// `/etc`, but in tests.
    pub etc: PathBuf,
    /// Look at the files that the configuration names?
    pub look_at_files: bool,
}

impl Surroundings {
    /// Those of the running system.
    pub fn of_this_host() -> Self {
        let hostname = nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned());
        Self {
            hostname: hostname.unwrap_or_else(|_| "localhost".to_owned()),
            etc: PathBuf::from("/etc"),
            look_at_files: true,
        }
    }
}

const MOST_BYTES: u64 = 1 << 20;
/// Days before the end of a certificate from which on it is doubtful.
pub const CERTIFICATE_DAYS: i64 = 14;

/// What there is to say of the times of the certificate at `path`, a sentence, and whether clients refuse it for them.
pub fn times_of_certificate(
    path: &Path,
    validity: Validity,
    now: UnixSeconds,
) -> Option<(String, bool)> {
    let path = path.display();
    let days = validity.days_left(now);
    match (days, validity.objection(now)) {
        (Some(days), _) if days < 0 => Some((format!("{path} {}.", ends(days)), true)),
        (_, Some(what)) => Some((format!("{path} {what}, by this host's clock."), true)),
        (Some(days), None) if days < CERTIFICATE_DAYS => {
            Some((format!("{path} {}.", ends(days)), false))
        }
        _ => None,
    }
}

/// That something ends which has `days` left: `ends in 3 days`.
pub fn ends(days: i64) -> String {
    let count = usize::try_from(days.unsigned_abs()).unwrap_or(usize::MAX);
    match days {
        ..0 => format!("ended {} ago", counted(count, "day")),
        0 => "ends within a day".to_owned(),
        _ => format!("ends in {}", counted(count, "day")),
    }
}

/// Runs all checks.
pub fn check(config: &Config, surroundings: &Surroundings, findings: &mut Findings) {
    readable_secrets(config, findings);
    certificate(config, findings);
    keytabs(config, &surroundings.etc, findings);
}

fn warn(findings: &mut Findings, origin: &Origin, key: &str, what: String, means: &str) {
    findings.push(Finding::new(Severity::Warning, origin, key, what, means));
}

fn readable_secrets(config: &Config, findings: &mut Findings) {
    let with_secrets: BTreeSet<&Path> = config
        .issuers
        .iter()
        .filter_map(|issuer| issuer.secret.as_ref()?.origin.file())
        .collect();
    for file in with_secrets {
        if is_world_readable(file) {
            let what =
                "The file holds a client secret and everybody on this host may read it.".to_owned();
            warn(
                findings,
                &Origin::whole_file(file),
                "",
                what,
                "Take the permission away (mode 0600 or 0640).",
            );
        }
    }
    let private = config.issuers.iter().filter_map(|issuer| {
        Some((
            issuer.private_key.as_ref()?,
            format!("issuers[{}].private_key", issuer.name.value),
        ))
    });
    let own = [(&config.gridkeep.key, "gridkeep.tls.key".to_owned())];
    let seal = config
        .gridkeep
        .seal_key_file
        .as_ref()
        .map(|file| (file, "gridkeep.seal.key_file".to_owned()));
    for (file, key) in private.chain(own).chain(seal) {
        if is_world_readable(&file.value) {
            let what = format!("Everybody on this host may read {}.", file.value.display());
            warn(
                findings,
                &file.origin,
                &key,
                what,
                "Take the permission away (mode 0600 or 0640).",
            );
        }
    }
    for (file, key) in config.gridkeep.etcd.iter().flat_map(|etcd| etcd.files()) {
        let (path, problem) = (file.value.display(), fs::metadata(&file.value));
        let (what, means) = match problem {
            Err(error) => (
                format!("{path} cannot be read: {error}."),
                "The server cannot start without it.",
            ),
            Ok(_) if key.ends_with(".key") && is_world_readable(&file.value) => (
                format!("Everybody on this host may read {path}."),
                "Take the permission away (mode 0600 or 0640).",
            ),
            Ok(_) => continue,
        };
        warn(findings, &file.origin, key, what, means);
    }
    for issuer in &config.issuers {
        let files = [
            ("private_key", &issuer.private_key),
            ("ca_file", &issuer.ca_file),
        ];
        for (key, file) in files
            .into_iter()
            .filter_map(|(key, file)| Some((key, file.as_ref()?)))
        {
            let problem = match contents(&file.value) {
                Err(error) => format!("cannot be read: {error}"),
                Ok(bytes) => match unusable(key, &bytes) {
                    None => continue,
                    Some(why) => format!("cannot be used: {why}"),
                },
            };
            let key = format!("issuers[{}].{key}", issuer.name.value);
            let what = format!("{} {problem}.", file.value.display());
            let means = "The issuer cannot be used until it can.";
            warn(findings, &file.origin, &key, what, means);
        }
    }
}

/// Why the content of a file of an issuer is not what the key `key` wants, by the rules that hold when it is used.
fn unusable(key: &str, bytes: &[u8]) -> Option<String> {
    if key == "private_key" {
        let Ok(pem) = std::str::from_utf8(bytes) else {
            return Some("it is no text".to_owned());
        };
        return client_key::parse("", pem)
            .err()
            .map(|error| error.to_string());
    }
    match gridkeep_issuer::trust("", &[bytes.to_vec()], false) {
        Err(gridkeep_issuer::ConfigError::Ca { why, .. }) => Some(why),
        _ => None,
    }
}

fn is_world_readable(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o004 != 0)
}

fn contents(file: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    if !fs::metadata(file)?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut bytes = Zeroizing::new(Vec::new());
    File::open(file)?.take(MOST_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn certificate(config: &Config, findings: &mut Findings) {
    let setting = &config.gridkeep.certificate;
    let (path, key) = (setting.value.display(), "gridkeep.tls.certificate");
    let bytes = match contents(&setting.value) {
        Ok(bytes) => bytes,
        Err(error) => {
            let what = format!("The certificate {path} cannot be read: {error}.");
            return warn(
                findings,
                &setting.origin,
                key,
                what,
                "The server cannot start without it.",
            );
        }
    };
    if let Err(error) = fs::metadata(&config.gridkeep.key.value) {
        let what = format!(
            "The key {} cannot be read: {error}.",
            config.gridkeep.key.value.display()
        );
        warn(
            findings,
            &config.gridkeep.key.origin,
            "gridkeep.tls.key",
            what,
            "The server cannot start without it.",
        );
    }
    let Some(Ok(first)) = CertificateDer::pem_slice_iter(&bytes).next() else {
        let what = format!("{path} holds no PEM certificate.");
        return warn(
            findings,
            &setting.origin,
            key,
            what,
            "The server cannot start with it.",
        );
    };
    let parsed = match rustls::server::ParsedCertificate::try_from(&first) {
        Ok(parsed) => parsed,
        Err(error) => {
            let what = format!("{path} is not a usable certificate: {error}.");
            return warn(
                findings,
                &setting.origin,
                key,
                what,
                "The server cannot start with it.",
            );
        }
    };
    let times = times_of_certificate(&setting.value, Validity::of(&first), UnixSeconds::system());
    if let Some((what, refused)) = times {
        findings.push(Finding::new(
            // Nothing to refuse a start for, as warnings may, while clients take it.
            if refused {
                Severity::Warning
            } else {
                Severity::Info
            },
            &setting.origin,
            key,
            what,
            "Clients refuse one that has ended or is not valid yet, and it does not take the place of a valid one. Renew it and replace certificate and key; they are read again by themselves.",
        ));
    }
    let service = config.service_name();
    // Where a front server is believed, clients see that one's certificate.
    let names = match config.gridkeep.trusted_proxies.is_empty() {
        true => config.public_hosts(),
        false => vec![service.clone()],
    };
    for host in names {
        let (kind, configured) = if host.value == service.value {
            ("the service name", "cluster.name")
        } else {
            ("the host", "gridkeep.public_url")
        };
        let Ok(name) = ServerName::try_from(host.value.as_str()) else {
            let what = format!(
                "`{}`, {kind}, is not a name that a certificate can carry.",
                host.value
            );
            let means = "Clients will refuse the connection.";
            warn(findings, &host.origin, configured, what, means);
            continue;
        };
        if rustls::client::verify_server_name(&parsed, &name).is_err() {
            let what = format!(
                "The certificate {path} is not valid for {kind} `{}`.",
                host.value
            );
            let means = format!(
                "Clients that use this name will refuse the connection; correct `{configured}`, or get a certificate with this subjectAltName."
            );
            warn(findings, &setting.origin, key, what, &means);
        }
    }
}

fn keytabs(config: &Config, etc: &Path, findings: &mut Findings) {
    let hosts = config.ticket_hosts();
    let asked = config.public_hosts();
    for service in &config.kerberos {
        let places = config.keytab_places(service, etc);
        let names: Vec<String> = places
            .iter()
            .map(|place| place.display().to_string())
            .collect();
        let (origin, key) = (
            &service.name.origin,
            format!("kerberos[{}]", service.name.value),
        );
        let Some(place) = places.iter().find(|place| place.exists()) else {
            let what = format!("There is no keytab {}.", names.join(" or "));
            warn(
                findings,
                origin,
                &key,
                what,
                "Issuers that use this service have no Kerberos login.",
            );
            continue;
        };
        match contents(place) {
            Err(error) => findings.push(Finding::new(
                Severity::Info,
                origin,
                key,
                format!(
                    "The keytab {} cannot be examined: {error}.",
                    place.display()
                ),
                "Run the check as the user that runs the server.",
            )),
            Ok(bytes) => match keytab::entries(&bytes) {
                None => {
                    let what = format!("{} is not a keytab.", place.display());
                    warn(
                        findings,
                        origin,
                        &key,
                        what,
                        "Issuers that use this service have no Kerberos login.",
                    );
                }
                Some(entries) => {
                    let lacking: Vec<String> = asked
                        .iter()
                        .map(|host| &host.value)
                        .filter(|host| {
                            let one = std::slice::from_ref(*host);
                            !entries.iter().any(|entry| entry.is_host_of(one))
                        })
                        .map(|host| format!("host/{host}"))
                        .collect();
                    let ours: BTreeSet<String> = entries
                        .into_iter()
                        .filter(|entry| entry.is_host_of(&hosts))
                        .map(|entry| entry.realm)
                        .collect();
                    let path = place.display();
                    if !lacking.is_empty() {
                        let what =
                            format!("The keytab {path} has no key for {}.", lacking.join(", "));
                        let means = "Clients ask for a ticket for the name that they reach the service by; Kerberos logins with it will be refused. Add the key.";
                        warn(findings, origin, &key, what, means);
                    }
                    if ours.len() > 1 && service.realms.is_empty() {
                        let realms: Vec<String> = ours.into_iter().collect();
                        let what = format!(
                            "The keytab {path} has keys of several realms ({}), so people of all of them may log in.",
                            realms.join(", ")
                        );
                        let means = "Who has the same name in two of them is one person here; say with `realms` whose people may log in.";
                        warn(findings, origin, &key, what, means);
                    }
                }
            },
        }
    }
}

#[cfg(test)]
pub mod tests {
    /// A keytab with one key (of zeros) per principal `service/host@REALM`.
    pub fn keytab(principals: &[(&str, &str)]) -> Vec<u8> {
        let mut out = vec![5, 2];
        for (service, host) in principals {
            let mut entry = 2_u16.to_be_bytes().to_vec();
            for part in ["LAB.EXAMPLE", service, host] {
                entry.extend(u16::try_from(part.len()).unwrap().to_be_bytes());
                entry.extend(part.as_bytes());
            }
            // Name type, time stamp, version number, encryption type, key.
            entry.extend([0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 18, 0, 32]);
            entry.extend([0; 32]);
            out.extend(i32::try_from(entry.len()).unwrap().to_be_bytes());
            out.extend(entry);
            // A deleted entry of four bytes.
            out.extend((-4_i32).to_be_bytes());
            out.extend([0; 4]);
        }
        out
    }
}
