//! gridkeep's way of talking to token issuers: an OAuth 2 and OpenID Connect client.
//!
//! Owns: discovery and key sets, every grant gridkeep asks an issuer for, client authentication, and the courtesy owed
//! to an issuer (budget, back-off, breaker). Refuses to know: what a grant is kept for, who may use it, how a token is
//! stored, and what a request to gridkeep itself looks like. A new grant is one file in `flow/`; a new way of client
//! authentication is one variant in [`ClientAuth`] and one arm in `authenticate.rs`.
//!
//! Callers hold [`TokenIssuer`]; [`Client`] is the one implementation that talks HTTP.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use gridkeep_issuer::{Client, ClientAuth, ClientOptions, TokenIssuer};
//!
//! let options = ClientOptions {
//!     auth: ClientAuth::Auto { secret: "from a file, never from argv".into() },
//!     ..ClientOptions::new("https://iam.example.org/", "my-client")
//! };
//! let client = Client::new(options)?;
//! let answer = client.refresh(&"the refresh token".into()).await?;
//! assert_eq!(answer.token_type, "Bearer");
//! # Ok(()) }
//! ```

mod answer;
mod api;
mod authenticate;
mod backoff;
mod client;
mod discovery;
mod error;
mod flow;
mod form;
mod gate;
mod id_token;
mod kept;
mod measured;
mod options;
mod roots;
mod standing;
mod transport;

pub use api::{
    AuthorizationRequest, BreakerState, DevicePoll, DeviceStart, ExchangeRequest, IssuerStatus,
    TokenHint, TokenIssuer, TokenResponse,
};
pub use client::{Client, WallClock};
pub use discovery::Metadata;
pub use error::{ConfigError, IssuerError, Sent};
pub use measured::{Measured, describe_metrics};
pub use options::{BreakerOptions, Budget, ClientAuth, ClientOptions};
pub use roots::tls as trust;
