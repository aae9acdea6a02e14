"""Pieces of vLLM that lie in one place in the current release and in another in 0.23."""

try:
    from vllm.entrypoints.launchers.api_server.app_state import init_app_state
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.entrypoints.launchers.render.app_state import init_render_app_state
    from vllm.entrypoints.serve.exception_handling.error_response import create_error_response
    from vllm.entrypoints.serve.exception_handling.handlers.validation import validation_exception_handler
    from vllm.renderers.chat_utils import load_chat_template, parse_chat_messages
except ImportError:
    from vllm.entrypoints.chat_utils import load_chat_template, parse_chat_messages
    from vllm.entrypoints.openai.api_server import init_app_state, init_render_app_state
    from vllm.entrypoints.openai.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.entrypoints.serve.utils.error_response import create_error_response
    from vllm.entrypoints.serve.utils.server_utils import validation_exception_handler

__all__ = [
    "create_error_response",
    "init_app_state",
    "init_render_app_state",
    "load_chat_template",
    "make_arg_parser",
    "parse_chat_messages",
    "validate_parsed_serve_args",
    "validation_exception_handler",
]
