"""What every test shares: settings, models, clusters of real worker processes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import dask
import pytest
from distributed import LocalCluster
from distributed.utils import get_mp_context
from hypothesis import HealthCheck, settings

from seamline.flows.settings.model_folder import Model, open_model
from seamline.model.spec.config import UNetConfig
from tests.support.command_line import command_line
from tests.support.prefect_server import use_prefect_server
from tests.support.region_results import region_results
from tests.support.served_map import served_map
from tests.support.served_scenes import antimeridian_folder, period_folder, served_folder
from tests.support.small_map import small_map
from tests.support.small_rasters import BAND_NAMES

__all__ = [
    "antimeridian_folder",
    "command_line",
    "period_folder",
    "region_results",
    "served_folder",
    "served_map",
    "small_map",
]

# Fixtures import torch and Prefect's server themselves, which takes seconds: the controller of pytest-xdist needs
# neither, and unit tests need no server.
TESTS = Path(__file__).parent
SLOWEST_FIRST = ("system", "integration", "fuzz", "unit")
"""Folders of tests, which are their markers, too, in the order in which they begin: the longest tests come first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with its folder and begin with the folders that take the longest."""
    for item in items:
        item.add_marker(item.path.relative_to(TESTS).parts[0])
    items.sort(key=lambda item: SLOWEST_FIRST.index(item.path.relative_to(TESTS).parts[0]))


IDLE_DASK = {
    "DASK_DISTRIBUTED__ADMIN__TICK__INTERVAL": "1s",
    "DASK_DISTRIBUTED__ADMIN__SYSTEM_MONITOR__INTERVAL": "5s",
    "DASK_DISTRIBUTED__WORKER__MEMORY__MONITOR_INTERVAL": "1s",
    "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "False",
}
"""Dask's processes watch themselves up to 50 times a second. A test session keeps many that wait, and each would take
three percent of a core."""
os.environ.update(IDLE_DASK)
dask.config.refresh()
FORKED = {"distributed.worker.multiprocessing-method": "forkserver"}
WORKERS_IMPORT = ["torch", "seamline.flows.runs.segment"]
"""Shared workers are forked from a process that has imported what takes them seconds. They know the environment
variables of that process alone."""

settings.register_profile("seamline", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("seamline")


@pytest.fixture(scope="session", autouse=True)
def own_caches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Measurements and Prefect's database of the tests are their own.

    The processes of pytest-xdist share the measurements: what one has measured is not measured by the others.
    """
    home, together = tmp_path_factory.mktemp("home"), tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        together = together.parent
    os.environ["XDG_CACHE_HOME"] = str(together / "cache")
    os.environ["PREFECT_HOME"] = str(home / "prefect")
    os.environ["DO_NOT_TRACK"] = "1"
    os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
    return home


@pytest.fixture(autouse=True)
def torch_has_one_thread() -> None:
    """Torch leaves a core to the workers, and sums in one order, also after a run in this process that took more."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def dask_is_left_as_it_was() -> Iterator[None]:
    """Who computes with Dask after us, in the same process, must not find a scheduler that is gone."""
    yield
    assert dask.config.get("scheduler", None) is None


@pytest.fixture(scope="session")
def prefect_database(own_caches: Path) -> Path:
    """Folder of an empty database for Prefect servers, which the processes of pytest-xdist share."""
    return Path(os.environ["XDG_CACHE_HOME"]) / "prefect-database"


@pytest.fixture(scope="session")
def prefect(prefect_database: Path, own_caches: Path) -> Iterator[None]:
    """A Prefect server of the tests' own."""
    with use_prefect_server(prefect_database, own_caches / "prefect-server"):
        yield


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Random weights, depth 3, six bands as in the embedded model: fast, and far from smooth."""
    import torch

    from seamline.model.networks.unet import UNet
    from tests.support.small_models import save_model

    folder = tmp_path_factory.mktemp("small-model")
    torch.manual_seed(5)
    network = UNet(UNetConfig(6, 4, depth=3, base_width=4, norm="none")).eval()
    save_model(folder, network, names=BAND_NAMES, assumed_nodata=0)
    return open_model(folder)


@pytest.fixture(scope="session")
def embedded_model() -> Model:
    """The model that the package brings."""
    return open_model("land-water-cloud")


@pytest.fixture(scope="session")
def cluster() -> Iterator[Callable[[int], str]]:
    """The address of a scheduler with so many worker processes; started once, kept for the session."""
    running: dict[int, LocalCluster] = {}

    def address(workers: int) -> str:
        if workers not in running:
            with dask.config.set(FORKED):
                get_mp_context().set_forkserver_preload(WORKERS_IMPORT)
                running[workers] = LocalCluster(
                    n_workers=workers, threads_per_worker=3, processes=True, dashboard_address=None
                )
        return str(running[workers].scheduler_address)

    yield address
    for local in running.values():
        local.close()
