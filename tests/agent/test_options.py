"""The options in ceilometer.conf: whatever is written there, nothing that looks at them fails."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest
from oslo_config import cfg

from virtmeter.ceilometer import options

if TYPE_CHECKING:
    from pathlib import Path


def configured(tmp_path: Path, line: str) -> cfg.ConfigOpts:
    file = tmp_path / "ceilometer.conf"
    file.write_text(f"[virtmeter]\n{line}\n")
    conf = cfg.ConfigOpts()
    options.register(conf)
    conf([], default_config_files=[str(file)], default_config_dirs=[])
    return conf


SECONDS = "is not a number from 0.01 to 86400"
DOLLAR = "what follows a $ in it is no option; write $$ where a $ is meant"
MANY = "9" * 5000
URI = (
    "uri: it does not begin with vsphere:// or xenserver://; write it like "
    "vsphere://USER@HOST/?password_file=FILE, or, if libvirt is meant, set libvirt_uri"
)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("enabled = maybe", "enabled: 'maybe' is not true or false"),
        ("enabled =", "enabled: '' is not true or false"),
        ("additional_meters = 2", "additional_meters: '2' is not true or false"),
        ("reckon_sizes = 2", "reckon_sizes: '2' is not true or false"),
        ("timeout = abc", f"timeout: 'abc' {SECONDS}"),
        ("timeout =", f"timeout: '' {SECONDS}"),
        ("timeout = 0", f"timeout: '0' {SECONDS}"),
        ("timeout = 1e999", f"timeout: '1e999' {SECONDS}"),
        ("timeout = nan", f"timeout: 'nan' {SECONDS}"),
        ("timeout = 5\x1b[2J\u202e", f"timeout: '5\\x1b[2J\\u202e' {SECONDS}"),
        ("timeout = $nothing", f"timeout: {DOLLAR}"),
        ("max_age = -1", "max_age: '-1' is not a number from 0 to 86400"),
        ("workers = 0", "workers: '0' is not a whole number from 1 to 1000"),
        ("workers = 3.5", "workers: '3.5' is not a whole number from 1 to 1000"),
        (f"workers = {MANY}", f"workers: '{MANY[:40]}' is not a whole number from 1 to 1000"),
        ("read_ahead = 0x10", "read_ahead: '0x10' is not a whole number from 0 to 1000"),
        ("max_stuck = 1001", "max_stuck: '1001' is not a whole number from 0 to 1000"),
        ("uri = qemu://me:s3cret@host/system", URI),
        ("uri =", URI),
        ("uri = vsphere://me:$s3cret@127.0.0.1/", f"uri: {DOLLAR}"),
        ("uri = vsphere://me:${s3.cret}@127.0.0.1/", f"uri: {DOLLAR}"),
    ],
)
def test_a_wrong_value_is_told_and_nothing_fails(tmp_path: Path, line: str, told: str) -> None:
    conf = configured(tmp_path, line)
    assert options.mistakes(conf) == [f"[virtmeter] {told}"]
    assert options.mistakes(conf) == [f"[virtmeter] {told}"], "however often it is asked"
    conf.log_opt_values(logging.getLogger(__name__), logging.DEBUG)
    assert options.additional_meters(conf) is False
    with pytest.raises(ValueError, match="virtmeter") as caught:
        options.limits(conf)
    assert str(caught.value) == f"[virtmeter] {told}"


def test_all_wrong_values_are_told_at_once(tmp_path: Path) -> None:
    conf = configured(tmp_path, "timeout = x\nworkers = y")
    assert [each.split(":")[0] for each in options.mistakes(conf)] == [
        "[virtmeter] timeout",
        "[virtmeter] workers",
    ]


def test_right_values_are_taken(tmp_path: Path) -> None:
    given = "timeout = 2\nadditional_meters = yes\nworkers = 3\nreckon_sizes = no"
    conf = configured(tmp_path, given)
    assert options.mistakes(conf) == []
    assert options.additional_meters(conf) is True
    limits = {"timeout": 2.0, "workers": 3, "read_ahead": 16, "max_stuck": 12}
    assert options.limits(conf) == {**limits, "reckon_sizes": False, "all_vnics": False}


def test_a_pool_has_the_options_that_are_not_libvirts_alone(tmp_path: Path) -> None:
    given = "uri = XENSERVER://monitor@h/\nworkers = 3\nall_vnics = yes\nmax_age = 2"
    conf = configured(tmp_path, given)
    assert options.mistakes(conf) == []
    assert options.limits(conf) == {"timeout": 5.0, "max_age": 2.0, "read_ahead": 16}
    for opt in options.OPTS:
        is_libvirts = opt.name not in options.OF_POOLS and opt.name in options.OF_LIBVIRT
        assert str(opt.help).endswith("Only with libvirt.") == is_libvirts, opt.name


def test_no_password_in_a_uri_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    conf = configured(tmp_path, "uri = xenserver://me:s3cret@h/")
    with caplog.at_level(logging.DEBUG):
        conf.log_opt_values(logging.getLogger(__name__), logging.DEBUG)
    assert "virtmeter.uri" in caplog.text
    assert "s3cret" not in caplog.text
