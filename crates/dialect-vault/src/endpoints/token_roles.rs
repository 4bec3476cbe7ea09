//! `auth/token/roles/*`: what others may make tokens of without having sudo.

use gridkeep_keeper::{Operation, Seconds, TokenRole};
use serde_json::{Map, Value, json};

use super::status::object;
use crate::answer::Answer;
use crate::failure::Trouble;
use crate::fields::Fields;
use crate::service::{Call, Inner};

pub(super) async fn answer(
    inner: &Inner,
    role: Option<&str>,
    call: &mut Call<'_>,
) -> Result<Answer, Trouble> {
    let Some(role) = role.filter(|role| !role.is_empty()) else {
        return match call.operation {
            Operation::List => Ok(Answer::keys(inner.keeper.token_roles().await?)),
            _ => Err(Trouble::unsupported()),
        };
    };
    call.fields.captured("role_name");
    match call.operation {
        Operation::Read => Ok(Answer::data(describe(
            role,
            &inner.keeper.token_role(role).await?,
        ))),
        Operation::Create | Operation::Update => {
            let edit = Edit::take(&mut call.fields)?;
            inner
                .keeper
                .edit_token_role(role, |record| edit.apply(record))
                .await?;
            Ok(Answer::done())
        }
        Operation::Delete => {
            inner.keeper.delete_token_role(role).await?;
            Ok(Answer::done())
        }
        _ => Err(Trouble::unsupported()),
    }
}

fn describe(name: &str, role: &TokenRole) -> Map<String, Value> {
    object(json!({
        "name": name,
        "allowed_policies": role.allowed_policies,
        "disallowed_policies": role.disallowed_policies,
        "allowed_policies_glob": role.allowed_policies_glob,
        "disallowed_policies_glob": role.disallowed_policies_glob,
        "allowed_entity_aliases": [],
        "orphan": role.orphan,
        "renewable": role.renewable,
        "path_suffix": role.path_suffix,
        "period": role.period.0,
        "explicit_max_ttl": role.explicit_max_ttl.0,
        "token_period": role.period.0,
        "token_explicit_max_ttl": role.explicit_max_ttl.0,
        "token_bound_cidrs": role.bound_cidrs,
        "token_no_default_policy": role.no_default_policy,
        "token_num_uses": role.num_uses,
        "token_type": "default-service",
    }))
}

/// What a request changes. What it leaves out stays as it was.
struct Edit {
    lists: [Option<Vec<String>>; 5],
    flags: [Option<bool>; 3],
    path_suffix: Option<String>,
    period: Option<Seconds>,
    explicit_max_ttl: Option<Seconds>,
    num_uses: Option<u64>,
}

impl Edit {
    fn take(fields: &mut Fields) -> Result<Edit, Trouble> {
        if let Some(kind) = fields.text("token_type")?.filter(|kind| {
            !matches!(
                kind.as_str(),
                "" | "service" | "default" | "default-service"
            )
        }) {
            return Err(Trouble::bad(format!(
                "token type \"{kind}\" is not supported: use type service"
            )));
        }
        if fields
            .list("allowed_entity_aliases")?
            .is_some_and(|aliases| !aliases.is_empty())
        {
            return Err(Trouble::bad(
                "allowed_entity_aliases is not supported: this server gives tokens made by a role no other identity than that of their parent",
            ));
        }
        let num_uses = fields
            .integer("token_num_uses")?
            .map(u64::try_from)
            .transpose()
            .map_err(|_| Trouble::bad("token_num_uses cannot be negative"))?;
        Ok(Edit {
            lists: [
                fields.list("allowed_policies")?,
                fields.list("disallowed_policies")?,
                fields.list("allowed_policies_glob")?,
                fields.list("disallowed_policies_glob")?,
                either(
                    fields.list("bound_cidrs")?,
                    fields.list("token_bound_cidrs")?,
                ),
            ],
            flags: [
                fields.boolean("orphan")?,
                fields.boolean("renewable")?,
                fields.boolean("token_no_default_policy")?,
            ],
            path_suffix: fields.text("path_suffix")?,
            period: either(fields.duration("period")?, fields.duration("token_period")?),
            explicit_max_ttl: either(
                fields.duration("explicit_max_ttl")?,
                fields.duration("token_explicit_max_ttl")?,
            ),
            num_uses,
        })
    }

    fn apply(&self, role: &mut TokenRole) {
        let lists = [
            &mut role.allowed_policies,
            &mut role.disallowed_policies,
            &mut role.allowed_policies_glob,
            &mut role.disallowed_policies_glob,
            &mut role.bound_cidrs,
        ];
        for (mine, new) in lists.into_iter().zip(&self.lists) {
            if let Some(new) = new {
                mine.clone_from(new);
            }
        }
        let flags = [
            &mut role.orphan,
            &mut role.renewable,
            &mut role.no_default_policy,
        ];
        for (mine, new) in flags.into_iter().zip(self.flags) {
            *mine = new.unwrap_or(*mine);
        }
        if let Some(suffix) = &self.path_suffix {
            role.path_suffix.clone_from(suffix);
        }
        role.period = self.period.unwrap_or(role.period);
        role.explicit_max_ttl = self.explicit_max_ttl.unwrap_or(role.explicit_max_ttl);
        role.num_uses = self.num_uses.unwrap_or(role.num_uses);
    }
}

/// The value under the name of today, else under the old one.
fn either<T>(old: Option<T>, new: Option<T>) -> Option<T> {
    new.or(old)
}
