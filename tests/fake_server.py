"""FAKE FOR TESTS ONLY: a real HTTP server on loopback that speaks vLLM's dialect of OpenAI's API, scripted.

One token is one character (its id is its code point), END one more. Faults are injected by request.
"""

from __future__ import annotations

import hashlib
import json
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODEL = "fake-model"
END = 3
"""Id of the end token."""
OPEN, TURN = 1, 2
"""Ids of the chat template's tokens: a message begins, the assistant's turn begins."""


@dataclass(frozen=True)
class Asked:
    """One generation: the input's ids, its seed (None at temperature 0 or where none is taken) and its limit."""

    ids: tuple[int, ...]
    seed: int | None
    max_tokens: int


Model = Callable[[Asked], Sequence[int]]
"""Ids that the model goes on with (at least `max_tokens`, or ending in END)."""


def fake_model(asked: Asked) -> list[int]:
    """Three lines of sums and an answer, each character drawn from (all characters before it, seed)."""
    ids, made = list(asked.ids), list[int]()
    start = max((at for at, token in enumerate(ids) if token == TURN), default=-1) + 1
    while len(made) < asked.max_tokens:
        so_far = "".join(map(chr, ids[start:]))
        digest = hashlib.blake2b(f"{ids[:start]}|{so_far}|{asked.seed}".encode(), digest_size=2).digest()
        line = so_far.rpartition("\n")[2]
        if so_far.count("\n") >= 3:
            wanted = "#### "
            token = ord(wanted[len(line)]) if len(line) < len(wanted) else ord("0") + digest[0] % 4
            if len(line) > len(wanted):
                token = END
        else:
            wanted = "D + D = D\n"[min(len(line), 9)]
            token = ord("0") + digest[0] % 10 if wanted == "D" else ord(wanted)
        made.append(token)
        ids.append(token)
        if token == END:
            break
    return made


@dataclass
class Dialect:
    """What this server can do. `strict`: unknown fields are errors (as hosted APIs have it), else ignored (as vLLM)."""

    completions: bool = True
    chat: bool = True
    tokenize: bool = True
    token_prompts: bool = True
    seeds: bool = True
    logprobs: bool = True
    keeps_stop: bool = True
    names_stop: bool = True
    continues: bool = True
    strips_turns: bool = False
    usage: bool = True
    counts_wrong_by: int = 0
    strict: bool = False
    max_model_len: int | None = 2048
    api_key: str | None = None
    models: tuple[str, ...] = (MODEL,)


@dataclass(frozen=True)
class Fault:
    """`kind`: drop, half, status, garbage, nonsense, silence, slow, drip. `seconds` for the last three."""

    kind: str
    status: int = 500
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = '{"error": {"message": "scripted failure"}}'
    seconds: float = 30.0


