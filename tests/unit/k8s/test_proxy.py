"""Which proxy leads to a server: as kubectl would have it."""

import pytest

from meta_cni.cni.errors import BadConfig
from meta_cni.k8s.proxy import Proxy, is_excluded, of_environment, parse

SERVICE, SERVICE_6 = "https://10.96.0.1:443", "https://[fd00:10:96::1]:443"
NAMED = "https://api.example.com:6443"
HERE = "http://proxy:3128"


@pytest.mark.parametrize(
    ("server", "environment", "expected"),
    [
        (SERVICE, {}, None),
        (SERVICE, {"HTTPS_PROXY": HERE}, Proxy(HERE)),
        (SERVICE, {"https_proxy": HERE}, Proxy(HERE)),
        (SERVICE, {"HTTPS_PROXY": HERE, "https_proxy": "http://other:1"}, Proxy(HERE)),
        (SERVICE, {"HTTPS_PROXY": "", "https_proxy": HERE}, Proxy(HERE)),
        (SERVICE, {"HTTP_PROXY": HERE, "ALL_PROXY": HERE}, None),
        ("http://10.96.0.1:8080", {"HTTP_PROXY": HERE, "HTTPS_PROXY": "http://other:1"}, Proxy(HERE)),
        (SERVICE_6, {"HTTPS_PROXY": "http://[fd00::8]:3128"}, Proxy("http://[fd00::8]:3128")),
        (SERVICE, {"HTTPS_PROXY": "proxy:3128"}, Proxy(HERE)),
        (SERVICE, {"HTTPS_PROXY": "https://proxy/"}, Proxy("https://proxy")),
        (SERVICE, {"HTTPS_PROXY": "http://me:p%40ss@proxy:3128"}, Proxy(HERE, "me:p@ss")),
        (SERVICE, {"HTTPS_PROXY": HERE, "NO_PROXY": "10.96.0.1"}, None),
        (SERVICE, {"HTTPS_PROXY": HERE, "no_proxy": "10.96.0.1"}, None),
        (SERVICE, {"HTTPS_PROXY": HERE, "NO_PROXY": "10.0.0.1", "no_proxy": "10.96.0.1"}, Proxy(HERE)),
    ],
)
def test_the_proxy_of_the_environment(server: str, environment: dict[str, str], expected: Proxy | None):
    """By the scheme; capitals first."""
    assert expected == of_environment(server, environment)


@pytest.mark.parametrize(
    ("server", "no_proxy", "expected"),
    [
        (SERVICE, "", False),
        (SERVICE, " , ,", False),
        (SERVICE, "*", True),
        (SERVICE, "example.com, 10.96.0.1", True),
        (SERVICE, "10.96.0.2", False),
        (SERVICE, "10.96.0.0/12", True),
        (SERVICE, "10.96.0.9/12", True),
        (SERVICE, "10.112.0.0/12", False),
        (SERVICE, "10.96.0.0/x", False),
        (SERVICE, "10.96.0.1:443", True),
        ("https://10.96.0.1", "10.96.0.1:443", True),
        (SERVICE, "10.96.0.1:6443", False),
        (SERVICE, "0.1", False),
        (SERVICE, "fd00::/8", False),
        (SERVICE_6, "fd00:10:96:0:0::1", True),
        (SERVICE_6, "[fd00:10:96::1]:443", True),
        (SERVICE_6, "[fd00:10:96::1]:6443", False),
        (SERVICE_6, "[fd00:10:96::1]", True),
        (SERVICE_6, "fd00:10:96::/112", True),
        (SERVICE_6, "fd00:10:97::/112", False),
        (SERVICE_6, "10.0.0.0/8", False),
        (NAMED, "example.com", True),
        (NAMED, "API.Example.COM", True),
        (NAMED, ".example.com", True),
        (NAMED, "*.example.com", True),
        (NAMED, "example.com:6443", True),
        (NAMED, "example.com:443", False),
        (NAMED, "ample.com", False),
        ("https://example.com", ".example.com", False),
        ("https://example.com", "*.example.com", False),
        (NAMED, "10.0.0.0/8", False),
        (NAMED, ":6443", False),
        ("https://localhost:6443", "", True),
        ("https://127.0.0.2:6443", "", True),
        ("https://[::1]:6443", "", True),
    ],
)
def test_who_is_asked_directly(server: str, no_proxy: str, expected: bool):
    """Addresses, prefixes, domains, ports, and always what is here."""
    assert expected == is_excluded(server, no_proxy)


@pytest.mark.parametrize(
    "text",
    [
        "proxy:3128",
        "socks5://proxy:1080",
        "ftp://proxy",
        "http://",
        "http://:3128",
        "http://proxy:99999",
        "http://proxy:port",
        "http://[::1",
        "http://proxy/path",
        "http://proxy?query",
    ],
)
def test_a_proxy_that_is_none_is_refused(text: str):
    """Also one that we cannot use: what is in a kubeconfig is not passed over."""
    with pytest.raises(
        BadConfig, match=r"^proxy-url: proxy '.*': expected http://\[USER:PASSWORD@\]HOST:PORT or"
    ):
        parse(text, "proxy-url")


def test_the_variable_is_named():
    """Where there are so many of them."""
    with pytest.raises(BadConfig, match="environment https_proxy: proxy 'socks5://proxy': expected"):
        of_environment(SERVICE, {"https_proxy": "socks5://proxy"})


def test_a_password_is_told_to_the_proxy_alone():
    """Not to whoever reads an error."""
    with pytest.raises(BadConfig) as caught:
        parse("http://me:secret@proxy:x", "proxy-url")

    assert "'http://proxy:x'" in caught.value.message
    assert "secret" not in caught.value.message + repr(parse("http://me:secret@proxy:1", ""))
    assert {"proxy-authorization": "Basic bWU6c2VjcmV0"} == parse("http://me:secret@proxy:1", "").headers
