"""The settings of a training: one frozen config, whose every number names its source.

"Script" below is the authors' GRPO-CARE training script, "paper" is arXiv 2506.16141, "SEED-Bench-R1" is arXiv
2503.24376 with its scripts. Where nothing published exists, the comment says "ours".
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from seedbench_r1.config import MISSING, OWN_FILES
from seedbench_r1.config_file import ConfigTable
from seedbench_r1.options import Option, Setting, setting, settings_of
from seedbench_r1.prompts import DEFAULT_TEMPLATE
from seedbench_r1.types import Template, VideoConfig
from trainers.presets import PRESETS

Algo = Literal["care", "grpo", "sft"]
LossType = Literal["grpo", "dr_grpo", "dapo", "gspo"]

TRAINING_FILE = "training_6k.jsonl"
COT_FILE = "training_with_cot_6k.jsonl"
LORA_LR_FACTOR = 10.0  # x the full fine-tuning rate, unless --learning-rate is given: common practice; ours
IMPORTANCE_CAP = 2.0  # of a token's weight: common practice; ours

MODEL, DATA, GROUP, LOSS, OPTIMISER = "Model", "Data", "Rollouts and rewards", "Loss and reference", "Optimiser"
RUNTIME, OUTPUT = "Runtime", "Output"
GROUPS = (MODEL, DATA, GROUP, LOSS, OPTIMISER, RUNTIME, OUTPUT)  # in the order of --help
RL = ("algo grpo", "algo care")
CARE = ("bonus care", "bonus dense")
BONUS = (*CARE, "bonus refgen")
SEPARATE = ("kl-on separate",)
SEVERAL = ("num-iterations 2 or more",)


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """Everything `train` needs. Defaults are those of preset care; see PRESETS."""

    model: str = setting(MISSING, "Checkpoint folder or hub id to start from.", MODEL)
    data: Path = setting(MISSING, "Data root: annotations/, videos/, images/; own: by default the file's folder.", DATA)
    out: Path = setting(MISSING, "Where checkpoints and metrics go.", OUTPUT)
    algo: Algo = setting(MISSING, "The algorithm.", MODEL)
    preset: str = setting(MISSING, "Named settings; by default --algo's own.", MODEL, choices=tuple(PRESETS))
    video: VideoConfig = field(default_factory=VideoConfig)
    template: Template = DEFAULT_TEMPLATE
    suite: Literal["seedbench-r1", "video-r1", "own"] = setting(
        "seedbench-r1", "Whose rows they are, and with them the wording: the benchmark's, Video-R1's, your own.", DATA
    )
    train_file: Path | None = setting(
        None, f"Rows; by default {TRAINING_FILE}, for SFT {COT_FILE}. The other suites need one.", DATA
    )
    map: str | None = setting(None, "Their columns: text=COLUMN,options=COLUMN,...", DATA, owners=OWN_FILES)
    splits: str | None = setting(None, "Some of their splits (default: all).", DATA, owners=OWN_FILES)
    skip_bad_rows: bool = setting(False, "Leave out rows that cannot be used, and count them.", DATA)
    allow_missing: bool = setting(
        False, "Replace rows whose media are absent by the next one, and count them.", DATA, negatable=True
    )
    # Rollouts.
    num_generations: int = setting(8, "Rollouts per question.", GROUP, at_least=1, owners=RL)  # script
    max_completion_length: int = setting(  # script
        768, "New tokens of a rollout; longest SFT response.", GROUP, at_least=1
    )
    temperature: float = setting(1.0, "Of the rollouts.", GROUP, above=0, owners=RL)  # script
    # Both off, so that rollouts are drawn from the distribution that the loss differentiates; ours
    top_p: float = setting(1.0, "1: off.", GROUP, above=0, at_most=1, owners=RL)
    top_k: int = setting(0, "0: off.", GROUP, at_least=0, owners=RL)
    rollout_batch_size: int = setting(  # changes memory and speed only; ours
        4, "Questions whose rollouts grow together.", RUNTIME, at_least=1, owners=RL
    )
    rollouts: Literal["builtin", "vllm"] = setting(
        "builtin", "The sampler; vllm: an engine in the same process.", RUNTIME, owners=RL
    )
    gpu_memory_utilization: float = setting(  # ours
        0.3, "Share of each GPU while vLLM samples.", RUNTIME, above=0, at_most=1, owners=("rollouts vllm",)
    )
    rollout_tensor_parallel: int | None = setting(
        None,
        "Processes that share one vLLM engine and its batch; by default as many of the node's as the model allows.",
        RUNTIME,
        at_least=1,
        owners=("rollouts vllm",),
    )
    decode_cache: Literal["auto", "dynamic", "static"] = setting(  # static: on CUDA one recorded graph
        "auto", "Of the rollouts; auto: static on CUDA.", RUNTIME, owners=("rollouts builtin",)
    )
    refill: int = setting(  # DAPO's dynamic sampling, arXiv 2503.14476, section 3.2; bounded, ours
        0, "Rounds a step that replace groups without spread by further questions.", GROUP, at_least=0, owners=RL
    )
    # Rewards.
    format_weight: float = setting(1.0, "Of the format reward.", GROUP, owners=RL)  # paper, Algorithm 1
    rewards: Literal["evaluation", "script"] = setting(
        "evaluation",
        "Who reads a rollout: the evaluation's parser, or the authors' training script's rules.",
        GROUP,
        owners=RL,
    )
    reward: tuple[str, ...] = setting(
        (),
        "A reward of your own: file.py:function[:weight]. May be given again.",
        GROUP,
        owners=RL,
        several=True,
    )
    reward_failures: Literal["stop", "zero"] = setting(
        "stop", "When such a reward gives no number: stop, or count it 0.", GROUP, owners=RL, needs="reward"
    )
    bonus: Literal["care", "dense", "refgen", "none"] = setting(
        "care", "Consistency bonus; dense and refgen: the paper's ablations.", GROUP, owners=RL
    )
    bonus_weight: float = setting(0.5, "Lambda of Algorithm 1.", GROUP, owners=BONUS)  # script
    # Paper 0.01; the SEED-Bench-R1 script leaves it unset, which is 0
    bonus_margin: float = setting(
        0.0, "Below the mean likelihood and still rewarded.", GROUP, at_least=0, owners=CARE[:1]
    )
    bonus_cap: float = setting(  # script
        0.95, "Likelihoods count up to this (gamma_p).", GROUP, above=0, at_most=1, owners=CARE[:1]
    )
    likelihood_mean: Literal["geometric", "arithmetic"] = setting(  # script; the paper's equation is arithmetic
        "geometric", "Over the answer's tokens.", GROUP, owners=CARE
    )
    refgen_tokens: int = setting(  # ours
        64, "New tokens of an answer that the reference writes.", GROUP, at_least=1, owners=BONUS[-1:]
    )
    # Reference model.
    reference: Literal["ema", "frozen", "none"] = setting("ema", "The reference model.", LOSS, owners=RL)
    ema_decay: float = setting(  # alpha of Algorithm 1; script
        0.995, "Of the reference.", LOSS, at_least=0, at_most=1, owners=("reference ema",)
    )
    ema_every: int = setting(  # k of Algorithm 1; script
        10, "Steps between the reference's updates.", LOSS, at_least=1, owners=("reference ema",)
    )
    # Loss.
    beta: float = setting(0.0, "Weight of the KL penalty.", LOSS, at_least=0, owners=RL)  # script
    kl_on: Literal["all", "accurate", "separate"] = setting(
        "all",
        "Rollouts with the penalty; accurate: the paper's KL-EMA-HA ablation; separate: these, reasoning and answer "
        "each with its own mean and weight, SepKL-EMA-HA.",
        LOSS,
        owners=RL,
    )
    beta_think: float | None = setting(
        None, "Weight of the reasoning's KL; by default --beta.", LOSS, at_least=0, owners=SEPARATE
    )
    beta_answer: float | None = setting(
        None, "Weight of the answer's KL; by default --beta.", LOSS, at_least=0, owners=SEPARATE
    )
    loss_type: LossType = setting(
        "grpo", "How the tokens' terms are averaged; gspo: one ratio per rollout.", LOSS, owners=RL
    )
    num_iterations: int = setting(  # mu of GRPO's Algorithm 1; script
        1, "Optimiser steps on each batch of rollouts.", LOSS, at_least=1, owners=RL
    )
    epsilon: float = setting(  # PPO, arXiv 1707.06347, and GRPO; GSPO's paper has 3e-4 and 4e-4
        0.2, "The ratio to the policy of the rollouts counts from 1 minus this.", LOSS, above=0, below=1, owners=SEVERAL
    )
    epsilon_high: float | None = setting(  # 0.28 in DAPO, arXiv 2503.14476
        None, "It counts up to 1 plus this; by default --epsilon.", LOSS, above=0, owners=SEVERAL
    )
    importance_cap: float | None = setting(  # None only until it is resolved
        None,
        f"Tokens are weighted by policy / vLLM, up to this; 0: not. By default {IMPORTANCE_CAP:g} without --top-p, "
        f"--top-k and --temperature, else 0.",
        LOSS,
        at_least=0,
        owners=("rollouts vllm",),
    )
    mask_truncated: bool = setting(  # DAPO's overlong filtering, arXiv 2503.14476, section 3.4
        False, "Rollouts cut at the limit count 0 in the loss.", LOSS, negatable=True, owners=RL
    )
    # Optimiser.
    learning_rate: float = setting(1e-6, "At its highest; LoRA ten times as much.", OPTIMISER, above=0)  # script
    lr_scheduler_type: Literal["cosine", "linear", "constant"] = setting(  # script
        "cosine", "Over all steps.", OPTIMISER
    )
    warmup_ratio: float = setting(0.0, "Share of all steps.", OPTIMISER, at_least=0, below=1)  # script
    # Script; not on biases and norms, as in the Hugging Face trainer that it runs on
    weight_decay: float = setting(0.01, "Of AdamW.", OPTIMISER, at_least=0)
    max_grad_norm: float = setting(5.0, "Gradients are clipped to it.", OPTIMISER, above=0)  # script
    optimizer_device: Literal["auto", "cpu"] = setting(
        "auto", "cpu: fp32 weights and moments in main memory.", OPTIMISER
    )
    fsdp: bool = setting(
        False, "Spread weights, gradients and moments over the processes (FSDP2).", OPTIMISER, negatable=True
    )
    # Amount.
    per_device_train_batch_size: int = setting(  # script
        1, "Questions per process and pass.", OPTIMISER, at_least=1
    )
    gradient_accumulation_steps: int = setting(1, "Times as many questions a step.", OPTIMISER, at_least=1)  # script
    num_train_epochs: float = setting(1.0, "Over the rows.", OPTIMISER, above=0)  # script
    max_steps: int = setting(-1, "Instead of epochs, if positive.", OPTIMISER, at_least=-1)
    # Model.
    processor: str | None = setting(None, "Folder or hub id of tokenizer, chat template and processor files.", MODEL)
    lora: bool = setting(False, "Train adapters on the language model's linear layers.", MODEL, negatable=True)
    lora_r: int = setting(64, "Rank.", MODEL, at_least=1, needs="lora")  # ours
    lora_alpha: int = setting(64, "Scale.", MODEL, at_least=1, needs="lora")  # ours
    freeze_vision: bool = setting(  # script trains the vision tower
        False, "Leave the vision tower as it is.", MODEL, negatable=True
    )
    gradient_checkpointing: bool = setting(  # script
        True, "Recompute activations in the backward pass.", RUNTIME, negatable=True
    )
    shared_prefix: bool = setting(
        True, "Compute a group's prompt once; off: the same numbers, slower.", RUNTIME, negatable=True, owners=RL
    )
    group_chunk: int | None = setting(
        None, "Rollouts per pass when memory is short; the same numbers.", RUNTIME, at_least=1, owners=RL
    )
    max_packed_tokens: int | None = setting(
        None,
        "Groups share a policy pass up to so many tokens; the same numbers.",
        RUNTIME,
        at_least=1,
        owners=RL,
        needs="shared_prefix",
    )
    dtype: Literal["auto", "float32", "bfloat16"] = setting("auto", "auto: bfloat16 on CUDA, else float32.", MODEL)
    device: str = setting("auto", "auto, cuda, cuda:1, cpu.", MODEL)
    # Running.
    seed: int = setting(  # the Hugging Face trainer's default, which the script keeps
        42, "Of order, options, rollouts and adapters.", RUNTIME
    )
    workers: int = setting(2, "Decoding processes per training process.", RUNTIME, at_least=1)
    decode_timeout_s: float = setting(
        60.0, "Seconds before a stuck decoder is killed.", RUNTIME, flag="--decode-timeout", above=0
    )
    frame_cache: Path | None = setting(None, "Folder that keeps decoded frames for later epochs and runs.", RUNTIME)
    frame_cache_gb: float = setting(50.0, "Its limit in GB.", RUNTIME, above=0, needs="frame_cache")
    hang_timeout_s: float = setting(  # ours
        1800.0,
        "Seconds without a new stage after which every process says where it stands.",
        RUNTIME,
        flag="--hang-timeout",
        above=0,
    )
    save_steps: int = setting(100, "Steps between checkpoints.", OUTPUT, at_least=1)  # ours
    save_total_limit: int | None = setting(3, "Newest checkpoints kept.", OUTPUT, at_least=1)  # ours
    save_optimizer: Literal["newest", "never"] = setting(
        "newest", "What continuing needs; never: a stopped training starts again.", OUTPUT
    )
    logging_steps: int = setting(  # metrics.jsonl has every step
        10, "Steps between lines shown.", OUTPUT, at_least=1
    )
    keep_going: bool = setting(
        False,
        "Go on after 50 steps in a row without a finite gradient, format, reasoning or a true sampler.",
        OUTPUT,
        negatable=True,
    )
    eval_every: int = setting(
        0, "Steps between evaluations on questions held out of the rows; 0: none.", OUTPUT, at_least=0
    )
    eval_questions: int = setting(64, "How many are held out.", OUTPUT, at_least=1, needs="eval_every")  # ours
    rollout_log_steps: int = setting(
        10, "Steps between samples in rollouts.jsonl; 0: none.", OUTPUT, at_least=0, owners=RL
    )

    def memory_advice(self, *first: str) -> str:
        """What saves memory on a GPU and is not in use yet, for error messages; `first` comes first of what continues.

        Under --fsdp a --group-chunk saves nothing: each chunk's backward pass holds the root's whole gradient.
        """
        kept, anew = [*first, *["more processes"] * self.trains_shards], []
        kept += ["--optimizer-device cpu"] * (self.optimizer_device == "auto")
        anew += ["--fsdp in several processes"] * (not self.fsdp) + ["--lora"] * (not self.lora)
        anew += ["--freeze-vision"] * (not self.freeze_vision and not self.lora) + ["a smaller --max-completion-length"]
        going_on = f"{' or '.join(kept)}, with which the same command continues from the last checkpoint; or, "
        return f"Fix: {going_on if kept else ''}with another --out, {', '.join(anew)}."

    @property
    def ratio_bounds(self) -> tuple[float, float]:
        """epsilon and epsilon_high."""
        return self.epsilon, self.epsilon if self.epsilon_high is None else self.epsilon_high

    @property
    def separate_betas(self) -> tuple[float, float]:
        """The weights of the reasoning's and the answer's KL under --kl-on separate."""
        think, answer = self.beta_think, self.beta_answer
        return self.beta if think is None else think, self.beta if answer is None else answer

    @property
    def penalises(self) -> bool:
        """Whether there is a KL penalty."""
        return max(self.separate_betas) > 0 if self.kl_on == "separate" else self.beta > 0

    @property
    def draws_from_the_policy(self) -> bool:
        """Whether rollouts come from the distribution that the loss differentiates, up to the sampler's rounding."""
        return self.temperature == 1 and self.top_p == 1 and self.top_k == 0

    @property
    def trains_shards(self) -> bool:
        """Whether what is trained is sharded: adapters are whole in every process."""
        return self.fsdp and not self.lora

    @property
    def questions_file(self) -> Path:
        """The training rows' file; what Video-R1's are called has no default."""
        return self.train_file or self.data / "annotations" / (COT_FILE if self.algo == "sft" else TRAINING_FILE)


VIDEO = {f.name for f in dataclasses.fields(VideoConfig)}
TABLE = settings_of(TrainConfig) | {
    name: replace(row, option=replace(row.option, group=DATA)) for name, row in settings_of(VideoConfig).items()
}
TABLE["prompt_file"] = Setting("prompt_file", Path, None, Option("Your wording, as for eval.", DATA))
ENVIRONMENT: Mapping[str, str] = os.environ
TRAIN_TABLE = ConfigTable("train", TABLE, frozenset({"size_multiple", "preprocess"}))


def total_steps(config: TrainConfig, n_rows: int, questions_per_step: int) -> int:
    """Optimiser steps of the whole run; a last incomplete step of the epochs is left out. At least 1."""
    if config.max_steps > 0:
        return config.max_steps
    return max(1, int(config.num_train_epochs * n_rows) // questions_per_step)
