"""The main job in a few seconds: schedules are added, run on time, and seen to have run.

Types the commands that a person would type, in a directory of its own.
"""

import shlex
import subprocess
import sys
import tempfile

TASKS = "sqlsched.examples.tasks"
COMMANDS = (
    f"sqlsched add --id greeting --every 1s --max-runs 3 {TASKS}:greet",
    f"sqlsched add --id fetch --in 1s --args '[\"https://example.org\"]' {TASKS}:fetch",
    f"sqlsched add --id flaky --in 2s --retries 1 --retry-delay 1s {TASKS}:flaky",
    "sqlsched add --id shell --in 2s --shell 'echo \"from the shell: $SQLSCHED_SCHEDULE_ID\"'",
    "sqlsched add --id nightly --cron '30 2 * * *' --tz Europe/Berlin --paused -- /bin/true",
    "sqlsched list",
    "sqlsched run --until-idle",
    "sqlsched history",
    "sqlsched logs --last shell",
)


def main() -> int:
    """Run the commands, showing each; the exit status of the first that fails."""
    with tempfile.TemporaryDirectory(prefix="sqlsched-") as directory:
        for command in COMMANDS:
            print(f"\n$ {command}", flush=True)
            program = [sys.executable, "-m", *shlex.split(command)]
            code = subprocess.run(program, cwd=directory, check=False).returncode
            if code:
                return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
