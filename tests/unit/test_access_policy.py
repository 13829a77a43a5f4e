"""What the settings mean for access: addresses, tokens, links, and attempts."""

from __future__ import annotations

from typing import Any

import pytest
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from chatglm_backend.access.announce import announcement
from chatglm_backend.access.policy import policy_from
from chatglm_backend.access.server import server_options
from chatglm_backend.access.throttle import AttemptThrottle
from chatglm_backend.access.tokens import lan_addresses, new_token, qr_svg, qr_text, sign_in_url
from chatglm_backend.errors import ConfigError
from chatglm_backend.sentences import Sentence
from chatglm_backend.settings import Settings, load_settings


def test_by_default_only_this_machine_is_served_and_no_token_asked_for() -> None:
    """The page opens without ceremony for its owner."""
    policy = policy_from(Settings())
    assert (policy.bind_host, policy.required, policy.token, policy.listening) == ("127.0.0.1", False, None, False)


@pytest.mark.parametrize(
    ("settings", "bind"),
    [
        (Settings(listen=True), "0.0.0.0"),  # noqa: S104
        (Settings(listen=True, host="192.168.1.5"), "192.168.1.5"),
        (Settings(listen=True, host="127.0.0.1"), "127.0.0.1"),
        (Settings(host="192.168.1.5"), "192.168.1.5"),
        (Settings(host="0.0.0.0"), "0.0.0.0"),  # noqa: S104
    ],
)
def test_sharing_always_makes_a_token(settings: Settings, bind: str) -> None:
    """However the network is reached, and a new one each time."""
    policy = policy_from(settings)
    assert policy.bind_host == bind
    assert policy.required
    assert policy.token is not None
    assert len(policy.token) >= 32
    assert policy.token != policy_from(settings).token


def test_a_token_or_a_login_is_asked_for_on_this_machine_too() -> None:
    """Whoever sets one wants it checked."""
    assert policy_from(Settings(token="chosen-token")).required  # noqa: S106
    with_login = policy_from(Settings(auth="ada:secret"))
    assert with_login.required
    assert with_login.token is None
    assert with_login.secrets == ("ada:secret",)
    shown = repr(policy_from(Settings(token="chosen-token", auth="ada:secret")))  # noqa: S106
    assert "chosen" not in shown
    assert "secret" not in shown


def test_only_the_word_insecure_switches_the_check_off() -> None:
    """And it contradicts every other wish."""
    policy = policy_from(Settings(insecure_listen=True))
    assert (policy.bind_host, policy.required, policy.insecure) == ("0.0.0.0", False, True)  # noqa: S104
    for wish in (Settings(insecure_listen=True, listen=True), Settings(insecure_listen=True, auth="a:b")):
        with pytest.raises(ConfigError, match="insecure_listen"):
            policy_from(wish)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("token", "short"),
        ("token", "with a space"),
        ("token", "密码密码密码密码密码"),
        ("auth", "nocolon"),
        ("auth", ":x"),
        ("auth", "x:"),
        ("allowed_hosts", "*"),
        ("trusted_proxies", ("*",)),
        ("trusted_proxies", ("10.0.0.1/8",)),
        ("allow_origin", ("*",)),
        ("allow_origin", ("http://localhost:3000/app",)),
        ("root_path", "chat"),
        ("root_path", "//elsewhere"),
        ("tls_cert", "/nowhere/cert.pem"),
        ("tls_key", __file__),  # a certificate belongs to it
    ],
)
def test_what_cannot_work_is_refused_without_repeating_secrets(name: str, value: Any) -> None:
    """The message names the setting."""
    with pytest.raises(ConfigError, match=name) as caught:
        policy_from(Settings(**{name: value}))  # type: ignore[arg-type]
    assert name not in ("token", "auth") or value not in str(caught.value)


def test_names_of_the_server_come_from_the_settings() -> None:
    """Lower case, without blanks."""
    policy = policy_from(Settings(allowed_hosts=" GLM.example.org , glm.lan:8443,"))
    assert {"localhost", "glm.example.org", "glm.lan:8443"} <= policy.hosts
    assert "" not in policy.hosts
    apps = load_settings({}, {"CHATGLM_ALLOW_ORIGIN": "http://localhost:3000,https://App.example.org/"})
    assert policy_from(apps).origins == {"http://localhost:3000", "https://app.example.org"}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("http", "192.168.1.5", 7860), "http://192.168.1.5:7860/?token=a%2Bb"),
        (("https", "glm.lan", 443), "https://glm.lan/?token=a%2Bb"),
        (("http", "fd00::1", 80), "http://[fd00::1]/?token=a%2Bb"),
    ],
)
def test_links_carry_the_token(arguments: tuple[str, str, int], expected: str) -> None:
    """Quoted, and the usual ports left out."""
    assert sign_in_url(*arguments, token="a+b") == expected  # noqa: S106
    assert f"?token={(token := new_token())}" in sign_in_url(*arguments, token=token)  # can be typed from a screen


