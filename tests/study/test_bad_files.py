"""Bad files: each is refused in one paragraph, in time, and with all of its errors."""

import json
import random
import re
import signal
import time
from contextlib import contextmanager, suppress
from functools import partial
from itertools import islice

import pytest
import yaml
from shared_constants import REPOSITORY

from forcetune.errors import InputError
from forcetune.run import check_study
from forcetune.study import Study, load_companion_runs, load_nightly, load_study
from forcetune.study.problems import PROBLEM_CHARACTERS, PROBLEMS_SHOWN

SHIPPED_FILES = [*sorted((REPOSITORY / "search_spaces").glob("*.yaml")), REPOSITORY / "cluster" / "nightly.yaml"]
MUTATION_CASES = 2000
CHECKED_CASES = 10  # of each file: studies that are not refused and whose data and networks are looked at, for seconds
REFUSAL_LIMIT_S = 10  # a file is refused within this time, also on a busy machine
GOOD_STUDY = {
    "study": "s",
    "trial": {"dataset": "synthetic", "model": "mlp", "method": "snip", "density": {"low": 0.01, "high": 0.5}},
}


MANY_VALUES = {"density": 0.1, **{name: [*range(1, 400)] for name in ("epochs", "width", "seed")}}


@contextmanager
def time_limit(seconds):
    def expire(number, frame):
        raise TimeoutError(f"longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, expire)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def read_refusal(path, read=load_study):
    """Return the message with which a file is refused, None where it is accepted."""
    with time_limit(REFUSAL_LIMIT_S):
        try:
            read(path)
        except InputError as error:
            message = str(error)
            assert message.isprintable(), "one paragraph, which cannot move the cursor of a terminal"
            assert message.startswith(str(path))
            assert len(message) < len(str(path)) + (PROBLEM_CHARACTERS + 2) * PROBLEMS_SHOWN + 100
            message.encode()
            return message
    return None


def make_alias_bomb(levels, entry="*l{}"):
    lines = ["l0: &l0 [a, a, a, a, a, a, a, a, a]"]
    for level in range(1, levels):
        aliases = ", ".join([entry.format(level - 1)] * 9)
        lines.append(f"l{level}: &l{level} [{aliases}]")
    return "\n".join(lines) + "\n"


MERGES_YAML = "l0: &l0 {a: 1}\n" + "".join(
    f"l{i}: &l{i} {{<<: [{', '.join([f'*l{i - 1}'] * 9)}]}}\n" for i in range(1, 9)
)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("? [a, b]\n: c\n", "line 1, column 3.*a key must be text"),
        ("? {a: b}\n: c\n", "a key must be text"),
        ('study: !!int ""\n', "line 1, column 8.*'' is not a valid int"),
        ("study: !!bool maybe\n", "'maybe' is not a valid bool"),
        ("study: !!timestamp foo\n", "'foo' is not a valid timestamp"),
        ("study: !!float foo\n", "'foo' is not a valid float"),
        ("study: 2026-13-45\n", "line 1.*is not a valid timestamp"),
        ("study: !!map foo\n", "line 1, column 8.*expected a mapping"),
        ("study: !!binary é\n", "line 1, column 8"),
        (f"study: {'9' * 4000}\n", "at most 2\\^63 - 1, .* 4000 characters"),
        (f"study: {'9' * 5000}\n", "line 1, column 8.*is not a valid int"),
        (make_alias_bomb(9), "more than 100,000 values"),
        (MERGES_YAML, "more than 100,000 values"),
        ("study: &a [*a]\n", "an alias refers to"),
        ("study: x\n" + "# a long comment\n" * 100_000, "larger than 1 MiB"),
        ("study: " + "[" * 5_000, "nested too deeply"),
        ('study: "\\ud800"\ntrial: {}\n', "line 1, column 8.*half of a character"),
        ("\x1b[2J: 1\n", "cannot be read as YAML"),
        ('"\\e[2J": 1\n', r"\\x1b\[2J: unknown key"),
        ('"a\\nb": 1\n', r"a\\nb: unknown key"),
        ("1: 2\n", "Keys should be strings|1: "),
    ],
)
def test_yaml_that_cannot_be_used(write_study_file, content, message):
    assert re.search(message, read_refusal(write_study_file(content)) or "taken")


def test_a_file_without_an_end_is_refused():
    assert "larger than 1 MiB" in read_refusal("/dev/zero")


