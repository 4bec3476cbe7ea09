//! Talking to token issuers as an OAuth 2 and OpenID Connect client.
