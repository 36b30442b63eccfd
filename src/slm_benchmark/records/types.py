"""The shape of every kind of record, as mypy sees it: the newest version of each.

A misspelt field is an error of `mypy` then. The schemas of workflow/schemas/records say more, such
as units and bounds; tests hold both equal. Readers of older versions take records as they are.
"""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict

Freeform = dict[str, Any]
"""A block whose keys the schema leaves open, as its content depends on a machine or a library."""

Interval = list[float]
"""Lower and upper end."""

State = Literal["ok", "failed", "not_run", "not_applicable"]
"""State of a score."""


class ErrorBlock(TypedDict):
    """What broke: its class, message and traceback."""

    type: str
    message: str
    traceback: str


class ModelBlock(TypedDict):
    """The base model of a record."""

    id: str
    name: str
    repo: str
    revision: str | None
    source: Freeform
    sha256: str


class VariantBlock(TypedDict):
    """The weights that were measured."""

    id: str
    sha256: str
    method: str
    nominal_bits_per_weight: float
    effective_bits_per_weight: float
    size_bytes: int


class DatasetBlock(TypedDict):
    """The documents that were scored, and where they came from."""

    id: str
    source: Literal["hub", "package", "local", "generated"]
    revision: str | None
    sha256: str
    split: str
    documents_total: int
    documents: int


class TaskBlock(TypedDict):
    """The task as it was asked."""

    id: str
    harness_task: str
    parts: NotRequired[list[str]]
    unit: NotRequired[Literal["share", "points"]]
    version: str | float
    config_sha256: str
    num_fewshot: int
    fewshot_sampler: str
    chat_template_sha256: str | None
    generation: Freeform | None
    metric: str
    filter: str


class PromptsBlock(TypedDict):
    """The prompts of a cell as the chat template rendered them, in their order."""

    sha256: str
    date: str | None
    thinking: Literal[False] | None
    reasoning_documents: NotRequired[int]
    reasoning_characters: NotRequired[int]


class Rendered(TypedDict, total=False):
    """What a record holds of prompts, where a chat template rendered any."""

    prompts: PromptsBlock


class ProtocolBlock(TypedDict):
    """The protocol, and the digest of its measured choices."""

    id: str
    version: int
    sha256: str


class EngineBlock(TypedDict):
    """What ran the model."""

    name: str
    version: str
    kernel: str | None
    dtype: str
    threads: int
    schedule: str


class Tokens(TypedDict):
    """What the engine forwarded, by its plan."""

    unique_tokens: int
    forwarded_tokens: int
    chunk_rounding_tokens: int
    generated_tokens: int


class Environment(TypedDict):
    """Versions, as read from the running process."""

    python: str
    packages: dict[str, str]
    lock_sha256: str
    locked: bool


class HardwareBlock(TypedDict):
    """The machine."""

    id: str
    fingerprint: str
    description: Freeform


class WorkflowBlock(TypedDict):
    """The state of the files that decide a measurement."""

    sha256: str
    commit: str | None
    dirty: bool | None


class Score(TypedDict):
    """One number of a score record."""

    metric: str
    filter: str
    part: NotRequired[str]
    value: float | None
    stderr: float | None
    ci95: Interval | None
    ci_method: str | None
    clusters: NotRequired[int]
    combine: NotRequired[Literal["parts"]]
    n: int
    missing: NotRequired[int]
    reason: NotRequired[str]
    chance: float | None
    headline: bool


class Checks(TypedDict):
    """Counts of documents that something went wrong with."""

    truncated_contexts: int | None
    truncated_generations: int | None
    empty_generations: int | None
    unparsed: int | None
    at_chance: bool | None


class ScoredBlock(TypedDict):
    """Where and when stored generations were scored; the record's other blocks say where they were
    generated.
    """

    environment: Environment
    hardware: Freeform
    workflow: WorkflowBlock
    started: str
    duration_s: float


