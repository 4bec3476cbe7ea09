//! From the configuration to what the keeper is set up with. A client of an issuer lives as long as what it was made from stays
//! the same, so that a reload does not forget its breaker, its budget and the issuer's keys.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use gridkeep_identity::kerberos::Acceptor;
use gridkeep_issuer::{Client, ClientAuth, ClientOptions, Measured, TokenIssuer};
use gridkeep_keeper::{
    CallbackMode, IssuerSetup, KerberosSetup, Lifetimes, OperatorRule, RateLimit, RobotRule,
    RoleSetup, Seconds, Setup, SshSetup,
};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::watch;
use zeroize::Zeroizing;

use super::unusable::Unusable;
use crate::config::{self, Config, IssuerConfig, KerberosConfig};

/// The clients of all issuers, by name.
#[derive(Default)]
pub struct Issuers {
    clients: HashMap<String, Known>,
}

struct Known {
    made_from: MadeFrom,
    client: Arc<Client>,
    stop: watch::Sender<bool>,
    /// What of its configuration was last compared with its discovery document.
    compared: Arc<Mutex<Option<config::Comparable>>>,
}

/// Everything a client is made from, to notice a change.
#[derive(PartialEq, Eq)]
struct MadeFrom {
    url: String,
    client_id: String,
    secret: Option<[u8; 32]>,
    auth: Option<config::ClientAuth>,
    public: bool,
    key: Option<Zeroizing<Vec<u8>>>,
    ca: Option<Vec<u8>>,
    parameters: Vec<(String, String)>,
    connect_timeout: Option<Duration>,
    request_timeout: Option<Duration>,
    /// Bits of the number, which compare as equal or not.
    requests_per_second: Option<u64>,
    /// Whether the issuer is told which trace a request belongs to.
    propagate: bool,
}

impl Issuers {
    /// Ends the background work of all clients.
    pub fn stop(&self) {
        for known in self.clients.values() {
            // A receiver that is gone has stopped already.
            let _ = known.stop.send(true);
        }
    }

    /// Drops the clients of issuers that are not in `config`.
    pub fn forget_unused(&mut self, config: &Config) {
        self.clients.retain(|name, known| {
            let used = config.issuer(name).is_some();
            if !used {
                let _ = known.stop.send(true);
            }
            used
        });
    }

    /// Says in the log what an issuer's own discovery document makes doubtful in its configuration, as soon as it can be read. An
    /// issuer that does not answer keeps nothing waiting.
    pub fn compare_with_discovery(&self, config: &Config) {
        for issuer in &config.issuers {
            let Some(known) = self.clients.get(&issuer.name.value) else {
                continue;
            };
            let now = config::Comparable::of(issuer);
            let compared = known.compared.clone();
            let last = |compared: &Mutex<Option<config::Comparable>>| {
                compared
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .clone()
            };
            if last(&compared).as_ref() == Some(&now) {
                continue;
            }
            let (client, issuer) = (known.client.clone(), issuer.clone());
            let stopped = known.stop.subscribe();
            tokio::spawn(async move {
                match client.metadata().await {
                    Ok(metadata) => {
                        // What could not be fetched is compared at the next reload.
                        *compared.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
                        for finding in config::against_discovery(&issuer, &metadata.document) {
                            tracing::warn!("{finding}");
                        }
                    }
                    // A client that is being stopped says nothing of its issuer.
                    Err(_) if *stopped.borrow() || stopped.has_changed().is_err() => {}
                    Err(error) => {
                        tracing::warn!(issuer = issuer.name.value, %error, "the issuer does not answer yet; its users are served as soon as it does")
                    }
                }
            });
        }
    }

    fn client(&mut self, issuer: &IssuerConfig, propagate: bool) -> anyhow::Result<Arc<Client>> {
        let made_from = MadeFrom::read(issuer, propagate)?;
        let name = &issuer.name.value;
        if let Some(known) = self
            .clients
            .get(name)
            .filter(|known| known.made_from == made_from)
        {
            return Ok(known.client.clone());
        }
        let mut options = ClientOptions::new(&made_from.url, &made_from.client_id);
        options.name.clone_from(name);
        options.auth = auth(issuer, &made_from)?;
        options.ca_pem = made_from.ca.iter().cloned().collect();
        options
            .authorization_params
            .clone_from(&made_from.parameters);
        options.connect_timeout = made_from.connect_timeout.unwrap_or(options.connect_timeout);
        options.request_timeout = made_from.request_timeout.unwrap_or(options.request_timeout);
        if let Some(rate) = made_from.requests_per_second.map(f64::from_bits) {
            options.budget.per_second = rate;
            // Five seconds' worth at once, as in the default.
            options.budget.burst = (rate * 5.0).ceil().max(1.0) as u32;
        }
        options.traceparent = made_from
            .propagate
            .then_some(gridkeep_telemetry::traceparent);
        let client = Arc::new(Client::new(options)?);
        let (stop, stopping) = watch::channel(false);
        let renewed = client.clone();
        tokio::spawn(async move { renewed.run_background(stopping).await });
        if let Some(old) = self.clients.insert(
            name.clone(),
            Known {
                made_from,
                client: client.clone(),
                stop,
                compared: Arc::default(),
            },
        ) {
            let _ = old.stop.send(true);
        }
        Ok(client)
    }
}

