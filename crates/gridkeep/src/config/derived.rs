//! What follows from the configuration: service name, callback addresses, scopes to ask for, Kerberos service of an
//! issuer, mounts and credential paths (profile sections 3.6, 5, 9).
//!
//! Pure functions of [`Config`]; no I/O.

use super::finding::Setting;
use super::model::{AuditLog, CallbackMode, Config, IssuerConfig, KerberosConfig, RoleConfig};
use std::path::{Path, PathBuf};

impl Config {
    /// The service name *S*: `cluster.name`, else `cluster.myname`, else the host's name.
    pub fn service_name(&self) -> Setting<String> {
        let configured = self.cluster.name.as_ref().or(self.cluster.myname.as_ref());
        configured
            .cloned()
            .unwrap_or_else(|| Setting::builtin(self.hostname.clone()))
    }

    /// This node's own name: `cluster.myname`, else the host's name.
    pub fn own_name(&self) -> Setting<String> {
        self.cluster
            .myname
            .clone()
            .unwrap_or_else(|| Setting::builtin(self.hostname.clone()))
    }

    /// All names under which nodes of the service are known, each once: service, own, master, peers, members.
    pub fn member_names(&self) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        let configured = self
            .cluster
            .master
            .iter()
            .chain(&self.cluster.peers)
            .chain(&self.cluster.members);
        let all = [self.service_name().value, self.own_name().value]
            .into_iter()
            .chain(configured.map(|n| n.value.clone()));
        for name in all {
            if !names.iter().any(|known| known.eq_ignore_ascii_case(&name)) {
                names.push(name);
            }
        }
        names
    }

    /// The hosts by which clients and browsers reach the service, each once: that of `public_url`, else the service name, then those of
    /// `other_urls`.
    pub fn public_hosts(&self) -> Vec<Setting<String>> {
        let own = &self.gridkeep;
        let first = own
            .public_url
            .as_ref()
            .map_or_else(|| self.service_name(), host_of);
        let mut hosts = vec![first];
        for host in own.other_urls.iter().map(host_of) {
            if !hosts
                .iter()
                .any(|known| known.value.eq_ignore_ascii_case(&host.value))
            {
                hosts.push(host);
            }
        }
        hosts
    }

    /// Where clients and browsers look for the service, host and port: `public_url`, else service name and `callback_port`; then
    /// `other_urls`.
    pub fn public_places(&self) -> Vec<(String, u16)> {
        let others = self.gridkeep.other_urls.iter().map(|url| url.value.clone());
        std::iter::once(self.service_url())
            .chain(others)
            .filter_map(|url| {
                let url = url::Url::parse(&url).ok()?;
                let host = url.host_str()?.trim_matches(['[', ']']).to_owned();
                Some((host, url.port_or_known_default()?))
            })
            .collect()
    }

    /// All hosts that a Kerberos ticket may be for: those that clients use, and the names of the nodes.
    pub fn ticket_hosts(&self) -> Vec<String> {
        let mut hosts = self.member_names();
        for host in self.public_hosts() {
            if !hosts
                .iter()
                .any(|known| known.eq_ignore_ascii_case(&host.value))
            {
                hosts.push(host.value);
            }
        }
        hosts
    }

    /// How clients and browsers reach the service, without a slash at the end.
    pub fn service_url(&self) -> String {
        if let Some(url) = &self.gridkeep.public_url {
            return url.value.clone();
        }
        format!(
            "https://{}:{}",
            self.service_name().value,
            self.gridkeep.callback_port.value
        )
    }

    /// The address that an issuer sends browsers back to; to be registered there for `direct` and `noconfirm`.
    pub fn callback_url(&self, issuer: &IssuerConfig) -> String {
        format!(
            "{}/v1/auth/oidc-{}/oidc/callback",
            self.service_url(),
            issuer.name.value
        )
    }

    /// The audit log's file; `None` when it is switched off.
    pub fn audit_log(&self) -> Option<&Path> {
        match &self.cluster.audit_log.value {
            AuditLog::Off => None,
            AuditLog::File(path) => Some(path),
        }
    }

    /// The issuer of a name.
    pub fn issuer(&self, name: &str) -> Option<&IssuerConfig> {
        self.issuers.iter().find(|issuer| issuer.name.value == name)
    }

    /// The Kerberos service of an issuer: the one it names, else the one (but the first) with its own name, else the first. Where
    /// that one is left out because of an error there is none: another may have people of other realms.
    pub fn kerberos_service(&self, issuer: &IssuerConfig) -> Option<&KerberosConfig> {
        let named = |name: &str| {
            self.kerberos
                .iter()
                .find(|service| service.name.value == name)
        };
        if let Some(name) = &issuer.kerbservice {
            return named(name);
        }
        let names = self.kerberos_names.as_ref()?;
        let own = names
            .iter()
            .skip(1)
            .find(|name| **name == issuer.name.value);
        named(own.or_else(|| names.first())?)
    }

    /// Where the keytab of a Kerberos service may be, the preferred place first. `etc` is `/etc` but in tests.
    pub fn keytab_places(&self, service: &KerberosConfig, etc: &Path) -> Vec<PathBuf> {
        if let Some(keytab) = &service.keytab {
            return vec![keytab.value.clone()];
        }
        let mut places = vec![etc.join(format!("krb5-{}.keytab", service.name.value))];
        let first = self.kerberos_names.iter().flatten().next();
        if first == Some(&service.name.value) {
            places.push(etc.join("krb5.keytab"));
        }
        places
    }

    /// The file of the root key, where the service manager gives none.
    pub fn root_key_file(&self, base: &Path) -> PathBuf {
        match &self.gridkeep.seal_key_file {
            Some(setting) => setting.value.clone(),
            None => base.join("gridkeep-root.key"),
        }
    }

    /// The mounts that the configuration asks for beside the built-in ones, as the original would have made them,
    /// each with a slash at its end. Kerberos mounts are listed whether or not a keytab is there.
    pub fn mounts(&self) -> Vec<String> {
        let mut mounts: Vec<String> = Vec::new();
        for issuer in &self.issuers {
            mounts.push(format!("oidc-{}/", issuer.name.value));
            if self.kerberos_service(issuer).is_some() {
                mounts.extend(
                    issuer
                        .roles
                        .iter()
                        .map(|role| format!("kerberos-{}_{}/", issuer.name.value, role.name.value)),
                );
            }
        }
        if self.ssh.is_some() {
            mounts.push("ssh/".to_owned());
        }
        mounts.push("secret/oauth/".to_owned());
        mounts
    }

    /// The credential paths that a Kerberos user may read for a role (profile section 9.1).
    #[cfg(test)]
    pub fn kerberos_paths(
        &self,
        issuer: &IssuerConfig,
        role: &RoleConfig,
        user: &str,
    ) -> Vec<String> {
        let Some(service) = self.kerberos_service(issuer) else {
            return Vec::new();
        };
        let path = |domain: &str| {
            format!(
                "secret/oauth/creds/{}/{user}{domain}:{}",
                issuer.name.value, role.name.value
            )
        };
        let mut paths: Vec<String> = service
            .policydomain
            .iter()
            .map(|domain| path(domain))
            .collect();
        paths.push(path(""));
        paths
    }
}

