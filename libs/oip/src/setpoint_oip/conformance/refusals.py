"""Requests that break the protocol, each of which must be refused and do no harm."""

from collections.abc import Callable
from typing import Final

import grpc

from setpoint_oip.conformance import checks
from setpoint_oip.conformance.subject import AdviceError, SkippedError, Subject
from setpoint_oip.protocol import open_inference_pb2 as pb

CHECKS: Final[dict[str, checks.Check]] = {}
"""By what they find to be so."""

Spoil = Callable[[pb.ModelInferRequest], None]

_INVALID: Final = (grpc.StatusCode.INVALID_ARGUMENT,)
# Which of the two an unknown version is, servers see differently.
_ABSENT: Final = (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT)


def _refused(
    what: str, *, is_raw: bool = True, codes: tuple[grpc.StatusCode, ...] = _INVALID
) -> Callable[[Spoil], Spoil]:
    """Make a function that spoils a good request one of the checks."""

    def added(spoil: Spoil) -> Spoil:
        async def run(subject: Subject) -> None:
            request = await subject.question(is_raw=is_raw)
            spoil(request)
            _expect(await subject.refusal("ModelInfer", request), codes)

        CHECKS[f"refused: {what}"] = run
        return spoil

    return added


def _expect(code: grpc.StatusCode, codes: tuple[grpc.StatusCode, ...]) -> None:
    if code not in codes:
        names = " or ".join(each.name for each in codes)
        raise AdviceError(f"with {code.name}, where clients expect {names}")


@_refused("an unknown model", codes=(grpc.StatusCode.NOT_FOUND,))
def _unknown_model(request: pb.ModelInferRequest) -> None:
    request.model_name, request.model_version = checks.UNKNOWN, ""


@_refused("an unknown version", codes=_ABSENT)
def _unknown_version(request: pb.ModelInferRequest) -> None:
    request.model_version = "987654321"


@_refused("a request without inputs")
def _no_inputs(request: pb.ModelInferRequest) -> None:
    request.ClearField("inputs")
    request.ClearField("raw_input_contents")


@_refused("an unknown input")
def _unknown_input(request: pb.ModelInferRequest) -> None:
    request.inputs[0].name = "no_such_input_9d3a"


@_refused("an unknown output")
def _unknown_output(request: pb.ModelInferRequest) -> None:
    request.outputs.add(name="no_such_output_9d3a")


@_refused("an unknown datatype")
def _unknown_datatype(request: pb.ModelInferRequest) -> None:
    request.inputs[0].datatype = "FP9"


@_refused("a negative size in a shape")
def _negative_size(request: pb.ModelInferRequest) -> None:
    request.inputs[0].shape[0] = -1


@_refused("more elements than the shape has")
def _long(request: pb.ModelInferRequest) -> None:
    request.raw_input_contents[0] += b"\x01\x00\x00\x00\x00"


@_refused("fewer elements than the shape has")
def _short(request: pb.ModelInferRequest) -> None:
    request.raw_input_contents[0] = request.raw_input_contents[0][:-1]


@_refused("raw contents for other tensors than there are")
def _many_raws(request: pb.ModelInferRequest) -> None:
    request.raw_input_contents.append(request.raw_input_contents[0])


@_refused("fewer typed elements than the shape has", is_raw=False)
def _few(request: pb.ModelInferRequest) -> None:
    request.inputs[0].shape[0] += 1


@_refused("typed contents of another datatype", is_raw=False)
def _other_field(request: pb.ModelInferRequest) -> None:
    contents = request.inputs[0].contents
    count = sum(len(values) for _, values in contents.ListFields())
    is_text = bool(contents.bytes_contents)
    contents.Clear()
    if is_text:
        contents.fp32_contents.extend([0.0] * count)
    else:
        contents.bytes_contents.extend([b"0"] * count)


@_refused("typed and raw contents together")
def _mixed(request: pb.ModelInferRequest) -> None:
    request.inputs[0].contents.fp32_contents.append(0.0)


@_refused("BYTES whose length reaches past the end")
def _overlong_element(request: pb.ModelInferRequest) -> None:
    for index, entry in enumerate(request.inputs):
        if entry.datatype == "BYTES":
            raw = request.raw_input_contents[index]
            request.raw_input_contents[index] = b"\xff\xff\xff\x7f" + raw[4:]
            return
    raise SkippedError("the model takes no BYTES")


@checks.check("refused: metadata of an unknown model", CHECKS)
async def check_unknown_metadata(subject: Subject) -> None:
    """ModelMetadata fails for a model that is not there."""
    request = pb.ModelMetadataRequest(name=checks.UNKNOWN)
    _expect(await subject.refusal("ModelMetadata", request), (grpc.StatusCode.NOT_FOUND,))


@checks.check("after all that the server answers as before", CHECKS)
async def check_answers_as_before(subject: Subject) -> None:
    """What was refused has harmed nobody."""
    await checks.check_server(subject)
    await checks.check_raw(subject)
    await checks.check_parallel_callers(subject)
