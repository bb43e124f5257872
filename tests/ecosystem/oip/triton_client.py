"""What tritonclient is told by a server of the Open Inference Protocol, as JSON.

Runs in an environment of its own, with the package as it is published. Takes a question as JSON:
address, model, columns and parameters.
"""

import asyncio
import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

Question = dict[str, Any]


def tensors(question: Question, module: Any) -> list[Any]:
    """Return the columns of a question as inputs, each on its own."""
    made = []
    for name, (datatype, values) in question["columns"].items():
        array = np.array(values, triton_to_np_dtype(datatype))
        tensor = module.InferInput(name, list(array.shape), datatype)
        made.append(tensor.set_data_from_numpy(array))
    return made


def told(result: Any, names: list[str]) -> dict[str, Any]:
    """Return what came back."""
    response = result.get_response(as_json=True)
    return {
        "outputs": {name: result.as_numpy(name).tolist() for name in names},
        "id": response.get("id"),
        "version": response.get("model_version"),
        "parameters": response.get("parameters", {}),
    }


def code_of(call: Callable[[], Any]) -> str:
    """Return the code of a call that must fail."""
    try:
        call()
    except InferenceServerException as error:
        return str(error.status()).removeprefix("StatusCode.")
    return "OK"


def ask(question: Question) -> dict[str, Any]:
    """Ask with the client that blocks."""
    model = question["model"]
    with triton.InferenceServerClient(question["address"]) as client:
        metadata = client.get_model_metadata(model, as_json=True)
        names = [output["name"] for output in metadata["outputs"]]
        wanted = [triton.InferRequestedOutput(name) for name in reversed(names)]
        result = client.infer(
            model,
            tensors(question, triton),
            request_id="mine",
            outputs=wanted,
            parameters=question.get("parameters"),
        )
        wrong = triton.InferInput("nothing", [1], "FP32")
        wrong.set_data_from_numpy(np.ones(1, np.float32))
        found = {
            "is_live": client.is_server_live(),
            "is_ready": client.is_server_ready(),
            "is_model_ready": client.is_model_ready(model),
            "is_unknown_ready": client.is_model_ready("no-such-model"),
            "server": client.get_server_metadata(as_json=True),
            "metadata": metadata,
            "order": [each.name for each in result.get_response().outputs],
            "answer": told(result, names),
            "unknown_model": code_of(lambda: client.infer("no-such-model", [wrong])),
            "unknown_input": code_of(lambda: client.infer(model, [wrong])),
            "unknown_output": code_of(
                lambda: client.infer(
                    model, tensors(question, triton), outputs=[triton.InferRequestedOutput("x")]
                )
            ),
        }
        if question.get("repository"):
            found["repository"] = move(client, model, question["repository"])
        return found


def move(client: Any, model: str, version: str) -> list[list[str]]:
    """Take a version out of memory and bring it back."""

    def states() -> list[str]:
        index = client.get_model_repository_index(as_json=True).get("models", [])
        return [each["state"] for each in index if each["name"] == model]

    seen = [states()]
    client.unload_model(f"{model}/{version}")
    seen.append(states())
    client.load_model(f"{model}/{version}")
    seen.append(states())
    return seen


async def ask_aio(question: Question) -> list[dict[str, Any]]:
    """Ask with the client that awaits, several times at once."""
    async with triton_aio.InferenceServerClient(question["address"]) as client:
        results = await asyncio.gather(
            *(
                client.infer(
                    question["model"],
                    tensors(question, triton_aio),
                    request_id=str(at),
                    parameters=question.get("parameters"),
                )
                for at in range(8)
            )
        )
        names = [each.name for each in results[0].get_response().outputs]
        return [told(result, names) for result in results]


def plain(value: bytes) -> str:
    """Return text for bytes, which JSON lacks."""
    return value.decode()


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    blocking = ask(asked)
    print(json.dumps(blocking | {"aio": asyncio.run(ask_aio(asked))}, default=plain))
