"""The jobs that run on the box: what the control machine asks of each program in remote/, and what it reports back.

Jobs are compared by their JSON text to recognise work that is already under way, and installed boxes keep records of
earlier versions: do not rename, reorder or add a key without a default.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional

from llamarig.remote.shared.record import Record

# --- releases -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Source(Record):
    """Where llama.cpp's source comes from. ``kind``: ``git``, or ``sdist`` with the optional fields.

    ``subdirectory``: path of llama.cpp in the archive, below its top directory; ``package`` and ``version``: in the
    index of pip, where the archive has no ``url``.
    """

    kind: str
    url: Optional[str]
    commit: str
    sha256: Optional[str] = None
    subdirectory: Optional[str] = None
    package: Optional[str] = None
    version: Optional[str] = None


@dataclass(frozen=True)
class BuildJob(Record):
    """Work of build/build_release.py.

    ``release``: directory to install into; ``work``: directory of source and objects; ``cache``: directory of the
    compiler cache and source archives; ``cmake``: -D definitions; ``targets``: programs to build; ``pip``: a Python
    that has pip.
    """

    release: str
    work: str
    cache: str
    source: Source
    backend: str
    cmake: dict[str, str]
    targets: tuple[str, ...]
    pip: str = ""


@dataclass(frozen=True)
class PackJob(Record):
    """Work of build/pack_release.py: pack the directory ``release`` into the file ``archive``."""

    release: str
    archive: str


@dataclass(frozen=True)
class ReceiveJob(Record):
    """Work of build/receive_release.py: unpack ``archive`` into the directory ``release``.

    ``sha256``: of the archive on the box that built it; ``builder``: name of that box.
    """

    archive: str
    sha256: str
    release: str
    builder: str


@dataclass(frozen=True)
class SimulationJob(Record):
    """Work of build/build_simulated_gpu.py: build the library into ``directory``, try it with ``release``.

    ``pip``: as in BuildJob.
    """

    directory: str
    work: str
    cache: str
    source: Source
    release: str
    pip: str = ""


# --- model files ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FetchFile(Record):
    """One file to download: its place on the Hub, its expected size (bytes) and sha256, and its place on the box.

    ``partial``: path while it is incomplete; ``same``: paths in the store that already have these bytes.
    """

    repo: str
    commit: str
    path: str
    size: int
    sha256: str
    target: str
    partial: str
    same: tuple[str, ...]


@dataclass(frozen=True)
class WantedArchitecture(Record):
    """An architecture that a build has to know: general.architecture of the first of a model's files.

    ``work``: directory of the build's source on the box, as in BuildJob.
    """

    model: str
    architecture: str
    commit: str
    work: str


@dataclass(frozen=True)
class FetchJob(Record):
    """Work of download/fetch_shards.py: the files, and the limits that all of them share.

    ``bytes_per_s``: rate limit, None for none; ``group``: group that may read the files, None to leave it unchanged;
    ``connections``: of all files together; ``chunk``: bytes per request of hf_transfer; ``patience_s``: seconds
    without data before a connection is given up; ``backoff_s``: first wait before a retry; ``give_up_after_s``:
    seconds without progress before the job fails; ``refetch_bytes``: bytes of a file that may be downloaded twice;
    ``wanted``: what is compared with the source of builds that have just begun.
    """

    endpoint: str
    proxy: Optional[str]
    bytes_per_s: Optional[int]
    group: Optional[str]
    files_at_a_time: int
    connections: int
    chunk: int
    patience_s: float
    backoff_s: float
    give_up_after_s: float
    refetch_bytes: int
    files: tuple[FetchFile, ...]
    wanted: tuple[WantedArchitecture, ...] = ()


@dataclass(frozen=True)
class ImportFile(Record):
    """A model file that may already lie on the box.

    ``directories``: where; ``move``: whether it is taken away from there; the others as in FetchFile.
    """

    size: int
    sha256: str
    target: str
    partial: str
    directories: tuple[str, ...]
    move: bool


@dataclass(frozen=True)
class ImportJob(Record):
    """Work of download/import_files.py.

    ``store``: the model store; ``group``: may read the files, None to leave it unchanged; ``reserve``: bytes that
    copies leave free there.
    """

    store: str
    group: Optional[str]
    reserve: int
    files: tuple[ImportFile, ...]


# --- plans ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ReservationJob(Record):
    """Work of plan/reserve_box.py: be there until the file ``touched`` has not changed for ``idle_s`` seconds."""

    touched: str
    idle_s: float


# --- switches -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StepDown(Record):
    """A smaller placement to start with when GPU memory is short.

    ``what``: description; ``placement``: its declaration (llamarig.declare.placement.Layers as JSON); ``frees_mib``:
    device name -> MiB that it needs less than the plan; ``text``: unit text; ``check``: command that checks its flags.
    """

    what: str
    placement: dict[str, Any]
    frees_mib: dict[str, int]
    text: str
    check: tuple[str, ...]


@dataclass(frozen=True)
class StartPlan(Record):
    """What the start of a planned model is compared with. MiB by device name.

    ``predicted_mib``: memory the server should take, None where no dry run measured this placement; ``margins_mib``:
    memory to leave free; ``rungs``: steps down, the smallest first; ``most_back_offs``: how many may be taken.
    """

    predicted_mib: Optional[dict[str, int]]
    margins_mib: dict[str, int]
    tolerance_mib: int
    most_back_offs: int
    rungs: tuple[StepDown, ...]


@dataclass(frozen=True)
class BackOff(Record):
    """A step down that a start had to take.

    ``of``: sha256 of the unit text that did not fit; ``missing_mib``: device name -> MiB that were short;
    ``of_directives``: sha256 of that text's directives (unit_directives.py), empty in a record of an earlier version.
    """

    of: str
    what: str
    placement: dict[str, Any]
    reason: str
    missing_mib: dict[str, int]
    of_directives: str = ""


@dataclass(frozen=True)
class SpeedGate(Record):
    """What a new release is compared with (serve/speed_gate.py).

    ``limit``: fraction by which a prompt and an answer may take longer; ``release``: that serves now; ``prompt_tokens``
    and ``generated_tokens``: of the request; the rates: of the last timing of that release, in tokens per second, 0
    where there is none.
    """

    limit: float
    release: str
    prompt_tokens: int
    generated_tokens: int
    prompt_per_second: float = 0.0
    generation_per_second: float = 0.0


@dataclass(frozen=True)
class SwitchJob(Record):
    """Work of serve/switch_unit.py: install the unit ``text`` as ``unit`` and, where ``start``, switch to it.

    ``check``: llama-server command whose flags are checked first; ``peers``: units to stop before it starts, and with
    ``enable`` to disable; ``retired``: those of them to disable in any case; ``environment``: for listing GPUs;
    ``model_bytes``: size of the model's files; ``context_per_slot``: tokens; ``proof``: path of the unit's StartRecord;
    ``pinned_mib``: RAM that should be locked, None where none should; ``backed_off``: set by the program when it took a
    step down; ``inputs``: digest of the identities of the model's files; ``web_ui``: its pages should be there;
    ``gate``: the speed of another release that it must not fall behind, None where nothing is compared.
    """

    unit: str
    text: str
    check: tuple[str, ...]
    peers: tuple[str, ...]
    retired: tuple[str, ...]
    start: bool
    enable: bool
    port: int
    load_timeout_s: int
    needs_gpu: bool
    environment: dict[str, str]
    model_bytes: int
    commit: str
    context_per_slot: int
    api_key_file: Optional[str]
    proof: str
    plan: Optional[StartPlan]
    pinned_mib: Optional[int]
    backed_off: Optional[BackOff] = None
    inputs: str = ""
    web_ui: bool = False
    gate: Optional[SpeedGate] = None


@dataclass(frozen=True)
class StartRecord(Record):
    """What the box keeps of a unit's last successful start: deploys compare with it, failed switches return to it.

    ``build_info``, ``n_ctx`` and ``tokens_per_second``: as the server reported; ``took_mib``: device name -> MiB,
    for a planned model; ``directives_sha256``: of the text's directives (unit_directives.py); ``unit_file``: identity
    of the unit file (its modification time); ``invocation``: systemd's id of the start; ``away_s``: seconds from the
    stop of what served before to the answers. The last four are empty in a record of an earlier version.
    """

    text: str
    job: SwitchJob
    text_sha256: str
    proved_at: str
    build_info: str
    n_ctx: int
    tokens_per_second: float
    took_mib: Optional[dict[str, float]] = None
    backed_off: Optional[BackOff] = None
    directives_sha256: str = ""
    unit_file: str = ""
    invocation: str = ""
    away_s: float = 0.0


# --- status ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class JobStatus(Record):
    """The status file of a job. Times are seconds of the box's monotonic clock: only their differences mean anything.

    ``state``: running, done, failed or stopped; ``done`` and ``total``: progress of the step, in ``unit`` (objects,
    bytes, MiB or nothing); ``done_at_start``: ``done`` at ``step_started``; ``message`` and ``lines``: the result, and
    the output that explains a failure; ``now``: when the file was written.
    """

    state: str = ""
    step: str = ""
    done: int = 0
    total: int = 0
    unit: str = ""
    message: str = ""
    lines: tuple[str, ...] = ()
    started: float = 0.0
    step_started: float = 0.0
    done_at_start: int = 0
    now: float = 0.0
    ended: float = 0.0


@dataclass(frozen=True)
class Timing(Record):
    """Timings of one request as the server reports them, or the ``problem``: why there are none.

    ``alone``: whether the server had no other request meanwhile; None where it does not show its slots. ``turn_s``:
    seconds to the first token of a second turn, which adds to the first one's tokens, so that the prompt cache has most
    of them; ``turn_tokens``: of its prompt, of which ``turn_computed`` were computed; all 0 where none was timed.
    ``gpu_mhz``: median clock of each NVIDIA GPU meanwhile, in nvidia-smi's order; ``throttled``: in words.
    """

    prompt_tokens: int = 0
    generated_tokens: int = 0
    prompt_per_second: float = 0.0
    generation_per_second: float = 0.0
    alone: Optional[bool] = None
    problem: str = ""
    turn_s: float = 0.0
    turn_tokens: int = 0
    turn_computed: int = 0
    gpu_mhz: tuple[int, ...] = ()
    throttled: tuple[str, ...] = ()
