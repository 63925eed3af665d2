"""Reading a large question file: python tests/benchmarks/rows.py [ROWS]"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from seedbench_r1.questions import load_annotations
from tests.rows import evaluation_row


def main() -> None:
    """Rows without media on disk, so that every layout is looked through, and with texts that repeat as in the data."""
    n_rows = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        with path.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(evaluation_row(index)) + "\n" for index in range(n_rows))
        started = time.process_time()
        questions = load_annotations(path, path.parent, "L1")
        seconds = time.process_time() - started
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # of KiB
    print(f"{len(questions)} rows: {seconds:.1f} CPU-s, {peak_gb:.2f} GB at most")


if __name__ == "__main__":
    main()
