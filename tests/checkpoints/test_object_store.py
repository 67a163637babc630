"""Checkpoints in an object store: a real S3-compatible server, through the client that Eddy uses.

The server is moto's; it checks signatures and permissions. EDDY_TEST_S3 names a bucket of another
server instead (s3://bucket/prefix; endpoint and credentials from AWS_*).
"""

import os
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import boto3
import orjson
import pytest
from moto.server import ThreadedMotoServer

from stream.checkpoints import store
from stream.checkpoints.store import Folder, open_store, topics_of
from stream.errors import CheckpointCorrupt, StoreFailure
from tests.checkpoints.builders import folder, written_checkpoint
from tests.checkpoints.test_store import arrays, read
from tests.streams import same

ALLOWED: Final = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}
POLICY: Final = {"Version": "2012-10-17", "Statement": [ALLOWED]}
LISTED_MAX: Final = 1_000
"""Objects that S3 lists in one answer."""


@pytest.fixture(scope="module")
def server() -> Iterator[dict[str, str]]:
    """The environment of a client of a server with an empty bucket, its credentials among it."""
    if "EDDY_TEST_S3" in os.environ:
        yield {}
        return
    moto = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    moto.start()
    try:
        host, port = moto.get_host_and_port()
        yield prepared(f"http://{host}:{port}")
    finally:
        moto.stop()


def prepared(url: str) -> dict[str, str]:
    """A bucket, a user who may use it, and from then on nobody without credentials."""
    known = {"aws_access_key_id": "any", "aws_secret_access_key": "any"}
    s3, iam = (boto3.client(name, "us-east-1", endpoint_url=url, **known) for name in ("s3", "iam"))
    s3.create_bucket(Bucket="bucket")
    iam.create_user(UserName="eddy")
    policy = orjson.dumps(POLICY).decode()
    iam.put_user_policy(UserName="eddy", PolicyName="all", PolicyDocument=policy)
    key = iam.create_access_key(UserName="eddy")["AccessKey"]
    text = {"Content-Type": "text/plain"}
    request = urllib.request.Request(f"{url}/moto-api/reset-auth", b"0", text, method="POST")  # noqa: S310 - our own
    urllib.request.urlopen(request).close()  # noqa: S310
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": key["AccessKeyId"],
        "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"],
    }


@pytest.fixture
def url(server: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    """A place of its own in the bucket, and the environment that leads to it."""
    for name, text in server.items():
        monkeypatch.setenv(name, text)
    monkeypatch.setitem(store.REMOTE, "retry_config", {"max_retries": 1})
    return f"{os.environ.get('EDDY_TEST_S3', 's3://bucket')}/{time.time_ns()}"


def assert_refused(objects: Folder, message: str) -> None:
    """Listing, reading and writing raise the store's error, with its code."""
    for ask in (
        objects.names,
        lambda: objects.put_block("0" * 32, b"block"),
        lambda: topics_of(objects._objects, "group"),
    ):
        with pytest.raises(StoreFailure, match=f"group.*{message}$"):
            ask()


def test_an_object_store_is_a_store(url: str) -> None:
    """Checkpoints are written, listed, read, collected and missed as in a folder."""
    objects = open_store(url)
    one = folder(objects)
    names = [written_checkpoint(one, 10 * seed, arrays(seed)).name for seed in range(4)]
    assert one.names() == names[::-1]
    assert topics_of(objects, "group") == ["shop-events"]
    assert one.collect(names[:0:-1], lambda: True) > 0
    assert one.names() == names[:1:-1]
    assert same(read(folder(objects), names[3])["words"], arrays(3)["words"])
    with pytest.raises(CheckpointCorrupt, match=f"{names[0]}.* is missing"):
        read(folder(objects), names[0])


def test_an_object_written_again_is_replaced(url: str) -> None:
    """Two workers may write one block, and a retried write may arrive twice: the last one stands,
    whole, and is listed once."""
    one, other = folder(open_store(url)), folder(open_store(url))
    with ThreadPoolExecutor(4) as pool:
        bodies = [bytes([k]) * 100_000 for k in range(8)]
        list(pool.map(lambda body: (one if body[0] % 2 else other)._put("blocks/x", body), bodies))
    one._put("blocks/x", b"last")
    assert other._get(f"{one.path}/blocks/x", 4) == b"last"
    listed = [each["path"] for each in one._listed(one.path)]
    assert [path.rpartition("/")[2] for path in listed] == ["x"]


@pytest.mark.slow
def test_a_list_of_several_pages_is_whole(url: str) -> None:
    """More objects than one answer holds are all listed, and all removed in one call."""
    objects = folder(open_store(url))
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda k: objects._put(f"blocks/{k:032x}", b""), range(LISTED_MAX + 50)))
    paths = [each["path"] for each in objects._listed(objects.path)]
    assert len(paths) == LISTED_MAX + 50
    objects._delete(paths, lambda: True)
    assert list(objects._listed(objects.path)) == []


def test_removing_what_is_gone_is_no_failure(url: str) -> None:
    """Another worker may have been quicker."""
    objects = folder(open_store(url))
    objects._put("blocks/x", b"block")
    for _ in range(2):
        objects._delete([f"{objects.path}/blocks/x"], lambda: True)
    assert list(objects._listed(objects.path)) == []


@pytest.mark.skipif("EDDY_TEST_S3" in os.environ, reason="the other server has its own users")
@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("AWS_ACCESS_KEY_ID", "InvalidAccessKeyId"),
        ("AWS_SECRET_ACCESS_KEY", "SignatureDoesNotMatch"),
    ],
)
def test_wrong_credentials_are_a_failure_that_says_so(
    url: str, name: str, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither an unknown key nor a wrong secret looks like a store without checkpoints."""
    monkeypatch.setenv(name, "wrong")
    assert_refused(folder(open_store(url)), code)


def test_a_missing_bucket_is_a_failure_that_says_so(url: str) -> None:
    """It is not a group without checkpoints, which would begin from the start."""
    assert_refused(folder(open_store("s3://nowhere/prefix")), "NoSuchBucket")
