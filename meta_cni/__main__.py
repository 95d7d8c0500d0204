"""
The one program: a CNI plugin when a runtime calls it, a command line when a person does.

A runtime is told by CNI_COMMAND, as every CNI plugin does.
"""

import os
import sys


def main() -> int:
    """Serve the runtime's request, or the command line."""
    if os.environ.get("CNI_COMMAND") and len(sys.argv) == 1:
        from meta_cni.compose import serve  # noqa: PLC0415 - people's commands need less

        stdin = b"" if os.environ["CNI_COMMAND"] == "VERSION" else sys.stdin.buffer.read()
        answer, code = serve(os.environ, stdin)
        sys.stdout.buffer.write(answer)
        sys.stdout.buffer.flush()
        return code
    from meta_cni.cli import command_line  # noqa: PLC0415 - a runtime's call needs less

    return command_line(sys.argv[1:])


def kubectl() -> int:
    """`kubectl netattach`: kubectl runs whatever is called kubectl-netattach on the PATH."""
    from meta_cni.cli import kubectl_plugin  # noqa: PLC0415 - a runtime's call needs less

    return kubectl_plugin(sys.argv[1:])


def standalone() -> int:
    """A built-in delegate as a plugin of its own: meta-bridge is bridge, and so on."""
    return plugin(os.path.basename(sys.argv[0]).removeprefix("meta-"))


def plugin(plugin_type: str) -> int:
    """Serve one call of a built-in delegate."""
    from meta_cni.standalone import serve  # noqa: PLC0415 - the meta plugin needs it not

    stdin = b"" if os.environ.get("CNI_COMMAND") == "VERSION" else sys.stdin.buffer.read()
    answer, code = serve(plugin_type, os.environ, stdin)
    sys.stdout.buffer.write(answer)
    sys.stdout.buffer.flush()
    return code


if __name__ == "__main__":
    sys.exit(main())
