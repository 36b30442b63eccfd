"""The shape of the files in config/ and models/, as mypy sees it.

The schemas of workflow/schemas/config say more, such as bounds and defaults; tests hold both equal.
"""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict

Freeform = dict[str, Any]
"""Settings whose keys another library defines."""


class TaskDatasets(TypedDict):
    """Dataset ids of config/datasets.yaml by source."""

    hub: NotRequired[str]
    package: NotRequired[str]
    own: NotRequired[str]


class HubClassifier(TypedDict):
    metric: str
    detects: str
    repo: str
    revision: str
    folder: str
    sha256: str
    label: str


class Task(TypedDict):
    title: str
    category: Literal[
        "knowledge",
        "reasoning",
        "code",
        "multilingual",
        "instruction",
        "truthfulness",
        "safety",
        "custom",
    ]
    benchmark: NotRequired[str]
    default: NotRequired[bool]
    harness_task: str
    parts: NotRequired[list[str] | dict[str, str | list[str]]]
    combine: NotRequired[Literal["documents", "parts"]]
    cluster: NotRequired[list[str]]
    datasets: TaskDatasets
    columns: NotRequired[list[str]]
    kind: Literal["loglikelihood", "generate"]
    num_fewshot: int
    generation: NotRequired[Freeform]
    conversation: NotRequired[bool]
    stratify: NotRequired[list[str]]
    metric: str
    filter: NotRequired[str]
    chance: float | Literal["options"] | None
    best: NotRequired[float]
    unit: NotRequired[Literal["share", "points"]]
    higher_is_better: NotRequired[bool]
    runs_code: bool
    judged: NotRequired[bool]
    resources: NotRequired[list[Literal["nltk"]]]
    hub_classifiers: NotRequired[list[HubClassifier]]
    answers_of: NotRequired[str]
    languages: NotRequired[list[str]]
    state: Literal["ready", "planned"]
    note: NotRequired[str]
    code_sha256: NotRequired[str]


class HubDataset(TypedDict):
    source: Literal["hub"]
    repo: str
    config: NotRequired[str | None]
    parts: NotRequired[list[str]]
    reader: NotRequired[str]
    revision: str | dict[str, str | None] | None
    splits: list[str]
    gated: NotRequired[bool]
    license: str


class Join(TypedDict):
    """A second file whose rows complete those of the first, where they have a match."""

    file: str
    by: str


class PackageDataset(TypedDict):
    source: Literal["package"]
    package: str
    version: str
    sha256: str
    file: str
    join: NotRequired[Join]
    reader: str
    splits: dict[str, list[int]]
    license: str
    description: str


class LocalDataset(TypedDict):
    source: Literal["local"]
    files: dict[str, str]
    license: str


class GeneratedDataset(TypedDict):
    source: Literal["generated"]
    script: str
    function: str
    arguments: NotRequired[Freeform]
    parts: NotRequired[dict[str, Freeform]]
    version: int
    splits: list[str]
    sha256: str | None
    license: str
    description: str


class Protocol(TypedDict):
    version: int
    title: str
    ranked: bool
    dataset_source: Literal["hub", "package"]
    documents: dict[str, int | None]
    tasks: Literal["all"] | list[str]
    seed: int
    fewshot_sampler: Literal["default", "first_n"]
    chat_template: Literal["never", "chat_models"]
    max_gen_toks: NotRequired[int | dict[str, int | None] | None]
    max_context_tokens: int
    engine: NotRequired[Literal["default", "vllm"]]
    dtype: Literal["float32", "bfloat16", "float16", "auto"]
    performance: str


class PowerModel(TypedDict):
    """Model of the power; null = never estimate."""

    idle_w: float
    full_w: float


class EnergySettings(TypedDict):
    """How energy is found where the CPU has no meter."""

    estimate_w: NotRequired[PowerModel | None]


class Requirements(TypedDict):
    """What the machine must be; a run on another machine refuses to write under this id."""

    machine: NotRequired[list[str]]
    gpu_name: NotRequired[str]
    min_driver: NotRequired[str]
    cpu_model: NotRequired[str]
    cpu_flags: NotRequired[list[str]]
    min_cores: NotRequired[int]
    max_cores: NotRequired[int]
    min_memory_bytes: NotRequired[int]
    max_memory_bytes: NotRequired[int]
    virtual: NotRequired[bool]
    governor: NotRequired[str]
    environment: NotRequired[dict[str, str]]


class Hardware(TypedDict):
    title: str
    device: Literal["cpu", "cuda"]
    threads: int | None
    memory_limit_bytes: NotRequired[int | None]
    energy: NotRequired[EnergySettings]
    country: NotRequired[str]
    requires: Requirements
    note: NotRequired[str]


class ProfilingPoint(TypedDict):
    """The point of the grid that tables show; it is measured first in each process."""

    prompt_tokens: int
    output_tokens: int


class ProfilingBatch(TypedDict):
    """The throughput point: several sequences at once; null = none."""

    sequences: int
    prompt_tokens: int
    output_tokens: int


class HostBounds(TypedDict):
    """What a quiet machine is, and what happens where it is not."""

    before: Literal["refuse", "flag"]
    settle_s: float
    wait_s: float
    other_work_cores: float
    steal_share: float
    pressure_share: float
    min_frequency_share: float
    swap_bytes: int


class ProfilingPlan(TypedDict):
    version: int
    title: str
    reference: ProfilingPoint
    prompt_tokens: list[int]
    output_tokens: list[int]
    batch: ProfilingBatch | None
    processes: int
    repetitions: int
    min_duration_s: float
    max_warmups: int
    warmup_bound: float
    idle_s: float
    host: HostBounds


