"""What an sshd log's lines tell of logins."""

from tests.quality.logins import logins_in

LINES = """\
Mar 27 13:06:56 host sshd[1291]: Server listening on 0.0.0.0 port 22.
Mar 27 13:08:09 host sshd[1361]: Accepted publickey for ubuntu from 10.0.0.1 port 55 ssh2: RSA x
Mar 27 13:08:10 host sshd[1362]: Invalid user pi from 10.0.0.2
Mar 27 13:08:11 host sshd[1362]: Failed password for invalid user pi from 10.0.0.2 port 7 ssh2
Apr  1 22:52:12 host sshd[1363]: message repeated 2 times: [ Failed password for root from 10.0.0.3 port 9 ssh2]
Apr  1 22:52:13 host CRON[7]: pam_unix(cron:session): session opened for user root by (uid=0)
"""


def test_each_attempt_is_an_event() -> None:
    """Accepted, failed and refused ones, a repeated message as often as it was; nothing else."""
    found = [(one.ip, one.user, one.outcome) for one in logins_in(LINES.splitlines())]
    assert found == [
        ("10.0.0.1", "ubuntu", "success"),
        ("10.0.0.2", "pi", "unknown_user"),
        ("10.0.0.2", "pi", "failure"),
        ("10.0.0.3", "root", "failure"),
        ("10.0.0.3", "root", "failure"),
    ]
    assert [f"{one.at:%d %H:%M:%S}" for one in logins_in(LINES.splitlines())][-1] == "01 22:52:12"
