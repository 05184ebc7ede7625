"""Share one Dask cluster between all scenes of a flow run; connect on first use, and again after a loss."""

from __future__ import annotations

from contextlib import ExitStack
from threading import Lock
from types import TracebackType

from distributed import Client

from seamline.flows.runs.planning import connect_workers, count_workers
from seamline.flows.settings.options import SegmentOptions
from seamline.pipeline.common.errors import RunError


class ClusterSession:
    """A context that owns a Dask client, which is connected on first use.

    Leaving it closes the client, also for other threads whose runs use it; their runs end with a ``RunError``.
    """

    def __init__(self, options: SegmentOptions, workers: int | None = None) -> None:
        """Keep what names the cluster; connects nothing.

        Args:
            options: name the cluster, and the credentials of its workers.
            workers: processes of a local cluster, 0 for this one; None for as many as the options and the machine say.
        """
        self._options, self._workers = options, workers
        self._lock = Lock()
        self._stack = ExitStack()
        self._client: Client | None = None
        self._closed = False

    def get_client(self) -> Client:
        """Return the client, which all threads share; connect if there is none or its cluster is lost.

        Raises:
            InputError: there is no cluster at the address.
            RunError: the context has been left.
        """
        with self._lock:
            if self._closed:
                raise RunError("the flow run has ended; what was done is kept")
            if self._client is None or self._client.status != "running":
                self._stack.close()
                options = self._options
                workers = count_workers(options) if self._workers is None else self._workers
                cluster = connect_workers(options, workers)
                self._client = self._stack.enter_context(cluster)
            return self._client

    def __enter__(self) -> ClusterSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._lock:
            self._closed = True
            self._stack.close()