impl MadeFrom {
    fn read(issuer: &IssuerConfig, propagate: bool) -> anyhow::Result<MadeFrom> {
        let file = |setting: &Option<config::Setting<std::path::PathBuf>>| {
            setting
                .as_ref()
                .map(|setting| {
                    std::fs::read(&setting.value).map_err(|error| {
                        anyhow::anyhow!(
                            "{} ({}) cannot be read: {error}",
                            setting.value.display(),
                            setting.origin
                        )
                    })
                })
                .transpose()
        };
        let hash = |secret: &SecretString| {
            let digest = aws_lc_rs::digest::digest(
                &aws_lc_rs::digest::SHA256,
                secret.expose_secret().as_bytes(),
            );
            <[u8; 32]>::try_from(digest.as_ref()).unwrap_or_default()
        };
        Ok(MadeFrom {
            url: issuer.url.value.clone(),
            client_id: issuer.clientid.value.clone(),
            secret: issuer.secret.as_ref().map(|secret| hash(&secret.value)),
            auth: issuer.client_auth.as_ref().map(|auth| auth.value),
            public: issuer.public_client.value,
            key: file(&issuer.private_key)?.map(Zeroizing::new),
            ca: file(&issuer.ca_file)?,
            parameters: issuer
                .authorization_params
                .iter()
                .map(|(name, value)| (name.clone(), value.value.clone()))
                .collect(),
            connect_timeout: issuer.connect_timeout.as_ref().map(|wait| wait.value),
            request_timeout: issuer.request_timeout.as_ref().map(|wait| wait.value),
            requests_per_second: issuer
                .requests_per_second
                .as_ref()
                .map(|rate| rate.value.to_bits()),
            propagate,
        })
    }
}

fn auth(issuer: &IssuerConfig, made_from: &MadeFrom) -> anyhow::Result<ClientAuth> {
    let secret = || {
        issuer
            .secret
            .as_ref()
            .map(|secret| secret.value.clone())
            .unwrap_or_default()
    };
    Ok(match made_from.auth {
        Some(config::ClientAuth::PrivateKeyJwt) => {
            let pem = std::str::from_utf8(made_from.key.as_deref().map_or(&[], Vec::as_slice))?;
            ClientAuth::PrivateKeyJwt {
                key: config::client_key(&issuer.clientid.value, pem)?,
            }
        }
        _ if made_from.public => ClientAuth::Public,
        Some(config::ClientAuth::SecretBasic) => ClientAuth::Basic { secret: secret() },
        Some(config::ClientAuth::SecretPost) => ClientAuth::Post { secret: secret() },
        None => ClientAuth::Auto { secret: secret() },
    })
}

fn lifetimes(config: &Config) -> Lifetimes {
    let usual = Lifetimes::default();
    let seconds = |length: &config::Setting<Duration>| Seconds(length.value.as_secs());
    let max_ttl = config
        .gridkeep
        .max_ttl
        .as_ref()
        .map_or(usual.max_ttl, seconds);
    Lifetimes {
        default_ttl: config
            .gridkeep
            .default_ttl
            .as_ref()
            .map_or(usual.default_ttl, seconds)
            .min(max_ttl),
        max_ttl,
    }
}

fn rate_limit(limit: &config::RateLimitConfig) -> RateLimit {
    RateLimit {
        name: limit.name.value.clone(),
        path: limit.path.value.trim_matches('/').to_owned(),
        rate: limit.rate.value,
        interval: limit.interval.value,
        block_interval: limit.block_interval.value,
        per: limit.per.value,
    }
}

