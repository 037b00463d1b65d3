"""Every environment variable, with its unit and default. None decides a result; `vllm_lacks` says what is there."""

from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.errors import UsageError
from shared.schemes import SCHEMES

#: Where Docker and Kubernetes mount secrets, one file a variable (`/run/secrets/roadqa_s3_secret_key`).
SECRETS = Path("/run/secrets")
#: How long Redis may take to answer: less than this is waited in it.
REDIS_SECONDS = 10


class Settings(BaseSettings):
    """Read from `ROADQA_*` variables, or from files of the same (lower-case) name in /run/secrets."""

    model_config = SettingsConfigDict(
        env_prefix="ROADQA_", env_file=Path(__file__).parents[1] / ".state" / "env", frozen=True, extra="ignore"
    )

    redis_url: SecretStr = Field(SecretStr("redis://127.0.0.1:6379/0"), description="broker and leases")
    s3_endpoint: str = Field("127.0.0.1:9000", description="host:port of the object store")
    s3_access_key: str = Field("roadqa", description="object store user")
    s3_secret_key: SecretStr = Field(SecretStr(""), description="object store password")
    store_root_user: str = Field("", description="object store administrator, for `services.provision` only")
    store_root_password: SecretStr = Field(SecretStr(""), description="and the administrator's password")
    s3_bucket: str = Field("roadqa", min_length=3, description="bucket")
    s3_secure: bool = Field(False, description="TLS to the object store")

    cache_dir: Path = Field(Path(".state/cache"), description="local cache of blobs")
    cache_bytes: int = Field(20_000_000_000, gt=0, description="bytes the cache may hold")

    lease_seconds: float = Field(15.0, gt=0, description="seconds a silent worker keeps its lease")
    heartbeat_seconds: float = Field(3.0, gt=0, description="seconds between heartbeats; a third of a lease at most")
    offer_seconds: int = Field(30, gt=0, description="seconds an offer stands")
    offers_per_queue: int = Field(8, gt=0, description="offers out at once on one queue")
    tick_seconds: float = Field(5.0, gt=0, description="seconds the conductor sleeps when nothing wakes it; 9 at most")
    max_attempts: int = Field(3, gt=0, description="attempts before a task is dead")
    grace_seconds: float = Field(60.0, gt=0, description="seconds a verb has to put its work down")
    one_shot_seconds: float = Field(
        0.0, ge=0, description="seconds a worker waits for the one offer it takes before it ends; 0: it stays"
    )
    heartbeat_file: Path | None = Field(None, description="file touched while the process is well; None: no file")

    metrics_port: int = Field(0, ge=0, le=65535, description="port of the conductor's /metrics; 0: none is served")
    metrics_host: str = Field("127.0.0.1", description="address that /metrics listens at")

    engines: int = Field(2, ge=1, description="engines kept loaded; more memory, fewer loads")
    engine_gpus: int = Field(1, ge=1, description="GPUs an engine is spread over")
    engine_requests: int = Field(32, ge=1, description="requests an engine works on at once")
    engine_batch: int = Field(64, ge=1, description="questions in a batch; a stopped shard resumes at its last batch")
    engine_kv_cache_bytes: int = Field(0, ge=0, description="KV cache; 0: what is free (GPU), 8 full prompts (CPU)")
    engine_kv_offload_bytes: int = Field(0, ge=0, description="host memory the KV cache may spill into (GPU)")
    engine_processes: bool = Field(False, description="engine in its own process: overlaps, but starts slower")
    vllm_lacks: str = Field("", description="schemes vLLM has no kernel for here, as `make up` finds them for a CPU")
    decode_threads: int = Field(2, ge=1, description="clips decoded at once beside the engine, each in a process")

    compete_deadline_seconds: float = Field(30.0, gt=0, description="seconds for a question in a competition's run")
    compete_majority: str = Field("A", pattern="^[A-Za-z]$", description="letter that it gives where it has no answer")

    serve_api_key: SecretStr = Field(SecretStr(""), description="key that `serve` asks for; none: it asks for none")
    serve_dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        "auto", description="type that `serve` computes in; auto: the checkpoint's, float32 without AVX-512"
    )
    serve_media_cache_bytes: int = Field(
        4 * 2**30, ge=0, description="clips that `serve` keeps as the model sees them, twice this in all; 0: none"
    )
    serve_media_path: str = Field("", description="folder whose clips `serve` opens for file: URLs; none: no file")
    serve_media_domains: str = Field("", description="hosts, by commas, that `serve` fetches clips from; none: no host")

    gemini_api_key: SecretStr = Field(SecretStr(""), description="key for Gemini")
    gemini_base_url: str = Field("", description="another server that speaks Gemini's protocol")
    openai_api_key: SecretStr = Field(
        SecretStr(""), description="key for the OpenAI-compatible teacher, where it has one"
    )
    openai_base_url: str = Field(
        "", description="address of the OpenAI-compatible teacher, such as http://host:8000/v1"
    )
    teacher_in_flight: int = Field(32, gt=0, description="requests in flight at the teacher, of one process")
    teacher_requests_per_minute: int = Field(
        0, ge=0, description="requests a minute that all processes together may send one teacher's server; 0: no limit"
    )
    teacher_tokens_per_minute: int = Field(
        0, ge=0, description="tokens a minute (in and out) of all processes together at one server; 0: no limit"
    )
    teacher_batch: bool = Field(False, description="ask Gemini in batch jobs: half the price, answers within a day")
    prices: Path | None = Field(None, description="table of the teachers' prices; None: shared/prices.yaml")

    trainer_processes: int = Field(0, ge=0, description="processes of one machine; 0: one for each GPU, else 2")
    trainer_micro_batch: int = Field(0, ge=0, description="rows at once in one process; 0: 2 on a GPU, else all")
    trainer_auto_batch: bool = Field(False, description="out of memory: go on with half the rows at once")
    trainer_checkpoint_seconds: float = Field(60.0, gt=0, description="seconds between training checkpoints")
    trainer_cache_bytes: int = Field(
        20_000_000_000, ge=0, description="bytes of decoded frames kept in ROADQA_CACHE_DIR/frames"
    )
    trainer_nodes: int = Field(1, ge=1, description="machines of one training")
    trainer_node_rank: int = Field(0, ge=0, description="which of them this one is; the first, 0, is the worker")
    trainer_rendezvous: str = Field(
        "", description="host:port of the first machine, where the others wait; and the next port"
    )
    trainer_extensions: Path = Field(Path(".state/torch_extensions"), description="DeepSpeed's compiled extensions")

    @field_validator("vllm_lacks")
    @classmethod
    def _schemes(cls, value: str) -> str:
        if strange := sorted(_listed(value) - SCHEMES.keys()):
            raise ValueError(f"{strange[0]!r} is no scheme; there are: {', '.join(SCHEMES)}")
        return value

    trainer_trackers: str = Field(
        "", description="where training's curves go as they come, beside TensorBoard's files: mlflow, wandb"
    )

    @model_validator(mode="after")
    def _fit(self) -> Self:
        """Times that depend on one another.

        Raises:
            ValueError: names the variables and what to set.
        """
        if self.tick_seconds > REDIS_SECONDS - 1:  # a second for the answer to arrive
            raise ValueError(
                f"ROADQA_TICK_SECONDS is {self.tick_seconds:g}, but Redis must answer within {REDIS_SECONDS} s:"
                f" set it to {REDIS_SECONDS - 1} or less"
            )
        if self.heartbeat_seconds > self.lease_seconds / 3:  # two may be lost
            raise ValueError(
                f"ROADQA_HEARTBEAT_SECONDS is {self.heartbeat_seconds:g}, ROADQA_LEASE_SECONDS"
                f" {self.lease_seconds:g}: set the heartbeat to a third of the lease or less"
            )
        return self

    @property
    def lacking(self) -> frozenset[str]:
        return _listed(self.vllm_lacks)


def _listed(value: str) -> frozenset[str]:
    return frozenset(value.replace(",", " ").split())


@lru_cache(maxsize=1)
def settings() -> Settings:
    """The process's settings, read once.

    Raises:
        UsageError: a variable is set to what cannot be; names it.
    """
    return _read()


def own_settings() -> Settings:
    """What the user has set: variables and mounted secrets, without the local stack's `env` file.

    Raises:
        UsageError: a variable is set to what cannot be; names it.
    """
    return _read(_env_file=None)


def _read(**sources: Any) -> Settings:
    try:
        return Settings(_secrets_dir=SECRETS if SECRETS.is_dir() else None, **sources)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = "".join(f"ROADQA_{place}: ".upper() for place in first["loc"])
        raise UsageError(f"{name}{first['msg'].removeprefix('Value error, ')}") from None  # it would show the value