class EndpointJudge(TypedDict):
    kind: Literal["endpoint"]
    url: str
    model: str
    api_key_env: str | None
    timeout_s: float
    retries: int
    parallel: int
    seed: int
    max_tokens: int


class GgufJudge(TypedDict):
    kind: Literal["gguf"]
    weights: str
    tokenizer: str
    max_context_tokens: int
    max_tokens: int


class EquivalenceConfigTask(TypedDict):
    dataset: str
    documents: int


class EquivalenceConfigBounds(TypedDict):
    """What agreement means; each must hold on every task."""

    max_delta_nats: float
    mean_delta_nats_per_token: float
    min_decision_agreement: float


class EquivalenceConfig(TypedDict):
    """The gate before GGUF rows are published.

    The F16 file on llama.cpp and the base model on Transformers must agree on these documents.
    """

    version: int
    seed: int
    max_context_tokens: int
    tasks: dict[str, EquivalenceConfigTask]
    bounds: EquivalenceConfigBounds


class FidelityConfig(TypedDict):
    """The fixed text on which every variant's next-token distributions are compared with its
    base model's.
    """

    version: int
    id: str
    dataset: str
    split: str
    field: str
    rows: list[int]
    sha256: str
    texts: int
    tokens: int


class EngineSetting(TypedDict):
    chunk: NotRequired[int]
    threads: NotRequired[int]
    flash_attention: NotRequired[bool]
    cache: NotRequired[Literal["float32", "float16", "q8_0"]]
    attention: NotRequired[Literal["sdpa", "eager"]]
    dtype: NotRequired[Literal["float32", "bfloat16", "float16"]]


class PromptPerturbations(TypedDict):
    """By family: the seeds of the draws."""

    fewshot_draw: NotRequired[list[int]]
    choice_order: NotRequired[list[int]]


class NoisePlan(TypedDict):
    documents: int
    tasks: Literal["all"] | list[str]
    variants: list[str]
    with_all: bool
    numerical: dict[str, EngineSetting]
    prompt: PromptPerturbations


class ChoiceColumn(TypedDict):
    options: str | list[str]
    answer: str
    labels: Literal["letters", "bracketed", "numbers", "index"]


class NoiseConfig(TypedDict):
    """The noise floor. Which scores are measured again under which perturbations."""

    version: int
    plans: dict[str, NoisePlan]
    choice_columns: dict[str, ChoiceColumn]


class DefaultBounds(TypedDict):
    """Bounds of every task."""

    truncated_contexts: float
    truncated_generations: float
    empty_generations: float
    unparsed: float


class TaskBound(TypedDict):
    truncated_contexts: NotRequired[float]
    truncated_generations: NotRequired[float]
    empty_generations: NotRequired[float]
    unparsed: NotRequired[float]


class ChecksConfig(TypedDict):
    """When a score is shown with a warning. Each bound is a share of the scored documents."""

    default: DefaultBounds
    tasks: dict[str, TaskBound]


class SandboxLimits(TypedDict):
    """Each holds for a program and everything that it starts, together."""

    cpu_s: float
    wall_s: float
    memory_bytes: int
    processes: int
    scratch_bytes: int
    output_bytes: int


class SandboxConfig(TypedDict):
    """What one generated program may use while it is tested.

    A program that takes more is ended and has not passed.
    """

    version: int
    limits: SandboxLimits


class RankingConfig(TypedDict):
    """How much must be measured before a category and a row get a score.

    Each value is a share of the protocol's counted tasks.
    """

    category_coverage: float
    overall_coverage: float


class CalibrationChoice(TypedDict):
    """What GPTQ and AWQ see; the same rows for both."""

    dataset: str
    texts: int
    tokens: int


class Quantization(TypedDict):
    """How the 4-bit variants are made."""

    gptq_backend: NotRequired[Literal["gptqmodel", "auto-gptq"]]
    awq_backend: NotRequired[Literal["gptqmodel", "autoawq"]]
    group_size: NotRequired[Literal["auto"] | int]
    calibration: CalibrationChoice


class RunConfigFile(TypedDict):
    """What to run. Any key can be overridden by a profile or by --config."""

    models: Literal["all", "offline"] | list[str]
    variants: list[str]
    tasks: Literal["all"] | list[str]
    hardware: str
    protocol: str
    judge: NotRequired[str | None]
    quantization: Quantization


class RemoteCode(TypedDict):
    """Present only when the model's own Python code would have to run; off unless a maintainer
    allows it.
    """

    reason: str
    allowed_by: str | None


class HubSource(TypedDict):
    type: Literal["hub"]


class PackageSource(TypedDict):
    type: Literal["package"]
    package: str
    version: str
    sha256: str
    file: str
    format: Literal["gguf", "transformers"]


class LocalSource(TypedDict):
    type: Literal["local"]
    path: str
    format: Literal["gguf", "transformers"]


class Card(TypedDict):
    """One model of the registry; everything that a contributor adds."""

    name: str
    id: str
    hf_model_id: str
    revision: str | None
    parameters: int
    architecture: str
    context_length: int
    languages: list[str]
    quantizations: list[str]
    tags: list[str]
    license: str
    gated: bool
    reference: bool
    chat: NotRequired[bool]
    description: NotRequired[str]
    remote_code: NotRequired[RemoteCode]
    source: HubSource | PackageSource | LocalSource


Dataset = HubDataset | PackageDataset | LocalDataset | GeneratedDataset
"""An entry of config/datasets.yaml; `source` tells which."""

Judge = EndpointJudge | GgufJudge
"""An entry of config/judges.yaml; `kind` tells which."""