/// The host of an address that was checked when it was read.
fn host_of(url: &Setting<String>) -> Setting<String> {
    let parsed = url::Url::parse(&url.value).ok();
    let host = parsed.as_ref().and_then(|parsed| parsed.host_str());
    let bare = host.unwrap_or(&url.value).trim_matches(['[', ']']);
    Setting::new(bare.to_owned(), url.origin.clone())
}

impl IssuerConfig {
    /// The role of a name; roles are compared without regard to case.
    pub fn role(&self, name: &str) -> Option<&RoleConfig> {
        self.roles
            .iter()
            .find(|role| role.name.value.eq_ignore_ascii_case(name))
    }

    /// The claim that gives the credkey for a role.
    pub fn credclaim_of<'a>(&'a self, role: &'a RoleConfig) -> &'a str {
        role.credclaim.as_ref().unwrap_or(&self.credclaim)
    }

    /// Does the login return to our callback address?
    pub fn uses_callback(&self) -> bool {
        self.callback_mode.value != CallbackMode::Device
    }
}

impl RoleConfig {
    /// The scopes to ask for: `openid` first, then those configured, each once.
    pub fn requested_scopes(&self) -> Vec<&str> {
        let mut scopes = vec!["openid"];
        for scope in &self.scopes {
            if !scopes.contains(&scope.value.as_str()) {
                scopes.push(scope);
            }
        }
        scopes
    }
}
