"""A data set hub on the loopback interface: the part of the hub's HTTP interface that streaming asks for."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

DataSets = Mapping[str, Mapping[str, bytes | None]]

_COMMIT = "0" * 40


@contextmanager
def local_hub(data_sets: DataSets) -> Iterator[str]:
    """Serve data sets {"owner/name": {path: content}}; a file without content is listed and not found."""

    class Requests(_Requests):
        served = data_sets

    server = ThreadingHTTPServer(("127.0.0.1", 0), Requests)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Requests(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    served: DataSets

    def log_message(self, *_: Any) -> None:  # Any: the server's own arguments
        """Say nothing."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        for name, files in self.served.items():
            if path.startswith(f"/api/datasets/{name}/tree/{_COMMIT}"):
                return self._tree(files, path.removeprefix(f"/api/datasets/{name}/tree/{_COMMIT}").strip("/"))
            if path.startswith(f"/api/datasets/{name}"):
                siblings = [{"rfilename": file} for file in files]
                return self._json({"_id": "1", "id": name, "sha": _COMMIT, "siblings": siblings, "tags": []})
            if path.startswith(f"/datasets/{name}/resolve/"):
                return self._file(files, path.split("/resolve/")[1].partition("/")[2])
        return self._answer(404, headers={"X-Error-Code": "RepoNotFound"})

    def _tree(self, files: Mapping[str, bytes | None], folder: str) -> None:
        prefix = f"{folder}/" if folder else ""
        inside = [file.removeprefix(prefix) for file in files if file.startswith(prefix)]
        if not inside:
            return self._answer(404, headers={"X-Error-Code": "EntryNotFound"})
        folders = sorted({file.partition("/")[0] for file in inside if "/" in file})
        listed: list[dict[str, Any]] = [
            {"type": "directory", "path": prefix + name, "oid": "2" * 40, "size": 0} for name in folders
        ]
        for file in (file for file in inside if "/" not in file):
            size = len(files[prefix + file] or b"some content")
            listed.append({"type": "file", "path": prefix + file, "oid": "1" * 40, "size": size})
        return self._json(listed)

    def _file(self, files: Mapping[str, bytes | None], path: str) -> None:
        content = files.get(path)
        if content is None:
            return self._answer(404, headers={"X-Error-Code": "EntryNotFound"})
        headers = {"ETag": f'"{"1" * 40}"', "X-Repo-Commit": _COMMIT, "Accept-Ranges": "bytes"}
        wanted = self.headers.get("Range")
        if wanted is None:
            return self._answer(200, content, headers)
        first, last = wanted.removeprefix("bytes=").split("-")
        part = content[int(first) : int(last) + 1 if last else None]
        headers["Content-Range"] = f"bytes {first}-{int(first) + len(part) - 1}/{len(content)}"
        return self._answer(206, part, headers)

    def _json(self, value: Any) -> None:  # Any: JSON values
        self._answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _answer(self, status: int, content: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
