//! The pages a person sees: login, consent, device code, outcome. Plain HTML forms without scripts, so that a person, a headless
//! browser and curl can all use them. They decide nothing.

/// Text made safe for HTML.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            _ => out.push(c),
        }
    }
    out
}

fn frame(title: &str, content: &str) -> String {
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\
         <meta name=\"viewport\" content=\"width=device-width\"><style>body{{font-family:sans-serif;max-width:32em;margin:3em auto}}\
         label{{display:block;margin:.6em 0}}</style></head><body><h1>{title}</h1>\n{content}\n</body></html>\n",
        title = escape(title),
    )
}

fn hidden(name: &str, value: &str) -> String {
    format!(
        "<input type=\"hidden\" name=\"{}\" value=\"{}\">",
        escape(name),
        escape(value)
    )
}

/// Name and password.
pub(crate) fn login(carry: &[(&str, &str)], complaint: Option<&str>) -> String {
    let carried: String = carry.iter().map(|(n, v)| hidden(n, v)).collect();
    let complaint = complaint
        .map(|text| format!("<p role=\"alert\">{}</p>", escape(text)))
        .unwrap_or_default();
    frame(
        "Log in at the test issuer",
        &format!(
            "{complaint}<form method=\"post\" action=\"/login\">{carried}\
             <label>User name <input name=\"username\" id=\"username\" autocomplete=\"username\" autofocus></label>\
             <label>Password <input name=\"password\" id=\"password\" type=\"password\" autocomplete=\"current-password\"></label>\
             <button type=\"submit\" id=\"login\">Log in</button></form>"
        ),
    )
}

/// May this client act for you?
pub(crate) fn consent(
    action: &str,
    carry: &[(&str, &str)],
    user: &str,
    client: &str,
    scopes: &[String],
) -> String {
    let carried: String = carry.iter().map(|(n, v)| hidden(n, v)).collect();
    let list: String = scopes
        .iter()
        .map(|s| format!("<li><code>{}</code></li>", escape(s)))
        .collect();
    frame(
        "Allow access?",
        &format!(
            "<p>You are logged in as <b>{}</b>. The client <b>{}</b> asks for:</p><ul>{list}</ul>\
             <form method=\"post\" action=\"{}\">{carried}\
             <button type=\"submit\" id=\"approve\" name=\"decision\" value=\"approve\">Allow</button> \
             <button type=\"submit\" id=\"deny\" name=\"decision\" value=\"deny\">Deny</button></form>",
            escape(user),
            escape(client),
            escape(action),
        ),
    )
}

/// Which device?
pub(crate) fn device(action: &str, complaint: Option<&str>) -> String {
    let complaint = complaint
        .map(|text| format!("<p role=\"alert\">{}</p>", escape(text)))
        .unwrap_or_default();
    frame(
        "Connect a device",
        &format!(
            "{complaint}<form method=\"post\" action=\"{}\"><label>Code shown by the device \
             <input name=\"user_code\" id=\"user_code\" autofocus></label>\
             <button type=\"submit\" id=\"continue\">Continue</button></form>",
            escape(action)
        ),
    )
}

/// An outcome, good or bad.
pub(crate) fn message(title: &str, text: &str) -> String {
    frame(title, &format!("<p>{}</p>", escape(text)))
}