class ScoreRecord(TypedDict):
    """One score with its evidence."""

    schema_version: Literal[1]
    label: NotRequired[str]
    kind: Literal["score"]
    state: State
    reason: NotRequired[str]
    error: ErrorBlock | None
    model: ModelBlock
    variant: VariantBlock
    dataset: DatasetBlock
    task: TaskBlock
    protocol: ProtocolBlock
    engine: EngineBlock
    prompts: NotRequired[PromptsBlock]
    tokens: NotRequired[Tokens | None]
    environment: Environment
    hardware: HardwareBlock
    workflow: WorkflowBlock
    scores: list[Score]
    checks: Checks
    answers_sha256: NotRequired[str | None]
    scoring: NotRequired[Freeform]
    scored: NotRequired[ScoredBlock]
    samples_sha256: str | None
    documents_sha256: str | None
    result_sha256: str
    sequence: int
    started: str
    duration_s: float
    command: str


class AnswersRecord(TypedDict):
    """What a model answered, before anything is scored. The answers lie beside it as parquet."""

    schema_version: Literal[1]
    kind: Literal["answers"]
    state: State
    reason: NotRequired[str]
    error: ErrorBlock | None
    model: ModelBlock
    variant: VariantBlock
    dataset: DatasetBlock
    task: TaskBlock
    protocol: ProtocolBlock
    engine: EngineBlock
    prompts: NotRequired[PromptsBlock]
    tokens: Tokens | None
    environment: Environment
    hardware: HardwareBlock
    workflow: WorkflowBlock
    truncated_contexts: int | None
    truncated_generations: int | None
    answers_sha256: str | None
    result_sha256: str
    sequence: int
    started: str
    duration_s: float
    command: str


class PerformanceEngine(TypedDict):
    """What ran the model: the cell schema's engine, and what more the engine tells."""

    name: str
    version: str
    kernel: str | None
    kernel_detail: NotRequired[Freeform | None]
    dtype: str
    threads: int
    schedule: str


class PerformanceHost(TypedDict):
    """State of the machine around the measurement: load, steal, frequency, throttling, swap,
    other processes.
    """

    before: Freeform | None
    processes: list[Freeform]
    warnings: list[str]


class SessionBlock(TypedDict):
    """The exclusive session that this variant was measured in."""

    id: str
    variants: list[str]
    order: list[list[str]]
    processes: int


class Roofline(TypedDict):
    """What this machine can do at most, measured in each round of the session: the denominators
    of mbu and mfu.
    """

    bandwidth_bytes_per_s: float | None
    matrix_flops_per_s: float | None
    bandwidth_method: NotRequired[str]
    matrix_dtype: NotRequired[str]
    matrix_method: NotRequired[Freeform]
    bandwidth_by_round_bytes_per_s: NotRequired[list[float]]
    matrix_by_round_flops_per_s: NotRequired[list[float]]
    reason: str | None


class GridCarbon(TypedDict):
    """Carbon intensity of the electricity where the machine's entry says it stands, a table's
    and no measurement.
    """

    country: str
    g_co2e_per_kwh: float
    source: str
    co2e_ug_per_token: NotRequired[float]


class EnergyBlock(TypedDict):
    """Where the energy comes from, and what the machine uses when idle."""

    label: Literal["measured", "sampled", "estimated", "unavailable"]
    source: str | None
    reason: str | None
    idle: NotRequired[list[Freeform]]
    idle_before_w: NotRequired[float | None]
    idle_after_w: NotRequired[float | None]
    faults: NotRequired[list[str]]
    warnings: NotRequired[list[str]]
    readings_sha256: NotRequired[str]
    grid: NotRequired[GridCarbon]


class Quantity(TypedDict):
    """A measured quantity with its intervals."""

    value: float | None
    ci95: Interval | None
    pi95: Interval | None
    n: int
    reason: str | None


