"""The picker's routes: the page, and the JSON that it asks for. `/openapi.json` documents them.

    GET  /api/runs                                  the runs that are served
    GET  /api/runs/0                                one: its networks, or what is wrong with it
    GET  /api/runs/0/examples?page=0                test examples
    GET  /api/runs/0/differences/POINT              those that a network no longer gets right
    POST /api/runs/0/predict                        what a network and the full one say of some
    GET  /api/runs/0/download/POINT.safetensors     the network as a file; or .onnx
    GET  /api/runs/0/code/POINT                     how to run that file

Whatever goes wrong is {"error": "One sentence."}. Runs are numbers and networks are names that are
looked up among those that are known: nothing that is asked for becomes part of a path.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Final

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from widthwise.app.serve import code
from widthwise.app.serve.answers import Answer, Differences, answer, where_they_differ
from widthwise.app.serve.examples import Examples, Picture
from widthwise.app.serve.guard import LOOPBACK, Guard
from widthwise.app.serve.networks import BusyError, Download, Form, GoneError, Networks, known
from widthwise.app.serve.runs_view import RunName, RunView, Shown, Views
from widthwise.common.messages import lacking, one_line
from widthwise.common.units import format_size
from widthwise.errors import ExportError, WidthwiseError
from widthwise.version import VERSION

_SCRIPT: Final = "text/javascript; charset=utf-8"
_ASSETS: Final = {
    "": ("page.html", "text/html; charset=utf-8"),
    "page.css": ("page.css", "text/css; charset=utf-8"),
    **{f"{name}.js": (f"{name}.js", _SCRIPT) for name in ("page", "chart", "tryit")},
}
_SAID: Final = {
    400: "The request is no JSON that can be read; send what /openapi.json says.",
    404: "There is nothing here; see /openapi.json for what there is.",
    405: "That cannot be done here; see /openapi.json for what can.",
}
_EAGER: Final = 20_000_000  # bytes of a network whose ONNX file is made before anyone asks for it
_SIDE: Final = 128  # pixels of a drawing

Grey = Annotated[int, Field(ge=0, le=255)]
Row = Annotated[list[Grey], Field(min_length=1, max_length=_SIDE)]


class Question(BaseModel):
    """What a network is asked. Give examples by their ids, or a drawing.

    point: the id of a network. drawing: rows of pixels, 0 for paper to 255 for ink.
    """

    model_config = {"extra": "forbid"}

    point: str = Field(max_length=64)
    examples: list[int] = Field(default=[], max_length=24)
    drawing: list[Row] | None = Field(default=None, min_length=1, max_length=_SIDE)


class Pair(BaseModel):
    """What the chosen network and the full one say of one example."""

    chosen: Answer
    full: Answer


class Answers(BaseModel):
    """In the order of the examples. latency, full_latency: of one call here, measured once.

    runtime: what ran them. seen: the drawing as the networks got it.
    """

    pairs: list[Pair]
    latency: str
    full_latency: str
    runtime: str
    seen: Picture | None = None


class Code(BaseModel):
    """Python that runs the downloaded files, by their form, and what the files are called.

    files: names, by form. sizes: of the files, by form; without one that cannot be made.
    """

    safetensors: str
    onnx: str
    files: dict[str, str]
    sizes: dict[str, str]


class Problem(BaseModel):
    """What went wrong: one sentence."""

    error: str


class TemporaryFile(FileResponse):
    """A file of this answer's own, which goes when the answer has gone, or was interrupted."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it, or a range of it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            Path(self.path).unlink(missing_ok=True)


