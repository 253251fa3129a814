"""The state a run starts from when it continues a model in the Hugging Face Llama layout (`model.initial`).

Read stage by stage with numpy alone, so that a coordinator without torch can serve it to its peers. The optimizer's
moments are zero, as in a run that starts from its seed.
"""

import hashlib
from pathlib import Path

import numpy as np

from swarmtrain.checkpoint.llama_config import check_fits
from swarmtrain.checkpoint.llama_names import names_shapes, stage_tensors
from swarmtrain.checkpoint.stage_file import StageState
from swarmtrain.checkpoint.tensor_files import TensorFiles, weights_sha256
from swarmtrain.core.config import ModelSection
from swarmtrain.core.errors import ModelError
from swarmtrain.core.layout import flat_layout
from swarmtrain.core.types import Digest


class InitialModel:
    """The stages of `model.initial`, as they are before the first step."""

    def __init__(self, model: ModelSection) -> None:
        """Reads every byte once, to hold the folder to `model.initial_sha256`.

        Raises:
            ModelError: the folder is missing, damaged, of another shape than `model`, or has other weights.
        """
        self.model, self.folder = model, Path(model.initial)
        check_fits(self.folder, model)
        found = weights_sha256(self.folder)
        if found != model.initial_sha256:
            raise ModelError(
                f"the weights in {self.folder} are not those of the run",
                f"they hash to {found[:12]}, model.initial_sha256 is {model.initial_sha256[:12]}",
                "put the right weights there, or write a new RUN.toml with config init --from-hf",
            )
        self._files = TensorFiles(self.folder)

    @property
    def base(self) -> Digest:
        """Names the state before the first step. It is not that of a run that starts from its seed."""
        named = b"swarmtrain imported " + bytes.fromhex(self.model.initial_sha256)
        return hashlib.sha256(named).digest()

    def stage(self, stage: int) -> StageState:
        """The state of one stage. Raises ModelError when a tensor is missing, misshapen or not finite."""
        tensors = stage_tensors(self.model, self.model.vocab_size, stage)
        offsets, total_elements = flat_layout([tensor.shape for tensor in tensors])
        parameters = np.zeros(total_elements, dtype=np.float32)
        for offset, tensor in zip(offsets, tensors, strict=True):
            values = self._files.read(tensor.hub, tensor.shape).ravel()
            if not np.isfinite(values).all():
                raise ModelError(
                    f"the tensor {tensor.hub} of {self.folder} holds infinity or NaN",
                    "nothing can be learnt from such values",
                    "take another copy of the model",
                )
            parameters[offset : offset + values.size] = values
        moments = (np.zeros_like(parameters), np.zeros_like(parameters))
        return StageState(stage, names_shapes(tensors), parameters, *moments)

    def check(self) -> None:
        """Read every stage, so that a bad tensor is found before a run waits for it. Raises ModelError."""
        for stage in range(self.model.stages + 1):
            self.stage(stage)
