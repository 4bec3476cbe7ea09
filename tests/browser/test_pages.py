"""A person with a browser: the pages of a login, each end of it, and what the waiting client then says."""

import os
import urllib.parse

import pytest
from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException, TimeoutException
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from support.clients import finish, read_url
from support.processes import PATIENCE


@pytest.fixture
def world(make_issuer, make_server, make_client, entry):
    issuer = make_issuer()
    server = make_server([entry(issuer, mode="direct"), entry(issuer, name="quick", mode="noconfirm"), entry(issuer, name="device")])
    return issuer, server, make_client(server)


def picture(browser, name):
    """Saves what the person sees, when somebody wants to look at it (GRIDKEEP_PICTURES=directory)."""
    directory = os.environ.get("GRIDKEEP_PICTURES")
    if directory:
        browser.save_screenshot(os.path.join(directory, f"{name}.png"))


def patient(browser):
    """Waits while pages change: what was found on one may be gone when it is looked at."""
    return WebDriverWait(browser, PATIENCE, ignored_exceptions=(NoSuchElementException, StaleElementReferenceException))


def text(browser):
    """What the page says, whichever it is by now."""
    return patient(browser).until(lambda b: b.find_element(By.TAG_NAME, "body").text)


def says(browser, *words):
    """Waits until the page says one of these."""
    try:
        patient(browser).until(lambda b: any(word in b.find_element(By.TAG_NAME, "body").text.lower() for word in words))
    except TimeoutException:
        raise AssertionError(f"{words} are not on: {text(browser)}") from None


def log_in(browser, user="alice"):
    """Types name and password into the issuer's form and sends it."""
    patient(browser).until(lambda b: b.find_elements(By.CSS_SELECTOR, "input[type=password]"))
    for field in ("input[type=text], input[name=username]", "input[type=password]"):
        fill(browser, field, user)
    press(browser, "sign in", "log in", "login", "continue")


def fill(browser, field, value):
    def filled(b):
        element = b.find_element(By.CSS_SELECTOR, field)
        element.clear()
        element.send_keys(value)
        return element.get_attribute("value") == value

    patient(browser).until(filled)


def press(browser, *labels):
    """Presses the button whose text begins with one of `labels`, whatever their case."""

    def pressed(b):
        for element in b.find_elements(By.CSS_SELECTOR, "button, input[type=submit]"):
            shown = (element.text or element.get_attribute("value") or "").strip().lower()
            if shown.startswith(labels):
                element.click()
                return True
        return False

    try:
        patient(browser).until(pressed)
    except TimeoutException:
        raise AssertionError(f"no button {labels} on: {text(browser)}") from None


def at_server(browser, server):
    patient(browser).until(lambda b: b.current_url.startswith(f"https://localhost:{server.port}/"))


def test_login_with_confirmation_page(world, browser):
    issuer, server, client = world
    process = client.start()
    browser.get(read_url(process))
    log_in(browser)
    picture(browser, "issuer-consent")
    press(browser, "allow", "approve", "authorize", "yes", "accept")
    at_server(browser, server)
    picture(browser, "confirm")
    says(browser, "127.0.0.1")  # who asked for the login
    shown = text(browser)
    assert "dune" in shown and "default" in shown
    press(browser, "yes", "confirm", "continue", "log in", "allow", "this is")
    says(browser, "alice")
    picture(browser, "done")
    done = finish(process)
    assert done.code == 0, done
    assert client.bearer.exists()
    # The same address again is a used login, and says so instead of logging in twice.
    browser.refresh()
    picture(browser, "used")


def test_login_without_confirmation_page(world, browser):
    _, server, client = world
    process = client.start(issuer="quick")
    browser.get(read_url(process))
    log_in(browser)
    press(browser, "allow", "approve", "authorize", "yes", "accept")
    at_server(browser, server)
    says(browser, "alice")
    assert finish(process).code == 0


def test_denial_is_shown_and_reaches_the_client(world, browser):
    _, server, client = world
    process = client.start(issuer="quick")
    browser.get(read_url(process))
    log_in(browser)
    press(browser, "deny", "no", "cancel", "refuse")
    at_server(browser, server)
    picture(browser, "denied")
    says(browser, "access_denied", "refused", "denied")
    done = finish(process)
    assert done.code == 1 and "access_denied" in done.out, done
    assert "permission denied" not in done.out


def test_expired_login_says_what_to_do(world, browser):
    _, server, _ = world
    query = urllib.parse.urlencode({"state": "st_AAAA", "code": "x"})
    browser.get(f"{server.url}/v1/auth/oidc-dune/oidc/callback?{query}")
    picture(browser, "expired")
    shown = text(browser)
    assert "expired" in shown.lower() and "again" in shown.lower(), shown


def test_pages_load_nothing_from_elsewhere_and_cannot_be_framed(world, browser):
    import ssl
    import urllib.error
    import urllib.request

    _, server, _ = world
    try:
        answer = urllib.request.urlopen(
            urllib.request.Request(f"{server.url}/v1/auth/oidc-dune/oidc/callback?state=x", headers={"accept": "text/html"}), context=server.context()
        )
    except urllib.error.HTTPError as error:
        answer = error
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
    assert "no-store" in answer.headers["cache-control"]
    assert isinstance(server.context(), ssl.SSLContext)


def test_start_page(world, browser):
    _, server, _ = world
    browser.get(server.url)
    picture(browser, "start")
    assert "gridkeep" in text(browser).lower()
