//! The operators' reports as text for people.

use std::fmt::Write as _;

use gridkeep_client::inventory;

use crate::config::CERTIFICATE_DAYS;
use crate::server::inventory::StatusAnswer;

fn number(counted: Option<usize>) -> String {
    counted.map_or_else(|| "?".to_owned(), |count| count.to_string())
}

/// The state of a server.
pub fn status(answer: &StatusAnswer) -> String {
    let mut out = String::new();
    let _ = writeln!(
        out,
        "gridkeep {} as {}, running since {}, on {}",
        answer.version,
        answer.service,
        answer.since,
        answer.listen.join(" ")
    );
    let _ = writeln!(
        out,
        "clock: {}",
        if answer.clock_doubtful {
            "IN DOUBT after a jump; nothing is called expired or deleted (look at the time, then gridkeep operator confirm-clock)"
        } else {
            "trusted"
        }
    );
    let certificate = match answer.certificate_days {
        Some(days) if days < 0 => "ENDED; renew it and replace both files".to_owned(),
        Some(1) => "ENDS in 1 day; renew it and replace both files".to_owned(),
        Some(days) if days < CERTIFICATE_DAYS => {
            format!("ENDS in {days} days; renew it and replace both files")
        }
        Some(days) => format!("ends in {days} days"),
        None => "its end is not known".to_owned(),
    };
    let _ = writeln!(out, "certificate: {certificate}");
    let entries = answer
        .store
        .entries
        .map_or(String::new(), |entries| format!(", {entries} records"));
    let _ = writeln!(
        out,
        "store: {}, {:.1} MiB{entries}, {}",
        answer.store.engine,
        answer.store.bytes as f64 / f64::from(1 << 20),
        match &answer.store.trouble {
            None => "takes writes".to_owned(),
            Some(trouble) => format!("DOES NOT ANSWER OR TAKES NO WRITES: {trouble}"),
        }
    );
    if answer.passes_on {
        out.push_str("requests: PASSED TO OTHER NODES, because of the store or the clock; gridkeep cluster status says more\n");
    }
    if !answer.left_out.is_empty() {
        out.push_str("configuration: NOT ALL OF IT IS SERVED, because of these errors; correct them and reload\n");
        for error in &answer.left_out {
            let _ = writeln!(out, "  {error}");
        }
    }
    for issuer in &answer.issuers {
        let state = match (&issuer.trouble, &issuer.last_answer) {
            _ if issuer.client_refused.is_some() => format!(
                "REFUSES THIS SERVER AS ITS CLIENT: {} (check clientid and secret of issuers[{}], and reload)",
                issuer.client_refused.as_deref().unwrap_or_default(),
                issuer.name
            ),
            (Some(trouble), _) => format!("FAILING: {trouble}"),
            (None, Some(last)) => format!("last answer {last}"),
            (None, None) => "not asked yet".to_owned(),
        };
        let _ = writeln!(
            out,
            "issuer {}: {} credentials, {} of them failing; {state}",
            issuer.name,
            number(issuer.credentials),
            number(issuer.failing)
        );
    }
    let (waiting, tried) = answer.revocations;
    let _ = writeln!(
        out,
        "vault tokens alive: {}; logins to be revoked at issuers: {waiting}, tried in vain: {tried}",
        number(answer.tokens)
    );
    if !answer.failing.is_empty() {
        let _ = write!(
            out,
            "\nfailing:\n{}",
            inventory::credentials(&answer.failing)
        );
    }
    if !answer.ending.is_empty() {
        let _ = write!(
            out,
            "\nending within a week:\n{}",
            inventory::credentials(&answer.ending)
        );
    }
    if answer.ended > 0 {
        let _ = writeln!(
            out,
            "\npast their idle end, no longer kept alive: {}",
            answer.ended
        );
    }
    if answer.cut {
        out.push_str("\nThere is more than is shown and counted here.\n");
    }
    out
}
