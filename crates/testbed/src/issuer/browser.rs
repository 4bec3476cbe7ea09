//! A browser for tests: follows redirects, keeps cookies, fills in the first form of a page. It works on any page that is plain HTML,
//! ours or that of the server under test, and knows neither.

use std::collections::BTreeMap;

use reqwest::header::{COOKIE, LOCATION, SET_COOKIE};
use reqwest::redirect::Policy;
use reqwest::{Client, Method, Response};
use url::Url;

use super::StartError;
use super::tls::client_config;

/// Longest chain of redirects followed.
const MOST_REDIRECTS: usize = 20;

/// Why a visit failed.
#[derive(Debug, thiserror::Error)]
pub enum BrowserError {
    /// The request failed.
    #[error(
        "the test browser could not load {url}: {reason}. Check that the server runs and that its authority is trusted."
    )]
    Load {
        /// Address, without its query.
        url: String,
        /// The HTTP client's words.
        reason: String,
    },
    /// A redirect without a usable address, or too many of them.
    #[error(
        "the test browser was sent in circles or nowhere from {0}. Look at the Location headers of that server."
    )]
    Redirect(String),
    /// No form where one was needed.
    #[error(
        "the page at {0} has no form to fill in. Print the page's body to see what it says instead."
    )]
    NoForm(String),
    /// The TLS settings could not be made.
    #[error(transparent)]
    Tls(#[from] StartError),
}

/// What a person does at the consent page.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Consent {
    /// Press "Allow".
    Approve,
    /// Press "Deny".
    Deny,
}

/// A loaded page.
#[derive(Clone, Debug)]
pub struct Page {
    /// Final address.
    pub url: Url,
    /// Status.
    pub status: u16,
    /// Text.
    pub body: String,
}

/// A form of a page.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct HtmlForm {
    /// `action`, as written.
    pub action: String,
    /// Method is POST.
    pub post: bool,
    /// Named fields with their values (buttons excluded).
    pub fields: Vec<(String, String)>,
    /// Named buttons with their values.
    pub buttons: Vec<(String, String)>,
}

/// Cookies and a connection pool.
#[derive(Debug)]
pub struct Browser {
    client: Client,
    cookies: BTreeMap<(String, String), String>,
}

impl Browser {
    /// A browser that trusts the given authorities (PEM) and nobody else.
    ///
    /// # Errors
    /// [`BrowserError::Tls`] when a text is no certificate.
    pub fn new(authorities: &[&str]) -> Result<Self, BrowserError> {
        let client = Client::builder()
            .tls_backend_preconfigured(client_config(authorities)?)
            .redirect(Policy::none())
            .build()
            .map_err(|e| BrowserError::Load {
                url: "(no page yet)".to_owned(),
                reason: e.to_string(),
            })?;
        Ok(Self {
            client,
            cookies: BTreeMap::new(),
        })
    }

    /// Loads a page, following redirects.
    ///
    /// # Errors
    /// [`BrowserError::Load`] and [`BrowserError::Redirect`].
    pub async fn visit(&mut self, url: &str) -> Result<Page, BrowserError> {
        let url = Url::parse(url).map_err(|_| BrowserError::Redirect(url.to_owned()))?;
        self.load(Method::GET, url, &[]).await
    }

    /// Fills in the first form of `page` with `values` (by field name), presses the button named by its value, if any, and loads
    /// what follows.
    ///
    /// # Errors
    /// [`BrowserError::NoForm`], and those of [`Browser::visit`].
    pub async fn submit(
        &mut self,
        page: &Page,
        values: &[(&str, &str)],
        button: Option<&str>,
    ) -> Result<Page, BrowserError> {
        let form = first_form(&page.body).ok_or_else(|| BrowserError::NoForm(bare(&page.url)))?;
        let mut fields = form.fields;
        for (name, value) in values {
            match fields.iter_mut().find(|(n, _)| n == name) {
                Some(field) => field.1 = (*value).to_owned(),
                None => fields.push(((*name).to_owned(), (*value).to_owned())),
            }
        }
        if let Some(wanted) = button {
            fields.extend(form.buttons.into_iter().find(|(_, value)| value == wanted));
        }
        let mut url = page
            .url
            .join(&form.action)
            .map_err(|_| BrowserError::NoForm(bare(&page.url)))?;
        if form.post {
            self.load(Method::POST, url, &fields).await
        } else {
            url.query_pairs_mut().clear().extend_pairs(&fields);
            self.load(Method::GET, url, &[]).await
        }
    }

    /// Logs `user` in along the forms of the test issuer, starting from `url` (an authorization request or a device page), and
    /// decides at the consent page. Returns where the browser ends up: usually a page of the server under test.
    ///
    /// # Errors
    /// Those of [`Browser::submit`].
    pub async fn log_in(
        &mut self,
        url: &str,
        user: &str,
        password: &str,
        consent: Consent,
    ) -> Result<Page, BrowserError> {
        let mut page = self.visit(url).await?;
        if page.body.contains("name=\"password\"") {
            page = self
                .submit(&page, &[("username", user), ("password", password)], None)
                .await?;
        }
        if page.body.contains("value=\"approve\"") {
            let button = match consent {
                Consent::Approve => "approve",
                Consent::Deny => "deny",
            };
            page = self.submit(&page, &[], Some(button)).await?;
        }
        Ok(page)
    }

