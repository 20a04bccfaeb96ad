"""A login without root's rights fails its own host, with one message."""

from __future__ import annotations

import pytest
from gevent import GreenletExit
from llamarig.engine.connection import require_root

from tests.engine.fake_run import fake_run

ROOT, ANNA = "@fake/root", "@fake/anna"


def test_root_passes() -> None:
    with fake_run(replies={"id -u; id -un": "0\nroot"}, deploys=[require_root]) as this:
        assert this.failed == set()


def test_another_user_fails_with_the_remedy(caplog: pytest.LogCaptureFixture) -> None:
    hosts = {ANNA: {"id -u; id -un": "1000\nanna"}, ROOT: {"id -u; id -un": "0\nroot"}}
    with pytest.raises(GreenletExit), fake_run(hosts=hosts, deploys=[require_root]):
        pass
    assert 'you log in as anna, who is not root: give the host {"_sudo": True}' in caplog.text


def test_an_audit_may_be_made_by_another_user() -> None:
    replies = {"id -u; id -un": "1000\nanna"}
    with fake_run(replies=replies, deploys=[lambda: require_root(or_any_user=True)]) as this:
        assert this.failed == set()


def test_sudo_to_another_user_than_root_fails(caplog: pytest.LogCaptureFixture) -> None:
    hosts = {name: {"id -u; id -un": f"{uid}\nbeth", "sudo -n true": "free"} for name, uid in ((ANNA, 1001), (ROOT, 0))}
    with pytest.raises(GreenletExit), fake_run(hosts=hosts, deploys=[require_root], data={"_sudo": True}):
        pass
    assert "sudo does not give root's rights on this box (its commands run as beth)" in caplog.text
