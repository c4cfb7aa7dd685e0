"""Ask which pinned packages have known vulnerabilities: fail on findings, and say it where nobody answered.

``pip-audit`` by itself calls a package about which it got no answer free of vulnerabilities.
Options are handed on to it.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"
_UNREACHED = ("ConnectionError", "ConnectionResetError", "ServiceError", "Timeout", "HTTPError")
_SHOWN = 5


def main() -> int:
    asked = [
        "--requirement",
        CONSTRAINTS,
        "--no-deps",
        "--disable-pip",
        "--format",
        "json",
        "--progress-spinner",
        "off",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "pip_audit", *asked, *sys.argv[1:]], capture_output=True, text=True, check=False
    )
    try:
        found = json.loads(done.stdout)["dependencies"]
    except ValueError:
        reason = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        if any(name in done.stderr for name in _UNREACHED):
            print(f"NOT AUDITED: the service that knows of vulnerabilities does not answer: {reason}")
            return 0
        print(f"pip-audit failed: {done.stderr}")
        return 1
    return _tell(found)


def _tell(found: list[dict[str, Any]]) -> int:
    unknown = [it["name"] for it in found if "skip_reason" in it]
    if unknown:
        names = ", ".join(unknown[:_SHOWN]) + (" …" if len(unknown) > _SHOWN else "")
        print(f"NOT AUDITED: of {len(unknown)} of {len(found)} packages the service knows nothing: {names}")
    vulnerable = [(it, flaw) for it in found for flaw in it.get("vulns", ())]
    for it, flaw in vulnerable:
        mended = ", ".join(flaw["fix_versions"]) or "no version yet"
        print(f"{it['name']} {it['version']}: {flaw['id']}, mended in {mended}")
    if not vulnerable and len(unknown) < len(found):
        print(f"No vulnerabilities are known of {len(found) - len(unknown)} packages.")
    return 1 if vulnerable else 0


if __name__ == "__main__":
    sys.exit(main())