class PerformanceMetrics(TypedDict):
    """Each quantity at the reference point, or what one process has once."""

    prompt_throughput_tokens_per_s: Quantity
    generation_throughput_tokens_per_s: Quantity
    batch_generation_throughput_tokens_per_s: Quantity
    ttft_ms: Quantity
    client_ttft_ms: Quantity
    inter_token_latency_ms: Quantity
    inter_token_latency_p90_ms: Quantity
    inter_token_latency_p99_ms: Quantity
    peak_memory_bytes: Quantity
    device_peak_memory_bytes: Quantity
    allocator_peak_memory_bytes: Quantity
    load_time_s: Quantity
    size_bytes: Quantity
    power_w: Quantity
    energy_mwh_per_token: Quantity
    energy_net_mwh_per_token: Quantity
    mbu: Quantity
    mfu: Quantity


class PointMetrics(TypedDict):
    """Each quantity at the reference point, or what one process has once."""

    prompt_throughput_tokens_per_s: NotRequired[Quantity]
    generation_throughput_tokens_per_s: NotRequired[Quantity]
    batch_generation_throughput_tokens_per_s: NotRequired[Quantity]
    ttft_ms: NotRequired[Quantity]
    client_ttft_ms: NotRequired[Quantity]
    inter_token_latency_ms: NotRequired[Quantity]
    inter_token_latency_p90_ms: NotRequired[Quantity]
    inter_token_latency_p99_ms: NotRequired[Quantity]
    peak_memory_bytes: NotRequired[Quantity]
    device_peak_memory_bytes: NotRequired[Quantity]
    allocator_peak_memory_bytes: NotRequired[Quantity]
    load_time_s: NotRequired[Quantity]
    size_bytes: NotRequired[Quantity]
    power_w: NotRequired[Quantity]
    energy_mwh_per_token: NotRequired[Quantity]
    energy_net_mwh_per_token: NotRequired[Quantity]
    mbu: NotRequired[Quantity]
    mfu: NotRequired[Quantity]


class PerformancePoint(TypedDict):
    prompt_tokens: int
    output_tokens: int
    sequences: int
    metrics: PointMetrics


class PerformanceRecord(TypedDict):
    """Speed, memory and energy of one variant on one machine, with the raw repetitions."""

    schema_version: Literal[1, 2]
    label: NotRequired[str]
    kind: Literal["performance"]
    state: Literal["ok", "failed"]
    error: ErrorBlock | None
    model: ModelBlock
    variant: VariantBlock
    protocol: ProtocolBlock
    engine: PerformanceEngine
    environment: Environment
    hardware: HardwareBlock
    workflow: WorkflowBlock
    host: PerformanceHost
    limits: Freeform
    session: SessionBlock
    roofline: Roofline
    energy: EnergyBlock
    metrics: PerformanceMetrics
    grid: list[PerformancePoint]
    latency_distribution_ms: Freeform | None
    raw: Freeform
    result_sha256: str
    started: str
    duration_s: float
    command: str


class SessionVariant(TypedDict):
    variant: VariantBlock
    device: Literal["cpu", "cuda"]
    error: ErrorBlock | None
    processes: list[Freeform]


class SessionRecord(TypedDict):
    """One profiling session, with every repetition of all variants of a model that were
    measured side by side.
    """

    schema_version: Literal[1]
    kind: Literal["session"]
    model: ModelBlock
    protocol: ProtocolBlock
    plan: Freeform
    threads: int
    grid: Freeform | None
    environment: Environment
    hardware: HardwareBlock
    workflow: WorkflowBlock
    order: list[list[str]]
    host: Freeform
    idle: Freeform
    roofline: Freeform
    variants: dict[str, SessionVariant]
    started: str
    duration_s: float


class EquivalenceDataset(TypedDict):
    id: str
    source: Literal["hub", "package", "local"]
    revision: str | None
    sha256: str


