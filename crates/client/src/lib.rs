//! What runs on a user's machine: the htgettoken family.
//!
//! Every command is a function `run(args, &Environment, &mut Streams) -> i32` in the module of its name: `args` without the
//! program's name, the answer an exit code. A command touches the process only through its [`Environment`] and [`Streams`], so
//! one command can run another inside itself and tests run side by side.
//!
//! * [`get`]: `htgettoken`, obtain a bearer token from a Vault-like server;
//! * [`sh`]: `httokensh`, run a command and keep its bearer token fresh;
//! * [`decode`]: `htdecodetoken`, show what a token says;
//! * [`destroy`]: `htdestroytoken`, remove tokens here and on the server;
//! * [`explain`], [`verify`]: which token would be used and why; whether a token is good and why not;
//! * [`ssh_keys`]: list, end and remove one's own ssh keys on the server;
//! * [`mine`]: show and revoke what the server keeps for oneself; [`inventory`] is how that looks;
//! * [`holder`]: the server and the vault tokens that commands use which do not log in; [`own_command`]: their frame;
//! * [`options`]: htgettoken's command line, which its companions read too;
//! * [`jwks`]: issuers' keys, fetched and kept for verification;
//! * [`vault`], [`http`]: the requests it makes, and the connection they go over.
//!
//! A further command is one more module, one line here, and one line where the program chooses by name.

pub mod decode;
pub mod destroy;
pub mod environment;
pub mod explain;
pub mod files;
pub mod get;
pub mod holder;
pub mod http;
pub mod inventory;
pub mod jwks;
pub mod mine;
pub mod options;
pub mod own_command;
pub mod sh;
pub mod ssh_keys;
pub mod vault;
pub mod verify;

#[cfg(test)]
mod testserver;

pub use environment::{Environment, Streams, Terminals, Timing};
