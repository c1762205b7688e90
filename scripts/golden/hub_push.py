"""The requests of huggingface_hub when it uploads files: hub_push.json, with the files, the request that asks which of
them are large, and the commit.

A local server plays the hub and records. It has every large file already, so none is sent. Versions:
huggingface_hub 2.4.0.

    python scripts/golden/hub_push.py tests/golden/hub_push.json
"""

import http.server
import json
import os
import pathlib
import sys
import tempfile
import threading

FILES = {
    "README.md": b"---\nlicense: apache-2.0\n---\n# A model\n",
    "config.json": b'{"model_type": "llama"}',
    "custom_generate/generate.py": b"def generate(*args, model, **kwargs): ...\n",
    "empty.safetensors": b"",
    "jacobi.json": b"{}",
    "model-1.safetensors": b"weights",
    "model.safetensors": b"more weights, longer than the other ones",
    "tokenizer.json": b"{}",
}
RECORDED = []


class Hub(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self):
        endpoint = f"http://{self.headers['host']}"
        body = self.rfile.read(int(self.headers.get("content-length", 0))).decode()
        RECORDED.append(
            {
                "method": self.command,
                "path": self.path,
                "authorization": self.headers.get("authorization"),
                "body": [json.loads(line) for line in body.splitlines()],
            }
        )
        reply = {}
        if self.path == "/api/repos/create":
            reply = {"url": f"{endpoint}/o/n"}
        elif "/preupload/" in self.path:
            mode = lambda path: "lfs" if path.endswith(".safetensors") else "regular"
            reply["files"] = [
                {"path": f["path"], "uploadMode": mode(f["path"]), "shouldIgnore": False} for f in json.loads(body)["files"]
            ]
        elif self.path.endswith("/info/lfs/objects/batch"):
            reply["objects"] = json.loads(body)["objects"]
        elif "/commit/" in self.path:
            reply = {"commitUrl": f"{endpoint}/o/n/commit/c0ffee", "commitOid": "c0ffee"}
        data = json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = answer


def main():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    os.environ.update(HF_ENDPOINT=endpoint, HF_HUB_DISABLE_XET="1", HF_HUB_DISABLE_TELEMETRY="1")
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi(endpoint=endpoint, token="secret")
    with tempfile.TemporaryDirectory() as folder:
        for name, content in FILES.items():
            path = pathlib.Path(folder) / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
        api.create_repo("o/n", repo_type="model", private=True, exist_ok=True)
        operations = [CommitOperationAdd(name, str(pathlib.Path(folder) / name)) for name in sorted(FILES)]
        api.create_commit("o/n", operations, commit_message="Upload a model", num_threads=1)
    requests = [request for request in RECORDED if "/preupload/" in request["path"] or "/commit/" in request["path"]]
    text = json.dumps({"files": {k: v.decode() for k, v in FILES.items()}, "requests": requests}, indent=1)
    pathlib.Path(sys.argv[1]).write_text(text.replace(endpoint, "ENDPOINT") + "\n")


main()