@pytest.mark.parametrize(
    ("changed", "position"),
    [
        *[
            ({"resources": {name: value}}, f"resources.{name}")
            for name in ("cpus", "gpus", "max_seconds")
            for value in (float("inf"), float("nan"))
        ],
        ({"search": {"budget": {"hours": float("inf")}}}, "search.budget.hours"),
        ({"search": {"patience": {"trials": 3, "gain": float("nan")}}}, "search.patience.gain"),
        ({"constraints": {"macs": float("nan")}}, "constraints.macs"),
        ({"constraints": {"macs": {"max": float("inf")}}}, "constraints.macs.max"),
        ({"search": {"seed": 2**32}}, "search.seed"),
        ({"study": "x" * 201}, "study"),
        ({"search": {"seed": 2**64}}, "search.seed"),
        ({"trial": {"seed": 2**63}}, "trial.seed"),
        ({"trial": {"seed": [0, 2**64]}}, "trial.seed"),
        ({"trial": {"seed": {"low": 0, "high": 2**60}}}, "trial.seed.high"),
        ({"trial": {"epochs": 10**4000}}, "trial.epochs"),
        ({"trial": {"clip_norm": float("inf")}}, "trial.clip_norm"),
        *[
            ({"trial": {"lr": {"low": 0.1, "high": 0.2, "step": step}}}, "trial.lr.step")
            for step in (float("inf"), float("nan"), 1e-320)
        ],
        ({"trial": {"lr": {"low": 0.1, "high": float("inf")}}}, "trial.lr.high"),
        ({"search": {"start": [{"density": float("nan")}]}}, "search.start.0.density"),
        ({"trial": MANY_VALUES, "search": {"sampler": "grid"}}, "trial: the grid has more than 100,000 trials"),
    ],
)
def test_numbers_that_no_search_can_use(changed, position):
    study = {**GOOD_STUDY, **changed, "trial": {**GOOD_STUDY["trial"], **changed.get("trial", {})}}
    with time_limit(REFUSAL_LIMIT_S), pytest.raises(InputError, match=re.escape(position)) as refused:
        Study.from_dict(study)
    assert len(str(refused.value)) <= PROBLEM_CHARACTERS


def test_all_errors_of_a_file_are_reported_at_once(write_study_file):
    message = read_refusal(
        write_study_file("study: s\ntrial: {densty: 1, model: mlp, epochs: 0}\nsearch: {trials: 0}\nresource: {}\n")
    )
    for position in ("search.trials", "resource", "trial.densty", "trial.epochs", "trial.density", "trial.dataset"):
        assert f"{position}: " in message
    message = read_refusal(
        write_study_file(yaml.safe_dump({**GOOD_STUDY, "measure": "nothing:here", "loss": "nothing:here"}))
    )
    assert "measure: measure 'nothing:here'" in message
    assert "loss: loss 'nothing:here'" in message
    bad_keys = {"objectives": {"f1": "max"}, "constraints": {"watts": 1}, "search": {"warm_start": ["s"]}}
    message = read_refusal(write_study_file(yaml.safe_dump({**GOOD_STUDY, **bad_keys})))
    for position in ("objectives.f1", "constraints.watts", "search.warm_start.0"):
        assert f"{position}: " in message


def test_many_and_long_errors_are_shortened(write_study_file):
    many = "study: s\n" + "".join(f"key{i}: 1\n" for i in range(500))
    message = read_refusal(write_study_file(many))
    assert message.count("unknown key") == PROBLEMS_SHOWN - 1, "`trial` is missing too"
    assert message.endswith("; and 481 more errors")
    message = read_refusal(write_study_file(f"study: s\ntrial: {'x' * 100_000}\n"))
    assert len(message) < 1000
    assert "should be a valid dictionary" in message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("studies: [a]\nmargin: .nan\n", "margin: nan should be a finite number"),
        ("studies: [a]\nbudget: .inf\n", "budget: inf should be a finite number"),
        ("studies: [a, b, a]\n", "studies: a is listed more than once"),
        ("studies: []\ntop: 0\nseed: 1\n", "studies: .*top: .*seed: unknown key"),
        ("studies: [a]\nbands: [0, .nan]\n", "bands.1: nan should be"),
        (make_alias_bomb(9), "more than 100,000 values"),
        ("? [a]\n: b\n", "a key must be text"),
    ],
)
def test_a_nightly_file_is_read_with_the_same_care(write_study_file, content, message):
    assert re.search(message, read_refusal(write_study_file(content), load_nightly) or "taken")


COMPANION_ENTRY = {
    "trial": {"dataset": "synthetic", "model": "mlp", "method": "snip", "density": 0.1},
    "of": "a",
    "marks": {},
}


@pytest.mark.parametrize(
    "content",
    [
        [],
        "text",
        {"study": GOOD_STUDY, "companions": [COMPANION_ENTRY], "night": 3, "device_hours": None},
        {"study": GOOD_STUDY, "companions": [COMPANION_ENTRY], "night": None, "device_hours": float("nan")},
        {"study": GOOD_STUDY, "companions": [[]], "night": None, "device_hours": None},
        {"study": GOOD_STUDY, "companions": [{**COMPANION_ENTRY, "of": 1}], "night": None, "device_hours": None},
        {
            "study": GOOD_STUDY,
            "companions": [{**COMPANION_ENTRY, "trial": {"densty": 1}}],
            "night": None,
            "device_hours": None,
        },
        {"study": [], "companions": [], "night": None, "device_hours": None},
    ],
)
def test_a_companions_file_is_read_with_the_same_care(write_study_file, content):
    assert "cannot be read as a list of companions" in (
        read_refusal(write_study_file(json.dumps(content)), load_companion_runs) or "taken"
    )


