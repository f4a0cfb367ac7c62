"""Each export is loaded by the tool that it is for, as docs/analytics.md says, and the tool finds what was planted.

`make test-exports` makes an environment for each tool, because what they need does not fit together, and runs this.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.cli import main
from tests.published_runs import publish_scores
from tests.test_docs_analytics import DOCUMENT, RECIPES
from transforms.records import ImageInfo

ROOT = Path(__file__).parent.parent
TOOLS = Path(os.environ.get("EXPORT_TOOLS", ROOT / ".cache" / "exports"))
LABELS = ("cat", "dog", "owl")
WRONG_AT = [7, 20, 33]
WRONG = [f"/photos/{index:03}.jpg" for index in WRONG_AT]

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(660)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two nights of 90 images: the second sees three times as many owls. Three labels of its truth are wrong."""
    folder = tmp_path_factory.mktemp("tools")
    truths = {}
    for day, weights in ((16, (1, 1, 1)), (22, (1, 1, 6))):
        random = np.random.default_rng(day)
        truth = random.choice(3, 90, p=np.array(weights) / sum(weights))
        p = random.dirichlet((1, 1, 1), 90) * 0.2
        p[np.arange(90), truth] += 0.8
        # Surer than the mean of its class, which is what cleanlab asks of a label to doubt another.
        p[WRONG_AT] = np.eye(3)[truth[WRONG_AT]] * 0.97 + 0.01
        infos = [ImageInfo(int(w), int(h), "jpeg", 1, "simplejpeg") for w, h in random.integers(300, 900, (90, 2))]
        publish_scores(
            folder / "scores", [f"/photos/{index:03}.jpg" for index in range(90)], p, labels=LABELS, top_k=2,
            run_id=f"2026-11-{day}", group_rows=40, infos=infos, scored_at=datetime(2026, 11, day, tzinfo=UTC),
        )  # fmt: skip
        truths = {f"/photos/{index:03}.jpg": LABELS[c] for index, c in enumerate(truth)}
    for path in WRONG:
        truths[path] = LABELS[(LABELS.index(truths[path]) + 1) % 3]
    # Five images have no truth.
    lines = [f"{path},{label}\n" for path, label in list(truths.items())[:85]]
    (folder / "truth.csv").write_text("image_path,label\n" + "".join(lines))
    before = Path.cwd()
    os.chdir(folder)
    try:
        commands = [
            line for block in re.findall(r"```sh\n(.*?)```", DOCUMENT, re.DOTALL) for line in block.splitlines()
        ]
        exports = [shlex.split(line)[1:] for line in commands if line.startswith("score-images export")]
        assert len(exports) == 5
        assert [main(command) for command in exports] == [0] * 5
    finally:
        os.chdir(before)
    return folder


