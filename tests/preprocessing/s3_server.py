"""An S3 server on loopback for tests."""

import os
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from preprocessing.storage import open_storage


@contextmanager
def s3_bucket() -> Iterator[str]:
    """The URI of an empty bucket; the test is skipped where moto or s3fs is absent."""
    pytest.importorskip("s3fs", reason="s3fs is absent: pip install s3fs")
    server_module = pytest.importorskip("moto.server", reason="moto is absent: pip install 'moto[s3]'")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    endpoint = "http://{}:{}".format(*server.get_host_and_port())
    # moto keeps buckets in the process, not in the server: an earlier one's are still there
    urllib.request.urlopen(urllib.request.Request(f"{endpoint}/moto-api/reset", method="POST")).close()
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        patch.setenv("AWS_ENDPOINT_URL", endpoint)
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        filesystem = getattr(open_storage("s3://lab"), "filesystem")  # noqa: B009 - Storage does not promise it
        filesystem.clear_instance_cache()
        getattr(open_storage("s3://lab"), "filesystem").mkdir("lab")  # noqa: B009
        yield "s3://lab"
        filesystem.clear_instance_cache()
    server.stop()
