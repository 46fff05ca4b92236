"""XAPI's two protocols: JSON-RPC on /jsonrpc, XML-RPC on / and /xmlrpc."""

from __future__ import annotations

import json
import math
import re
import xmlrpc.client
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from tests.support.xapi.records import ApiError

DATE = re.compile(r"\d{8}T\d\d:\d\d:\d\dZ")


class JsonRpc:
    """Version 2 has errors of its own; version 1 has XML-RPC's Status in its result."""

    content_type = "application/json"

    def __init__(self, body: bytes) -> None:
        request = json.loads(body)
        self.method: str = request["method"]
        self.params: list[Any] = request.get("params", [])
        self._id = request.get("id")
        self._second = request.get("jsonrpc") == "2.0"

    def result(self, value: Any) -> str:
        if self._second:
            return json.dumps({"jsonrpc": "2.0", "result": value, "id": self._id})
        status = {"Status": "Success", "Value": value}
        return json.dumps({"result": status, "error": None, "id": self._id})

    def error(self, error: ApiError) -> str:
        if self._second:
            told = {"code": 1, "message": error.code, "data": error.data}
            return json.dumps({"jsonrpc": "2.0", "error": told, "id": self._id})
        status = {"Status": "Failure", "ErrorDescription": [error.code, *error.data]}
        return json.dumps({"result": status, "error": None, "id": self._id})


class XmlRpc:
    """Integers are strings without a type; dates have one; infinite floats are spelled out."""

    content_type = "text/xml"

    def __init__(self, body: bytes) -> None:
        self.params, method = xmlrpc.client.loads(body)
        self.method = method or ""

    def result(self, value: Any) -> str:
        # Not even a real host wraps the answer to this one.
        if self.method == "system.listMethods":
            return self._response(value)
        return self._response({"Status": "Success", "Value": value})

    def error(self, error: ApiError) -> str:
        return self._response({"Status": "Failure", "ErrorDescription": [error.code, *error.data]})

    def _response(self, value: Any) -> str:
        head = '<?xml version="1.0"?><methodResponse><params><param>'
        return f"{head}{self._encode(value)}</param></params></methodResponse>"

    def _encode(self, value: Any) -> str:
        if isinstance(value, dict):
            members = "".join(
                f"<member><name>{escape(name)}</name>{self._encode(each)}</member>"
                for name, each in value.items()
            )
            return f"<value><struct>{members}</struct></value>"
        if isinstance(value, (list, tuple)):
            items = "".join(map(self._encode, value))
            return f"<value><array><data>{items}</data></array></value>"
        if isinstance(value, bool):
            return f"<value><boolean>{int(value)}</boolean></value>"
        if isinstance(value, float):
            text = "Infinity" if math.isinf(value) else repr(value)
            return f"<value><double>{text}</double></value>"
        if isinstance(value, str) and DATE.fullmatch(value):
            return f"<value><dateTime.iso8601>{value}</dateTime.iso8601></value>"
        return f"<value>{escape(str(value))}</value>"
