"""Every engine runs the same network: the scores are torch's."""

from __future__ import annotations

import importlib.util
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from seamline.flows.settings.model_folder import Model
from seamline.model.engines.agreement import compute_agreement
from seamline.model.engines.candidates import list_engines_to_try
from seamline.model.engines.engines import get_input_dtype, list_precisions, open_network
from seamline.model.engines.runtime import Runtime
from seamline.model.spec.config import Engine, EngineRequest, EngineSettings, Precision
from seamline.model.spec.errors import ModelError
from seamline.model.spec.spec import ModelSpec
from tests.support.engines import CONVERTED, PLAIN, measure_engines, skip_without
from tests.support.small_models import make_random_network, save_model


@pytest.mark.parametrize("engine", CONVERTED)
@pytest.mark.parametrize("upsampling", ["upconv", "bilinear"])
@pytest.mark.parametrize(
    ("padding", "halo", "norm"),
    [("same", 0, "batch"), ("same", 24, "batch"), ("valid", 24, "batch"), ("same", 8, "group")],
)
def test_scores_are_those_of_torch(
    tmp_path: Path, engine: Engine, upsampling: str, padding: str, halo: int, norm: str
) -> None:
    skip_without(engine)
    network = make_random_network(padding=padding, upsampling=upsampling, norm=norm)
    spec = save_model(tmp_path, network)
    found = open_network(spec, tmp_path, EngineSettings(engine=engine, threads=1))
    inputs = [torch.randn(2, 2, 96, 96), torch.randn(1, 2, 96, 96), torch.randn(3, 2, 128, 128)]
    kept = [found(x, halo) for x in inputs]
    for x, y in zip(inputs, kept, strict=True):  # only now: a buffer that is used again would hold another's scores
        with torch.inference_mode():
            expected = network.double()(x.double(), halo).float()
        assert y.shape == (len(x), 3, x.shape[2] - 2 * halo, x.shape[3] - 2 * halo)
        torch.testing.assert_close(y, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("engine", CONVERTED)
def test_the_paper_s_size_without_a_halo(tmp_path: Path, engine: Engine) -> None:
    skip_without(engine)
    network = make_random_network(padding="valid")
    found = open_network(save_model(tmp_path, network), tmp_path, EngineSettings(engine=engine, threads=1))
    x = torch.randn(1, 2, 92, 92)
    with torch.inference_mode():
        torch.testing.assert_close(found(x, 0), network(x), rtol=0, atol=2e-5)


def test_openvino_in_bf16_is_near(tmp_path: Path) -> None:
    skip_without("openvino")
    network = make_random_network(base_width=8)
    spec = save_model(tmp_path, network)
    if "bf16" not in list_precisions(spec.network, "openvino", "cpu"):
        pytest.skip("this CPU has no bf16")
    x = torch.randn(1, 2, 128, 128)
    exact = open_network(spec, tmp_path, EngineSettings(engine="openvino", threads=1))(x, 24)
    found = open_network(spec, tmp_path, EngineSettings(engine="openvino", precision="bf16", threads=1))(x, 24)
    assert 1e-4 < float((found - exact).abs().max() / exact.std()) < 0.1  # reduced, and not by more than bf16 does


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("engine", ["torch", *CONVERTED])
def test_scores_do_not_depend_on_the_window(embedded_model: Model, engine: Engine, precision: Precision) -> None:
    """What makes tiles invisible in reduced precision too: the same bits in windows of all sizes."""
    skip_without(engine)
    spec = embedded_model.spec
    if precision not in list_precisions(spec.network, engine, "cpu"):
        pytest.skip(f"{engine} has no {precision} here")
    settings = EngineSettings("cpu", precision, channels_last=engine == "torch", threads=1, engine=engine)
    network = open_network(spec, embedded_model.folder, settings)
    layout = torch.channels_last if settings.channels_last else torch.contiguous_format
    torch.manual_seed(0)
    x = torch.randn(1, 6, 416, 416, dtype=get_input_dtype(settings))
    with torch.inference_mode():
        whole = network(x.contiguous(memory_format=layout), 96)
        for size, start in ((256, 0), (256, 16), (336, 48)):
            part = x[..., start : start + size, start : start + size].contiguous(memory_format=layout)
            inner = (..., *(slice(start, start + size - 192),) * 2)
            assert torch.equal(network(part, 96), whole[inner])


def test_compiled_by_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the minutes of a C++ compiler: what torch traces is run as it is."""
    compiler = torch.compile
    monkeypatch.setattr(torch, "compile", lambda module, dynamic: compiler(module, dynamic=dynamic, backend="eager"))
    network = make_random_network()
    found = open_network(save_model(tmp_path, network), tmp_path, EngineSettings(engine="compiled"))
    x = torch.randn(2, 2, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(found(x, 16), network(x, 16), rtol=0, atol=2e-5)


@pytest.mark.parametrize(("engine", "extra"), [("onnxruntime", "onnx"), ("openvino", "openvino")])
@pytest.mark.parametrize("missing", ["the engine", "onnx"])
def test_without_its_package_an_engine_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: Engine, extra: str, missing: str
) -> None:
    monkeypatch.setitem(sys.modules, engine if missing == "the engine" else "onnx", None)
    spec = save_model(tmp_path, make_random_network())
    for use in (
        lambda: open_network(spec, tmp_path, EngineSettings(engine=engine)),
        lambda: measure_engines(spec, tmp_path, EngineRequest("cpu", engine=engine)),
    ):
        with pytest.raises(
            ModelError, match=rf"--engine: got {engine}, .* pip install 'seamline\[{extra}\]'"
        ) as caught:
            use()
        assert "\n" not in str(caught.value)
    assert engine not in list_engines_to_try(spec.network, "cpu")


def test_precisions_and_engines_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    skip_without("onnxruntime")
    spec = save_model(tmp_path, make_random_network())
    with pytest.raises(
        ModelError, match="--precision: got bf16, expected fp32, in which networks are run here by onnx"
    ):
        open_network(spec, tmp_path, EngineSettings(engine="onnxruntime", precision="bf16"))
    with pytest.raises(ValueError, match="engine: got 'tensorrt', expected one of"):
        EngineSettings(engine="tensorrt")  # type: ignore[arg-type]


@pytest.fixture
def program(tmp_path: Path) -> tuple[torch.nn.Module, ModelSpec, Path]:
    """An ONNX program of any batch and size, in a model folder."""
    if importlib.util.find_spec("onnx") is None or importlib.util.find_spec("onnxruntime") is None:
        pytest.skip("the extra onnx is not installed")
    from seamline.flows.training.importing import import_model
    from tests.support.foreign_networks import DESCRIBED, save_network

    network = make_random_network()
    return (
        network,
        import_model(save_network(network, tmp_path / "x.onnx"), DESCRIBED, tmp_path / "model"),
        tmp_path / "model",
    )


def test_an_onnx_program_is_the_same_in_both_engines(program: tuple[torch.nn.Module, ModelSpec, Path]) -> None:
    skip_without("openvino")
    network, spec, folder = program
    x = np.random.default_rng(1).standard_normal((3, 2, 64, 64)).astype(np.float32)
    with torch.inference_mode():
        normalised = (torch.from_numpy(x) - torch.tensor([b.mean for b in spec.bands])[:, None, None]) / torch.tensor(
            [b.std for b in spec.bands]
        )[:, None, None]
        expected = network(normalised, 8)
    for engine in CONVERTED:
        runtime = Runtime(spec, folder, EngineSettings(batch=2, engine=engine, threads=1), PLAIN, 8)
        found = torch.stack(list(runtime.predict(list(x), [np.ones((64, 64), bool)] * 3)))
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)
    found = measure_engines(spec, folder, EngineRequest("cpu"))
    assert {trial.settings.engine for trial in found.trials} == set(CONVERTED)


def test_a_program_is_refused_where_it_cannot_run(program: tuple[torch.nn.Module, ModelSpec, Path]) -> None:
    _, spec, folder = program
    for wish in (EngineRequest("cpu", engine="torch"), EngineRequest("cpu", engine="compiled")):
        with pytest.raises(
            ModelError, match=f"--engine: got {wish.engine}, expected onnxruntime or openvino, which run"
        ):
            measure_engines(spec, folder, wish)
    with pytest.raises(ModelError, match="--precision: got bf16, expected fp32, in which onnx programs are run"):
        measure_engines(spec, folder, EngineRequest("cpu", "bf16"))


def test_a_sample_agrees_as_far_as_its_worst_quarter() -> None:
    reference = np.zeros((10, 12), np.uint8)
    labels = reference.copy()
    assert compute_agreement(labels, reference) == 1
    labels[5:, :6] = [[1, 1, 1, 0, 0, 0]]  # half of the lower left quarter; of the whole an eighth
    assert compute_agreement(labels, reference) == 0.5


@pytest.mark.parametrize("engine", CONVERTED)
def test_one_process_converts_for_two_scenes_at_once(tmp_path: Path, engine: Engine) -> None:
    skip_without(engine)
    spec = save_model(tmp_path, make_random_network())
    networks = [open_network(spec, tmp_path, EngineSettings(engine=engine, threads=1)) for _ in range(6)]
    x = torch.randn(1, 2, 96, 96)
    with ThreadPoolExecutor(len(networks)) as pool:
        first, *others = pool.map(lambda network: network(x, 24), networks)
    assert all(torch.equal(first, other) for other in others)


def test_fp32_on_cuda_is_not_rounded_to_tf32(tmp_path: Path) -> None:
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    spec = save_model(tmp_path, make_random_network())
    Runtime(spec, tmp_path, EngineSettings(threads=1), PLAIN, 8)
    assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32
