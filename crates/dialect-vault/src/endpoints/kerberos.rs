//! Kerberos login, not served yet.
//!
//! Any status but 200 ends a stock client that holds a ticket, so the answer is a success without a login: the client then goes on to
//! its next method.

use gridkeep_keeper::Operation;

use crate::answer::Answer;
use crate::failure::Trouble;
use crate::service::Call;

pub(super) fn login(call: &mut Call<'_>) -> Result<Answer, Trouble> {
    if !matches!(call.operation, Operation::Read | Operation::Update) {
        return Err(Trouble::unsupported());
    }
    call.fields.ignore(&["authorization"]);
    Ok(Answer::done().with_warnings(vec![
        "Kerberos logins are not served by this server; use another way to log in".to_owned(),
    ]))
}
