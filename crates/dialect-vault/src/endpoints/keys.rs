//! Sealing the server and rotating its keys.

use gridkeep_keeper::Operation;
use serde_json::json;

use super::rekey;
use super::status::object;
use crate::answer::Answer;
use crate::failure::Trouble;
use crate::route::KeysRoute;
use crate::service::{Call, Caller, Inner};
use crate::time;

pub(super) async fn answer(
    inner: &Inner,
    route: KeysRoute,
    call: &mut Call<'_>,
    caller: &Caller<'_>,
) -> Result<Answer, Trouble> {
    let write = matches!(call.operation, Operation::Create | Operation::Update);
    match route {
        KeysRoute::Seal if write => {
            inner.options.seal.begin();
            Ok(Answer::done())
        }
        KeysRoute::Rotate if write => {
            let by = inner.keeper.name_of_user(&caller.bearer.token).await?;
            inner.keeper.rotate_keyring(&by).await?;
            Ok(Answer::done())
        }
        KeysRoute::Status if call.operation == Operation::Read => {
            let status = inner.keeper.key_status();
            let since = inner.keeper.data_key_since().await?;
            Ok(Answer::repeated(object(json!({
                "term": status.generation,
                "install_time": time::whole(since),
                // Not counted; the Go library wants the member.
                "encryptions": 0,
                "generations": status.generations,
                "root_key_id": status.root_key_id,
            }))))
        }
        KeysRoute::Rekey(route) => rekey::answer(inner, route, call, caller).await,
        _ => Err(Trouble::unsupported()),
    }
}