class EquivalenceBounds(TypedDict):
    version: int
    sha256: str
    max_delta_nats: float
    mean_delta_nats_per_token: float
    min_decision_agreement: float


class WorstContinuation(TypedDict):
    """The continuation with the largest difference."""

    document: str
    index: int
    choice: int
    tokens: int
    base_nats: float | None
    gguf_nats: float | None


class EquivalenceTask(TypedDict):
    id: str
    harness_task: str
    config_sha256: str
    metric: str
    documents: int
    continuations: int
    tokens: int
    max_delta_nats: float | None
    mean_delta_nats: float | None
    max_delta_nats_per_token: float | None
    mean_delta_nats_per_token: float | None
    decision_agreement: float
    greedy_agreement: float
    worst: WorstContinuation


class EquivalenceRecord(TypedDict):
    """Whether the F16 GGUF file on llama.cpp and the base model on Transformers agree on fixed
    documents.
    """

    schema_version: Literal[1]
    kind: Literal["equivalence"]
    state: Literal["ok", "failed"]
    error: ErrorBlock | None
    passed: bool
    reasons: list[str]
    model: ModelBlock
    variants: dict[str, VariantBlock]
    datasets: dict[str, EquivalenceDataset]
    bounds: EquivalenceBounds
    engines: dict[str, EngineBlock]
    environment: Environment
    hardware: HardwareBlock
    workflow: WorkflowBlock
    tasks: list[EquivalenceTask]
    result_sha256: str
    sequence: int
    started: str
    duration_s: float
    command: str


class TextSource(TypedDict):
    id: str
    source: Literal["hub", "package", "local", "generated"]
    revision: str | None
    sha256: str


class FidelityText(TypedDict):
    """The fixed text."""

    id: str
    version: int
    sha256: str
    dataset: TextSource
    texts: int
    tokens_each: int
    tokens_sha256: str


class FidelityVocabulary(TypedDict):
    """Both distributions are taken over the tokens that both models and the tokenizer have, and
    normalized over these.
    """

    compared: int | None
    base_logits: int | None
    variant_logits: int | None


class FidelityMetric(TypedDict):
    value: float | None
    ci95: Interval | None
    ci_method: str | None
    reason: str | None


class FidelityMetrics(TypedDict):
    """KL divergence is KL(base ‖ variant), in nats."""

    kl_mean_nats: FidelityMetric
    kl_median_nats: FidelityMetric
    kl_p99_nats: FidelityMetric
    kl_max_nats: FidelityMetric
    top_token_agreement: FidelityMetric
    perplexity: FidelityMetric
    base_perplexity: FidelityMetric
    perplexity_ratio: FidelityMetric


class TextSums(TypedDict):
    tokens: int
    kl_sum_nats: float
    kl_max_nats: float
    agreeing: int
    base_nll_nats: float
    nll_nats: float


class FidelityRecord(TypedDict):
    """How far a variant's next-token distributions lie from its base model's, on a fixed text."""

    schema_version: Literal[1]
    kind: Literal["fidelity"]
    state: Literal["ok", "failed"]
    error: ErrorBlock | None
    model: ModelBlock
    variant: VariantBlock
    text: FidelityText
    tokens: int
    vocabulary: FidelityVocabulary
    engine: EngineBlock
    base_engine: EngineBlock
    environment: Environment
    hardware: HardwareBlock
    workflow: WorkflowBlock
    metrics: FidelityMetrics
    texts: list[TextSums]
    result_sha256: str
    sequence: int
    started: str
    duration_s: float
    command: str


class NoiseReference(TypedDict):
    value: float | None
    n: int
    settings: Freeform


class Perturbation(TypedDict):
    name: str
    kind: Literal["numerical", "prompt"]
    state: Literal["ok", "not_applicable", "failed"]
    reason: str | None
    setting: Freeform
    engine: EngineBlock | None
    n: int
    value: float | None
    delta: float | None
    flips_to_right: int | None
    flips_to_wrong: int | None
    documents_changed: int | None
    max_abs_delta_nats: float | None
    mean_abs_delta_nats: float | None


