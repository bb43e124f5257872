"""Requests of the Open Inference Protocol into tensors of a version, and answers into replies."""

from typing import Final

from setpoint_inference.domain.version import Format, Manifest, VersionKey
from setpoint_inference.service.models import Attempt, ReadyModel
from setpoint_inference.service.predictions import Prediction
from setpoint_oip import datatypes, layout, parameters, tensors
from setpoint_oip.layout import Layout
from setpoint_oip.protocol import open_inference_pb2 as pb
from setpoint_runtime import errors, names
from setpoint_scoring import packing
from setpoint_scoring.packing import Feeds

PLATFORMS = {
    Format.ONNX: "onnxruntime_onnx",
    Format.SKOPS: "sklearn_skops",
    Format.EXTERNAL_OIP: "open_inference_protocol",
}
VERSION_PARAMETER = f"{parameters.PREFIX}version"

_SENT_MODELS = ("config", "file:")
"""Parameters by which other servers take a model, or another form of it, from the caller."""


class Question:
    """What a caller asks of a version."""

    def __init__(self, request: pb.ModelInferRequest) -> None:
        """Read what can be read without the version.

        Raises:
            InvalidArgumentError: There are no rows, or a parameter of ours.
        """
        parameters.ours(request.parameters, {})
        self._request = request
        self.rows = tensors.rows_of_request(request)
        self._wanted: list[layout.Spec] = []

    def pack(self, manifest: Manifest) -> Feeds:
        """Return the tensors that the version takes.

        Raises:
            InvalidArgumentError: The request does not fit the version.
            UnimplementedError: An output is wanted in another form.
        """
        request, specs = self._request, manifest.inputs
        self._wanted = Layout(manifest.outputs).wanted(request.outputs)
        inputs = Layout(specs)
        given = tensors.of_request(request, inputs.check)
        if layout.rows_of(given) != self.rows:
            raise AssertionError("the first tensor decides on the rows")
        whole = _whole(given, manifest)
        return packing.pack(inputs.columns(given), specs) if whole is None else whole

    def reply(self, key: VersionKey, prediction: Prediction) -> pb.ModelInferResponse:
        """Return what the version said."""
        request = self._request
        response = pb.ModelInferResponse(
            model_name=request.model_name, model_version=str(key.version), id=request.id
        )
        values = {name: array for name, _, array in prediction.outputs}
        made = layout.gathered(self._wanted, values, self.rows)
        tensors.fill_response(response, made, is_raw=bool(request.raw_input_contents))
        return response


def _whole(given: list[tensors.Tensor], manifest: Manifest) -> Feeds | None:
    """Return inputs that are the version's own tensors as they are, else None."""
    specs = {spec.name: spec for spec in manifest.inputs}
    if len(given) != len(specs):
        return None
    feeds = {}
    for tensor in given:
        spec, array = specs.get(tensor.name), tensor.array
        if spec is None or spec.missing or array.shape[1:] != (len(spec.columns),):
            return None
        is_own = tensor.datatype is datatypes.OF_COLUMN[spec.dtype]
        if not is_own or tensor.datatype is datatypes.BYTES:
            return None
        feeds[tensor.name] = array
    return feeds


_MAX_VERSION: Final = (1 << 63) - 1
_MAX_DIGITS: Final = len(str(_MAX_VERSION))


def key_from_names(name: str, version: str) -> VersionKey:
    """Return the version that a request names.

    Raises:
        InvalidArgumentError: No version can have that name.
    """
    names.check_name("name", name)
    # Python would also read other scripts' digits, spaces and underscores.
    is_number = version.isascii() and version.isdigit() and len(version) <= _MAX_DIGITS
    number = int(version) if is_number else 0
    if not 1 <= number <= _MAX_VERSION:
        raise errors.invalid("version", version, "must be a whole number from 1, or empty")
    return VersionKey(name, number)


def repository_model(
    request: pb.RepositoryModelLoadRequest | pb.RepositoryModelUnloadRequest,
) -> tuple[str, str]:
    """Return name and version of the model that a call is about; the version may be empty.

    Raises:
        InvalidArgumentError: The version is given twice, or is none.
        UnimplementedError: Another repository is named, or the model is sent.
    """
    check_repository(request.repository_name)
    for parameter in request.parameters:
        if parameter.startswith(_SENT_MODELS):
            raise errors.UnimplementedError(
                errors.Reason.UNIMPLEMENTED,
                f'parameters["{parameter[:100]}"]: models come from the registry alone',
            )
        if parameter.startswith(parameters.PREFIX) and parameter != VERSION_PARAMETER:
            rule = f"is not known; there are: {VERSION_PARAMETER}"
            path, reason = f'parameters["{parameter[:100]}"]', errors.Reason.UNKNOWN_FIELD
            raise errors.invalid(path, parameter, rule, reason)
    name, _, version = request.model_name.partition("/")
    if VERSION_PARAMETER in request.parameters:
        given = request.parameters[VERSION_PARAMETER]
        kind = given.WhichOneof("parameter_choice")
        if version or kind not in ("int64_param", "string_param"):
            rule = "must be a number or text, and the only version given"
            raise errors.invalid(f'parameters["{VERSION_PARAMETER}"]', kind, rule)
        version = str(getattr(given, kind))
    return name, version


def check_repository(name: str) -> None:
    """Refuse a repository by name.

    Raises:
        UnimplementedError: One is named.
    """
    if name:
        raise errors.UnimplementedError(
            errors.Reason.UNIMPLEMENTED,
            f"repository_name: {name[:100]!r} must be empty: there is one repository",
        )


def metadata(name: str, versions: list[int], manifest: Manifest) -> pb.ModelMetadataResponse:
    """Return the description of a version."""
    return pb.ModelMetadataResponse(
        name=name,
        versions=[str(each) for each in versions],
        platform=PLATFORMS[manifest.format],
        inputs=Layout(manifest.inputs).metadata(),
        outputs=Layout(manifest.outputs).metadata(),
    )


def index_entry(
    key: VersionKey, model: ReadyModel | Attempt
) -> pb.RepositoryIndexResponse.ModelIndex:
    """Return the truth about a version on this replica."""
    entry = pb.RepositoryIndexResponse.ModelIndex(name=key.model, version=str(key.version))
    if isinstance(model, ReadyModel):
        entry.state = "READY"
    elif model.error is None:
        entry.state = "LOADING"
    else:
        entry.state, entry.reason = "UNAVAILABLE", str(model.error)
    return entry