def test_qr_codes_are_made_for_terminal_and_page() -> None:
    """Text in lines of one width, and an SVG without scripts."""
    url = "http://192.168.1.5:7860/?token=abc"
    assert len(qr_text(url).splitlines()) > 10
    assert qr_svg(url).startswith("<svg")
    assert qr_svg(url) != qr_svg(url + "d")


def test_addresses_of_this_machine_leave_loopback_out() -> None:
    """They are read from the network cards, and nothing is sent."""
    for address in (*lan_addresses(), *lan_addresses(ipv6=True)):
        assert not address.startswith(("127.", "169.254.", "::1", "fe80"))


def test_the_list_of_wrong_attempts_is_bounded() -> None:
    """A flood of addresses takes no memory, and the latest are kept."""
    throttle = AttemptThrottle(1, max_addresses=3, clock=lambda: 0.0)
    for number in range(50):
        throttle.failed(f"10.0.0.{number}")
    assert len(throttle) == 3
    assert throttle.wait_s("10.0.0.49") == 60.0
    assert throttle.wait_s("10.0.0.1") == 0.0


def test_one_ipv6_visitor_is_one_address() -> None:
    """Changing the last 64 bits does not help; another network is another visitor."""
    throttle = AttemptThrottle(2, clock=lambda: 0.0)
    throttle.failed("2001:db8::1")
    throttle.failed("2001:db8::2%eth0")
    assert throttle.wait_s("2001:db8::3") > 0
    assert throttle.wait_s("2001:db8:0:1::1") == 0


def test_wrong_ones_are_forgiven_one_by_one() -> None:
    """Some at once, and then as many in a minute: nobody waits a whole minute for one more."""
    now = [0.0]
    throttle = AttemptThrottle(2, 60.0, clock=lambda: now[0])
    for at, waits in ((0.0, 0.0), (0.0, 30.0), (30.0, 30.0), (100.0, 0.0)):
        now[0] = at
        throttle.failed("10.0.0.1")
        assert throttle.wait_s("10.0.0.1") == waits


def test_only_named_proxies_are_believed() -> None:
    """None by itself, not even one on this machine; IPv4 in both forms that a socket may give it."""
    assert server_options(policy_from(Settings()), Settings())["forwarded_allow_ips"] == []
    settings = load_settings({}, {"CHATGLM_TRUSTED_PROXIES": "127.0.0.1, 10.0.0.0/8,fd00::/8"})
    believed = server_options(policy_from(settings), settings)["forwarded_allow_ips"]
    trusted = ProxyHeadersMiddleware(lambda: None, believed).trusted_hosts  # type: ignore[arg-type]
    seen = ("127.0.0.1", "::ffff:127.0.0.1", "10.1.2.3", "::ffff:10.1.2.3", "fd00::5", "127.0.0.2", "::1", "11.0.0.1")
    assert [address in trusted for address in seen] == [True] * 5 + [False] * 3


def test_what_is_said_at_the_start_names_every_way_in() -> None:
    """Each address with the token, and the first as a picture where one can be shown."""
    policy = policy_from(Settings(listen=True, token="chosen-token"))  # noqa: S106
    lines = announcement(policy, picture=True, addresses=("192.168.1.5", "10.0.0.5"))
    assert lines[:3] == (
        "http://127.0.0.1:7860/?token=chosen-token",
        "On the network: http://192.168.1.5:7860/?token=chosen-token",
        "On the network: http://10.0.0.5:7860/?token=chosen-token",
    )
    assert lines[3] == qr_text("http://192.168.1.5:7860/?token=chosen-token")
    assert announcement(policy, picture=False, addresses=()) == lines[:1]


def test_a_private_server_names_one_address_and_an_open_one_its_danger() -> None:
    """Without a token in either."""
    assert announcement(policy_from(Settings()), picture=True) == ("http://127.0.0.1:7860/",)
    lines = announcement(policy_from(Settings(insecure_listen=True)), picture=False, addresses=("10.0.0.5",))
    assert lines[1:] == ("On the network: http://10.0.0.5:7860/", str(Sentence("announce.insecure")))
    chosen = announcement(policy_from(Settings(host="192.168.1.5", auth="ada:secret")), picture=False)
    assert (len(chosen), chosen[0]) == (2, "http://192.168.1.5:7860/")  # named once, without the login
    assert "secret" not in "".join(chosen)