def run_in(tool: str, program: str, folder: Path, **variables: str) -> Any:
    """Run a program with a tool's own Python; what it leaves in `result` comes back by JSON."""
    python = TOOLS / tool / "bin" / "python"
    if not python.exists():
        pytest.skip(f"{tool} is not installed in {TOOLS}: make test-exports")
    home = folder / f"home-{tool}"
    home.mkdir(exist_ok=True)
    done = subprocess.run(
        [python, "-c", f"{program}\nimport json\nprint(json.dumps(result))"],
        cwd=folder, capture_output=True, text=True, timeout=600, check=False,
        env={"PATH": os.environ["PATH"], "HOME": str(home), "DO_NOT_TRACK": "1", **variables},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_cleanlab_finds_the_wrong_labels(folder: Path) -> None:
    """Exactly the three images whose label was changed, and the labels that stand there."""
    program = RECIPES["Exports", "cleanlab"] + "\nresult = [pred_probs.shape, str(pred_probs.dtype), result.to_dict()]"
    shape, dtype, found = run_in("cleanlab", program, folder)
    assert (shape, dtype) == ([85, 3], "float32")
    assert sorted(found["image_path"].values()) == WRONG
    assert all(found["true_label"][key] != found["predicted_label"][key] for key in found["image_path"])


def test_cleanlab_reads_the_files_in_batches(folder: Path) -> None:
    """Memory-mapped, for matrices larger than memory: it flags the three among the images of low confidence."""
    program = """
import pandas as pd
from cleanlab.experimental.label_issues_batched import find_label_issues_batched
issues = find_label_issues_batched(
    labels_file="for-cleanlab/labels.npy", pred_probs_file="for-cleanlab/pred_probs.npy", batch_size=10
)
result = pd.read_csv("for-cleanlab/images.csv").iloc[issues]["image_path"].tolist()
"""
    assert set(run_in("cleanlab", program, folder)) >= set(WRONG)


@pytest.fixture
def database() -> Iterator[str]:
    """The address of a server of MongoDB's protocol, in memory."""
    jars = TOOLS / "mongo"
    java = shutil.which("java")
    if java is None or not jars.exists():
        pytest.skip(f"no Java, or no MongoDB server in {jars}: make test-exports")
    server = subprocess.Popen(
        [java, "-cp", f"{jars}/*", str(ROOT / "tests" / "export_tools" / "MemoryMongo.java")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        yield f"mongodb://127.0.0.1:{int(server.stdout.readline())}"
    finally:
        server.stdin.close()
        server.wait(timeout=30)
        server.stdout.close()


def test_fiftyone_loads_every_sample(folder: Path, database: str) -> None:
    """Paths, labels with confidence, top-k, numbers and truth are those of the table; sorting by margin works."""
    program = (
        RECIPES["Exports", "FiftyOne"]
        + """
rows = [
    [
        sample.filepath, sample.prediction.label, sample.prediction.confidence,
        sample.ground_truth and sample.ground_truth.label, sample.margin,
        [entry.label for entry in sample.top_k.classifications], sample.metadata.width,
    ]
    for sample in dataset
]
kind = dataset.get_field("prediction").document_type.__name__
result = [result, rows, dataset.default_classes, kind, dataset.count_values("prediction.label")]
"""
    )
    unsure, rows, classes, kind, counts = run_in(
        "fiftyone", program, folder, FIFTYONE_DATABASE_URI=database,
        # It asks for MongoDB 6, and the server in memory says that it is 5.
        FIFTYONE_DATABASE_VALIDATION="false", FIFTYONE_DO_NOT_TRACK="true",
    )  # fmt: skip
    document = json.loads((folder / "tonight.json").read_text())
    assert rows == [
        [
            sample["filepath"], sample["prediction"]["label"], sample["prediction"]["confidence"],
            sample.get("ground_truth", {}).get("label"), sample["margin"],
            [entry["label"] for entry in sample["top_k"]["classifications"]], sample["metadata"]["width"],
        ]
        for sample in document["samples"]
    ]  # fmt: skip
    assert len(rows) == 90
    assert [row[3] for row in rows].count(None) == 5
    assert (classes, kind) == (list(LABELS), "Classification")
    assert counts == Counter(row[1] for row in rows)
    assert unsure == [row[:3] for row in sorted(rows, key=lambda row: row[4])[:20]]


def test_evidently_finds_the_drift(folder: Path) -> None:
    """The class mix has drifted, sizes and confidence have not; its page is written."""
    metrics = run_in("evidently", RECIPES["Exports", "Evidently"], folder)
    drifts = {metric["config"]["column"]: metric["value"] for metric in metrics if "column" in metric["config"]}
    assert drifts["prediction"] < 0.001
    assert min(drifts["image_width"], drifts["image_height"], drifts["prediction_probability"]) > 0.05
    assert (folder / "drift.html").stat().st_size > 10_000


def test_evidently_measures_with_a_truth(folder: Path) -> None:
    """Accuracy over the 85 images that have one: three are wrong."""
    program = RECIPES["Exports", "Evidently"] + RECIPES["Exports", "Evidently with a truth"]
    metrics = run_in("evidently", program, folder)
    (accuracy,) = (metric["value"] for metric in metrics if metric["metric_name"].startswith("Accuracy"))
    assert accuracy == pytest.approx(82 / 85)