class NumericalNoise(TypedDict):
    """Largest effect of a numerical perturbation."""

    max_abs_delta: float | None
    by: str | None
    max_flip_rate: float | None
    flip_rate_upper95: float | None
    reason: str | None


class PromptFamily(TypedDict):
    draws: int
    sd: float | None
    max_abs_delta: float | None


class PromptNoise(TypedDict):
    """Spread over draws of the prompt."""

    sd: float | None
    max_abs_delta: float | None
    families: dict[str, PromptFamily]
    reason: str | None


class NoiseFloor(TypedDict):
    numerical: NumericalNoise
    prompt: PromptNoise


class NoiseRecord(TypedDict):
    """How far one score moves under perturbations that should not matter."""

    schema_version: Literal[1]
    label: NotRequired[str]
    kind: Literal["noise"]
    state: State
    reason: NotRequired[str]
    error: ErrorBlock | None
    model: ModelBlock
    variant: VariantBlock
    dataset: DatasetBlock
    task: TaskBlock
    protocol: ProtocolBlock
    engine: EngineBlock
    environment: Environment
    hardware: HardwareBlock
    workflow: WorkflowBlock
    reference: NoiseReference | None
    perturbations: list[Perturbation]
    floor: NoiseFloor
    result_sha256: str
    sequence: int
    started: str
    duration_s: float
    command: str


class FidelityReference(TypedDict):
    """What the base model says about each position of the fixed text.

    Nothing in it differs between two runs that give the same logits.
    """

    schema_version: Literal[1]
    state: Literal["ok", "failed"]
    error: ErrorBlock | None
    model_sha256: str
    text: FidelityText
    texts: list[list[int]]
    vocabulary: int | None
    width: int | None
    engine: EngineBlock
    logits_sha256: str | None


class FileEntry(TypedDict):
    size_bytes: int
    sha256: str


class CalibrationBlock(TypedDict):
    name: str
    sha256: str
    texts: int
    tokens: int


class ModelFacts(TypedDict):
    """What a base model is, counted from its files."""

    parameters: int
    parameters_without_embeddings: int
    architecture: str
    context_length: int | None
    vocabulary: int
    number_format: str
    chat_template: bool


class WeightsManifest(TypedDict):
    """What the weight files of a variant are and how they were made."""

    schema_version: Literal[1]
    model: str
    variant: str
    files: dict[str, FileEntry]
    sha256: str
    source: Freeform
    method: str
    nominal_bits_per_weight: float
    effective_bits_per_weight: float
    tensor_types: dict[str, float]
    group_size: int | None
    symmetric: bool | None
    calibration: CalibrationBlock | None
    libraries: dict[str, str]
    kernel: str | None
    duration_s: float
    counted: NotRequired[ModelFacts]


class SplitEntry(TypedDict):
    file: str
    rows: int
    sha256: str


class DatasetManifest(TypedDict):
    """What a prepared dataset is and where it came from."""

    schema_version: Literal[1]
    dataset: str
    source: Literal["hub", "package", "local", "generated"]
    revision: str | None
    sha256: str
    splits: dict[str, SplitEntry]
    license: str
    pinned: bool


class RankingRules(TypedDict):
    """By which category and overall scores appear and rows are grouped."""

    category_coverage: float
    overall_coverage: float
    group_error_rate: float


class LeaderboardTask(TypedDict):
    id: str
    title: str
    category: str
    benchmark: str
    metric: str
    filter: str
    chance: float | str | None
    best: float
    unit: Literal["share", "points"]
    higher_is_better: bool
    num_fewshot: int
    answers: NotRequired[str | None]
    note: str


class LeaderboardProtocol(TypedDict):
    title: str
    ranked: bool
    counted: dict[str, list[str]]
    left_out: dict[str, str]


class LeaderboardHardware(TypedDict):
    title: str


