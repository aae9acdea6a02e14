"""From the words of a command to the fields of a job."""

from typing import Any

import click

# vLLM's flags that users give most, under vLLM's names; every other one goes through --engine-arg.
VLLM_FLAGS: dict[str, str] = {
    "tokenizer": "Name or folder of the tokenizer, if it is not the model's.",
    "revision": "Branch, tag or commit of the model.",
    "dtype": "Number type of weights and activations.",
    "quantization": "How the weights are quantized.",
    "load-format": "Format of the weights.",
    "max-model-len": "Longest prompt and answer together, in tokens.",
    "max-num-seqs": "Sequences that run at a time.",
    "max-num-batched-tokens": "Tokens of one step.",
    "tensor-parallel-size": "GPUs that share one copy of the model.",
    "pipeline-parallel-size": "Stages that the model's layers are split into.",
    "gpu-memory-utilization": "Share of the GPU's memory to use.",
    "seed": "Seed of the engine.",
    "chat-template": "A chat template, or the file that holds it.",
    "tool-call-parser": "How the model writes tool calls; turns on automatic tool choice.",
    "reasoning-parser": "How the model marks its reasoning.",
}

_SWITCHES = ("trust_remote_code", "enable_auto_tool_choice")
"""Options without a value that are vLLM's settings."""
_SEVERAL = ("--served-model-name", "--lora-modules")


def vllm_flags(command: Any) -> Any:
    """Add vLLM's flags to a command."""
    for name, text in reversed(VLLM_FLAGS.items()):
        command = click.option(f"--{name}", metavar="VALUE", help=text)(command)
    # The parser alone turns it on here, but whoever knows `vllm serve` writes both.
    return click.option("--enable-auto-tool-choice", is_flag=True, hidden=True)(command)


def pairs(_: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    """Read words of the form NAME=VALUE."""
    for value in values:
        if "=" not in value:
            raise click.BadParameter(f"{value!r} is not NAME=VALUE", param=parameter)
    return dict(value.split("=", 1) for value in values)


def names(_: click.Context, __: click.Parameter, value: str | None) -> list[str] | None:
    """Read names with commas between them."""
    return None if value is None else [name.strip() for name in value.split(",") if name.strip()]


def message_list(_: click.Context, parameter: click.Parameter, value: str | None) -> list[Any] | None:
    """Read messages as JSON has them."""
    import json

    try:
        messages = None if value is None else json.loads(value)
    except (ValueError, RecursionError) as e:
        raise click.BadParameter(f"not valid JSON: {e}", param=parameter) from None
    if messages is not None and not isinstance(messages, list):
        raise click.BadParameter("not a list of messages", param=parameter)
    return messages


def fields_of(options: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a job that the options of a command give; the job file or defaults give the others.

    Options are named as fields, but for those that make up `engine` and `request`.
    """
    from xbatch.job.loading import make_request

    given = {name: value for name, value in options.items() if value not in (None, (), {}) and value is not False}
    for name in ("inputs", "served_model_name", "accept_change"):
        given[name] = list(given.get(name, ()))
    engine: dict[str, Any] = {"name": given.pop("engine")} if "engine" in given else {}
    for flag in VLLM_FLAGS:
        if (value := given.pop(flag.replace("-", "_"), None)) is not None:
            engine[flag.replace("-", "_")] = value
    for switch in _SWITCHES:
        if given.pop(switch, False):
            engine[switch] = "true"
    if given.pop("no_dedupe", False):
        given["dedupe"] = False
    given["engine"] = engine | given.pop("engine_arg", {})
    given["request"] = make_request(*(given.pop(name, None) for name in ("prompt", "system", "messages")))
    return {name: value for name, value in given.items() if value not in (None, [], {})}


def vllm_names() -> set[str]:
    """Return the options that `vllm_flags` adds, by click's names for them."""
    return {"enable_auto_tool_choice", *(name.replace("-", "_") for name in VLLM_FLAGS)}


def refuse_further_names(context: click.Context, words: list[str]) -> None:
    """Refuse several values behind `--served-model-name` or `--lora-modules`, which `vllm serve` takes.

    Here they would be inputs. Raises click.UsageError.
    """
    for flag, name, further in zip(words, words[1:], words[2:], strict=False):
        if flag in _SEVERAL and not further.startswith("-"):
            from xbatch.cli.suggesting import about_extra_name, is_place

            if not is_place(further.partition("=")[0] if flag == "--lora-modules" else further):
                context.fail(about_extra_name(flag, name, further))
