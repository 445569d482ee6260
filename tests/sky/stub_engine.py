#!/usr/bin/python3
"""Stands for `vllm serve` on the bed's nodes: takes its flags, speaks enough of its API, at a fixed pace.

Answers /health, /v1/models, /v1/completions and /v1/chat/completions (streamed or whole, `max_tokens`
exact, at `token_s` each where a request says so) and says in `x-node` which node answered and in `x-started` since when. Standard library only: a node has no other.
"""

import argparse
import http.server
import json
import os
import socket
import sys
import time

FIRST_TOKEN_S, TOKEN_S = 0.02, 0.002
STARTED = repr(time.time())


def parse():
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=["serve"])
    parser.add_argument("model")
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--tensor-parallel-size", type=int, required=True)
    parser.add_argument("--data-parallel-size", type=int, default=1)
    parser.add_argument("--max-model-len", type=int, required=True)
    parser.add_argument("--max-num-seqs", type=int, required=True)
    parser.add_argument("--gpu-memory-utilization", type=float, required=True)
    parser.add_argument("--dtype")
    return parser.parse_known_args()[0]


OPTIONS = parse()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def head(self, status, kind, length=None):
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("x-node", os.environ.get("SLURMD_NODENAME", socket.gethostname()))
        self.send_header("x-started", STARTED)
        if length is None:
            self.send_header("transfer-encoding", "chunked")
        else:
            self.send_header("content-length", str(length))
        self.end_headers()

    def whole(self, status, document):
        data = json.dumps(document).encode()
        self.head(status, "application/json", len(data))
        self.wfile.write(data)

    def refused(self):
        key = os.environ.get("VLLM_API_KEY")
        if not key or self.headers.get("authorization") == f"Bearer {key}":
            return False
        self.whole(401, {"error": {"message": "Unauthorized"}})
        return True

    @property
    def route(self):
        return self.path.partition("?")[0]  # SkyServe's load balancer adds an empty query

    def do_GET(self):
        if self.route == "/health":
            self.whole(200, {})
        elif self.route == "/v1/models":
            if not self.refused():
                self.whole(
                    200, {"object": "list", "data": [{"id": OPTIONS.model, "object": "model"}]}
                )
        else:
            self.whole(404, {"error": {"message": "not found"}})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers.get("content-length", 0))) or b"{}")
        if self.route not in ("/v1/completions", "/v1/chat/completions"):
            self.whole(404, {"error": {"message": "not found"}})
            return
        if self.refused():
            return
        tokens = int(body.get("max_tokens") or 16)
        chat = self.route.endswith("chat/completions")
        usage = {"prompt_tokens": size(body), "completion_tokens": tokens}
        time.sleep(FIRST_TOKEN_S)
        if body.get("stream"):
            self.stream(tokens, chat, usage, float(body.get("token_s", TOKEN_S)))
        else:
            time.sleep(TOKEN_S * tokens)
            text = "x " * tokens
            choice = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
            node = os.environ.get("SLURMD_NODENAME", "")
            answer = {"model": OPTIONS.model, "choices": [choice], "usage": usage}
            self.whole(200, {**answer, "system_fingerprint": f"{node} {STARTED}"})

    def stream(self, tokens, chat, usage, token_s):
        self.head(200, "text/event-stream")
        for i in range(tokens):
            choice = {"delta": {"content": "x "}} if chat else {"text": "x "}
            self.event(json.dumps({"choices": [{"index": 0, **choice}]}))
            if i + 1 < tokens:
                time.sleep(token_s)
        self.event(json.dumps({"choices": [], "usage": usage}))
        self.event("[DONE]")
        self.wfile.write(b"0\r\n\r\n")

    def event(self, text):
        data = f"data: {text}\n\n".encode()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()


def size(body):
    prompt = body.get("prompt")
    if isinstance(prompt, list):
        return len(prompt)
    if prompt is None:
        prompt = " ".join(str(m.get("content")) for m in body.get("messages", []))
    return len(str(prompt).split())


if __name__ == "__main__":
    server = http.server.ThreadingHTTPServer((OPTIONS.host, OPTIONS.port), Handler)
    print(f"serving {OPTIONS.model} with {sys.argv[3:]}", flush=True)
    server.serve_forever()