class ModelPackage(TypedDict):
    """The Python package that it comes from; null for one of another source."""

    name: str
    version: str
    sha256: str
    file: str


class LeaderboardModel(TypedDict):
    name: str
    repo: str
    revision: str | None
    parameters: int
    architecture: str
    context_length: int
    languages: list[str]
    tags: list[str]
    license: str
    gated: bool
    reference: bool
    description: str
    source: str
    package: NotRequired[ModelPackage | None]


class TiedGroup(TypedDict):
    """Rows of one protocol whose overall scores do not differ significantly from the best."""

    rank: int | None
    rows: int
    reason: str | None


class AggregateScore(TypedDict):
    value: float | None
    ci95: Interval | None
    tasks: int
    of: int
    missing: list[str]
    reason: str | None


class ParetoFront(TypedDict):
    front: bool | None
    reason: str | None


class LeaderboardScore(TypedDict):
    state: State
    reason: str | None
    value: float | None
    stderr: float | None
    ci95: Interval | None
    n: int | None
    metric: str
    filter: str
    chance: float | None
    unit: Literal["share", "points"]
    parts: list[str]
    dataset: str | None
    dataset_sha256: str | None
    record: str | None
    engine: NotRequired[str]
    weights_sha256: NotRequired[str]
    judge: NotRequired[str]
    warnings: list[str]


class MeasurementPoint(TypedDict):
    """The point at which the metrics were measured; null where the model broke."""

    prompt_tokens: int
    output_tokens: int


class Energy(TypedDict):
    """What the record says of its energy, idle baselines apart."""

    label: Literal["measured", "sampled", "estimated", "unavailable"]
    source: str | None
    reason: str | None


class MeasurementRoofline(TypedDict):
    """What the machine can do at most, measured in the same session."""

    bandwidth_bytes_per_s: float | None
    matrix_flops_per_s: float | None
    reason: str | None


class MeasurementGridPoint(TypedDict):
    prompt_tokens: int
    output_tokens: int
    sequences: int
    metrics: dict[str, Quantity]


class Measurement(TypedDict):
    record: str
    reference: MeasurementPoint | None
    processes: int
    together: NotRequired[list[str]]
    engine: str
    kernel: str | None
    energy: Energy
    roofline: MeasurementRoofline
    warnings: list[str]
    grid: list[MeasurementGridPoint]


class MeasuredRow(TypedDict):
    """What a row holds by itself, before rows are compared."""

    model: str
    variant: str
    quantization: Literal["base", "gptq", "awq", "gguf"]
    hardware: str
    fingerprint: str | None
    protocol: str
    ranked: bool
    size_bytes: int | None
    effective_bits_per_weight: float | None
    engine: NotRequired[str]
    weights_sha256: NotRequired[str]
    scores: dict[str, LeaderboardScore]
    performance: dict[str, Quantity]
    measurement: Measurement | None
    overall: AggregateScore
    categories: dict[str, AggregateScore]


class LeaderboardRow(MeasuredRow):
    group: TiedGroup
    pareto: dict[str, ParetoFront]


class Leaderboard(TypedDict):
    """Everything that the site shows, derived from the records."""

    schema_version: Literal[3]
    edition: Literal["published", "preview"]
    records_sha256: str
    rules: RankingRules
    categories: list[str]
    tasks: list[LeaderboardTask]
    protocols: dict[str, LeaderboardProtocol]
    hardware: dict[str, LeaderboardHardware]
    models: dict[str, LeaderboardModel]
    rows: list[LeaderboardRow]


class ReportBase(TypedDict):
    variant: str
    engine: str
    size_bytes: int
    effective_bits_per_weight: float
    sha256: str


Finding = Literal[
    "loses",
    "gains",
    "may_lose",
    "may_gain",
    "no_measurable_loss",
    "too_few_documents",
    "not_tested",
    "below_noise_floor",
]
"""What the statement of a comparison says, for programs."""