class FakeServer:
    """`faults(path, body, number)` decides what happens to the number-th request (from 0). A context manager."""

    def __init__(
        self,
        model: Model = fake_model,
        dialect: Dialect | None = None,
        faults: Callable[[str, dict[str, Any], int], Fault | None] | None = None,
        encode: Callable[[str], list[int]] = lambda text: [ord(c) for c in text],
        decode: Callable[[Sequence[int]], str] = lambda ids: "".join(chr(i) for i in ids),
        template: Callable[[Sequence[Mapping[str, str]], bool], list[int]] | None = None,
    ) -> None:
        self.model, self.dialect, self.faults = model, dialect or Dialect(), faults
        self.encode, self.decode = encode, decode
        self.template = template or self._template
        self.lock = threading.Lock()
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.generated = 0
        self.open = self.most_open = 0
        self.gone = 0
        """Clients that hung up before their answer was sent."""
        self.connections: set[tuple[str, int]] = set()
        self._stopping = threading.Event()

    def __enter__(self) -> FakeServer:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                server._handle(self, {})

            def do_POST(self) -> None:
                length = int(self.headers.get("Content-Length", 0))
                server._handle(self, json.loads(self.rfile.read(length)))

            def log_message(self, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 256

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # clients that hang up are part of the tests

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    # --- one request ----------------------------------------------------------------------------------------------

    def _handle(self, handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        with self.lock:
            number = len(self.requests)
            self.requests.append((handler.path, body))
            self.connections.add(handler.client_address)
            self.open += 1
            self.most_open = max(self.most_open, self.open)
        try:
            fault = self.faults(handler.path, body, number) if self.faults else None
            self._answer(handler, body, fault)
        finally:
            with self.lock:
                self.open -= 1

    def _answer(self, handler: BaseHTTPRequestHandler, body: dict[str, Any], fault: Fault | None) -> None:
        if fault is not None and fault.kind == "status":
            self._send(handler, fault.status, fault.body.encode(), fault.headers)
            return
        if fault is not None and fault.kind == "drop":
            handler.close_connection = True
            handler.connection.shutdown(socket.SHUT_RDWR)
            return
        if fault is not None and fault.kind in ("silence", "slow") and not self._wait(handler, fault.seconds):
            return
        if self.dialect.api_key and handler.headers.get("Authorization") != f"Bearer {self.dialect.api_key}":
            status, document = 401, {"error": {"message": f"wrong key: {handler.headers.get('Authorization')}"}}
        else:
            status, document = self._document(handler.path, body)
        data = json.dumps(document).encode()
        if fault is not None and fault.kind == "garbage":
            data = b"<html><body>502 from a proxy</body></html>"
        elif fault is not None and fault.kind == "nonsense":
            data = b'{"object": "text_completion", "choices": []}'
        elif fault is not None and fault.kind == "half":
            self._send(handler, status, data[: len(data) // 2], {}, length=len(data))
            handler.close_connection = True
            handler.connection.shutdown(socket.SHUT_RDWR)
            return
        elif fault is not None and fault.kind == "drip":
            self._head(handler, status, {}, len(data))
            for at in range(len(data)):
                handler.wfile.write(data[at : at + 1])
                if not self._wait(handler, fault.seconds / len(data)):
                    return
            return
        self._send(handler, status, data, {})

    def _wait(self, handler: BaseHTTPRequestHandler, seconds: float) -> bool:
        """Wait, unless the client hangs up or the server stops."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self._stopping.is_set():
            readable, _, _ = select.select([handler.connection], [], [], min(0.05, seconds))
            if readable and not handler.connection.recv(1, socket.MSG_PEEK):
                with self.lock:
                    self.gone += 1
                handler.close_connection = True
                return False
        return not self._stopping.is_set()

    def _head(self, handler: BaseHTTPRequestHandler, status: int, headers: Mapping[str, str], length: int) -> None:
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(length))
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()

    def _send(
        self,
        handler: BaseHTTPRequestHandler,
        status: int,
        data: bytes,
        headers: Mapping[str, str],
        length: int | None = None,
    ) -> None:
        self._head(handler, status, headers, len(data) if length is None else length)
        handler.wfile.write(data)

    # --- the dialect ----------------------------------------------------------------------------------------------

    def _document(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        d = self.dialect
        if path == "/v1/models":
            return 200, {"data": [{"id": name, "max_model_len": d.max_model_len} for name in d.models]}
        if path == "/tokenize" and d.tokenize:
            if "messages" in body:
                return 200, {"tokens": self.template(body["messages"], True)}
            return 200, {"tokens": self.encode(body["prompt"])}
        if body.get("model") not in d.models:
            return 404, {"error": {"message": f"The model `{body.get('model')}` does not exist."}}
        if path == "/v1/completions" and d.completions:
            return self._generate(body, chat=False)
        if path == "/v1/chat/completions" and d.chat:
            return self._generate(body, chat=True)
        return 404, {"detail": "Not Found"}

    def _generate(self, body: dict[str, Any], *, chat: bool) -> tuple[int, dict[str, Any]]:
        d = self.dialect
        extras = {
            "include_stop_str_in_output": d.keeps_stop, "continue_final_message": d.continues,
            "add_generation_prompt": d.continues, "seed": d.seeds, "logprobs": d.logprobs,
        }  # fmt: skip
        if d.strict and (unknown := [name for name, known in extras.items() if name in body and not known]):
            return 400, {"error": {"message": f"Unrecognized request argument supplied: {unknown[0]}"}}
        if chat:
            continued = d.continues and bool(body.get("continue_final_message"))
            if continued and body.get("add_generation_prompt", True):
                return 400, {"error": {"message": "Cannot set both add_generation_prompt and continue_final_message"}}
            ids = self.template(body["messages"], not continued)
        elif isinstance(body["prompt"], str):
            ids = self.encode(body["prompt"])
        elif d.token_prompts:
            ids = body["prompt"]
        else:
            return 400, {"error": {"message": "prompt must be a string"}}
        if d.max_model_len is not None and len(ids) + body["max_tokens"] > d.max_model_len:
            return 400, {"error": {"message": f"This model's maximum context length is {d.max_model_len} tokens"}}
        seed = body.get("seed") if d.seeds else time.perf_counter_ns()
        asked = Asked(tuple(ids), None if body["temperature"] == 0 else seed, body["max_tokens"])
        made = list(self.model(asked))[: body["max_tokens"]]
        with self.lock:
            self.generated += 1
        text, finish, reason, used = self._cut(
            made, body.get("stop") or [], bool(body.get("include_stop_str_in_output"))
        )
        choice: dict[str, Any] = {"index": 0, "finish_reason": finish}
        if d.names_stop:
            choice["stop_reason"] = reason
        if chat:
            choice["message"] = {"role": "assistant", "content": text}
        else:
            choice["text"] = text
        if d.logprobs and body.get("logprobs"):
            choice["logprobs"] = {"content": [{"logprob": -0.5}] * used} if chat else {"token_logprobs": [-0.5] * used}
        usage = {"prompt_tokens": len(ids) + d.counts_wrong_by, "completion_tokens": used}
        return 200, {"choices": [choice], **({"usage": usage} if d.usage else {})}

    def _cut(self, made: list[int], stops: list[str], keep: bool) -> tuple[str, str, str | None, int]:
        """(text, finish_reason, stop_reason, tokens) of generated ids."""
        ended = bool(made) and made[-1] == END
        body = made[:-1] if ended else made
        for count in range(1, len(body) + 1) if stops else ():
            text = self.decode(body[:count])
            hit = [(text.find(stop), stop) for stop in stops if stop in text]
            if hit:
                at, stop = min(hit)
                kept = keep and self.dialect.keeps_stop
                return text[: at + (len(stop) if kept else 0)], "stop", stop, count
        return self.decode(body), "stop" if ended else "length", None, len(made)

    def _template(self, messages: Sequence[Mapping[str, str]], opens: bool) -> list[int]:
        """A chat template: OPEN before each message, TURN before the assistant's words, END after a closed turn."""
        ids: list[int] = []
        for number, message in enumerate(messages):
            words = message["content"].strip() if self.dialect.strips_turns else message["content"]
            last = number == len(messages) - 1
            if message["role"] == "assistant":
                ids += [TURN, *self.encode(words), *([] if last and not opens else [END])]
            else:
                ids += [OPEN, *self.encode(words)]
        return [*ids, TURN] if opens else ids


def in_turn(*faults: Fault | None, path: str = "completions") -> Callable[[str, dict[str, Any], int], Fault | None]:
    """These faults for the first requests to `path`, one each, then none."""
    left: Iterator[Fault | None] = iter(faults)
    lock = threading.Lock()

    def decide(at: str, body: dict[str, Any], number: int) -> Fault | None:
        if not at.endswith(path):
            return None
        with lock:
            return next(left, None)

    return decide
