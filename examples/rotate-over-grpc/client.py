#!/usr/bin/env python3
"""Starts a tree of workflows and rotates its token, over REST.

The same as the Rust program beside it, with nothing but Python's standard library.
"""

import argparse
import json
import pathlib
import sys
import time
import urllib.error
import urllib.request


class ControlPlane:
    def __init__(self, address, key):
        self.address = address
        self.key = key

    def call(self, method, path, body=None):
        request = urllib.request.Request(
            self.address + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "Authorization": "Bearer " + self.key,
                "Content-Type": "application/json",
            },
        )
        # No proxy: the control plane is on this machine, and the request carries a key.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=120) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            status = json.load(error)
            sys.exit(f"{method} {path}: {error.code} {status.get('message')}")


def secret(path):
    return pathlib.Path(path).read_text().strip()


def start(plane, tree, token, audience):
    steps = [{"tool": "acme.status"}]
    child = {"steps": steps, "pauseMs": 1000}
    children = [{"name": name, "node": child} for name in ("a", "b")]
    plane.call(
        "POST",
        "/v1/trees",
        {
            "workflowId": tree,
            "workflowType": "ToolTree",
            "taskQueue": "xylem",
            "inputJson": json.dumps({**child, "children": children}),
            "tokens": [{"slot": "default", "token": token, "audiences": [audience]}],
            "tools": ["acme.status"],
            "intake": False,
        },
    )
    print("started", tree)


def converged(plane, tree, patience=60):
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        view = plane.call("GET", f"/v1/trees/{tree}")
        # What is zero or false is left out: proto3's JSON.
        print(view.get("current", 0), "current,", view.get("behind", 0), "behind")
        if view.get("converged"):
            return
        time.sleep(0.5)
    sys.exit(f"the tree has not converged within {patience} s")


def rotate(plane, tree, token):
    changed = plane.call("POST", f"/v1/trees/{tree}/tokens/default/rotate", {"token": token})
    before = changed["superseded"]["order"]["version"]
    print("rotated from version", before, "to", changed["version"]["order"]["version"])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--address", default="http://127.0.0.1:7243")
    parser.add_argument("--key-file", required=True, help="an API key of a user")
    parser.add_argument("--token-file", required=True, help="the token to start with")
    parser.add_argument("--next-token-file", required=True, help="the token to rotate to")
    parser.add_argument("--audience", default="http://127.0.0.1:7420")
    parser.add_argument("--tree", default="over-rest")
    options = parser.parse_args()

    plane = ControlPlane(options.address, secret(options.key_file))
    start(plane, options.tree, secret(options.token_file), options.audience)
    converged(plane, options.tree)
    rotate(plane, options.tree, secret(options.next_token_file))
    converged(plane, options.tree)


if __name__ == "__main__":
    main()
