//! What an option server or a variable says: split into words and read as options without panic.
#![no_main]

use gridkeep_client::http::ServerUrl;
use gridkeep_client::options::{self, Parsed, words};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(found) = words::split(text) else {
        return;
    };
    let quoted: Vec<String> = found
        .iter()
        .map(|word| format!("'{}'", word.replace('\'', r"'\''")))
        .collect();
    assert_eq!(
        words::split(&quoted.join(" ")).as_ref(),
        Ok(&found),
        "quoting keeps words whole"
    );
    match options::parse(&found) {
        Ok(Parsed::Run(options)) => {
            if let Some(server) = &options.vaultserver {
                let _ = ServerUrl::parse(server, 8200);
            }
            for life in [&options.vaulttokenttl, &options.vaulttokenminttl]
                .into_iter()
                .flatten()
            {
                let _ = options::lifetime("--vaulttokenttl", life);
            }
        }
        Ok(Parsed::Help | Parsed::Version) => {}
        Err(error) => {
            let mut shown = Vec::new();
            error.write(&mut shown).unwrap();
        }
    }
});