class Routes:
    """What the routes answer. folders: of the runs. networks: made when they are asked for."""

    def __init__(self, folders: Sequence[Path], networks: Networks) -> None:
        self.folders, self.networks = list(folders), networks
        self.views = Views()

    def runs(self) -> list[RunName]:
        """The runs that are served."""
        views = [self.views.view(i, folder) for i, folder in enumerate(self.folders)]
        return [RunName(id=v.id, name=v.name, problem=v.problem) for v in views]

    def run(self, run: int) -> RunView:
        """One run: all its measured networks and picks, or what is wrong with it."""
        return self.views.view(run, self._folder(run))

    def examples(self, run: int, page: Annotated[int, Query(ge=0, le=10**6)] = 0) -> Examples:
        """Twelve examples of the test split; page 0 always has the same ones."""
        shown = self._shown(run)
        with self.networks.turn():
            return self.networks.bench(shown).gallery.page(page)

    def differences(self, run: int, point: str) -> Differences:
        """Which of the first 500 test examples only the full network gets right."""
        shown = self._shown(run, point)
        with self.networks.turn():
            small, full = (self.networks.network(shown, name) for name in (point, shown.full))
            gallery = self.networks.bench(shown).gallery
            return where_they_differ(small.module, full.module, gallery)

    def predict(self, run: int, question: Question) -> Answers:
        """What a network, and the full one beside it, say of examples or of a drawing."""
        shown = self._shown(run, question.point)
        with self.networks.turn():
            both = [self.networks.network(shown, n) for n in (question.point, shown.full)]
            gallery = self.networks.bench(shown).gallery
            asked: list[tuple[Any, Any]] = [gallery.item(i) for i in question.examples]
            seen = None
            if question.drawing is not None:
                asked.append((gallery.drawn(question.drawing), None))
                seen = gallery.picture(asked[-1][0][0])
            said = [[answer(one.module, gallery, *item) for one in both] for item in asked]
        return Answers(
            pairs=[Pair(chosen=chosen, full=full) for chosen, full in said],
            latency=both[0].latency,
            full_latency=both[1].latency,
            runtime=both[0].runtime,
            seen=seen,
        )

    def download(self, run: int, point: str, form: Form) -> Response:
        """A network as a file, which has been read back and measured; ranges of it, too."""
        shown = self._shown(run, point)
        with self.networks.turn():
            file = self.networks.lent(shown, point, form)
        return TemporaryFile(
            file.path,
            filename=file.name,
            media_type="application/octet-stream",
            headers={"ETag": f'"{file.sha256}"'},  # so that a download goes on where it stopped
        )

    def code(self, run: int, point: str) -> Code:
        """How to run a downloaded network, in five lines, and how large its files are."""
        shown = self._shown(run, point)
        with self.networks.turn():
            task = self.networks.bench(shown).opened.task
            plain = self.networks.file(shown, point, "safetensors")
            onnx: Download | None = None
            # Whoever asks for a file that cannot be made is told why.
            with suppress(ExportError, ModuleNotFoundError):
                if plain.bytes <= _EAGER:
                    onnx = self.networks.file(shown, point, "onnx")
        name = "network.onnx" if onnx is None else onnx.name
        return Code(
            safetensors=code.with_widthwise(plain.name, shown.task, task),
            onnx=code.with_onnx_runtime(name, task),
            files={"safetensors": plain.name, "onnx": name},
            sizes={
                form: format_size(file.bytes)
                for form, file in (("safetensors", plain), ("onnx", onnx))
                if file is not None
            },
        )

    def _shown(self, run: int, point: str | None = None) -> Shown:
        """A run, after seeing that it has that network: one that it has not need not wait."""
        shown = self.views.shown(self._folder(run))
        if point is not None:
            known(shown, point)
        return shown

    def _folder(self, run: int) -> Path:
        if not 0 <= run < len(self.folders):
            raise GoneError(f"There is no run {run}; see /api/runs for those that are served.")
        return self.folders[run]


def create_app(folders: Sequence[Path], cache: Path, *, host: str = LOOPBACK[1]) -> FastAPI:
    """The picker for these run folders, as an ASGI application.

    cache: an empty folder for the files that are downloaded; whoever made it removes it. host: what
    the server listens on, by which the names that it answers to follow.
    """
    routes = Routes(folders, Networks(cache))
    routes.runs()  # reads them all, before anyone waits for that

    app = FastAPI(
        title="widthwise picker",
        version=VERSION,
        docs_url=None,  # it would load its script from elsewhere
        redoc_url=None,
        responses={status: {"model": Problem} for status in (400, 404, 413, 429)},
    )
    app.add_api_route("/api/runs", routes.runs)
    app.add_api_route("/api/runs/{run}", routes.run)
    app.add_api_route("/api/runs/{run}/examples", routes.examples)
    app.add_api_route("/api/runs/{run}/differences/{point}", routes.differences)
    app.add_api_route("/api/runs/{run}/predict", routes.predict, methods=["POST"])
    app.add_api_route(
        "/api/runs/{run}/download/{point}.{form}", routes.download, response_class=FileResponse
    )
    app.add_api_route("/api/runs/{run}/code/{point}", routes.code)
    _add_page(app)
    _add_errors(app)
    app.add_middleware(Guard, host=host)
    return app


def _add_page(app: FastAPI) -> None:
    for path, (name, kind) in _ASSETS.items():
        content = files("widthwise.app.serve").joinpath(name).read_bytes()
        app.add_route(f"/{path}", _asset(content, kind), include_in_schema=False)


def _asset(content: bytes, kind: str) -> Callable[[Request], Awaitable[Response]]:
    # On the event loop: the page loads while every thread waits for a network.
    async def sent(request: Request) -> Response:
        return Response(content, media_type=kind)

    return sent


def _add_errors(app: FastAPI) -> None:
    """Every error as one sentence, without a traceback."""

    def told(status: int, sentence: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
        return JSONResponse({"error": sentence}, status, headers)

    async def expected(request: Request, error: Exception) -> Response:
        if isinstance(error, BusyError):  # 429 and not 503: the server is well, but asked too much
            return told(429, one_line(error), {"Retry-After": "1"})
        return told(404 if isinstance(error, GoneError) else 400, one_line(error))

    async def malformed(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][:4])
        return told(422, f"The request is not as it must be: {where}: {first['msg']}.")

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return told(error.status_code, _SAID.get(error.status_code, str(error.detail)))

    async def missing(request: Request, error: Exception) -> Response:
        assert isinstance(error, ModuleNotFoundError)
        return told(501, lacking((error.name or "").partition(".")[0]))

    async def unexpected(request: Request, error: Exception) -> Response:
        return told(500, "The server made a mistake; what happened is in its terminal.")

    app.add_exception_handler(WidthwiseError, expected)
    app.add_exception_handler(RequestValidationError, malformed)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(ModuleNotFoundError, missing)
    app.add_exception_handler(Exception, unexpected)
