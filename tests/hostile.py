"""Replies of a chat server that is broken or means harm, by name. Each must cost one question, and no more."""

from __future__ import annotations

import base64
import gzip
import json
import zlib
from dataclasses import replace

from tests.api_server import ANSWER, Reaction, completion, error, ok

KEY = "sk-test-0123456789abcdef"
DEEP = "[" * 200_000
BOMB = gzip.compress(b" " * (64 << 20), 6)  # 64 MB out of 65 KB


def _raw(head: str, body: bytes = b"", **more: object) -> Reaction:
    return Reaction(raw=f"HTTP/1.1 {head}\r\n\r\n".encode() + body, **more)  # type: ignore[arg-type]


def _changed(old: str, new: str) -> Reaction:
    """A good reply with a piece of its JSON replaced."""
    text = json.dumps(completion(ANSWER.format("B")))
    assert old in text
    return Reaction(body=text.replace(old, new).encode("utf-8"))


def _packed(body: bytes, encoding: str = "gzip") -> Reaction:
    return Reaction(body=body, headers={"Content-Encoding": encoding})


GOOD = json.dumps(completion(ANSWER.format("B"))).encode()
BASE64_KEY = base64.b64encode(f"Bearer {KEY}".encode()).decode()
ESCAPED_KEY = "".join(f"\\u{ord(char):04x}" for char in KEY)
CHUNKED = "200 OK\r\nTransfer-Encoding: chunked"
TOKENS = '"completion_tokens": 10'

# Name -> reaction. Those of FAILED must be failures; the others may be answers.
ANSWERED = {
    "packed": _packed(gzip.compress(GOOD)),
    "deflated": _packed(zlib.compress(GOOD), "deflate"),
    "wrong charset": replace(ok(), headers={"Content-Type": "application/json; charset=zlib_codec"}),
    "slow charset": Reaction(body=GOOD, headers={"Content-Type": "application/json; charset=punycode"}),
    "bad UTF-8": Reaction(body=GOOD.replace(b"cup", b"\xff\xfe\xc0")),
    "half a pair": _changed("the cup", "\\ud83d cup"),
    "NUL and escapes": ok("<think>\x00\x1b]0;title\x07\x9b\u202e</think><answer>B</answer>"),
    "echoes the key": ok(f"<think>{KEY}</think><answer>B</answer>"),
    "echoes it escaped": ok(f"<think>{ESCAPED_KEY}</think><answer>B</answer>"),
    "echoes it in base64": ok(f"<think>{BASE64_KEY}</think><answer>B</answer>"),
}
FAILED = {
    "gzip bomb": _packed(BOMB),
    "no gzip": _packed(b"no gzip"),
    "half a gzip": _packed(gzip.compress(GOOD)[:-12]),
    "unknown packing": _packed(GOOD, "br"),
    "packed twice": _packed(gzip.compress(gzip.compress(GOOD)), "gzip, gzip"),
    "endless chunks": _raw(CHUNKED, again=b"100000\r\n" + b" " * 0x100000 + b"\r\n"),
    "too long": Reaction(body=GOOD + b" " * (9 << 20)),
    "huge header": _raw("200 OK\r\nX: " + "a" * 1_000_000),
    "many headers": _raw("200 OK\r\n" + "\r\n".join(f"X-{i}: a" for i in range(20_000))),
    "deep": Reaction(body=DEEP.encode()),
    "deep field": Reaction(body=f'{{"choices": {DEEP}'.encode()),
    "deep error": Reaction(400, DEEP.encode()),
    "UTF-16": Reaction(body=GOOD.decode().encode("utf-16")),
    "2^31 tokens": _changed(TOKENS, f'"completion_tokens": {2**31}'),
    "10^30 tokens": _changed(TOKENS, f'"completion_tokens": {10**30}'),
    "5000 digits": _changed(TOKENS, f'"completion_tokens": {"9" * 5000}'),
    "NaN tokens": _changed(TOKENS, '"completion_tokens": NaN'),
    "negative tokens": _changed(TOKENS, '"completion_tokens": -1'),
    "huge log-probability": ok(logprobs=[10**400]),
    "log-probability NaN": ok(logprobs=[float("nan")]),
    "text as log-probability": _changed(
        '"finish_reason"', f'"logprobs": {{"content": [{{"logprob": "{KEY}"}}]}}, "finish_reason"'
    ),
    "list as text": _changed('"content": "', '"content": ["x"], "was": "'),
    "half a pair in an error": Reaction(400, b'{"error": {"message": "bad \\ud83d thing"}}'),
    "escapes in an error": error(400, "\x1b]0;title\x07\x1b[2J"),
    "key in an error": error(400, f"Incorrect API key provided: {KEY}"),
    "key escaped": Reaction(400, f'{{"error": {{"message": "{ESCAPED_KEY}"}}}}'.encode()),
    "key in percent": error(400, "".join(f"%{ord(char):02X}" for char in KEY)),
    "key in base64": error(400, base64.b64encode(f"{KEY}!".encode()).decode()),
    "key as reason to stop": ok(finish_reason=f"stop {KEY}"),
    "key in a status line": _raw(f"2OO {KEY}"),
    "sent elsewhere": Reaction(307, headers={"Location": f"http://{KEY}.invalid/"}),
    "sent nowhere": Reaction(307, headers={"Location": "http://[::1/"}),
    "a file": Reaction(307, headers={"Location": "file:///etc/passwd"}),
}
SLOW = {
    "drips": replace(_raw("200 OK\r\nContent-Length: 9999", GOOD), drip_s=0.05),
    "endless, slow": _raw(CHUNKED, b"1\r\n \r\n" * 9999, drip_s=0.05),
}
