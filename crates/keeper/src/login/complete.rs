//! What a finished login leaves behind: the grant, the credential, the login token, the handle.

use std::collections::BTreeMap;
use std::net::IpAddr;

use gridkeep_store::Name;

use super::{HANDLE_LIFE, Login, login_name};
use crate::credentials::CredentialName;
use crate::database::{Change, NotCommitted, Stored, name};
use crate::events::{self, Event};
use crate::failure::{BadInput, Failure};
use crate::keeper::Keeper;
use crate::policy::{OPERATOR_RULE, login_policies};
use crate::records::{
    GRANT, GrantSecrets, HANDLE, HandleRecord, Identity, LoginRecord, REVOCATION, ReadyLogin,
};
use crate::removed::known_role;
use crate::secret::Purpose;
use crate::setup::IssuerSetup;
use crate::terms::LoginTerms;
use crate::tokens::{LoginToken, later, sanitised};

impl Keeper {
    /// Makes everything a finished login leaves behind, in one commit: the grant, the credential unless a healthy one stands
    /// there, the login token, the handle.
    pub(super) async fn complete(
        &self,
        id: &[u8],
        stored: &Stored<LoginRecord>,
        ready: ReadyLogin,
        from: Option<IpAddr>,
    ) -> Result<Login, Failure> {
        let setup = self.setup();
        loop {
            let now = self.now();
            let issuer = self.issuer_of_login(&setup, &stored.value)?;
            let role = known_role(&setup, issuer, &stored.value.role, now)?;
            let credential = CredentialName {
                issuer: issuer.name.clone(),
                owner: ready.owner.clone(),
                role: stored.value.role.clone(),
            };
            let (standing, healthy) = self.healthy(&credential, issuer).await?;
            let secrets = GrantSecrets {
                refresh_token: ready.refresh_token.clone(),
                alternates: Vec::new(),
                access: Some(ready.access.clone()),
            };
            let mut grant = self.new_grant(issuer, ready.subject.clone(), &secrets)?;
            let mut change = Change::new();
            change.guard(stored.unchanged()).delete(login_name(id));
            let issued = self.login_token(
                &mut change,
                self.token_of(issuer, &stored.value.role, &role.terms, &ready),
            )?;
            if grant_is_kept_alive(&ready) {
                self.move_due(&mut change, &mut grant)?;
            }
            if healthy {
                change.put(
                    name(REVOCATION, &[&grant.id]),
                    &self.unreferenced(false),
                    None,
                )?;
            } else {
                grant.references.push(credential.to_string());
                self.put_credential(
                    &mut change,
                    &credential,
                    &grant,
                    standing.as_ref(),
                    &issued.token.display_name,
                    role.scopes.clone(),
                )
                .await?;
            }
            change.put(name(GRANT, &[&grant.id]), &grant, None)?;
            let (handle, proven) = self.inner.mint.issue(Purpose::Handle, now);
            let expires_at = later(now, HANDLE_LIFE);
            let record = HandleRecord {
                grant: grant.id.clone(),
                issuer: issuer.name.clone(),
                role: stored.value.role.clone(),
                owner: ready.owner.clone(),
                login_token: issued.token.id,
                expires_at,
            };
            change.put(
                Name::new(HANDLE, &[proven.id().as_slice()]),
                &record,
                Some(expires_at.0),
            )?;
            events::record(
                &mut change,
                &Event {
                    at: now,
                    what: "login".into(),
                    subject: credential.to_string(),
                    by: issued.token.display_name.clone(),
                    from,
                    detail: format!("grant {}", grant.id),
                },
            )?;
            match self.inner.db.commit(change).await {
                Ok(()) => {
                    return Ok(Login {
                        issued,
                        owner: ready.owner.clone(),
                        role: stored.value.role.clone(),
                        handle,
                    });
                }
                Err(NotCommitted::Conflict) => {
                    // Either the credential changed under us, or another poll took this login.
                    let current = self.inner.db.get::<LoginRecord>(&login_name(id)).await?;
                    if current.is_none_or(|current| current.version != stored.version) {
                        return Err(BadInput::LoginExpired.into());
                    }
                }
                Err(other) => return Err(other.into()),
            }
        }
    }

    fn token_of(
        &self,
        issuer: &IssuerSetup,
        role: &str,
        terms: &LoginTerms,
        ready: &ReadyLogin,
    ) -> LoginToken {
        let mount = format!("auth/oidc-{}/", issuer.name);
        let meta = BTreeMap::from([
            ("credkey".to_owned(), ready.owner.clone()),
            ("role".to_owned(), role.to_owned()),
        ]);
        let mut facts = meta.clone();
        if let Some(rule) = &ready.operator_rule {
            facts.insert(OPERATOR_RULE.to_owned(), rule.clone());
        }
        LoginToken {
            terms: terms.clone(),
            policies: login_policies(
                &self.setup(),
                &issuer.name,
                role,
                ready.operator_rule.is_some(),
                &ready.robot_rules,
            ),
            display_name: format!("oidc-{}-{}", issuer.name, sanitised(&ready.owner)),
            path: format!("{mount}oidc/poll"),
            entity: self
                .inner
                .mint
                .stable_uuid("entity", &format!("{mount}{}", ready.owner.to_lowercase())),
            identity: Identity {
                mount_accessor: self.inner.mint.mount_accessor("oidc", &mount),
                alias: ready.owner.clone(),
                metadata: facts,
            },
            meta,
            renewable: true,
        }
    }
}

fn grant_is_kept_alive(ready: &ReadyLogin) -> bool {
    ready.refresh_token.is_some()
}
