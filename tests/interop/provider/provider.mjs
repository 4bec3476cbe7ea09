// npm's oidc-provider as a token issuer over TLS: device flow, code flow with PKCE, rotating refresh tokens, JWT access tokens.
//
// Everything comes from the environment (see `Provider` in tests/support/issuers.py); the ready file holds the URL. Its own
// development pages ask for login and consent: any name and password will do, the name becomes `sub` and `wlcg.credkey`.

import { createServer } from 'node:https';
import { readFileSync, renameSync, writeFileSync } from 'node:fs';
import { generateKeyPairSync } from 'node:crypto';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const env = process.env;
const modules = createRequire(`${env.PROVIDER_MODULES}/`);
const { Provider } = await import(pathToFileURL(modules.resolve('oidc-provider')).href);

const key = (type, options, alg) => ({
  ...generateKeyPairSync(type, options).privateKey.export({ format: 'jwk' }), kid: alg.toLowerCase(), alg, use: 'sig',
});
const jwks = {
  keys: [key('rsa', { modulusLength: 2048 }, 'RS256'), key('ec', { namedCurve: 'P-256' }, 'ES256')],
};

const redirects = env.PROVIDER_REDIRECT.split(' ');
const seconds = Number(env.PROVIDER_ACCESS_SECONDS ?? 3600);
const refreshedSeconds = Number(env.PROVIDER_REFRESHED_SECONDS ?? seconds);
const audience = 'https://wlcg.cern.ch/jwt/v1/any';

const client = (id, algorithm) => ({
  client_id: id,
  client_secret: env.PROVIDER_SECRET,
  redirect_uris: redirects,
  grant_types: ['authorization_code', 'refresh_token', 'urn:ietf:params:oauth:grant-type:device_code'],
  response_types: ['code'],
  id_token_signed_response_alg: algorithm,
  token_endpoint_auth_method: 'client_secret_basic',
});

const configuration = (url) => ({
  clients: [client(env.PROVIDER_CLIENT, 'RS256'), client(`${env.PROVIDER_CLIENT}-ec`, 'ES256')],
  jwks,
  cookies: { keys: ['only for tests'] },
  claims: { openid: ['sub'], profile: ['name', 'wlcg.credkey'], email: ['email'] },
  // The credential key is in the id_token itself, as at the issuers of the grid.
  conformIdTokenClaims: false,
  scopes: ['openid', 'offline_access', 'profile', 'email'],
  pkce: { required: () => true },
  rotateRefreshToken: true,
  issueRefreshToken: (ctx, c, code) => c.grantTypeAllowed('refresh_token') && code.scopes.has('offline_access'),
  findAccount: (ctx, id) => ({
    accountId: id,
    claims: () => ({ sub: id, name: `${id} of the provider`, email: `${id}@vo.example.org`, 'wlcg.credkey': id }),
  }),
  features: {
    deviceFlow: { enabled: true },
    devInteractions: { enabled: true },
    revocation: { enabled: true },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => audience,
      useGrantedResource: () => true,
      getResourceServerInfo: () => ({
        scope: 'wlcg storage.read:/ storage.create:/ compute.create', audience, accessTokenFormat: 'jwt', jwt: { sign: { alg: 'ES256' } },
      }),
    },
  },
  ttl: {
    AccessToken: (ctx) => (ctx.oidc.params.grant_type === 'refresh_token' ? refreshedSeconds : seconds),
    AuthorizationCode: 60, DeviceCode: 600, Grant: 86400, IdToken: 3600, Interaction: 600, RefreshToken: 86400, Session: 3600,
  },
  extraTokenClaims: (ctx, token) => ({ 'wlcg.ver': '1.0', nbf: token.iat ?? Math.floor(Date.now() / 1000) }),
  renderError: (ctx, out) => { ctx.type = 'text'; ctx.body = `${out.error}: ${out.error_description}`; },
});

const server = createServer({ cert: readFileSync(env.PROVIDER_CERTIFICATE), key: readFileSync(env.PROVIDER_KEY) });
server.listen(0, '127.0.0.1', () => {
  const url = `https://localhost:${server.address().port}`;
  const provider = new Provider(url, configuration(url));
  // The server under test takes its port after this one: on loopback any port is fine, as RFC 8252 has it for programs.
  provider.Client.prototype.redirectUriAllowed = function redirectUriAllowed(value) {
    const uri = URL.parse(value);
    return this.redirectUris.some((text) => {
      const known = new URL(text);
      return uri?.hostname === known.hostname && uri.pathname === known.pathname && !uri.search && uri.protocol === known.protocol;
    });
  };
  provider.use(async (ctx, next) => {
    await next();
    // The provider names no interval of its own, which would mean five seconds for each login here.
    if (ctx.oidc?.route === 'device_authorization' && ctx.body?.device_code) ctx.body.interval = 1;
  });
  server.on('request', provider.callback());
  writeFileSync(`${env.PROVIDER_READY}.new`, JSON.stringify({ url }));
  renameSync(`${env.PROVIDER_READY}.new`, env.PROVIDER_READY);
});
process.on('SIGTERM', () => { server.closeAllConnections(); server.close(() => process.exit(0)); });