class ReportTask(TypedDict):
    task: str
    title: str
    unit: Literal["share", "points"]
    n: int | None
    base: float | None
    value: float | None
    difference: float | None
    ci95: Interval | None
    ci_method: str | None
    p: float | None
    p_method: str | None
    p_holm: float | None
    right_to_wrong: int | None
    wrong_to_right: int | None
    discordance: float | None
    smallest_detectable_loss: float | None
    noise_floor: float | None
    below_noise_floor: bool | None
    finding: Finding | None
    statement: str
    reason: str | None
    notes: list[str]
    records: list[str] | None


class PooledEffect(TypedDict):
    """The difference over the documents of all tasks that score shares."""

    tasks: list[str]
    left_out: list[str]
    n: int | None
    base: float | None
    value: float | None
    difference: float | None
    ci95: Interval | None
    ci_method: str | None
    p: float | None
    p_method: str | None
    right_to_wrong: int | None
    wrong_to_right: int | None
    discordance: float | None
    smallest_detectable_loss: float | None
    noise_floor: float | None
    below_noise_floor: bool | None
    finding: Finding | None
    statement: str
    reason: str | None
    q: float | None
    q_df: int | None
    q_p: float | None
    i2: float | None


class ReportQuantity(TypedDict):
    value: float | None
    ci95: Interval | None
    reason: str | None


class ReportFidelityMetrics(TypedDict):
    kl_mean_nats: ReportQuantity
    kl_median_nats: ReportQuantity
    kl_p99_nats: ReportQuantity
    top_token_agreement: ReportQuantity


class ReportFidelity(TypedDict):
    tokens: int | None
    text: str | None
    metrics: ReportFidelityMetrics


class ReportVariant(TypedDict):
    variant: str
    engine: str
    size_bytes: int
    effective_bits_per_weight: float
    sha256: str
    tasks: list[ReportTask]
    pooled: PooledEffect
    fidelity: ReportFidelity


class ReportGroup(TypedDict):
    hardware: str
    protocol: str
    base: ReportBase | None
    variants: list[ReportVariant]


class QuantizationReport(TypedDict):
    """What quantization costs a model, each variant against the base on the same documents.

    Made from records; docs/methods/quantization-report.md explains it.
    """

    schema_version: Literal[1]
    kind: Literal["quantization"]
    model: str
    alpha: float
    power: float
    groups: list[ReportGroup]


class Summary(TypedDict):
    """What is known of one model, taken from the leaderboard."""

    schema_version: Literal[3]
    model: str
    kind: Literal["metadata", "accuracy", "performance"]
    content: Freeform


class OlderRecord(TypedDict):
    record: str
    started: str
    state: State


class IndexCell(TypedDict):
    cell: str
    kind: Literal["score", "performance", "equivalence", "fidelity", "noise"]
    protocol: str | None
    current: str
    started: str
    state: State
    why: str
    older: list[OlderRecord]


class ReleaseIndex(TypedDict):
    """Of each cell the run that stands, why it does, and all older runs."""

    schema_version: Literal[1]
    cells: list[IndexCell]


class ReleaseManifest(TypedDict):
    """Digests of all published records and of the documents beside them.

    Entries are only ever added.
    """

    schema_version: Literal[1]
    files: dict[str, FileEntry]


class DocumentRow(TypedDict):
    """What one document adds to a published score: its hash and its values, without text."""

    document: str
    filter: str
    part: NotRequired[str]
    cluster: NotRequired[str]
    group: NotRequired[list[str]]
    index: int
    margin: float | None
    values: dict[str, Any]


CellRecord = ScoreRecord | AnswersRecord | NoiseRecord
"""A record of one task under one protocol."""

MeasuredRecord = ScoreRecord | PerformanceRecord | EquivalenceRecord | FidelityRecord | NoiseRecord
"""A record that can be published; `kind` tells which."""
