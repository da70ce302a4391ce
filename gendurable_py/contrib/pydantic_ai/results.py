"""What a call of a tool came to, as the journal has it: a value, or what it raised for the model or the run."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError
from pydantic_ai.exceptions import ApprovalRequired, CallDeferred, ModelRetry, ToolFailed, UserError
from pydantic_ai.messages import ToolReturn, ToolReturnContent
from pydantic_core import InitErrorDetails, PydanticCustomError, PydanticSerializationError, to_jsonable_python

from .steps import Kind

_RETURN, _CONTENT = Kind(ToolReturn), Kind(ToolReturnContent)

SAID = (ModelRetry, ToolFailed, ApprovalRequired, CallDeferred)


def keep(name: str, result: Any) -> Any:
    try:
        if isinstance(result, ToolReturn):
            return {"kind": "return", "value": _RETURN.write(result)}
        return {"kind": "value", "value": _CONTENT.write(result)}
    except (PydanticSerializationError, ValueError) as error:
        raise UserError(f"what tool {name!r} returned cannot be stored: {error}") from error


def say(error: Exception) -> Any:
    match error:
        case ModelRetry():
            return {"kind": "retry", "message": error.message}
        case ToolFailed():
            return {"kind": "failed", "message": error.message}
        case ApprovalRequired():
            return {"kind": "approval", "metadata": to_jsonable_python(error.metadata)}
        case CallDeferred():
            more = {"as": kind} if (kind := getattr(error, "kind", "external")) != "external" else {}
            return {"kind": "deferred", "metadata": to_jsonable_python(error.metadata), **more}
        case ValidationError():
            found = error.errors(include_url=False, include_context=False)
            return {"kind": "invalid", "title": error.title, "errors": to_jsonable_python(found, fallback=repr)}
    raise error


def give(kept: Any) -> Any:
    match kept["kind"]:
        case "value":
            return _CONTENT.read(kept["value"])
        case "return":
            return _RETURN.read(kept["value"])
        case "retry":
            raise ModelRetry(kept["message"])
        case "failed":
            raise ToolFailed(kept["message"])
        case "approval":
            raise ApprovalRequired(kept["metadata"])
        case "deferred":
            raise CallDeferred(kept["metadata"], **({"kind": kept["as"]} if "as" in kept else {}))
        case "invalid":
            found = [
                InitErrorDetails(
                    type=PydanticCustomError(one["type"], "{message}", {"message": one["msg"]}),
                    loc=tuple(one["loc"]),
                    input=one["input"],
                )
                for one in kept["errors"]
            ]
            raise ValidationError.from_exception_data(kept["title"], found)
    raise UserError(f"the journal has {kept['kind']!r} of a tool, which this version does not know")
