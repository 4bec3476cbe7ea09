"""A person with a browser: follows a login address through whatever plain HTML forms come, at any issuer and on our own pages."""

from dataclasses import dataclass, field
from html.parser import HTMLParser
from urllib.parse import urljoin

import requests

from .processes import PATIENCE

# More pages than any login here has; the next one means that the forms lead in circles.
MOST_PAGES = 15


@dataclass
class Form:
    action: str = ""
    method: str = "get"
    fields: dict = field(default_factory=dict)
    buttons: list = field(default_factory=list)


@dataclass
class Page:
    url: str
    status: int
    text: str

    def __post_init__(self):
        reader = _Reader()
        reader.feed(self.text)
        self.forms, self.links = reader.forms, reader.links
        # Buttons may stand outside their form and name it.
        if self.forms:
            self.forms[0].buttons += reader.strays


class _Reader(HTMLParser):
    def __init__(self):
        super().__init__()
        self.forms, self.links, self.strays = [], [], []
        self.inside = False

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if tag == "form":
            self.forms.append(Form(given.get("action", ""), given.get("method", "get").lower()))
            self.inside = True
        elif tag == "input" and self.inside and given.get("name") and given.get("type") != "submit":
            self.forms[-1].fields[given["name"]] = given.get("value") or ""
        elif tag == "button" and given.get("name"):
            (self.forms[-1].buttons if self.inside else self.strays).append((given["name"], given.get("value") or ""))
        elif tag == "a" and given.get("href"):
            self.links.append(given["href"])

    def handle_endtag(self, tag):
        if tag == "form":
            self.inside = False


class Person:
    """`name` is the login name; the password is the same."""

    def __init__(self, name: str, *authorities):
        self.name = name
        self.browser = requests.Session()
        # Neither proxies nor certificate bundles of the environment.
        self.browser.trust_env = False
        self.browser.headers["Accept"] = "text/html"
        self.authorities = [str(path) for path in authorities]
        self.browser.verify = self.authorities[0]

    def follow(self, url: str, decision: str = "allow") -> list[Page]:
        """Logs in and decides; returns every page seen, the last being where the way ends."""
        pages = [self._load("get", url)]
        while pages[-1].forms:
            assert len(pages) < MOST_PAGES, f"the forms lead in circles: {[page.url for page in pages]}"
            page, form = pages[-1], pages[-1].forms[0]
            values = dict(form.fields)
            asks_name = False
            for given in ("login", "username", "password"):
                if given in values:
                    values[given] = self.name
                    asks_name = True
            if decision == "deny" and not asks_name:
                refusal = next(((n, v) for n, v in form.buttons if n == "abort" or v == "deny"), None)
                abort = next((link for link in page.links if link.endswith("/abort")), None)
                if refusal or abort:
                    if refusal:
                        del_confirm = {n: v for n, v in values.items() if n != "confirm"}
                        last = self._submit(page, form, {**del_confirm, refusal[0]: refusal[1]})
                    else:
                        last = self._load("get", urljoin(page.url, abort))
                    return [*pages, last]
            elif form.buttons and decision == "allow":
                name, value = next(((n, v) for n, v in form.buttons if n != "abort" and v != "deny"), (None, None))
                if name:
                    values[name] = value
            pages.append(self._submit(page, form, values))
        return pages

    def _submit(self, page: Page, form: Form, values: dict) -> Page:
        # Without an action attribute a form goes to the page it is on.
        return self._load(form.method, urljoin(page.url, form.action) if form.action else page.url, values)

    def _load(self, method: str, url: str, values: dict | None = None) -> Page:
        body = {"params": values} if method == "get" else {"data": values}
        answer = self.browser.request(method, url, timeout=PATIENCE, **(body if values is not None else {}))
        return Page(answer.url, answer.status_code, answer.text)
