//! What a token is: JWS, WLCG and SciTokens profiles, bearer token discovery, safe token files.
