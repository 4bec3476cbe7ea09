//! The frame of commands about what the server keeps for oneself: words, options of htgettoken, one conversation, a text or a reason.
//!
//! Owns exit codes and where texts go. Refuses to know what is asked.

use std::ffi::OsString;

use crate::environment::{Environment, Streams};
use crate::holder::{Holder, NoHolder, block_on};
use crate::options::{self, Options, Parsed};

/// A command of this kind.
pub struct OwnCommand {
    /// As the user calls it.
    pub name: &'static str,
    /// What `--help` shows.
    pub usage: &'static str,
}

impl OwnCommand {
    /// Does what was asked for with `asked`, an order and options, or shows how to ask. `perform` gives the text to print, or why not.
    pub fn run<O>(
        &self,
        asked: Result<Option<(O, Options)>, String>,
        environment: &Environment,
        streams: &mut Streams<'_>,
        perform: impl AsyncFnOnce(&mut Holder, &Options, &O) -> Result<String, String>,
    ) -> i32 {
        let (order, options) = match asked {
            Ok(Some(asked)) => asked,
            Ok(None) => {
                let _ = streams.out.write_all(self.usage.as_bytes());
                return 0;
            }
            Err(why) => {
                let _ = writeln!(streams.err, "{}: {why}", self.name);
                let _ = streams.err.write_all(self.usage.as_bytes());
                return 2;
            }
        };
        let done = match Holder::of(&options, environment) {
            Ok(mut holder) => block_on(perform(&mut holder, &options, &order)).flatten(),
            Err(NoHolder::Usage(error)) => {
                let _ = writeln!(streams.err, "{}: {error}", self.name);
                return 2;
            }
            Err(NoHolder::Failed(why)) => Err(why),
        };
        match done {
            Ok(text) => {
                let _ = streams
                    .out
                    .write_all(text.as_bytes())
                    .and_then(|()| streams.out.flush());
                0
            }
            Err(why) => {
                let _ = writeln!(streams.err, "{}: {why}", self.name);
                1
            }
        }
    }
}

/// `order` with the options of htgettoken that stand behind its own words; `None` when help is asked for.
///
/// # Errors
/// What is wrong with the options.
pub fn with_options<O>(
    order: O,
    words: &[OsString],
    environment: &Environment,
) -> Result<Option<(O, Options)>, String> {
    let parsed = options::words(words, environment)
        .and_then(|words| options::parse(&words))
        .map_err(|error| error.to_string())?;
    Ok(match parsed {
        Parsed::Run(options) => Some((order, *options)),
        Parsed::Help | Parsed::Version => None,
    })
}
