//! Changes of Kerberos, ssh and rate limits.

use super::issuers::kept;
use super::{Differ, Impact};
use crate::config::model::{Config, GridkeepConfig, KerberosConfig, RateLimitConfig};
use gridkeep_keeper::CountedBy;

impl Differ<'_> {
    pub(super) fn kerberos(&mut self) {
        let find = |config: &Config, name: &str| {
            config
                .kerberos
                .iter()
                .find(|s| s.name.value == name)
                .cloned()
        };
        let (old, new) = (self.old, self.new);
        for was in &old.kerberos {
            let key = format!("kerberos[{}]", was.name.value);
            let Some(now) = find(new, &was.name.value) else {
                let named = |names: &Vec<String>| names.contains(&was.name.value);
                if new.kerberos_names.as_ref().is_none_or(named) {
                    self.has_an_error(&key, &was.name.origin);
                    continue;
                }
                let affected = "Whoever logs in by Kerberos through it can do so no longer; other logins go on.";
                self.push(
                    Impact::AccessEnds,
                    &key,
                    "The Kerberos service is removed.".to_owned(),
                    affected,
                    &was.name.origin,
                );
                continue;
            };
            let domain = |service: &KerberosConfig| {
                service
                    .policydomain
                    .as_ref()
                    .map(|d| d.value.clone())
                    .unwrap_or_default()
            };
            if domain(was) != domain(&now) {
                let what = format!("It changes from `{}` to `{}`.", domain(was), domain(&now));
                let origin = now
                    .policydomain
                    .as_ref()
                    .map_or(&now.name.origin, |domain| &domain.origin);
                let affected = "Whoever logs in by Kerberos reaches credentials under the user name with the new text only, and under the bare user name.";
                self.push(
                    Impact::AccessEnds,
                    &format!("{key}.policydomain"),
                    what,
                    affected,
                    origin,
                );
            }
            let keytab = |service: &KerberosConfig| {
                service.keytab.as_ref().map_or_else(
                    || "the place of its name".to_owned(),
                    |file| format!("`{}`", file.value.display()),
                )
            };
            if keytab(was) != keytab(&now) {
                let what = format!("It changes from {} to {}.", keytab(was), keytab(&now));
                let origin = now
                    .keytab
                    .as_ref()
                    .map_or(&now.name.origin, |file| &file.origin);
                let affected =
                    "Whoever logs in by Kerberos needs a ticket that the keys there open.";
                self.push(
                    Impact::FromNowOn,
                    &format!("{key}.keytab"),
                    what,
                    affected,
                    origin,
                );
            }
            let realms = |service: &KerberosConfig| {
                let mut names: Vec<String> = service
                    .realms
                    .iter()
                    .map(|realm| realm.value.clone())
                    .collect();
                names.sort_unstable();
                names
            };
            let told = |names: Vec<String>| match names.is_empty() {
                true => "those of the keytab".to_owned(),
                false => names.join(", "),
            };
            if realms(was) != realms(&now) {
                let what = format!(
                    "They change from {} to {}.",
                    told(realms(was)),
                    told(realms(&now))
                );
                let origin = now
                    .realms
                    .first()
                    .map_or(&now.name.origin, |realm| &realm.origin);
                let affected = "Only people of the new realms may log in by Kerberos; vault tokens from before go on.";
                self.push(
                    Impact::AccessEnds,
                    &format!("{key}.realms"),
                    what,
                    affected,
                    origin,
                );
            }
        }
        for now in new
            .kerberos
            .iter()
            .filter(|service| find(old, &service.name.value).is_none())
        {
            let key = format!("kerberos[{}]", now.name.value);
            let affected = "People with a ticket may log in to the issuers that use it.";
            self.push(
                Impact::FromNowOn,
                &key,
                "The Kerberos service is added.".to_owned(),
                affected,
                &now.name.origin,
            );
        }
    }

    pub(super) fn ssh(&mut self) {
        match (&self.old.ssh, &self.new.ssh) {
            (None, None) => {}
            (None, Some(now)) => {
                let origin = now.self_registration.origin.clone();
                self.push(
                    Impact::FromNowOn,
                    "ssh",
                    "ssh login is switched on.".to_owned(),
                    "People with a registered key may log in.",
                    &origin,
                );
            }
            (Some(was), None) if self.new.left_out.ssh => {
                self.has_an_error("ssh", &was.self_registration.origin);
            }
            (Some(was), None) => {
                let origin = was.self_registration.origin.clone();
                let affected = format!(
                    "Whoever logs in with an ssh key can do so no longer. Registered keys are kept, without effect, for {}.",
                    kept(self.new)
                );
                self.push(
                    Impact::AccessEnds,
                    "ssh",
                    "ssh login is switched off.".to_owned(),
                    &affected,
                    &origin,
                );
            }
            (Some(was), Some(now)) => {
                let (registration, cross) =
                    (now.self_registration.clone(), now.cross_issuer.clone());
                if was.self_registration.value != registration.value {
                    let (what, affected) = if registration.value {
                        (
                            "People may register their own keys.",
                            "Everybody can do so at the next login with --registerssh.",
                        )
                    } else {
                        (
                            "People may no longer register their own keys.",
                            "Whoever has no key yet can not add one; keys registered before go on working.",
                        )
                    };
                    self.push(
                        Impact::FromNowOn,
                        "ssh.self-registration",
                        what.to_owned(),
                        affected,
                        &registration.origin,
                    );
                }
                if was.cross_issuer.value != cross.value {
                    let (impact, what, affected) = if cross.value {
                        (
                            Impact::FromNowOn,
                            "A key registered through one issuer opens credentials of all issuers.",
                            "Whoever logs in with an ssh key reaches more credentials.",
                        )
                    } else {
                        (
                            Impact::AccessEnds,
                            "A key opens credentials of the issuer it was registered through only.",
                            "Whoever logs in with an ssh key at another issuer can do so no longer.",
                        )
                    };
                    self.push(
                        impact,
                        "ssh.cross_issuer",
                        what.to_owned(),
                        affected,
                        &cross.origin,
                    );
                }
            }
        }
    }

    /// What `gridkeep.ssh` adds to `ssh`.
    pub(super) fn own_ssh(&mut self) {
        let (old, new) = (&self.old.gridkeep, &self.new.gridkeep);
        if old.ssh_rsa_sha1.value != new.ssh_rsa_sha1.value {
            let origin = new.ssh_rsa_sha1.origin.clone();
            let (impact, what, affected) = if new.ssh_rsa_sha1.value {
                (
                    Impact::FromNowOn,
                    "RSA keys with SHA-1 signatures may log in.",
                    "Users of the original htgettoken with an RSA key can log in.",
                )
            } else {
                (
                    Impact::AccessEnds,
                    "RSA keys with SHA-1 signatures may log in no longer.",
                    "Users of the original htgettoken with an RSA key are refused.",
                )
            };
            self.push(
                impact,
                "gridkeep.ssh.rsa_sha1",
                what.to_owned(),
                affected,
                &origin,
            );
        }
        let directory = |config: &GridkeepConfig| {
            let path = config.ssh_authorized_keys.as_ref();
            path.map(|path| path.value.display().to_string())
        };
        let (was, now) = (directory(old), directory(new));
        if was != now {
            let (impact, what, affected) = match (was, now) {
                // Nobody has stood in no directory.
                (None, now) => (
                    Impact::FromNowOn,
                    format!(
                        "Keys that administrators supply are read from {}.",
                        now.unwrap_or_default()
                    ),
                    "Whoever's key stands there can log in with it.",
                ),
                (Some(was), None) => (
                    Impact::AccessEnds,
                    format!(
                        "Keys that administrators supply are no longer read; they were from {was}."
                    ),
                    "Whoever logs in with an ssh key that stands there can do so no longer.",
                ),
                (Some(was), Some(now)) => (
                    Impact::AccessEnds,
                    format!("Keys that administrators supply are read from {now}, not from {was}."),
                    "Whoever logs in with an ssh key that stands in the old directory only can do so no longer.",
                ),
            };
            let origin = new
                .ssh_authorized_keys
                .as_ref()
                .or(old.ssh_authorized_keys.as_ref())
                .map(|path| path.origin.clone())
                .unwrap_or_default();
            let key = "gridkeep.ssh.authorized_keys";
            self.push(impact, key, what, affected, &origin);
        }
    }

    pub(super) fn ratelimits(&mut self) {
        let (old, new) = (self.old, self.new);
        for was in old.ratelimits.iter().filter(|was| {
            !new.ratelimits
                .iter()
                .any(|now| now.name.value == was.name.value)
        }) {
            let key = format!("ratelimits[{}]", was.name.value);
            self.push(
                Impact::FromNowOn,
                &key,
                "The rate limit is removed.".to_owned(),
                "Nobody is held back by it any more.",
                &was.name.origin,
            );
        }
        for now in &new.ratelimits {
            let key = format!("ratelimits[{}]", now.name.value);
            let values = |limit: &RateLimitConfig| {
                (
                    limit.path.value.clone(),
                    limit.rate.value,
                    limit.interval.value,
                    limit.block_interval.value,
                    limit.per.value,
                )
            };
            let was = old
                .ratelimits
                .iter()
                .find(|was| was.name.value == now.name.value);
            if was.is_some_and(|was| values(was) == values(now)) {
                continue;
            }
            let path = if now.path.value.is_empty() {
                "everything".to_owned()
            } else {
                format!("`{}`", now.path.value)
            };
            let what = format!(
                "The rate limit is {}: {} requests per {} in {:?} for {path}, then shut out for {:?}.",
                if was.is_some() { "changed" } else { "added" },
                now.rate.value,
                now.per.value.as_str(),
                now.interval.value,
                now.block_interval.value
            );
            let affected = match now.per.value {
                CountedBy::Address => "Addresses that send more requests than that are refused.",
                CountedBy::User => "Users who send more requests than that are refused.",
            };
            self.push(Impact::FromNowOn, &key, what, affected, &now.rate.origin);
        }
    }
}