    async fn load(
        &mut self,
        method: Method,
        url: Url,
        fields: &[(String, String)],
    ) -> Result<Page, BrowserError> {
        let (mut method, mut url, mut fields) = (method, url, fields.to_vec());
        for _ in 0..MOST_REDIRECTS {
            let response = self.send(method.clone(), &url, &fields).await?;
            let status = response.status();
            if !status.is_redirection() {
                let failed = |e: reqwest::Error| BrowserError::Load {
                    url: bare(&url),
                    reason: e.to_string(),
                };
                let body = response.text().await.map_err(failed)?;
                return Ok(Page {
                    url,
                    status: status.as_u16(),
                    body,
                });
            }
            let location = response
                .headers()
                .get(LOCATION)
                .and_then(|v| v.to_str().ok())
                .unwrap_or("");
            let next = url
                .join(location)
                .map_err(|_| BrowserError::Redirect(bare(&url)))?;
            if status.as_u16() < 307 {
                method = Method::GET;
                fields.clear();
            }
            url = next;
        }
        Err(BrowserError::Redirect(bare(&url)))
    }

    async fn send(
        &mut self,
        method: Method,
        url: &Url,
        fields: &[(String, String)],
    ) -> Result<Response, BrowserError> {
        let origin = url.origin().ascii_serialization();
        let cookies: Vec<String> = self
            .cookies
            .iter()
            .filter(|((at, _), _)| *at == origin)
            .map(|((_, n), v)| format!("{n}={v}"))
            .collect();
        let mut request = self.client.request(method.clone(), url.clone());
        if !cookies.is_empty() {
            request = request.header(COOKIE, cookies.join("; "));
        }
        if method == Method::POST {
            request = request.form(fields);
        }
        let response = request.send().await.map_err(|e| BrowserError::Load {
            url: bare(url),
            reason: innermost(&e),
        })?;
        for value in response.headers().get_all(SET_COOKIE) {
            let first = value.to_str().unwrap_or("").split(';').next().unwrap_or("");
            if let Some((name, value)) = first.split_once('=') {
                self.cookies.insert(
                    (origin.clone(), name.trim().to_owned()),
                    value.trim().to_owned(),
                );
            }
        }
        Ok(response)
    }
}

/// The cause at the bottom of an error: reqwest's own text names only the address.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}

/// Address without query and fragment: those carry codes.
fn bare(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    url.to_string()
}

/// The first form of an HTML text. A scanner for the plain forms of tests, not a parser of HTML.
pub fn first_form(html: &str) -> Option<HtmlForm> {
    let start = html.find("<form")?;
    let end = html[start..]
        .find("</form>")
        .map_or(html.len(), |at| start + at);
    let mut form = HtmlForm::default();
    let mut rest = &html[start..end];
    while let Some(at) = rest.find('<') {
        rest = &rest[at + 1..];
        let Some(close) = rest.find('>') else { break };
        let tag = &rest[..close];
        rest = &rest[close + 1..];
        let attribute = |name: &str| attribute(tag, name);
        let named = |value: String| attribute("name").map(|name| (name, value));
        match tag.split([' ', '\n', '\t', '/']).next().unwrap_or("") {
            "form" => {
                form.action = attribute("action").unwrap_or_default();
                form.post = attribute("method").is_some_and(|m| m.eq_ignore_ascii_case("post"));
            }
            "button" => form
                .buttons
                .extend(named(attribute("value").unwrap_or_default())),
            "input" if attribute("type").is_some_and(|t| t == "submit") => {
                form.buttons
                    .extend(named(attribute("value").unwrap_or_default()));
            }
            "input" => form
                .fields
                .extend(named(attribute("value").unwrap_or_default())),
            _ => {}
        }
    }
    Some(form)
}

fn attribute(tag: &str, name: &str) -> Option<String> {
    let mark = format!(" {name}=");
    let at = tag.find(&mark)? + mark.len();
    let rest = &tag[at..];
    let raw = match rest.chars().next()? {
        quote @ ('"' | '\'') => rest[1..].split(quote).next()?,
        _ => rest.split([' ', '/']).next()?,
    };
    let plain = raw
        .replace("&quot;", "\"")
        .replace("&#39;", "'")
        .replace("&#x27;", "'")
        .replace("&#34;", "\"");
    Some(
        plain
            .replace("&lt;", "<")
            .replace("&gt;", ">")
            .replace("&amp;", "&"),
    )
}

#[cfg(test)]
mod tests {
    use super::first_form;

    #[test]
    fn forms_are_read_with_their_hidden_fields_and_buttons() {
        let form = first_form(
            "<p><form method=\"POST\" action=\"/x?a=1&amp;b=2\"><input type=\"hidden\" name=\"r\" value=\"&quot;1&quot;\">\
             <button name='decision' value='approve'>ok</button><input name=free></form>",
        )
        .unwrap();
        assert_eq!(form.action, "/x?a=1&b=2");
        assert!(form.post);
        assert_eq!(
            form.fields,
            [
                ("r".to_owned(), "\"1\"".to_owned()),
                ("free".to_owned(), String::new())
            ]
        );
        assert_eq!(
            form.buttons,
            [("decision".to_owned(), "approve".to_owned())]
        );
        assert!(first_form("<p>no").is_none());
    }
}
