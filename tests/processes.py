"""Commands that tests start."""

import subprocess


def finish(*started: subprocess.Popen) -> list[tuple[str, str]]:
    """What they said on stdout and stderr; all must end well."""
    try:
        ends = [process.communicate(timeout=300) for process in started]
    finally:
        for process in started:
            process.kill()
    for process, (_, error) in zip(started, ends, strict=True):
        assert process.returncode == 0, error[-3000:]
    return ends
