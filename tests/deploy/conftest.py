"""The networks, and their conversions, that the tests of exports share."""

import hashlib
import shutil

import exporting
import onnx
import pytest
import safetensors.torch

from forcetune.deploy import files, writing


@pytest.fixture(scope="module")
def module_folder(tmp_path_factory, empty_mlflow):
    """Make a folder with an MLflow store, which is the current one of a module of tests."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("searched")
        shutil.copy(empty_mlflow, folder / "mlflow.db")
        patch.chdir(folder)
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "FORCETUNE_STORAGE", "FORCETUNE_STATE"):
            patch.delenv(name, raising=False)
        yield folder


@pytest.fixture(scope="session")
def trained():
    """Return a trained network with convolutions, batch norm and shortcuts."""
    return exporting.train()


@pytest.fixture(scope="session")
def trained_mlp():
    """Return a trained network without batch norm, which is exported within a second."""
    trial = exporting.CONVOLUTIONAL_TRIAL.model_copy(update={"model": "mlp", "width": 24})
    return exporting.train(trial)


@pytest.fixture(scope="session")
def conversions():
    """Return the networks in ONNX that tests have converted, by input format, structure and weights."""
    return {}


@pytest.fixture(scope="module")
def converted_once(conversions):
    """Convert each network once in a session, since torch takes seconds for it; metadata are those of each call."""

    def make_onnx(module, input_format, metadata):
        key = (repr(input_format), *find_identity(module))
        if key not in conversions:
            conversions[key] = writing.make_onnx(module, input_format, {})
        model = onnx.load_from_string(conversions[key])
        for name, text in metadata.items():
            model.metadata_props.add(key=writing.METADATA_PREFIX + name, value=text)
        return model.SerializeToString()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "make_onnx", make_onnx)
        yield


def find_identity(module):
    """Return the structure of a network, and a hash of its weights."""
    weights = {name: tensor.clone().contiguous() for name, tensor in module.state_dict().items()}
    code = "".join(getattr(part, "code", type(part).__qualname__) for part in module.modules())
    return f"{module} {code}", hashlib.sha256(safetensors.torch.save(weights)).hexdigest()