/// The keeper's setup. An issuer whose client cannot be made is reported and stands there unusable.
pub fn setup(config: &Config, issuers: &mut Issuers) -> Setup {
    let mut setup = Setup {
        public_url: config.service_url(),
        self_registration: config
            .ssh
            .as_ref()
            .is_some_and(|ssh| ssh.self_registration.value),
        ssh: config.ssh.as_ref().map(|ssh| SshSetup {
            cross_issuer: ssh.cross_issuer.value,
            authorized_keys: config
                .gridkeep
                .ssh_authorized_keys
                .as_ref()
                .map(|setting| setting.value.clone()),
            rsa_sha1: config.gridkeep.ssh_rsa_sha1.value,
            domains: config
                .issuers
                .iter()
                .filter_map(|issuer| {
                    let service = config.kerberos_service(issuer)?;
                    let domain = service.policydomain.as_ref()?;
                    Some((issuer.name.value.clone(), domain.value.clone()))
                })
                .collect(),
        }),
        operators: config
            .gridkeep
            .operators
            .iter()
            .map(|rule| OperatorRule {
                issuer: rule.issuer.value.clone(),
                claim: rule.claim.value.clone(),
                value: rule.value.value.clone(),
            })
            .collect(),
        other_urls: config
            .gridkeep
            .other_urls
            .iter()
            .map(|url| url.value.clone())
            .collect(),
        lifetimes: lifetimes(config),
        keep_removed: config
            .gridkeep
            .keep_removed
            .as_ref()
            .map(|kept| Seconds(kept.value.as_secs())),
        left_out: config.left_out.clone(),
        rate_limits: config.ratelimits.iter().map(rate_limit).collect(),
        robots: config
            .gridkeep
            .robots
            .iter()
            .map(|rule| RobotRule {
                issuer: rule.issuer.value.clone(),
                claim: rule.claim.value.clone(),
                value: rule.value.value.clone(),
                account: rule.account.as_ref().map(|account| account.value.clone()),
            })
            .collect(),
        ..Setup::default()
    };
    if let Some(limit) = &config.gridkeep.keep_alive_limit {
        setup.keep_alive.limit = Seconds(limit.value.as_secs());
    }
    let telemetry = &config.gridkeep.telemetry;
    setup.keep_alive.issuer_keeps = Seconds(telemetry.refresh_token_life.value.as_secs());
    let propagate = telemetry
        .traces
        .as_ref()
        .is_some_and(|traces| traces.propagate.value);
    for issuer in &config.issuers {
        if let Some(service) = config.kerberos_service(issuer) {
            let (name, service) = (issuer.name.value.clone(), kerberos(config, service));
            setup.kerberos.insert(name, service);
        }
        let client: Arc<dyn TokenIssuer> = match issuers.client(issuer, propagate) {
            Ok(client) => client,
            Err(error) => {
                tracing::error!(
                    issuer = issuer.name.value,
                    "the issuer cannot be used until this is mended and the server reloaded: {error:#}"
                );
                Arc::new(Unusable {
                    url: issuer.url.value.clone(),
                    client_id: issuer.clientid.value.clone(),
                })
            }
        };
        setup.issuers.push(IssuerSetup {
            name: issuer.name.value.clone(),
            url: issuer.url.value.clone(),
            client_id: issuer.clientid.value.clone(),
            client: Arc::new(Measured::new(&issuer.name.value, client)),
            callback_mode: match issuer.callback_mode.value {
                config::CallbackMode::Device => CallbackMode::Device,
                config::CallbackMode::Direct => CallbackMode::Direct,
                config::CallbackMode::NoConfirm => CallbackMode::NoConfirm,
            },
            credclaim: issuer.credclaim.value.clone(),
            credclaim_pointer: issuer.credclaim_json_pointer.value,
            reauth_on_scope_change: issuer.reauth_on_scope_change.value,
            refresh_token_life: issuer
                .refresh_token_life
                .as_ref()
                .map(|life| Seconds(life.value.as_secs())),
            roles: issuer
                .roles
                .iter()
                .map(|role| RoleSetup {
                    name: role.name.value.clone(),
                    scopes: role
                        .requested_scopes()
                        .into_iter()
                        .map(str::to_owned)
                        .collect(),
                    credclaim: role.credclaim.as_ref().map(|claim| claim.value.clone()),
                    terms: config::terms_of_role(&issuer.terms, &role.terms),
                })
                .collect(),
        });
    }
    setup
}

/// Where the keytabs are that the original looks for.
const ETC: &str = "/etc";

/// How the tickets of a Kerberos service are judged.
fn kerberos(config: &Config, service: &KerberosConfig) -> KerberosSetup {
    let acceptor = Acceptor::new(
        config.keytab_places(service, Path::new(ETC)),
        config.ticket_hosts(),
        service
            .realms
            .iter()
            .map(|realm| realm.value.clone())
            .collect(),
    );
    KerberosSetup {
        acceptor: Arc::new(acceptor),
        service_account: format!("host/{}", config.service_name().value),
        policy_domain: service
            .policydomain
            .as_ref()
            .map(|domain| domain.value.clone()),
    }
}

#[cfg(test)]
mod tests;
