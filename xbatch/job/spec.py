"""The job specification: everything that a command says."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from xbatch.rows.response import ResponseFormat


class JobSpec(BaseModel):
    """One job, as the command line gives it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    inputs: Annotated[list[str], Field(min_length=1)]
    """Files, globs or folders; `-` is standard input."""
    output: str | None = None
    """A file, a folder (ending in `/`), or `-` for standard output; None: beside the input."""
    errors: str | None = None
    """A file for the failures; None leaves them in their place."""
    state: str | None = None
    """Where the state lies, also in a store; None: beside the output."""
    format: ResponseFormat = "batch"
    model: str | None = None
    """None: the one that the rows name."""
    served_model_name: list[str] = []
    """Further names under which rows may ask for the model."""
    lora_modules: dict[str, str] = {}
    """Adapters by the name under which rows ask for them."""
    engine: Literal["vllm", "fake"] = "vllm"
    engine_args: dict[str, str] = {}
    """Settings of the engine by vLLM's names."""
    max_failures: Annotated[str, Field(pattern=r"^\d+(\.\d+)?%$|^\d+$")] = "0"
    """Failed rows that still count as success: a number or a share such as `1%`."""
    max_line_bytes: Annotated[int, Field(gt=0)] = 64 << 20
    max_engine_restarts: Annotated[int, Field(ge=0)] = 20
    """Restarts of an engine that dies time and again without a row settled in between."""
    request_timeout: Annotated[float, Field(gt=0)] | None = None
    """Seconds that a row may take in the engine before it fails."""
    drain_s: Annotated[float, Field(ge=0)] = 20.0
    commit_interval_s: Annotated[float, Field(gt=0)] = 15.0
    """Settled rows become a segment after this time at the latest."""
    lease_s: Annotated[float, Field(gt=0)] = 60.0
    """After so long without a heartbeat another machine may take the job over."""
    shard_rows: Annotated[int, Field(gt=0)] = 4096
    restart: bool = False
    """Throw away what an earlier run has left and begin anew."""
    extend: bool = False
    """Inputs that the job does not have yet become part of it."""
    accept_change: list[str] = []
    """Fields of the job's identity that may have changed."""
    retry_failed: Literal["retryable", "all"] | None = None
    """Once every row has a response, run failed rows again."""

    def allowed_failures(self, rows: int) -> float:
        """Failed rows that still count as success, of this many."""
        if self.max_failures.endswith("%"):
            return rows * float(self.max_failures[:-1]) / 100
        return float(self.max_failures)
