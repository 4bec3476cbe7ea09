//! What a token may do on given paths.

use gridkeep_keeper::{BadInput, Operation};
use secrecy::SecretString;
use serde_json::{Map, Value};

use crate::answer::Answer;
use crate::failure::Trouble;
use crate::route::Whose;
use crate::service::{Call, Caller, Inner};

/// Most paths in one question.
const MOST_PATHS: usize = 1000;

pub(super) async fn answer(
    inner: &Inner,
    whose: Whose,
    call: &mut Call<'_>,
    caller: &Caller<'_>,
) -> Result<Answer, Trouble> {
    if call.operation != Operation::Update {
        return Err(Trouble::unsupported());
    }
    let fields = &mut call.fields;
    let mut paths = fields.list("paths")?.unwrap_or_default();
    paths.extend(fields.list("path")?.unwrap_or_default());
    paths.retain(|path| !path.is_empty());
    if paths.is_empty() {
        return Err(Trouble::bad("paths must be supplied"));
    }
    if paths.len() > MOST_PATHS {
        return Err(Trouble::bad(
            "at most 1000 paths may be asked about at once",
        ));
    }
    let token = match whose {
        Whose::Own => {
            fields.ignore(&["token"]);
            caller.bearer.token.clone()
        }
        Whose::Given => {
            let secret = fields
                .text("token")?
                .filter(|text| !text.is_empty())
                .ok_or(BadInput::MissingTokenId)?;
            inner.keeper.lookup(&SecretString::from(secret)).await?
        }
        Whose::ByAccessor => {
            let accessor = fields
                .text("accessor")?
                .filter(|text| !text.is_empty())
                .ok_or(BadInput::MissingAccessor)?;
            inner.keeper.lookup_accessor(&accessor).await?
        }
    };
    let mut data = Map::new();
    for path in &paths {
        let capabilities = inner
            .keeper
            .capabilities(&token, path.trim_start_matches('/'));
        data.insert(path.clone(), Value::from(capabilities));
    }
    if let [single] = paths.as_slice()
        && let Some(capabilities) = data.get(single).cloned()
    {
        data.insert("capabilities".to_owned(), capabilities);
    }
    Ok(Answer::repeated(data))
}
