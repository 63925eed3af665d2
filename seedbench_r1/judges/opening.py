"""From settings to a judge that can be asked."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable

from seedbench_r1.config import OPENAI_BASE_URL, api_key
from seedbench_r1.errors import ConfigError, JudgeUnavailable
from seedbench_r1.judges.config import JudgeConfig
from seedbench_r1.judges.models import ApiJudge, LocalJudge
from seedbench_r1.judges.run import Judge, RulesJudge
from seedbench_r1.judges.wording import JudgeSettings, check_prompt, own_prompt
from seedbench_r1.models.checkpoint import model_name
from seedbench_r1.models.fingerprint import fingerprint, small_file_hashes, weight_samples
from seedbench_r1.models.locate import find_folder
from seedbench_r1.models.weights import check_weights

log = logging.getLogger(__name__)

Announce = Callable[[JudgeSettings], None]


def open_judge(config: JudgeConfig, announce: Announce = lambda settings: None) -> Judge:
    """The judge of the settings.

    Args:
        config: from resolve_judge_config.
        announce: called before the first request to a server, with what it will be asked; again if the server takes
            no schema, for then the judge id is another.

    Raises:
        ConfigError: the prompt file cannot be used. JudgeUnavailable: the judge cannot be asked.
    """
    match config.kind:
        case "openai":
            return _open_api_judge(config, announce)
        case "local":
            return _open_local_judge(config)
        case _:
            return RulesJudge()


def _open_api_judge(config: JudgeConfig, announce: Announce) -> Judge:
    from seedbench_r1.api.client import ChatClient
    from seedbench_r1.api.cost_limit import CostLimit

    try:
        # Never another judge instead: its rate would stand in the same column.
        key = api_key(config.base_url)
    except ConfigError as error:
        raise JudgeUnavailable(
            f"Judge {config.judge!r} needs OPENAI_API_KEY (any non-empty value for a local server with "
            f"--judge-base-url). Evaluation is safe; only consistency is pending. No fallback is used. {error}"
        ) from error
    settings = JudgeSettings(
        name=config.judge,
        prompt=_prompt(config),
        votes=config.votes,
        temperature=config.vote_temperature,
        max_tokens=config.verdict_tokens,
        server=config.base_url,
        version=config.version,
    )
    # Before the first paid request, so that Ctrl-C is still free.
    announce(settings)
    cost_limit = CostLimit(config.max_cost, *config.prices) if config.max_cost is not None and config.prices else None
    client = ChatClient(config.base_url or OPENAI_BASE_URL, key, timeout_s=config.timeout_s, tries=config.tries)
    judge = ApiJudge(client, config.model, settings, concurrency=config.concurrency, cost_limit=cost_limit)
    try:
        # A wrong key or name shows now, not after a thousand failures.
        if judge.probe():
            log.warning(
                "%s takes no JSON schema: the prompt alone asks for JSON, which is read as strictly", client.base_url
            )
            announce(judge.settings)
    except JudgeUnavailable:
        judge.close()
        raise
    return judge


def _open_local_judge(config: JudgeConfig) -> Judge:
    from seedbench_r1.backends.text_model import TextModelBackend

    prompt = _prompt(config)
    folder = find_folder(config.model, None)
    if (folder / "adapter_config.json").is_file():
        raise ConfigError(f"{config.model} is an adapter. Fix: merge it into its base, and judge with the result.")
    # Named without its path, so that verdicts of one checkpoint agree on all machines, and of two checkpoints do not.
    weights = check_weights(folder)
    samples = weight_samples({path.name: path for path in weights})
    bytes_of = json.dumps([fingerprint(weights), small_file_hashes({"": folder}) | samples])
    digest = hashlib.sha256(bytes_of.encode()).hexdigest()[:16]
    settings = JudgeSettings(
        name=f"local:{model_name(config.model)}",
        prompt=prompt,
        max_tokens=config.verdict_tokens,
        model=digest,
        version=config.version,
    )
    return LocalJudge(TextModelBackend(str(folder), batch_size=config.batch_size), settings)


def _prompt(config: JudgeConfig) -> str:
    if config.prompt_file is None:
        return own_prompt(config.version)
    try:
        return check_prompt(config.prompt_file.read_text(encoding="utf-8"), config.version)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"The judge's prompt {config.prompt_file} cannot be read: {error}.") from error