def test_a_companions_file_nested_too_deeply(write_study_file):
    assert "cannot be read" in read_refusal(write_study_file("[" * 100_000), load_companion_runs)
    assert "cannot be read" in read_refusal(write_study_file(b"\xff\xfe"), load_companion_runs)


YAML_SCALARS = [
    *("~", "''", "true", "no", "-1", "0", "1e-400", "1e400", ".inf", "-.inf", ".nan", "0x7fffffffffffffff", "1:30:00"),
    *("9" * 19, "9" * 4000, "-" + "9" * 400, "2026-11-27", "!!int ''", "!!bool maybe", "!!timestamp foo", "!!binary x"),
    *("!!set {a, b}", "!!omap [a: 1]", "!!python/name:os.system", "[]", "{}", "[[]]", "[~]", "{a: b}", "&a [*a]", "*a"),
    *("{choices: []}", "{low: 1}", "{low: 2, high: 1}", "{low: .nan, high: .inf}", "{low: 0, high: 1, step: 1e-300}"),
    *(
        "{choices: [1], when: {seed: [1]}}",
        "{choices: [a, a]}",
        '"\\ud800"',
        '"a\\0b"',
        '"\\e[0m"',
        "a:b",
        ":",
        "..a:b",
    ),
    *("torchvision:", "torchvision:nothing", "? [a, b]", "<<: {a: 1}", "x" * 5000, "[" * 400, "é", "!", "&", "%", "@"),
]


def mutate(text, draw):
    """Return the text of a study with one or two changes: values, keys, lines, signs."""
    for _ in range(draw.randint(1, 2)):
        kind = draw.randrange(7)
        lines = text.split("\n")
        index = draw.randrange(len(lines))
        if kind <= 2:  # a value, or one in a flow list or map
            spots = [*re.finditer(r"(?<=: )[^\n,{}\[\]#]+|(?<=\[)[^\n,{}\[\]]+|(?<=, )[^\n,{}\[\]:]+(?=[,\]])", text)]
            if spots:
                spot = draw.choice(spots)
                text = text[: spot.start()] + draw.choice(YAML_SCALARS) + text[spot.end() :]
            continue
        if kind == 3:  # a key
            spots = [*re.finditer(r"\w+(?=:)", text)]
            if spots:
                spot = draw.choice(spots)
                text = text[: spot.start()] + draw.choice([*YAML_SCALARS, "seed", "when", "start"]) + text[spot.end() :]
            continue
        if kind == 4:
            lines[index : index + 1] = []
        elif kind == 5:
            lines[index : index + 1] = [
                lines[index],
                " " * draw.randrange(5) + lines[draw.randrange(len(lines))].strip(),
            ]
        else:
            spot = draw.randrange(len(text) + 1)
            sign = draw.choice(
                ["", "", ":", "\t", "-", "{", "}", "[", "]", "\n", " ", "&a ", "*a", "'", '"', "\x00", "#", "|"]
            )
            text = text[:spot] + sign + text[spot + draw.randrange(3) :]
            continue
        text = "\n".join(lines)
    return text


def load_and_use(path, checks):
    """Load a study, and read all that `check` and a search read before they look at data and networks.

    Args:
        path: The file.
        checks: An iterator of the studies that are checked too; it ends after some of them.
    """
    study = load_study(path)
    assert study.trials > 0
    assert study.first_fresh_seed < 2**63
    assert study.references(0.1)
    assert study.start is not None
    assert study.identity
    assert study.task
    assert study.modules is not None
    names = [name for name in study.space if name != "density"]
    for fields in islice(study.combinations(names), 20):
        assert fields
    assert study.make_companion(type(study.search)()).study
    if next(checks, None) is not None:
        with suppress(InputError):  # data or a network may be missing, or not fit
            check_study(study)


@pytest.mark.long
@pytest.mark.parametrize("path", SHIPPED_FILES, ids=lambda path: path.stem)
def test_no_mutation_of_a_shipped_file_gives_a_traceback_or_hangs(path, write_study_file):
    draw = random.Random(22)
    read = load_nightly if path.stem == "nightly" else partial(load_and_use, checks=iter(range(CHECKED_CASES)))
    text = path.read_text()
    cases = MUTATION_CASES // len(SHIPPED_FILES)
    refused, slowest = 0, 0.0
    for case in range(cases):
        content = mutate(text, draw)
        file = write_study_file(content.encode(errors="replace"))
        started = time.monotonic()
        try:
            refused += read_refusal(file, read) is not None
        except InputError:
            raise
        except BaseException as error:
            raise AssertionError(f"case {case}: {type(error).__name__}: {error}\n{content[:3000]}") from error
        slowest = max(slowest, time.monotonic() - started)
    print(f"{cases} cases, {refused} refused, the slowest in {slowest:.2f} s")
    assert cases / 2 < refused < cases, "most mutations break a file, and some do not"
