"""Configurations: what a file may say, what each mistake is answered with, and the documentation made of it."""

import functools
import json
import operator
import os
import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from pipeline.config import RunConfig, load_config
from pipeline.config_docs import configuration_markdown
from pipeline.yaml_text import parse_yaml
from transforms.errors import ConfigError, FailureCode
from transforms.settings import CalibrationSettings

ROOT = Path(__file__).parent.parent
LEAST = "model: {path: m}\npreprocess: {value_range: 0_1}\n"
SECTIONS = (
    "model, labels, preprocess, calibration, challenger, results, limits, health, golden, report, prices, input, "
    "decode, load, batch, write"
)
CODES = ", ".join(FailureCode)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The least that a configuration must say."""
    path = tmp_path / "c.yaml"
    path.write_text(LEAST)
    return path


def load(file: Path, text: str, *overrides: str) -> RunConfig:
    """Write a configuration and load it."""
    file.write_text(text)
    return load_config(file, overrides)


def refusal(file: Path, *overrides: str) -> str:
    """Return what is said of a configuration after its name."""
    with pytest.raises(ConfigError) as caught:
        load_config(file, overrides)
    text = str(caught.value)
    assert text.startswith((f"config {file}", "--set "))
    return text.removeprefix(f"config {file}").removeprefix(": ")


class TestYaml:
    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("0_255", "0_255"),  # YAML 1.1: 173, an octal number
            ("-1_1", "-1_1"),  # YAML 1.1: -11
            ("no", "no"),  # YAML 1.1: false, as in the country
            ("on", "on"),
            ("12:30", "12:30"),  # YAML 1.1: 750
            ("2026-11-22", "2026-11-22"),  # YAML 1.1: a date
            ("007", "007"),
            ("0x10", "0x10"),
            ("1_000", "1_000"),
            ("=", "="),
            ("1e-3", 0.001),  # YAML 1.1: a text
            ("1.5E+2", 150.0),
            (".5", 0.5),
            ("-3.", -3.0),
            ("-.inf", float("-inf")),
            ("+7", 7),
            ("0", 0),
            ("-0", 0),
            ("True", True),
            ("FALSE", False),
            ("~", None),
            ("Null", None),
            ("", None),
            ("'7'", "7"),
            ("[1, no, 1.0]", [1, "no", 1.0]),
        ],
    )
    def test_plain_values_are_those_of_yaml_12(self, text: str, value: Any) -> None:
        """And of the right type."""
        found = parse_yaml(f"key: {text}", "x")["key"]
        assert found == value
        assert type(found) is type(value)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("a: 1\nb: [2\n", "x line 3, column 1 is not valid YAML: expected ',' or ']', but got '<stream end>'"),
            ("a: 1\n  b: 2\n", "x line 2, column 4 is not valid YAML: mapping values are not allowed here"),
            ("a:\n\tb: 2", "x line 2, column 1 is not valid YAML: found character '\\t' that cannot start any token"),
            ("a: 1\nb: 2\na: 3\n", "x line 3, column 1 is not valid YAML: a stands here twice"),
            ("s: {a: 1, a: 1}", "x line 1, column 11 is not valid YAML: a stands here twice"),
            ("a: !!python/name:os.system 1", "x line 1, column 4 is not valid YAML: could not determine a constructor "
             "for the tag 'tag:yaml.org,2002:python/name:os.system'"),
            ("!!python/object/apply:os.system [touch x]", "x line 1, column 1 is not valid YAML: could not determine a "
             "constructor for the tag 'tag:yaml.org,2002:python/object/apply:os.system'"),
            ("a: !!python/object/new:os.system {}", "x line 1, column 4 is not valid YAML: could not determine a "
             "constructor for the tag 'tag:yaml.org,2002:python/object/new:os.system'"),
            ("a: !!python/module:os", "x line 1, column 4 is not valid YAML: could not determine a constructor for the "
             "tag 'tag:yaml.org,2002:python/module:os'"),
            ("a: !me 1", "x line 1, column 4 is not valid YAML: could not determine a constructor for the tag '!me'"),
            ("a: 1\n---\nb: 2\n", "x line 2, column 1 is not valid YAML: but found another document"),
            ("a: *b", "x line 1, column 4 is not valid YAML: found undefined alias 'b'"),
            ("a: \x07", "x is not valid YAML: unacceptable character #x0007: special characters are not allowed"),
            ("[" * 100_000, "x is not valid YAML: maximum recursion depth exceeded"),
            ("a: " + "9" * 5000, "x is not valid YAML: Exceeds the limit (4300 digits) for integer string conversion"),
        ],
    )  # fmt: skip
    def test_invalid_text_is_refused_with_its_place(self, text: str, message: str) -> None:
        """One line, without a picture of the text."""
        with pytest.raises(ConfigError) as caught:
            parse_yaml(text, "x")
        assert str(caught.value).startswith(message)
        assert "\n" not in str(caught.value)

    def test_merged_mappings_may_be_overridden(self) -> None:
        """That is what merging is for."""
        assert parse_yaml("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}", "x")["b"] == {"x": 1, "y": 3}


class TestFiles:
    @pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name)
    def test_every_configuration_of_the_project_loads(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """With its variables set, every one is valid as it stands."""
        for name in {part.split("}")[0] for part in path.read_text().split("${")[1:]}:
            if name.isidentifier():
                monkeypatch.setenv(name, f"/of/{name}")
        config = load_config(path)
        assert config.model.path.startswith("/of/")
        assert "\t" not in path.read_text()

    def test_least_configuration_has_the_defaults(self, file: Path) -> None:
        """Two keys, everything else as documented."""
        config = load_config(file)
        assert (
            config.model_dump()
            == RunConfig.model_validate(
                {"model": {"path": str(file.parent / "m")}, "preprocess": {"value_range": "0_1"}}
            ).model_dump()
        )

    def test_byte_order_mark_and_windows_lines_do_no_harm(self, file: Path) -> None:
        """Editors leave them."""
        file.write_bytes(b"\xef\xbb\xbf" + LEAST.replace("\n", "\r\n").encode())
        assert load_config(file).preprocess.value_range == "0_1"

    def test_empty_section_is_as_if_left_out(self, file: Path) -> None:
        """When all its lines are comments."""
        assert load(file, LEAST + "limits:\n  # max_failures: 3\n") == load(file, LEAST)
        assert refusal(file, "preprocess=").startswith("preprocess is missing: How an image becomes the model's input.")

    def test_configuration_travels_to_workers(self, file: Path) -> None:
        """Pickled and back, and closed against changes."""
        config = load_config(file)
        assert pickle.loads(pickle.dumps(config)) == config  # noqa: S301  our own
        with pytest.raises(ValueError, match="frozen"):
            config.model = config.model  # type: ignore[misc]

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (None, " cannot be read: No such file or directory"),
            (b"\xff\xfe", " cannot be read: it is not UTF-8 text"),
            (b"", "must be a mapping with model: and preprocess:, got None"),
            (b"- a", "must be a mapping with model: and preprocess:, got ['a']"),
            (b"a: [", " line 1, column 5 is not valid YAML: expected the node content, but found '<stream end>'"),
        ],
    )
    def test_file_that_is_no_configuration_is_refused(
        self, tmp_path: Path, content: bytes | None, message: str
    ) -> None:
        """Missing, binary, empty, a list, broken."""
        file = tmp_path / "c.yaml"
        if content is not None:
            file.write_bytes(content)
        assert refusal(file).strip() == message.strip()

    def test_folder_is_refused(self, tmp_path: Path) -> None:
        """Not with a traceback."""
        assert refusal(tmp_path) == " cannot be read: Is a directory"


class TestVariables:
    def test_variables_are_replaced_in_texts(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Anywhere, in lists too, several in one text; a number may come from one."""
        monkeypatch.setenv("A_1", "x")
        monkeypatch.setenv("N", "7")
        monkeypatch.setenv("ONE", "1")
        text = """
        model:
          path: /m/${A_1}-${N}
          name: $A_1 $$ ${} ${1}
          tags: ["${A_1}"]
        preprocess:
          value_range: 0_${ONE}
        results:
          top_k: ${N}
        """
        config = load(file, text)
        assert config.model.path == "/m/x-7"
        assert config.model.name == "$A_1 $$ ${} ${1}"  # only ${NAME} is a variable
        assert config.preprocess.value_range == "0_1"
        assert config.model.tags == ("x",)
        assert config.results.top_k == 7

    def test_variable_that_is_not_set_is_refused(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """In the file and in an override; an empty one is set."""
        monkeypatch.delenv("NOT_SET", raising=False)
        file.write_text(LEAST.replace("m}", "'${NOT_SET}'}"))
        told = "uses ${NOT_SET}, and the environment variable is not set; export NOT_SET=..., or write the value there"
        assert refusal(file) == f" {told}"
        file.write_text(LEAST)
        assert refusal(file, "model.name=${NOT_SET}") == f"--set model.name=${{NOT_SET}} {told}"
        monkeypatch.setenv("NOT_SET", "")
        assert load_config(file, ["model.name='${NOT_SET}'"]).model.name == ""


class TestPaths:
    @pytest.mark.parametrize(
        ("text", "path"),
        [
            ("m", "{file}/m"),
            ("./m/", "{file}/m"),
            ("../m", "{above}/m"),
            ("/m", "/m"),
            ("~/m", "{home}/m"),
            ("a b/${V}", "{file}/a b/v"),
            ("${V}/m", "{cwd}/v/m"),  # the operator's, and he stands elsewhere
            ("${ROOT}/m", "/models/m"),
            ("s3://bucket/m", "s3://bucket/m"),
            ("https://tfhub.dev/m/1", "https://tfhub.dev/m/1"),
            ("file:///a%20b/m", "/a b/m"),
        ],
    )
    def test_relative_paths_start_at_the_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, path: str
    ) -> None:
        """Those of the file; the working directory does not matter, but for what begins with a variable."""
        folder, cwd = tmp_path / "configs", tmp_path / "cwd"
        folder.mkdir()
        cwd.mkdir()
        monkeypatch.chdir(cwd)
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        monkeypatch.setenv("V", "v")
        monkeypatch.setenv("ROOT", "/models")
        expected = path.format(file=folder, above=tmp_path, home=tmp_path / "home", cwd=cwd)
        lines = f"model: {{path: '{text}', hub_cache: '{text}'}}\npreprocess: {{value_range: 0_1}}\n"
        lines += f"labels: {{path: '{text}', thresholds: '{text}'}}\ngolden: {{path: '{text}'}}"
        (folder / "c.yaml").write_text(lines)
        for name in (folder / "c.yaml", os.path.relpath(folder / "c.yaml")):
            config = load_config(name)
            found = {config.model.path, config.model.hub_cache, config.labels.path, config.labels.thresholds}
            assert {*found, config.golden.path} == {expected}

    def test_what_is_told_of_a_configuration_is_without_secrets(
        self, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Queries of URLs, and values of variables that say secret, where they were put and nowhere else."""
        monkeypatch.setenv("HUB_TOKEN", "bi")
        monkeypatch.setenv("LABELS_KEY", "hush")
        monkeypatch.setenv("NAME", "cats")
        text = "model: {path: 'https://me:pw@hub/${HUB_TOKEN}/${NAME}?sig=f00', name: '${NAME}'}\n"
        text += "preprocess: {value_range: 0_1}\ncalibration:\n"
        config = load(file, text, "labels.path=/${LABELS_KEY}/hush.txt", "limits={max_failures: 3}")
        assert config.model.path == "https://me:pw@hub/bi/cats?sig=f00"
        told = config.told()
        assert told["model"]["path"] == "https://***@hub/***/cats?***"
        assert (told["model"]["name"], told["labels"]["path"]) == ("cats", "/***/***.txt")
        assert told["preprocess"]["interpolation"] == "bicubic"  # which holds the token's letters
        rest = {key: value for key, value in config.model_dump(mode="json").items() if key not in ("model", "labels")}
        assert {key: told[key] for key in rest} == rest
        assert pickle.loads(pickle.dumps(config)).told() == told  # noqa: S301  it is our own

    def test_secrets_of_a_challenger_are_not_told(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """However deep they stand; an override that leaves the challenger out leaves nothing to be told."""
        monkeypatch.setenv("HUB_TOKEN", "xyz")
        text = f"{LEAST}challenger: {{model: {{path: 'https://hub/${{HUB_TOKEN}}/birds'}}}}\n"
        told = load(file, text).told()
        assert told["challenger"]["model"]["path"] == "https://hub/***/birds"
        assert load(file, text, "challenger=").told()["challenger"] is None

    def test_what_a_challenger_leaves_out_is_the_first_models(self, file: Path) -> None:
        """Labels, preprocessing and calibration; what it says is its own, and the rest is everybody's."""
        text = f"{LEAST}labels: {{offset: 1}}\nbatch: {{size: 3}}\n"
        text += "challenger: {model: {path: /n}, calibration: {}}\n"
        config = load(file, text, "calibration.temperature=2")
        plan = config.challenger_plan()
        assert plan is not None
        assert plan == replace(config.scorer_plan(), model=plan.model, calibration=CalibrationSettings())
        assert (plan.model.path, plan.labels.offset) == ("/n", 1)
        own = load(
            file, text, "challenger.preprocess.value_range=0_255", "challenger.labels.offset=2"
        ).challenger_plan()
        assert own is not None
        assert (own.preprocess.value_range, own.labels.offset, own.batch_size) == ("0_255", 2, 3)
        assert config.without_challenger().challenger_plan() is None

    def test_every_path_in_the_settings_is_resolved(self, file: Path) -> None:
        """A new setting that is a path must be added to the list: this finds it by its name."""
        names = [
            name
            for name in nested_settings(RunConfig)
            if name.endswith((".path", "_path", "_cache", "_folder", ".thresholds"))
        ]
        assert {"model.path", "challenger.model.path", "challenger.labels.thresholds"} < set(names)
        for name in names:
            *outer, key = name.split(".")
            values: dict[str, Any] = {"model": {"path": "m"}, "preprocess": {"value_range": "0_1"}}
            if outer[0] == "challenger":
                values["challenger"] = {"model": {"path": "m"}}
            functools.reduce(lambda inner, part: inner.setdefault(part, {}), outer, values)[key] = "x/y"
            config = load(file, json.dumps(values))  # JSON is YAML
            assert operator.attrgetter(name)(config) == str(file.parent / "x" / "y"), name

    def test_overrides_start_at_the_working_directory(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """As on every command line."""
        (file.parent / "cwd").mkdir()
        monkeypatch.chdir(file.parent / "cwd")
        assert load_config(file, ["labels.path=l.txt"]).labels.path == f"{file.parent}/cwd/l.txt"
        assert load_config(file, ["model.path=s3://b/m"]).model.path == "s3://b/m"


class TestOverrides:
    def test_values_are_yaml(self, file: Path) -> None:
        """Numbers, lists, texts with an equals sign, texts of YAML 1.2, sections that the file does not have."""
        config = load_config(
            file,
            [
                "limits.max_failure_rate=1e-2",
                "preprocess.mean=[0.5, 0.5, 0.5]",
                "preprocess.value_range=-1_1",
                "model.name=a=b",
                "results={top_k: 3}",
                "results.logits=true",
                "limits.max_failures=7",
                "limits.max_failures=",
                "limits.allowances.not_found=100",
            ],
        )
        assert config.limits.max_failure_rate == 0.01
        assert config.preprocess.mean == (0.5, 0.5, 0.5)
        assert config.preprocess.value_range == "-1_1"
        assert config.model.name == "a=b"
        assert (config.results.top_k, config.results.logits) == (3, True)
        assert config.limits.max_failures is None  # nothing behind the sign: left out
        assert config.limits.allowances == {"not_found": 100}

    @pytest.mark.parametrize(
        ("override", "message"),
        [
            ("limits", "--set limits: write key.sub=value, limits.max_failure_rate=0.01 for example"),
            ("=3", "--set =3: write key.sub=value, limits.max_failure_rate=0.01 for example"),
            ("limits.=3", "--set limits.=3: write key.sub=value, limits.max_failure_rate=0.01 for example"),
            ("model.path.x=3", "--set model.path.x=3: path is a value, not a section"),
            ("model.name=[", "--set model.name=[ line 1, column 2 is not valid YAML: expected the node content, but "
             "found '<stream end>'"),
            ("limit.max_failures=3", f"limit is not a setting; did you mean limits? (allowed here: {SECTIONS})"),
        ],
    )  # fmt: skip
    def test_wrong_overrides_are_refused(self, file: Path, override: str, message: str) -> None:
        """By the words of the command line."""
        assert refusal(file, override) == message

    def test_shared_sections_are_overridden_one_by_one(self, file: Path) -> None:
        """An anchor makes two sections the same object in YAML; an override names one of them."""
        text = "decode: &c {background: [1, 1, 1]}\nlabels: {background: x}\n"
        text += "preprocess: {value_range: 0_1, pad_color: &p [2, 2, 2]}\nmodel: {path: m}\n"
        config = load(file, text, "decode.background=[3, 3, 3]")
        assert config.decode.background == (3, 3, 3)
        assert config.preprocess.pad_color == (2, 2, 2)


class TestMessages:
    @pytest.mark.parametrize(
        ("override", "message"),
        [
            # Keys
            ("preproces.value_range=0_1",
             f"preproces is not a setting; did you mean preprocess? (allowed here: {SECTIONS})"),
            ("limits.max_failure=3",
             "limits.max_failure is not a setting; did you mean max_failures? "
             "(allowed here: max_failure_rate, max_failures, allowances)"),
            ("results.k=3", "results.k is not a setting; allowed here: top_k, logits"),
            ("top_k=3", f"top_k is not a setting; did you mean results.top_k? (allowed here: {SECTIONS})"),
            ("batch.top_k=3", "batch.top_k is not a setting; did you mean results.top_k? (allowed here: size)"),
            ("xyz=3", f"xyz is not a setting; allowed here: {SECTIONS}"),
            ("challenger.modl.path=m",
             " has 2 problems:\n  challenger.model is missing: Which model: the settings of `model`.\n"
             "  challenger.modl is not a setting; did you mean model? (allowed here: model, labels, preprocess, "
             "calibration)"),
            ("challenger={model: {path: m, nam: x}}",
             "challenger.model.nam is not a setting; did you mean name? (allowed here: path, name, signature, "
             "output_name, tags, output, activation, trust, hub_cache, device, calls_in_flight, precision, xla, "
             "precision_tolerance)"),
            ("challenger={model: {path: m}, preprocess: {}}",
             "challenger.preprocess.value_range is missing: The range that pixels are scaled to before mean and std; "
             "required, because the wrong one costs accuracy without an error."),
            # Values
            ("results.top_k=0", "results.top_k must be at least 1, got 0"),
            ("results.top_k=many", "results.top_k must be a whole number, got 'many'"),
            ("results.top_k=1.5", "results.top_k must be a whole number, got 1.5"),
            ("results.top_k=", "results.top_k must be a whole number, got None"),
            ("results.top_k=[1]", "results.top_k must be a whole number, got [1]"),
            ("limits.max_failure_rate=2", "limits.max_failure_rate must be at most 1, got 2"),
            ("limits.max_failure_rate=.nan", "limits.max_failure_rate must be at most 1, got nan"),
            ("limits.allowances.not_found=-1", "limits.allowances.not_found must be at least 0, got -1"),
            ("limits.allowances={not_found: many}", "limits.allowances.not_found must be a whole number, got 'many'"),
            ("limits.allowances={not_found: true}", "limits.allowances.not_found must be a whole number, got True"),
            ("limits.allowances={not_found: '1'}", "limits.allowances.not_found must be a whole number, got '1'"),
            ("limits.allowances=100", "limits.allowances must be a mapping: indented lines of key: value, got 100"),
            ("limits.allowances.not_fuond=1",
             f"limits.allowances: not_fuond is no failure code; did you mean not_found? (allowed here: {CODES})"),
            ("limits.allowances.all=1", f"limits.allowances: all is no failure code; allowed here: {CODES}"),
            ("limits.allowances={404: 1}", "limits.allowances.404 must be text, got 404; put it in quotes"),
            ("limits.max_failure_rate=5%", "limits.max_failure_rate must be a number, got '5%'"),
            ("write.seconds_per_file=0", "write.seconds_per_file must be over 0, got 0"),
            ("results.logits=maybe", "results.logits must be true or false, got 'maybe'"),
            ("model.name=7", "model.name must be text, got 7; put it in quotes"),
            ("model.name=[a]", "model.name must be text, got ['a']"),
            ("model.path=''", "model.path must be a text that is not empty, got ''"),
            ("preprocess.resize=squash",
             "preprocess.resize must be 'shortest_edge', 'exact' or 'letterbox', got 'squash'"),
            ("preprocess.value_range=0_256", "preprocess.value_range must be '0_1', '-1_1' or '0_255', got '0_256'"),
            ("preprocess.mean=[1, 2, 3, 4]", "preprocess.mean must be a list of at most 3, got [1, 2, 3, 4]"),
            ("preprocess.mean=[0, .nan, 0]", "preprocess.mean[1] must be a finite number, got nan"),
            ("decode.background=[1, 2, 300]", "decode.background[2] must be at most 255, got 300"),
            ("decode.background=[1, 2]",
             "decode.background[2] is missing: RGB colour that transparent pixels are composed on, 0 to 255 each."),
            ("decode.background=white", "decode.background must be a list, got 'white'"),
            ("input.extensions=jpg", "input.extensions must be a list, got 'jpg'"),
            ("input.extensions=[]", "input.extensions must be a list of at least 1, got []"),
            ("model=m", "model must be a section: indented lines of key: value, got 'm'"),
            # One of several types: one problem
            ("batch.size=0", "batch.size must be 'auto' or at least 1, got 0"),
            ("labels.thresholds=[1]", "labels.thresholds must be a number or text, got [1]"),
            ("calibration.platt_a=x", "calibration.platt_a must be a number or a list, got 'x'"),
            ("calibration.platt_a=[1, x]",
             "calibration.platt_a must be a number or a list, each entry a number, got [1, 'x']"),
            # Contradictions
            ("preprocess.crop_pct=1.2",
             "preprocess: crop_pct must be over 0 and at most 1, got 1.2: the crop would be larger than the image; "
             "give the share of the image to keep, 0.875 for most ImageNet models"),
            ("preprocess={value_range: 0_1, resize: letterbox, crop_pct: 0.5}",
             "preprocess: resize: letterbox keeps the whole image, crop_pct 0.5 would cut it; leave crop_pct out or "
             "use resize: shortest_edge"),
            ("preprocess.height=224",
             "preprocess: height and width go together: give both, or neither to take them from the model"),
            ("preprocess.std=[1, 0, 1]", "preprocess: std must be over 0 in every channel, got [1.0, 0.0, 1.0]"),
            ("preprocess.mean=[127, 127, 127]",
             "preprocess: mean [127.0, 127.0, 127.0] lies outside value_range 0_1: mean and std are in units of "
             "value_range; use value_range: 0_255 for a mean on the scale of 0 to 255"),
            ("calibration.platt_a=1", "calibration: platt_a and platt_b go together: give both, or neither"),
            ("calibration={temperature: 1, platt_a: 1, platt_b: 0}",
             "calibration: temperature is for softmax and platt_a, platt_b are for sigmoid; give the one that fits the "
             "model"),
        ],
    )  # fmt: skip
    def test_every_mistake_has_its_sentence(self, file: Path, override: str, message: str) -> None:
        """Key, what is allowed, what was given, and the way out."""
        assert refusal(file, override) == message

    def test_missing_keys_are_described(self, file: Path) -> None:
        """In one line each, whatever the length of the description; all problems at once."""
        file.write_text("model:\npreprocess: {}\nlimits: 3\n1: x\n")
        assert refusal(file) == (
            " has 4 problems:\n"
            "  model is missing: Which model, and what its output means.\n"
            "  preprocess.value_range is missing: The range that pixels are scaled to before mean and std; required, "
            "because the wrong one costs accuracy without an error.\n"
            "  limits must be a section: indented lines of key: value, got 3\n"
            "  1 is not a setting: keys are words"
        )

    def test_long_values_are_cut(self, file: Path) -> None:
        """A pasted file does not fill the screen."""
        assert len(refusal(file, f"results.top_k={'x' * 1000}")) < 150


def sections() -> dict[str, type[BaseModel]]:
    """Return the sections of a configuration."""
    return {name: section_of(field.annotation) for name, field in RunConfig.model_fields.items()}  # type: ignore[misc]


def section_of(annotation: Any) -> type[BaseModel] | None:
    """Return the settings that a field holds, those of an optional one, too."""
    kinds = [annotation, *get_args(annotation)]
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


def nested_settings(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yield every setting by its full name."""
    for name, field in model.model_fields.items():
        section = section_of(field.annotation)
        if section is None:
            yield f"{prefix}{name}"
        else:
            yield from nested_settings(section, f"{prefix}{name}.")


class TestDocumentation:
    def test_every_setting_is_described(self) -> None:
        """In the schema, which editors show, and so in the documentation."""
        schema = RunConfig.model_json_schema()
        for name, reference in schema["properties"].items():
            reference = next((one for one in reference.get("anyOf", ()) if "$ref" in one), reference)
            definition = schema["$defs"][reference["$ref"].rpartition("/")[2]]
            assert definition["description"], name
            assert definition["additionalProperties"] is False, name
            for key, field in definition["properties"].items():
                assert len(field.get("description", "")) > 15, f"{name}.{key}"
        assert json.loads(json.dumps(schema)) == schema

    def test_schema_knows_the_failure_codes(self) -> None:
        """An editor completes the keys of limits.allowances."""
        field = RunConfig.model_json_schema()["$defs"]["LimitSettings"]["properties"]["allowances"]
        assert field["propertyNames"]["enum"] == list(FailureCode)
        assert field["additionalProperties"] == {"type": "integer", "minimum": 0}

    def test_documentation_is_made_of_the_settings(self) -> None:
        """Renew it: score-images config --docs > docs/configuration.md."""
        assert (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8") == configuration_markdown()

    def test_every_setting_has_its_line(self) -> None:
        """With its default, below the heading of its section."""
        text = configuration_markdown()
        for name, section in sections().items():
            part = text.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
            for key in section.model_fields:
                assert part.count(f"\n| `{key}` | ") == 1, f"{name}.{key}"

    @pytest.mark.parametrize(
        "line",
        [
            "| `path` | text | required | A SavedModel directory ",
            "| `max_file_bytes` | whole number, at least 1 | `67108864` (64 MiB) | ",
            "| `threads` | whole number, 1 to 512 | left out | ",
            "| `temperature` | number, over 0 | left out | ",
            "| `size` | `auto` or whole number, 1 to 65,536 | `auto` | ",
            "| `mean` | list of 3 numbers | left out | ",
            "| `allowances` | mapping to whole numbers, at least 0 | `{}` | ",
            "| `background` | list of 3 whole numbers, 0 to 255 | `[255, 255, 255]` | ",
            "| `platt_a` | number or list of numbers | left out | ",
            "| `output` | `auto`, `logits`, `probabilities` | `auto` | ",
            "| `logits` | `true` or `false` | `false` | ",
        ],
    )
    def test_values_read_as_a_person_writes_them(self, line: str) -> None:
        """Types, ranges, choices and units."""
        assert f"\n{line}" in configuration_markdown()

    def test_example_of_the_documentation_loads(self, file: Path) -> None:
        """As it stands there."""
        example = configuration_markdown().partition("```yaml\n")[2].partition("```")[0]
        assert load(file, example).model.path == str(file.parent / "models" / "flowers")

    def test_defaults_of_the_schema_are_valid(self, file: Path) -> None:
        """Every documented default may be written down."""
        values: dict[str, dict[str, Any]] = json.loads(load_config(file).model_dump_json())
        assert RunConfig.model_validate(values) == load_config(file)
